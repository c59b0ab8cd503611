// quire capture: what this Linux says of its memory, into a folder that `quire boot --like` boots.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "quire/cli/command.h"
#include "quire/like/capture.h"

namespace quire::cli {

namespace {

struct CaptureWords {
  std::string folder;
  like::CaptureOptions options;
};

int run_capture(const CaptureWords& words) {
  const auto captured = like::capture(words.folder, words.options);
  if (!captured) return complain(captured.error().sentence);
  for (const std::string& note : captured->notes) fmt::print(stderr, "quire: note: {}\n", note);
  for (const std::string& file : captured->skipped) fmt::print(stderr, "quire: skipped {}\n", file);
  print(fmt::format("{}: {}\n", words.folder, fmt::join(captured->files, " ")));
  return 0;
}

}  // namespace

void add_capture(CommandLine& line) {
  auto words = std::make_shared<CaptureWords>();
  CLI::App* command =
      line.app.add_subcommand("capture", "Collect what this Linux says of its memory into a folder, for quire boot --like");
  command->add_option("folder", words->folder, "The folder to make; it must not be there yet, or be empty")
      ->type_name("DIR")
      ->required();
  command->add_option("--root", words->options.root, "Where /proc, /sys and /var stand when not at /")->type_name("FOLDER");
  command->callback([words, &line] { line.chosen = [words] { return run_capture(*words); }; });
}

}  // namespace quire::cli
