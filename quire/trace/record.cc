#include "quire/trace/record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "quire/trace/collector.h"
#include "quire/trace/output.h"
#include "quire/trace/program.h"
#include "quire/trace/writer.h"

extern char** environ;

namespace quire::trace {
namespace {

// A reader that goes away must not kill us: SIGPIPE waits, and is taken back, while this lives.
class PipeSignalBlocked {
 public:
  PipeSignalBlocked() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalBlocked() {
    if (sigismember(&before_, SIGPIPE) == 0) {
      const timespec at_once{};
      while (sigtimedwait(&pipe_, nullptr, &at_once) >= 0) {}
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  PipeSignalBlocked(const PipeSignalBlocked&) = delete;
  PipeSignalBlocked& operator=(const PipeSignalBlocked&) = delete;
  [[nodiscard]] const sigset_t& before() const { return before_; }

 private:
  sigset_t pipe_{}, before_{};
};

struct Command {
  std::vector<std::string> arguments, environment;
};

Command qemu_command(const RecordOptions& options, const ExecTarget& target, const std::string& qemu, const std::string& plugin,
                     const std::string& socket) {
  Command command;
  for (char** variable = environ; *variable != nullptr; ++variable) command.environment.emplace_back(*variable);
  std::erase_if(command.environment, [](const std::string& v) { return v.starts_with("QUIRE_RECORDER="); });
  const bool randomized = options.randomization == AddressSpaceRandomization::kOn;
  auto& args = command.arguments;
  args = {qemu};
  for (std::string& option : shield_environment(command.environment)) args.push_back(std::move(option));
  if (!randomized) args.insert(args.end(), {"-seed", "1"});
  args.insert(args.end(), {"-plugin", fmt::format("{},socket={},window={},randomized={}", plugin, socket, options.window,
                                                  randomized ? "on" : "off")});
  args.insert(args.end(), {"-0", target.argv0, target.file});
  args.insert(args.end(), target.arguments.begin(), target.arguments.end());
  return command;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

std::expected<pid_t, std::string> start(Command command, const RecordOptions& options, const sigset_t& signals) {
  std::vector<char*> argv = pointers(command.arguments), envp = pointers(command.environment);
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) return std::unexpected(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (options.randomization == AddressSpaceRandomization::kOff) {
      const int now = ::personality(0xffff'ffff);
      if (now != -1) ::personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE);
    }
    if (options.output_fd > STDERR_FILENO) ::fcntl(options.output_fd, F_SETFD, FD_CLOEXEC);  // not the program's business
    ::pthread_sigmask(SIG_SETMASK, &signals, nullptr);
    ::execve(argv[0], argv.data(), envp.data());
    const int why = errno;
    static_cast<void>(!::write(report[1], &why, sizeof why));
    ::_exit(127);
  }
  ::close(report[1]);
  int why = pid < 0 ? errno : 0;
  if (pid > 0 && ::read(report[0], &why, sizeof why) > 0) ::waitpid(pid, nullptr, 0);
  ::close(report[0]);
  if (why != 0) return std::unexpected(fmt::format("cannot start {}: {}", command.arguments[0], std::strerror(why)));
  return pid;
}

std::string signal_text(int signal) {
  const char* const name = ::sigabbrev_np(signal);
  return name != nullptr ? fmt::format("signal {} (SIG{})", signal, name) : fmt::format("signal {}", signal);
}

RecordOutcome describe(const RecordOptions& options, const Collector::Ending& ending, const WriterStatistics& written) {
  RecordOutcome outcome;
  const int status = ending.wait_status;
  outcome.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  outcome.exit_status = outcome.signal != 0 ? 128 + outcome.signal : WEXITSTATUS(status);
  outcome.tasks = written.tasks;
  outcome.chunks = written.chunks;
  outcome.raw_bytes = written.raw_bytes;
  outcome.bytes = written.bytes;
  if (ending.stopped_by != 0) {
    outcome.ending = RecordOutcome::Ending::kInterrupted;
    outcome.notes.push_back(fmt::format("the recording was stopped by {}: the trace holds what the program did until then",
                                        signal_text(ending.stopped_by)));
  } else if (outcome.signal != 0) {
    outcome.notes.push_back(
        fmt::format("{} was killed by {}: the trace is whole up to there", options.argv[0], signal_text(outcome.signal)));
  }
  return outcome;
}

}  // namespace

std::expected<RecordOutcome, std::string> record(const RecordOptions& options) {
  const auto target = find_program(options.argv);
  if (!target) return std::unexpected(target.error().sentence);
  const auto qemu = find_qemu(options.qemu);
  if (!qemu) return std::unexpected(qemu.error());
  const auto plugin = find_plugin(options.plugin);
  if (!plugin) return std::unexpected(plugin.error());
  if (plugin->find(',') != std::string::npos) {
    return std::unexpected(fmt::format("{} has a comma in its path, which QEMU cannot take: move it", *plugin));
  }
  const PipeSignalBlocked no_pipe_signal;
  auto output = Output::open(options.output, options.output_fd);
  if (!output) return std::unexpected(output.error());

  TraceHeader header;
  header.window = options.window;
  TraceWriter writer((*output)->fd(), (*output)->name(), header, options.compression_level);
  Collector collector(writer);
  if (Outcome done = collector.listen(); !done) return std::unexpected(done.error());
  const auto pid =
      start(qemu_command(options, *target, *qemu, *plugin, collector.socket_name()), options, no_pipe_signal.before());
  if (!pid) return std::unexpected(pid.error());
  const auto ending = collector.run(*pid, options.stop_signal);
  if (!ending) return std::unexpected(ending.error());
  if (writer.statistics().chunks == 0) {
    return std::unexpected(
        fmt::format("{} ran no instruction of {}: is that file a whole program? If no program can be recorded, "
                    "install QEMU 7.2 or 8.2 with plugins",
                    *qemu, options.argv[0]));
  }
  RecordOutcome outcome = describe(options, *ending, writer.statistics());
  if (Outcome done = writer.finish(outcome.exit_status); !done) return std::unexpected(done.error());
  outcome.bytes = writer.statistics().bytes;
  if (Outcome done = (*output)->keep(); !done) return std::unexpected(done.error());
  return outcome;
}

}  // namespace quire::trace
