#include "quire/base/cpu_list.h"

#include <algorithm>
#include <charconv>

namespace quire {

namespace {

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::vector<unsigned>> parse_number_list(std::string_view text, unsigned most, char separator) {
  std::vector<unsigned> out;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(separator));
    text.remove_prefix(part.size());
    if (!text.empty()) {
      text.remove_prefix(1);
      if (text.empty()) return std::nullopt;
    }
    const auto dash = part.find('-');
    const auto first = number(part.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (!first || !last || *last < *first || *last > most) return std::nullopt;
    for (unsigned n = *first; n <= *last; ++n) out.push_back(n);
  }
  std::ranges::sort(out);
  if (std::ranges::adjacent_find(out) != out.end()) return std::nullopt;
  return out;
}

std::string format_number_list(const std::vector<unsigned>& numbers, char separator) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (!text.empty()) text += separator;
    text += std::to_string(numbers[i]);
    if (last != i) text += '-' + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace quire
