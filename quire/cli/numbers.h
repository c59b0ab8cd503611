// Whole numbers on the command line, with their bounds in the sentence when one does not fit.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "quire/base/user_error.h"

namespace quire::cli {

struct Bounds {
  std::uint64_t least = 0;
  std::uint64_t most = std::numeric_limits<std::int64_t>::max();  // what a TOML file can say as well
  std::string_view what = "";                                     // "instructions"; empty: a bare number
};

// The most instructions a recording window may have: beyond any program, and far from where instruction counts wrap.
inline constexpr std::uint64_t kMostWindow = 1'000'000'000'000;

// Decimal digits alone: no sign, no blank, no fraction.
[[nodiscard]] Checked<std::uint64_t> whole_number(std::string_view option, std::string_view text, const Bounds& bounds);

// Virtual time, in nanoseconds: a decimal number with s, ms, us or ns behind it, no sign, at most kMostDuration seconds.
inline constexpr std::uint64_t kMostDuration = 1'000'000;
[[nodiscard]] Checked<std::uint64_t> duration(std::string_view option, std::string_view text);

}  // namespace quire::cli
