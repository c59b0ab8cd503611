// quire run: records a program and replays it at the same time, through a pipe.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/cli/progress.h"
#include "quire/cli/recording.h"
#include "quire/cli/replaying.h"

namespace quire::cli {

namespace {

struct RunOptions {
  MachineOptions machine;
  RecordingOptions recording;
  bool json = false;
};

enum class Report : std::uint8_t { kText, kJson };
using Recorded = std::expected<trace::RecordOutcome, std::string>;

// Reads on after a failed replay, so that the recording can end in peace.
void drain(int fd) {
  char buffer[65536];
  while (read(fd, buffer, sizeof buffer) > 0) {}
}

Checked<engine::RunReport> replay_from(int fd, const kernel::MachineConfig& config, const std::string& name) {
  const int spare = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  auto report = [&]() -> Checked<engine::RunReport> {
    auto reader = trace::TraceReader::from_fd(fd, name);
    if (!reader) return user_error(reader.error());
    Readers readers;
    readers.push_back(std::move(*reader));
    Progress bar("running", 0);
    return replay_on(config, std::move(readers), [&bar](std::uint64_t bytes) { bar.update(bytes); });
  }();
  if (spare >= 0) {
    drain(spare);
    close(spare);
  }
  return report;
}

// The host's time is the recording's: how fast the replay is cannot be told of it.
void print_report(const engine::RunReport& report, Report form) {
  if (form == Report::kJson) {
    nlohmann::json json = engine::report_json(report);
    json["host"] = {{"seconds", report.host_seconds}, {"includes_recording", true}};
    print_json(json);
  } else {
    print(engine::report_text(report));
    print(fmt::format("{:<22} most of it to record the program under QEMU\n", ""));
  }
}

int run_recorded(const RunOptions& options, const kernel::MachineConfig& config, trace::RecordOptions record_options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return complain(fmt::format("cannot make a pipe: {}", std::strerror(errno)), kQuireFailed);
  }
  const std::string name = record_options.argv.front();
  record_options.output_fd = ends[1];
  Recorded recorded = std::unexpected(std::string());
  std::optional<ProgramOutputAside> aside;
  if (options.json) aside.emplace();
  std::thread recorder([&] {
    recorded = record_interruptibly(std::move(record_options));
    close(ends[1]);
  });
  const Checked<engine::RunReport> report = replay_from(ends[0], config, name);
  recorder.join();
  aside.reset();

  if (!recorded) return complain(recorded.error(), kQuireFailed);
  tell_notes(*recorded);
  if (!report) return complain(report.error().sentence, kQuireFailed);
  print_report(*report, options.json ? Report::kJson : Report::kText);
  if (tell_slab_reports(*report) != 0) return kQuireFailed;
  return exit_status(*recorded);
}

int run(const RunOptions& options, const std::vector<std::string>& program) {
  if (program.empty()) {
    return complain("no program to run: write it behind --, as in quire run --ram 64M -- sort big.txt", kUsage);
  }
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  auto record_options = options.recording.for_program(program);
  if (!record_options) return complain(record_options.error().sentence, kUsage);
  // What cannot boot or run is said before anything does.
  if (auto ok = kernel::check_runs_programs(*config); !ok) return complain(ok.error().sentence, kUsage);
  if (auto machine = kernel::Machine::boot(*config); !machine) return complain(machine.error().sentence, kQuireFailed);
  if (const auto status = complain_of_program(program)) return *status;
  return run_recorded(options, *config, std::move(*record_options));
}

}  // namespace

void add_run(CommandLine& line) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = line.app.add_subcommand("run", "Run a program on a machine: quire run --ram 64M -- PROGRAM ARGS...");
  options->machine.add_to(*command, RamOption::kOne);
  options->recording.add_to(*command);
  command->add_flag("--json", options->json,
                    "One JSON object instead of text; what the program prints then goes to standard error");
  command->callback([options, &line] { line.chosen = [options, &line] { return run(*options, line.program); }; });
}

}  // namespace quire::cli
