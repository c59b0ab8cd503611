#include "quire/cli/recording.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "quire/cli/command.h"
#include "quire/cli/numbers.h"
#include "quire/trace/program.h"

namespace quire::cli {

namespace {

// Signal handlers know nothing but globals; this one is all there is.
std::atomic<int> g_stop_signal{0};

void remember_signal(int number) { g_stop_signal.store(number); }

class SignalsToStop {
 public:
  SignalsToStop() {
    g_stop_signal.store(0);
    struct sigaction action{};
    action.sa_handler = remember_signal;
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~SignalsToStop() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  SignalsToStop(const SignalsToStop&) = delete;
  SignalsToStop& operator=(const SignalsToStop&) = delete;

 private:
  struct sigaction old_int_{};
  struct sigaction old_term_{};
};

}  // namespace

void RecordingOptions::add_to(CLI::App& command) {
  const std::string group = "Recording";
  command
      .add_option("--window", window, "Instructions within which repeated accesses to a page are recorded once (default 50000)")
      ->type_name("N")
      ->group(group);
  command.add_flag("--unfiltered", unfiltered, "Record every access (large and slow)")->group(group);
  command.add_flag("--randomize", randomize, "Leave address space randomisation on")->group(group);
}

Checked<trace::RecordOptions> RecordingOptions::for_program(const std::vector<std::string>& argv) const {
  trace::RecordOptions options;
  options.argv = argv;
  if (window) {
    const auto instructions = whole_number("--window", *window, {.least = 1, .most = kMostWindow, .what = "instructions"});
    if (!instructions) return user_error(instructions.error().sentence + "; --unfiltered records every access");
    options.window = *instructions;
  }
  if (unfiltered) options.window = 0;
  options.randomization = randomize ? trace::AddressSpaceRandomization::kOn : trace::AddressSpaceRandomization::kOff;
  return options;
}

std::optional<int> complain_of_program(const std::vector<std::string>& argv) {
  const auto target = trace::find_program(argv);
  if (target) return std::nullopt;
  const bool missing = target.error().verdict == trace::ExecVerdict::kMissing;
  return complain(target.error().sentence, missing ? kNotFound : kNotExecutable);
}

std::expected<trace::RecordOutcome, std::string> record_interruptibly(trace::RecordOptions options) {
  const SignalsToStop signals;
  options.stop_signal = &g_stop_signal;
  return trace::record(options);
}

int exit_status(const trace::RecordOutcome& outcome) {
  const bool interrupted = outcome.ending == trace::RecordOutcome::Ending::kInterrupted;
  return interrupted ? 128 + g_stop_signal.load() : outcome.exit_status;
}

void tell_notes(const trace::RecordOutcome& outcome) {
  for (const std::string& note : outcome.notes) fmt::print(stderr, "quire: {}\n", note);
}

ProgramOutputAside::ProgramOutputAside() : saved_(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)) {
  std::fflush(stdout);
  if (saved_ >= 0) dup2(STDERR_FILENO, STDOUT_FILENO);
}

ProgramOutputAside::~ProgramOutputAside() {
  if (saved_ < 0) return;
  dup2(saved_, STDOUT_FILENO);
  close(saved_);
}

}  // namespace quire::cli
