// quire compare: the same work on machines of several sizes, one machine a size, on all host cores.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>

#include "quire/base/size.h"
#include "quire/cli/chart.h"
#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/cli/progress.h"
#include "quire/cli/recording.h"
#include "quire/cli/replaying.h"

namespace quire::cli {

namespace {

struct CompareOptions {
  MachineOptions machine;
  RecordingOptions recording;
  std::vector<std::string> traces;
  bool json = false;
};

using Outcome = Checked<engine::RunReport>;

// A trace recorded for this comparison alone; its file goes with it.
class TemporaryTrace {
 public:
  static Checked<std::unique_ptr<TemporaryTrace>> make() {
    std::error_code error;
    const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
    if (error) return failed(error.message());
    std::string path = (folder / "quire-XXXXXX").string();
    const int fd = mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0) return failed(std::strerror(errno));
    return std::unique_ptr<TemporaryTrace>(new TemporaryTrace(std::move(path), fd));
  }
  ~TemporaryTrace() {
    close(fd_);
    unlink(path_.c_str());
  }
  TemporaryTrace(const TemporaryTrace&) = delete;
  TemporaryTrace& operator=(const TemporaryTrace&) = delete;
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  TemporaryTrace(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  static std::unexpected<UserError> failed(std::string_view why) {
    const char* const folder = std::getenv("TMPDIR");
    return user_error(
        fmt::format("cannot make a temporary file for the trace{}: {}; set TMPDIR to a folder that can be written",
                    folder == nullptr ? "" : fmt::format(" in TMPDIR={}", folder), why));
  }

  std::string path_;
  int fd_;
};

std::vector<Outcome> run_all(const std::vector<kernel::MachineConfig>& configs, const std::vector<std::string>& traces) {
  std::vector<Outcome> outcomes(configs.size(), user_error("not run"));
  std::atomic<std::size_t> next{0};
  std::atomic<std::uint64_t> bytes{0};
  std::mutex bar_mutex;
  Progress bar("comparing", total_bytes(traces) * configs.size());
  const auto work = [&] {
    for (std::size_t i = next++; i < configs.size(); i = next++) {
      auto readers = open_traces(traces);
      if (!readers) {
        outcomes[i] = std::unexpected(readers.error());
        continue;
      }
      std::uint64_t before = 0;
      outcomes[i] = replay_on(configs[i], std::move(*readers), [&](std::uint64_t now) {
        bytes += now - before;
        before = now;
        const std::lock_guard lock(bar_mutex);
        bar.update(bytes);
      });
    }
  };
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < std::min(cores, configs.size()); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

// What a reader of the line should know of it.
std::string ending(const engine::RunReport& report) {
  std::string text;
  if (const std::int64_t kills = report.counter("oom_kill"); kills != 0)
    text = fmt::format("  {} killed for lack of memory", kills);
  if (const std::string doubts = engine::doubts(report); !doubts.empty()) text += (text.empty() ? "  " : ", ") + doubts;
  return text;
}

void print_table(const std::vector<engine::RunReport>& reports) {
  print(fmt::format("{:>8} {:>9} {:>10} {:>10} {:>11} {:>11} {:>11} {:>12}\n", "RAM", "usable", "pgmajfault", "minflt",
                    "pswpin", "pswpout", "read", "run time"));
  std::vector<Bar> faults;
  std::vector<Bar> times;
  for (const engine::RunReport& report : reports) {
    const std::int64_t major = report.counter("pgmajfault");
    std::uint64_t minor = 0;  // not pgfault less the major ones: that counts a fault that is tried again twice
    for (const engine::ProcessReport& process : report.processes) minor += process.min_flt;
    const std::string ram = format_size(report.machine.ram);
    print(fmt::format("{:>8} {:>8.1f}M {:>10} {:>10} {:>11} {:>11} {:>10}K {:>10.3f} s{}\n", ram,
                      static_cast<double>(pages_to_bytes(report.managed_pages)) / kMiB, major, minor, report.counter("pswpin"),
                      report.counter("pswpout"), report.counter("pgpgin"), report.run_seconds(), ending(report)));
    faults.push_back({ram, static_cast<double>(major), fmt::format("{}", major)});
    times.push_back({ram, report.run_seconds(), fmt::format("{:.3f} s", report.run_seconds())});
  }
  print("\n" + bar_chart("major faults", faults) + "\n" + bar_chart("estimated run time", times));
}

// Says which machines cannot boot, before any work is done for the others.
int complain_of_machines(const std::vector<kernel::MachineConfig>& configs) {
  int status = 0;
  for (const kernel::MachineConfig& config : configs) {
    if (auto ok = kernel::check_runs_programs(config); !ok) return complain(ok.error().sentence, kUsage);
    if (auto machine = kernel::Machine::boot(config); !machine) {
      status = complain(fmt::format("--ram {}: {}", format_size(config.ram), machine.error().sentence));
    }
  }
  return status;
}

int compare_traces(const CompareOptions& options, const std::vector<kernel::MachineConfig>& configs,
                   const std::vector<std::string>& traces) {
  if (auto readers = open_traces(traces); !readers) return complain(readers.error().sentence);
  std::vector<engine::RunReport> reports;
  int status = 0;
  std::vector<Outcome> outcomes = run_all(configs, traces);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    if (outcomes[i]) {
      reports.push_back(std::move(*outcomes[i]));
    } else {
      status = complain(fmt::format("--ram {}: {}", format_size(configs[i].ram), outcomes[i].error().sentence));
    }
  }
  if (options.json) {
    for (const engine::RunReport& report : reports) print_json(engine::report_json(report), JsonLayout::kOneLine);
  } else if (!reports.empty()) {
    print_table(reports);
  }
  // The traces are the same for every machine: what is wrong with them is said once.
  if (!reports.empty()) status = std::max(status, tell_damage(reports.front()));
  for (const engine::RunReport& report : reports) status = std::max(status, tell_slab_reports(report));
  return status;
}

int compare_program(const CompareOptions& options, const std::vector<kernel::MachineConfig>& configs,
                    trace::RecordOptions record_options) {
  const auto temporary = TemporaryTrace::make();
  if (!temporary) return complain(temporary.error().sentence);
  record_options.output_fd = (*temporary)->fd();
  const std::string name = record_options.argv.front();
  std::optional<ProgramOutputAside> aside;
  if (options.json) aside.emplace();
  const auto recorded = record_interruptibly(std::move(record_options));
  aside.reset();
  if (!recorded) return complain(recorded.error());
  tell_notes(*recorded);
  if (recorded->ending == trace::RecordOutcome::Ending::kInterrupted) return exit_status(*recorded);
  if (recorded->exit_status != 0 && recorded->signal == 0) {
    complain(fmt::format("{} ended with status {}: what is compared is what it did until then", name, recorded->exit_status));
  }
  return compare_traces(options, configs, {(*temporary)->path()});
}

int compare(const CompareOptions& options, const std::vector<std::string>& program) {
  auto configs = options.machine.configs();
  if (!configs) return complain(configs.error().sentence, kUsage);
  if (options.traces.empty() == program.empty()) {
    return complain("name either traces or, behind --, a program: quire compare --ram 32M,64M sort.qtr", kUsage);
  }
  auto record_options = options.recording.for_program(program);
  if (!record_options) return complain(record_options.error().sentence, kUsage);
  if (const int status = complain_of_machines(*configs); status != 0) return status;
  if (program.empty()) return compare_traces(options, *configs, options.traces);
  if (const auto status = complain_of_program(program)) return *status;
  return compare_program(options, *configs, std::move(*record_options));
}

}  // namespace

void add_compare(CommandLine& line) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command = line.app.add_subcommand(
      "compare", "The same traces, or a program, on machines of several sizes: quire compare --ram 24M,32M,64M TRACE");
  options->machine.add_to(*command, RamOption::kList);
  options->recording.add_to(*command);
  command->add_flag("--json", options->json,
                    "One JSON object a machine, a line each; what the program prints then goes to standard error");
  command->add_option("traces", options->traces, "Traces made by quire record")->type_name("TRACE...");
  command->callback([options, &line] { line.chosen = [options, &line] { return compare(*options, line.program); }; });
}

}  // namespace quire::cli
