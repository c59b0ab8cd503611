#include "quire/cli/recording.h"

#include <fmt/core.h>
#include <signal.h>

#include <atomic>
#include <cstdio>

namespace quire::cli {

namespace {

// Signal handlers know nothing but globals; this one is all there is.
std::atomic<int> g_stop_signal{0};

void remember_signal(int number) { g_stop_signal.store(number); }

class SignalsToStop {
 public:
  SignalsToStop() {
    g_stop_signal.store(0);
    struct sigaction action {};
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
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
};

}  // namespace

void RecordingOptions::add_to(CLI::App& command) {
  const std::string group = "Recording";
  command
      .add_option("--window", window,
                  "Instructions within which repeated accesses to a page are recorded once (default 50000)")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_flag("--unfiltered", unfiltered, "Record every access (large and slow)")->group(group);
  command.add_flag("--randomize", randomize, "Leave address space randomisation on")->group(group);
}

trace::RecordOptions RecordingOptions::for_program(const std::vector<std::string>& argv) const {
  trace::RecordOptions options;
  options.argv = argv;
  options.window = unfiltered ? 0 : window;
  options.randomization =
      randomize ? trace::AddressSpaceRandomization::kOn : trace::AddressSpaceRandomization::kOff;
  return options;
}

std::expected<trace::RecordOutcome, std::string> record_interruptibly(trace::RecordOptions options) {
  const SignalsToStop signals;
  options.stop_signal = &g_stop_signal;
  return trace::record(options);
}

void tell_notes(const trace::RecordOutcome& outcome) {
  for (const std::string& note : outcome.notes) fmt::print(stderr, "quire: {}\n", note);
}

}  // namespace quire::cli
