#include "quire/cli/numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "quire/sim/time.h"

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
  constexpr std::pair<std::string_view, sim::Nanos> kUnits[] = {
      {"s", sim::kSecond}, {"ms", sim::kMillisecond}, {"us", sim::kMicrosecond}, {"ns", 1}};
  double number = 0;
  const char* const end = text.data() + text.size();
  const bool begins = !text.empty() && text.front() >= '0' && text.front() <= '9';
  const auto [after, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (begins && error == std::errc{}) {
    for (const auto& [unit, length] : kUnits) {
      const double nanos = number * static_cast<double>(length);
      if (std::string_view(after, end) != unit || nanos > static_cast<double>(kMostDuration * sim::kSecond)) continue;
      return static_cast<sim::Nanos>(nanos);
    }
  }
  return user_error(fmt::format("{} {}: write a time of at most {} seconds with its unit (s, ms, us or ns), as in 1.5s or 20ms",
                                option, text, kMostDuration));
}

}  // namespace quire::cli
