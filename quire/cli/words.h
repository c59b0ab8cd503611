// The words of a command line before they are parsed: what the parser would misread or could not explain.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quire::cli {

// Whether the command runs a program of its own words, so that a bare word before "--" is one whose "--" was forgotten.
enum class TakesProgram : bool { kNo, kYes };

// One sentence about the first of `words` (all behind the command's name) that is no option of `command`, with the option
// that may have been meant or the command line as it should be; nothing when the parser can go on. Words behind "--" are not
// looked at.
[[nodiscard]] std::optional<std::string> explain_words(const CLI::App& command, std::span<const char* const> words,
                                                       TakesProgram takes_program);

}  // namespace quire::cli
