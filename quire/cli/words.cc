#include "quire/cli/words.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "quire/base/nearest.h"

namespace quire::cli {

namespace {

// The word as a shell takes it back.
std::string quoted(std::string_view word) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos) return std::string(word);
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string with_program_behind(const CLI::App& command, std::span<const char* const> words, std::size_t program) {
  std::string line = "quire " + command.get_name();
  for (std::size_t i = 0; i < words.size(); ++i) line += fmt::format("{} {}", i == program ? " --" : "", quoted(words[i]));
  return line;
}

std::string unknown_option(const CLI::App& command, std::string_view name) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& known : option->get_lnames()) names.push_back(known);
  }
  const std::vector<std::string_view> candidates(names.begin(), names.end());
  const std::string_view guess = name.starts_with("--") ? nearest(name.substr(2), candidates) : std::string_view{};
  return fmt::format("no option '{}'{}; see quire {} --help", name,
                     guess.empty() ? "" : fmt::format(", did you mean '--{}'?", guess), command.get_name());
}

}  // namespace

std::optional<std::string> explain_words(const CLI::App& command, std::span<const char* const> words,
                                         TakesProgram takes_program) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word(words[i]);
    if (word == "--") return std::nullopt;
    if (word.size() < 2 || word[0] != '-') {
      if (takes_program == TakesProgram::kNo) continue;
      return fmt::format("'{}' stands where options do; write the program behind --: {}", word,
                         with_program_behind(command, words, i));
    }
    const bool is_long = word.starts_with("--");
    const std::size_t end = is_long ? std::min(word.find('='), word.size()) : 2;
    const CLI::Option* option = command.get_option_no_throw(std::string(word.substr(0, end)));
    if (option == nullptr) return unknown_option(command, word.substr(0, end));
    if (end == word.size() && option->get_items_expected_max() > 0) ++i;  // its value
  }
  return std::nullopt;
}

}  // namespace quire::cli
