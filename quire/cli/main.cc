#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/nearest.h"
#include "quire/cli/command.h"
#include "quire/cli/words.h"

namespace quire::cli {

namespace {

std::string no_command(const CLI::App& app, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  const std::vector<std::string_view> known(names.begin(), names.end());
  const std::string_view guess = nearest(word, known);
  return fmt::format(
      "no command '{}'; {}", word,
      guess.empty() ? fmt::format("there are: {}", fmt::join(known, ", ")) : fmt::format("did you mean '{}'?", guess));
}

// Parses the words before "--" and runs the command they choose. What stands behind "--" is the program's own and none of our
// parser's business.
int run_command(CommandLine& line, std::span<const char* const> words) {
  const std::string name = words.size() > 1 && words[1][0] != '-' ? words[1] : "";
  const bool runs_program = name == "run" || name == "record";
  if (!name.empty()) {
    const auto named = line.app.get_subcommands([&name](const CLI::App* command) { return command->get_name() == name; });
    if (named.empty()) return complain(no_command(line.app, name), kUsage);
    const auto mistake = explain_words(*named.front(), words.subspan(2), runs_program ? TakesProgram::kYes : TakesProgram::kNo);
    if (mistake) return complain(*mistake, kUsage);
  }
  const auto program = std::ranges::find_if(words, [](const char* word) { return std::strcmp(word, "--") == 0; });
  if (program != words.end()) line.program.assign(program + 1, words.end());
  try {
    line.app.parse(static_cast<int>(program - words.begin()), words.data());
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return line.app.exit(error);  // --help, --version
    std::string what = error.what();
    while (!what.empty() && (what.back() == '\n' || what.back() == '.')) what.pop_back();
    return complain(fmt::format("{}; see quire {}{}--help", what, name, name.empty() ? "" : " "), kUsage);
  }
  try {
    return line.chosen();
  } catch (const std::exception& error) {  // the last net: what a command can foresee it says itself
    return complain(fmt::format("{} could not go on: {}", name, error.what()), runs_program ? kQuireFailed : kFailed);
  }
}

}  // namespace

}  // namespace quire::cli

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
  add_capture(line);
  add_explain(line);
  const int status = run_command(line, std::span<const char* const>(argv, static_cast<std::size_t>(argc)));
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return complain(std::string("cannot write the result to standard output: ") + std::strerror(errno));
  }
  return status;
}
