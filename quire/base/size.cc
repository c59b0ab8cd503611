#include "quire/base/size.h"

#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace quire {

namespace {

constexpr std::string_view kExample = "write a number with an optional K, M, G or T, as in 64M";
__extension__ typedef unsigned __int128 Wide;

constexpr std::string_view kSuffixes = "KMGTPE";

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
bool digit(char c) { return c >= '0' && c <= '9'; }

// Bits to shift by for what follows the number, -1 when it is no suffix.
int suffix_shift(std::string_view suffix) {
  if (suffix.empty()) return 0;
  if (suffix.size() == 1 && upper(suffix[0]) == 'B') return 0;
  const auto at = kSuffixes.find(upper(suffix[0]));
  if (at == std::string_view::npos) return -1;
  const std::string_view rest = suffix.substr(1);
  const bool known = rest.empty() || (rest.size() == 1 && upper(rest[0]) == 'B') ||
                     (rest.size() == 2 && rest[0] == 'i' && upper(rest[1]) == 'B');
  return known ? 10 * static_cast<int>(at + 1) : -1;
}

}  // namespace

Checked<std::uint64_t> parse_size(std::string_view text) {
  if (text.empty()) return user_error(fmt::format("the size is empty; {}", kExample));
  if (text[0] == '-') return user_error(fmt::format("the size '{}' is negative; {}", text, kExample));
  const auto too_large = [&] { return user_error(fmt::format("the size '{}' is larger than 16E (2^64 bytes)", text)); };

  const bool hex = text.size() > 2 && text[0] == '0' && upper(text[1]) == 'X';
  const char* const begin = text.data() + (hex ? 2 : 0);
  const char* const end = text.data() + text.size();
  std::uint64_t whole = 0;
  const auto [after, error] = std::from_chars(begin, end, whole, hex ? 16 : 10);
  if (error == std::errc::result_out_of_range) return too_large();
  if (after == begin) return user_error(fmt::format("the size '{}' does not begin with a digit; {}", text, kExample));

  // A decimal fraction, kept exact as numerator / 10^digits.
  const char* rest = after;
  std::uint64_t numerator = 0;
  std::uint64_t denominator = 1;
  if (!hex && rest != end && *rest == '.') {
    const char* const point = rest++;
    while (rest != end && digit(*rest)) {
      if (denominator > 100'000'000) return user_error(fmt::format("the size '{}' has too many decimals", text));
      numerator = numerator * 10 + static_cast<std::uint64_t>(*rest++ - '0');
      denominator *= 10;
    }
    if (rest == point + 1) return user_error(fmt::format("the size '{}' has no digit after its point; {}", text, kExample));
  }

  const std::string_view suffix(rest, static_cast<std::size_t>(end - rest));
  const int shift = suffix_shift(suffix);
  if (shift < 0) {
    return user_error(fmt::format("the size '{}' ends in '{}', which is no unit; {}", text, suffix, kExample));
  }
  const auto scaled = static_cast<Wide>(whole) << shift;
  const auto fraction = static_cast<Wide>(numerator) << shift;
  if (fraction % denominator != 0 && shift == 0) {
    return user_error(fmt::format("the size '{}' is not a whole number of bytes", text));
  }
  const auto bytes = scaled + fraction / denominator;
  if (bytes >> 64 != 0) return too_large();
  return static_cast<std::uint64_t>(bytes);
}

std::string format_size(std::uint64_t bytes) {
  int unit = -1;
  while (unit + 1 < std::ssize(kSuffixes) && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return unit < 0 ? fmt::format("{}", bytes) : fmt::format("{}{}", bytes, kSuffixes[static_cast<std::size_t>(unit)]);
}

}  // namespace quire
