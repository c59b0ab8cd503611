// Shadow entries: what stays in the page cache or swap cache of a page that was evicted, so that its return can be judged.
//
//   63                                              0 bit of the XaValue
//   | eviction >> bucket_order | memcg (16) | node (10) | workingset (1) |
//
// `eviction` is the lruvec's nonresident_age when the page left. It advances by one for each eviction and activation, so
// the difference at refault time (the refault distance) is how many more inactive pages it would have taken to keep the
// page. If that is no more than the pages that were active meanwhile, the page belongs to the working set: it is
// activated at once and so competes with them. Linux: mm/workingset.c's documentation.
#pragma once

#include <cstdint>

#include "quire/base/types.h"
#include "quire/base/xarray.h"

namespace quire::lru {

inline constexpr unsigned kXaValueBits = 63;
inline constexpr unsigned kNodesShift = 10;
inline constexpr unsigned kMemCgroupIdShift = 16;
inline constexpr unsigned kWorkingsetShift = 1;
inline constexpr unsigned kEvictionShift = (64 - kXaValueBits) + kWorkingsetShift + kNodesShift + kMemCgroupIdShift;
inline constexpr std::uint64_t kEvictionMask = ~std::uint64_t{0} >> kEvictionShift;

enum class WorkingsetBit : std::uint8_t { kNo, kYes };

struct Shadow {
  std::uint16_t memcg_id = 0;
  Nid nid{};
  std::uint64_t eviction = 0;  // already shifted right by the bucket order
  WorkingsetBit workingset = WorkingsetBit::kNo;

  bool operator==(const Shadow&) const = default;
};

// Eviction counters are stored in units of 2^order when the machine has more pages than kEvictionMask can count.
[[nodiscard]] unsigned workingset_bucket_order(std::uint64_t total_pages);

[[nodiscard]] XaValue pack_shadow(const Shadow& shadow);
[[nodiscard]] Shadow unpack_shadow(XaValue value);

}  // namespace quire::lru
