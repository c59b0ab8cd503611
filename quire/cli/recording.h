// Recording, as `record`, `run` and `compare` do it: options, Ctrl-C, and how errors end.
#pragma once

#include <CLI/CLI.hpp>
#include <expected>
#include <string>
#include <vector>

#include "quire/trace/record.h"

namespace quire::cli {

// The options that say how to record.
struct RecordingOptions {
  std::uint64_t window = trace::kDefaultWindow;
  bool unfiltered = false;
  bool randomize = false;

  void add_to(CLI::App& command);
  [[nodiscard]] trace::RecordOptions for_program(const std::vector<std::string>& argv) const;
};

// trace::record with SIGINT and SIGTERM turned into a stop of the recording.
std::expected<trace::RecordOutcome, std::string> record_interruptibly(trace::RecordOptions options);

// Notes of a recording on standard error.
void tell_notes(const trace::RecordOutcome& outcome);

}  // namespace quire::cli
