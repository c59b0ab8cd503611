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

using Recorded = std::expected<trace::RecordOutcome, std::string>;

// Reads on after a failed replay, so that the recording can end in peace.
void drain(int fd) {
  char buffer[65536];
  while (read(fd, buffer, sizeof buffer) > 0) {
  }
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

int run(const RunOptions& options, const std::vector<std::string>& program) {
  if (program.empty()) {
    return complain("no program to run: write it behind --, as in quire run --ram 64M -- sort big.txt", kUsage);
  }
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  // What cannot boot is said before the program runs.
  if (auto machine = kernel::Machine::boot(*config); !machine) return complain(machine.error().sentence, kQuireFailed);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return complain(fmt::format("cannot make a pipe: {}", std::strerror(errno)), kQuireFailed);
  }
  Recorded recorded = std::unexpected(std::string());
  std::thread recorder([&] {
    trace::RecordOptions record_options = options.recording.for_program(program);
    record_options.output_fd = ends[1];
    recorded = record_interruptibly(std::move(record_options));
    close(ends[1]);
  });
  const Checked<engine::RunReport> report = replay_from(ends[0], *config, program.front());
  recorder.join();

  if (!recorded) return complain(recorded.error(), kQuireFailed);
  tell_notes(*recorded);
  if (!report) return complain(report.error().sentence, kQuireFailed);
  print(options.json ? engine::report_json(*report).dump(2) + "\n" : engine::report_text(*report));
  return recorded->exit_status;
}

}  // namespace

void add_run(CommandLine& line) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = line.app.add_subcommand("run", "Run a program on a machine: quire run --ram 64M -- PROGRAM ARGS...");
  options->machine.add_to(*command, RamOption::kOne);
  options->recording.add_to(*command);
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->callback([options, &line] { line.chosen = [options, &line] { return run(*options, line.program); }; });
}

}  // namespace quire::cli
