// What the commands of `quire` share: how they are added, how they fail, where they write.
//
// A command prints its result on standard output and everything else on standard error. Exit status: 0; 1 when the work
// failed; 2 for words that make no sense; 128 + N when signal N stopped it. `run` and `record` pass the program's own status
// through, and keep to env(1)'s 125 (quire failed), 126 (the program cannot be executed) and 127 (it is not there).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/user_error.h"

namespace quire::cli {

inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kQuireFailed = 125;
inline constexpr int kNotExecutable = 126;
inline constexpr int kNotFound = 127;

using Command = std::function<int()>;

// "quire: SENTENCE" on standard error; gives `status` back.
int complain(std::string_view sentence, int status = kFailed);
// Writes to standard output at once.
void print(std::string_view text);
// The same, as one JSON value on a line of its own, or indented over several. Names come from programs and files and need not
// be UTF-8, which JSON has to be: what is not is printed as U+FFFD.
enum class JsonLayout : std::uint8_t { kOneLine, kIndented };
void print_json(const nlohmann::json& value, JsonLayout layout = JsonLayout::kIndented);

// What a command is added to: the application, where the command to run is left when the parse picks it, and the program
// to record, which is everything behind the first "--" of the command line.
struct CommandLine {
  CLI::App& app;
  Command chosen;
  std::vector<std::string> program;
};

void add_boot(CommandLine& line);
void add_capture(CommandLine& line);
void add_compare(CommandLine& line);
void add_explain(CommandLine& line);
void add_import(CommandLine& line);
void add_info(CommandLine& line);
void add_record(CommandLine& line);
void add_replay(CommandLine& line);
void add_run(CommandLine& line);

}  // namespace quire::cli
