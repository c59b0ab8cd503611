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

}  // namespace quire::cli
