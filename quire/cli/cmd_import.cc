// quire import: valgrind lackey text into a trace.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "quire/cli/command.h"
#include "quire/trace/lackey.h"

namespace quire::cli {

namespace {

struct ImportOptions {
  std::string input;
  std::string output;
  std::uint64_t window = 0;
};

// Writes the trace beside its name and renames it when it is whole.
int import(const ImportOptions& options) {
  std::ifstream text(options.input, std::ios::binary);
  if (!text) return complain(fmt::format("cannot read '{}': {}", options.input, std::strerror(errno)));
  const std::string part = options.output + ".part";
  const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return complain(fmt::format("cannot write '{}': {}", part, std::strerror(errno)));
  trace::TraceHeader header;
  header.window = options.window;
  trace::TraceWriter writer(fd, options.output, header);
  std::string problem;
  if (auto done = trace::import_lackey(text, options.input, writer, options.window); !done) problem = done.error();
  if (problem.empty()) {
    if (auto whole = writer.finish(0); !whole) problem = whole.error();
  }
  if (close(fd) != 0 && problem.empty()) problem = fmt::format("cannot write '{}': {}", part, std::strerror(errno));
  std::error_code error;
  if (problem.empty()) std::filesystem::rename(part, options.output, error);
  if (error) problem = fmt::format("cannot rename '{}' to '{}': {}", part, options.output, error.message());
  if (problem.empty()) return 0;
  std::filesystem::remove(part, error);
  return complain(problem);
}

}  // namespace

void add_import(CommandLine& line) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* command = line.app.add_subcommand("import", "Make a trace of valgrind lackey text (--trace-mem=yes)");
  command->add_option("text", options->input, "What valgrind --tool=lackey --trace-mem=yes --log-file=FILE wrote")->required()->type_name("FILE");
  command->add_option("-o,--output", options->output, "The trace to write")->required()->type_name("TRACE");
  command->add_option("--window", options->window, "As in recording; default 0, which keeps every access")->type_name("N");
  command->callback([options, &line] { line.chosen = [options] { return import(*options); }; });
}

}  // namespace quire::cli
