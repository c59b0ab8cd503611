// What one attempt of the allocator may do (Linux's ALLOC_* in mm/internal.h). The low bits name the watermark.
#pragma once

#include <cstdint>

#include "quire/base/flags.h"

namespace quire::phys {

enum class AllocFlags : std::uint32_t {
  kWmarkMin = 0,
  kWmarkLow = 1,
  kWmarkHigh = 2,
  kWmarkMask = 3,
  kNoWatermarks = 0x04,
  kOom = 0x08,
  kHarder = 0x10,
  kHigh = 0x20,
  kCpuset = 0x40,
  kCma = 0x80,
  kNoFragment = 0x100,  // rather another zone of this node than a mixed pageblock
  kFair = 0x200,        // linux-4.0: each zone of the node in proportion to its size
  kKswapd = 0x800,      // may wake kswapd
};

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::AllocFlags> = true;
