// quire import: valgrind lackey text into a trace.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "quire/cli/command.h"
#include "quire/cli/numbers.h"
#include "quire/trace/lackey.h"
#include "quire/trace/output.h"

namespace quire::cli {

namespace {

struct ImportOptions {
  std::string input;
  std::string output;
  std::string window = "0";
};

int import(const ImportOptions& options) {
  const auto window = whole_number("--window", options.window, {.most = kMostWindow, .what = "instructions"});
  if (!window) return complain(window.error().sentence, kUsage);
  std::ifstream text(options.input, std::ios::binary);
  if (!text) return complain(fmt::format("cannot read '{}': {}", options.input, std::strerror(errno)));
  auto output = trace::Output::open(options.output);
  if (!output) return complain(output.error());
  trace::TraceHeader header;
  header.window = *window;
  trace::TraceWriter writer((*output)->fd(), options.output, header);
  if (auto done = trace::import_lackey(text, options.input, writer, *window); !done) return complain(done.error());
  if (auto whole = writer.finish(0); !whole) return complain(whole.error());
  if (auto kept = (*output)->keep(); !kept) return complain(kept.error());
  return 0;
}

}  // namespace

void add_import(CommandLine& line) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* command = line.app.add_subcommand("import", "Make a trace of valgrind lackey text (--trace-mem=yes)");
  command->add_option("text", options->input, "What valgrind --tool=lackey --trace-mem=yes --log-file=FILE wrote")
      ->required()
      ->type_name("FILE");
  command->add_option("-o,--output", options->output, "The trace to write")->required()->type_name("TRACE");
  command->add_option("--window", options->window, "As in recording; default 0, which keeps every access")->type_name("N");
  command->callback([options, &line] { line.chosen = [options] { return import(*options); }; });
}

}  // namespace quire::cli
