// The words of a kernel's command line, "name" or "name=value", with blanks between them (next_arg). Blanks within "…" are part of
// the word, whose quotes go; a word "--" ends the kernel's part, what follows is init's.
#pragma once

#include <string_view>
#include <vector>

namespace quire {

struct CommandWord {
  std::string_view text;   // the whole word
  std::string_view name;   // up to the first '='
  std::string_view value;  // behind it; empty when there is none
};

// In order; they point into `cmdline`. Boot only: allocates.
[[nodiscard]] inline std::vector<CommandWord> command_words(std::string_view cmdline) {
  constexpr std::string_view kBlanks = " \t\n";
  std::vector<CommandWord> words;
  const auto unquoted = [](std::string_view s) {
    if (s.starts_with('"')) s.remove_prefix(1);
    if (s.ends_with('"')) s.remove_suffix(1);
    return s;
  };
  for (std::size_t at = cmdline.find_first_not_of(kBlanks); at < cmdline.size(); at = cmdline.find_first_not_of(kBlanks, at)) {
    std::size_t end = at;
    for (bool quoted = false; end < cmdline.size() && (quoted || kBlanks.find(cmdline[end]) == kBlanks.npos); ++end) {
      if (cmdline[end] == '"') quoted = !quoted;
    }
    const std::string_view text = cmdline.substr(at, end - at);
    if (text == "--") break;
    const std::string_view name = text.substr(0, text.find('='));
    words.push_back({text, unquoted(name), unquoted(text.substr(name.size() < text.size() ? name.size() + 1 : name.size()))});
    at = end;
  }
  return words;
}

}  // namespace quire
