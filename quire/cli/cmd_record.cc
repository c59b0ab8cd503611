// quire record: runs a program under QEMU and writes down what its memory does.
#include <fmt/format.h>

#include <memory>

#include "quire/cli/command.h"
#include "quire/cli/recording.h"

namespace quire::cli {

namespace {

struct RecordCommand {
  RecordingOptions recording;
  std::string output;
};

int record(const RecordCommand& options, const std::vector<std::string>& program) {
  if (program.empty()) {
    return complain("no program to record: write it behind --, as in quire record -o sort.qtr -- sort big.txt", kUsage);
  }
  auto record_options = options.recording.for_program(program);
  if (!record_options) return complain(record_options.error().sentence, kUsage);
  if (const auto status = complain_of_program(program)) return *status;
  record_options->output = options.output;
  const auto outcome = record_interruptibly(std::move(*record_options));
  if (!outcome) return complain(outcome.error(), kQuireFailed);
  tell_notes(*outcome);
  return exit_status(*outcome);
}

}  // namespace

void add_record(CommandLine& line) {
  auto options = std::make_shared<RecordCommand>();
  CLI::App* command = line.app.add_subcommand("record", "Record a program: quire record -o FILE -- PROGRAM ARGS...");
  command->add_option("-o,--output", options->output, "The trace to write")->required()->type_name("FILE");
  options->recording.add_to(*command);
  command->callback([options, &line] { line.chosen = [options, &line] { return record(*options, line.program); }; });
}

}  // namespace quire::cli
