// Runs a program natively and recorded, and hands out what both printed and what the trace holds.
#pragma once

#include <gtest/gtest.h>

#include <expected>
#include <string>
#include <vector>

#include "quire/trace/info.h"
#include "quire/trace/record.h"

namespace quire::trace::test {

// A folder that goes away with its test; the program runs in it.
class RecordingTest : public testing::Test {
 protected:
  RecordingTest();
  ~RecordingTest() override;
  void SetUp() override;

  struct Run {
    std::string output;  // standard output of the program
    int exit_status = 0;
  };
  struct Recorded : Run {
    RecordOutcome outcome;
    TraceInfo info;
    std::string file;
  };

  Run run_natively(const std::vector<std::string>& argv) const;
  Recorded record_it(const std::vector<std::string>& argv, std::uint64_t window = kDefaultWindow) const;
  // Both, compared: same output, same exit status, a whole trace that says the same exit status.
  Recorded check(const std::vector<std::string>& argv) const;

  [[nodiscard]] std::expected<RecordOutcome, std::string> try_record(RecordOptions options) const;
  std::string file(const std::string& name, const std::string& contents, unsigned mode = 0644) const;
  [[nodiscard]] static std::string guest(const std::string& name);
  [[nodiscard]] static bool installed(const std::string& program);

  std::string folder_;
};

[[nodiscard]] const TaskInfo* find_program(const TraceInfo& info, const std::string& ending);
// Every record of the trace as one line of text each, task by task.
[[nodiscard]] std::vector<std::string> lines_of(const std::string& trace);

}  // namespace quire::trace::test

#define SKIP_UNLESS_INSTALLED(program) \
  if (!installed(program)) GTEST_SKIP() << program << " is not installed"
