// Recording, as `record`, `run` and `compare` do it: options, Ctrl-C, and how errors end.
#pragma once

#include <CLI/CLI.hpp>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/trace/record.h"

namespace quire::cli {

// The options that say how to record.
struct RecordingOptions {
  std::optional<std::string> window;
  bool unfiltered = false;
  bool randomize = false;

  void add_to(CLI::App& command);
  [[nodiscard]] Checked<trace::RecordOptions> for_program(const std::vector<std::string>& argv) const;
};

// Says why `argv` cannot be run and gives the status to end with, 126 or 127; nothing when it can.
std::optional<int> complain_of_program(const std::vector<std::string>& argv);

// trace::record with SIGINT and SIGTERM turned into a stop of the recording.
std::expected<trace::RecordOutcome, std::string> record_interruptibly(trace::RecordOptions options);

// The program's exit status, or 128 + the signal that stopped the recording: a stopped program may well end with 0.
[[nodiscard]] int exit_status(const trace::RecordOutcome& outcome);

// Notes of a recording on standard error.
void tell_notes(const trace::RecordOutcome& outcome);

// While it lives, what programs print to standard output goes to standard error, so that ours holds one JSON value alone.
class ProgramOutputAside {
 public:
  ProgramOutputAside();
  ~ProgramOutputAside();
  ProgramOutputAside(const ProgramOutputAside&) = delete;
  ProgramOutputAside& operator=(const ProgramOutputAside&) = delete;

 private:
  int saved_;  // our standard output; -1: it is closed, and so it stays
};

}  // namespace quire::cli
