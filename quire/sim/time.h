// Virtual time.
#pragma once

#include <cstdint>

namespace quire::sim {

using Nanos = std::uint64_t;  // virtual nanoseconds since the machine was made

inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;
inline constexpr Nanos kJiffy = 4 * kMillisecond;  // CONFIG_HZ=250, as Debian's
inline constexpr Nanos kNever = ~Nanos{0};

}  // namespace quire::sim
