#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/nearest.h"
#include "quire/cli/command.h"

int main(int argc, char** argv) {
  using namespace quire::cli;
  CLI::App app("Linux's memory management as a laboratory: record a program's memory, run it on machines of your choice.",
               "quire");
  app.require_subcommand(1);
  app.set_version_flag("--version", "quire " QUIRE_VERSION);
  CommandLine line{app, {}, {}};
  add_run(line);
  add_record(line);
  add_replay(line);
  add_compare(line);
  add_info(line);
  add_import(line);
  add_boot(line);

  // What stands behind "--" is the program's own and none of our parser's business.
  int words = 1;
  while (words < argc && std::strcmp(argv[words], "--") != 0) ++words;
  if (words < argc) line.program.assign(argv + words + 1, argv + argc);
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) names.push_back(command->get_name());
  if (words > 1 && argv[1][0] != '-' && std::ranges::find(names, argv[1]) == names.end()) {
    const std::vector<std::string_view> known(names.begin(), names.end());
    const std::string_view guess = quire::nearest(argv[1], known);
    return complain(fmt::format("no command '{}'; {}", argv[1],
                                guess.empty() ? fmt::format("there are: {}", fmt::join(known, ", "))
                                              : fmt::format("did you mean '{}'?", guess)),
                    kUsage);
  }
  try {
    app.parse(words, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::string what = error.what();
    while (!what.empty() && (what.back() == '\n' || what.back() == '.')) what.pop_back();
    return complain(what + "; see quire --help", kUsage);
  }
  const int status = line.chosen();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return complain(std::string("cannot write the result to standard output: ") + std::strerror(errno));
  }
  return status;
}
