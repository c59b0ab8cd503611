// Allocation flags under Linux's names: __GFP_X is Gfp::kX (or kBareX where the name without underscores is a
// combination), GFP_KERNEL is Gfp::kKernel.
//
// Zone modifiers choose the highest zone (gfp_zone), kMovable/kReclaimable the migrate type (gfp_migratetype), the rest
// what the allocator may do to find the page.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/flags.h"
#include "quire/base/user_error.h"
#include "quire/phys/page.h"

namespace quire::phys {

enum class Gfp : std::uint32_t {
  kNone = 0,
  // Bits, values as in Linux 6.1.
  kBareDma = 0x01,
  kHighmem = 0x02,
  kBareDma32 = 0x04,
  kMovable = 0x08,
  kReclaimable = 0x10,
  kHigh = 0x20,            // may dip below the min watermark
  kIo = 0x40,              // may start physical I/O
  kFs = 0x80,              // may call into a file system
  kZero = 0x100,           // the page comes back zeroed
  kBareAtomic = 0x200,     // cannot reclaim or sleep and is high priority
  kDirectReclaim = 0x400,  // the caller may enter direct reclaim
  kKswapdReclaim = 0x800,  // may wake kswapd
  kWrite = 0x1000,         // the caller means to dirty the page
  kNoWarn = 0x2000,
  kRetryMayFail = 0x4000,
  kNoFail = 0x8000,
  kNoRetry = 0x10000,
  kMemAlloc = 0x20000,    // may use all reserves
  kComp = 0x40000,        // make a compound page
  kNoMemAlloc = 0x80000,  // may never use the reserves
  kHardWall = 0x100000,
  kThisNode = 0x200000,  // no fallback to other nodes
  kAccount = 0x400000,

  // Combinations.
  kReclaim = kDirectReclaim | kKswapdReclaim,
  kAtomic = kHigh | kBareAtomic | kKswapdReclaim,
  kKernel = kReclaim | kIo | kFs,
  kKernelAccount = kKernel | kAccount,
  kNoWait = kKswapdReclaim,
  kNoIo = kReclaim,
  kNoFs = kReclaim | kIo,
  kUser = kReclaim | kIo | kFs | kHardWall,
  kDma = kBareDma,
  kDma32 = kBareDma32,
  kHighUser = kUser | kHighmem,
  kHighUserMovable = kHighUser | kMovable,
  kTransHugeLight = (kHighUserMovable | kComp | kNoMemAlloc | kNoWarn) & ~kReclaim,
  kTransHuge = kTransHugeLight | kDirectReclaim,
};
inline constexpr Gfp kGfpBitsMask = static_cast<Gfp>(0x7fffff);  // __GFP_BITS_MASK: the allocator drops what lies above

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::Gfp> = true;

namespace quire::phys {

// What a page will be used for, which decides with whom it shares a pageblock.
enum class MigrateType : std::uint8_t {
  kUnmovable,
  kMovable,
  kReclaimable,
  kHighAtomic,  // reserve for high-order atomic requests
  kCma,
  kIsolate,  // nothing is handed out from here
  kCount,
};
inline constexpr unsigned kMigrateTypes = static_cast<unsigned>(MigrateType::kCount);
inline constexpr unsigned kMigratePcpTypes = 3;  // kUnmovable, kMovable, kReclaimable have per-CPU lists

// The highest zone that the flags allow, x86-64 without HighMem (Linux's GFP_ZONE_TABLE).
[[nodiscard]] constexpr ZoneType gfp_zone(Gfp gfp) {
  if (any(gfp, Gfp::kBareDma)) return ZoneType::kDma;
  if (any(gfp, Gfp::kBareDma32)) return ZoneType::kDma32;
  if (all(gfp, Gfp::kHighmem | Gfp::kMovable)) return ZoneType::kMovable;
  return ZoneType::kNormal;
}
// The same for i386, whose __GFP_HIGHMEM means a zone of its own, and whose __GFP_DMA32 means nothing.
[[nodiscard]] constexpr ZoneType gfp_zone_i386(Gfp gfp) {
  if (any(gfp, Gfp::kBareDma)) return ZoneType::kDma;
  if (all(gfp, Gfp::kHighmem | Gfp::kMovable)) return ZoneType::kMovable;
  return any(gfp, Gfp::kHighmem) ? ZoneType::kHighMem : ZoneType::kNormal;
}
[[nodiscard]] constexpr MigrateType gfp_migratetype(Gfp gfp) { return static_cast<MigrateType>((bits(gfp) >> 3) & 3); }
[[nodiscard]] constexpr bool gfpflags_allow_blocking(Gfp gfp) { return any(gfp, Gfp::kDirectReclaim); }

// "GFP_KERNEL|__GFP_ZERO", as the kernel's tracepoints print them.
[[nodiscard]] std::string gfp_names(Gfp gfp);
// The reverse: names of any case joined by |, with or without a leading "__GFP_" or "GFP_" where that is not ambiguous,
// or a number (0xcc0). The error names the word and what is known.
[[nodiscard]] Checked<Gfp> parse_gfp(std::string_view text);

}  // namespace quire::phys
