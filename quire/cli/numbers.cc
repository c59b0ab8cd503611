#include "quire/cli/numbers.h"

#include <fmt/format.h>

#include <charconv>

namespace quire::cli {

Checked<std::uint64_t> whole_number(std::string_view option, std::string_view text, const Bounds& bounds) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc{} && after == end && number >= bounds.least && number <= bounds.most) return number;
  return user_error(fmt::format("{} {}: write a whole number{}{} from {} to {}", option, text,
                                bounds.what.empty() ? "" : " of ", bounds.what, bounds.least, bounds.most));
}

Checked<std::uint64_t> duration(std::string_view option, std::string_view text) {
  constexpr double kSecond = 1e9;
  double number = 0;
  const char* const end = text.data() + text.size();
  const bool begins = !text.empty() && text.front() >= '0' && text.front() <= '9';
  const auto [after, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (begins && error == std::errc{}) {
    const std::string_view unit(after, end);
    const double nanos = unit == "s"    ? number * kSecond
                         : unit == "ms" ? number * 1e6
                         : unit == "us" ? number * 1e3
                         : unit == "ns" ? number
                                        : -1;
    if (nanos >= 0 && nanos <= static_cast<double>(kMostDuration) * kSecond) return static_cast<std::uint64_t>(nanos);
  }
  return user_error(fmt::format("{} {}: write a time of at most {} seconds with its unit (s, ms, us or ns), as in 1.5s or 20ms",
                                option, text, kMostDuration));
}

}  // namespace quire::cli
