// The words of a kernel's command line, "name" or "name=value", with blanks between them.
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
  for (std::size_t at = cmdline.find_first_not_of(kBlanks); at < cmdline.size(); at = cmdline.find_first_not_of(kBlanks, at)) {
    const std::string_view text = cmdline.substr(at, cmdline.find_first_of(kBlanks, at) - at);
    const std::string_view name = text.substr(0, text.find('='));
    words.push_back({text, name, text.substr(name.size() < text.size() ? name.size() + 1 : name.size())});
    at += text.size();
  }
  return words;
}

}  // namespace quire
