// What the commands of `quire` share: how they are added, how they fail, where they write.
//
// A command prints its result on standard output and everything else on standard error. Exit status: 0; 1 when the work
// failed; 2 for words that make no sense; `run` and `record` pass the program's own status through, and keep to the shell's
// 125 (quire failed), 126 (cannot be executed) and 127 (not found) for their own.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/user_error.h"

namespace quire::cli {

inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kQuireFailed = 125;

using Command = std::function<int()>;

// "quire: SENTENCE" on standard error; gives `status` back.
int complain(std::string_view sentence, int status = kFailed);
// Writes to standard output at once.
void print(std::string_view text);

// What a command is added to: the application, where the command to run is left when the parse picks it, and the program
// to record, which is everything behind the first "--" of the command line.
struct CommandLine {
  CLI::App& app;
  Command chosen;
  std::vector<std::string> program;
};

void add_boot(CommandLine& line);
void add_compare(CommandLine& line);
void add_import(CommandLine& line);
void add_info(CommandLine& line);
void add_record(CommandLine& line);
void add_replay(CommandLine& line);
void add_run(CommandLine& line);

}  // namespace quire::cli
