// How broken up a zone's free memory is, and whether compaction would help a request (Linux's mm/vmstat.c and the suitability
// half of mm/compaction.c). Figures of the moment; nothing is locked.
#pragma once

#include <cstdint>

#include "quire/phys/alloc_flags.h"
#include "quire/phys/zone.h"

namespace quire::phys {

// Why a request of `order` cannot be served: towards 0 for want of memory, towards 1000 because it is in pieces; -1000: a
// block of the order is free. (extfrag_index of debugfs, in thousandths)
[[nodiscard]] int fragmentation_index(const Zone& zone, Order order);
// The share of the free memory that lies in blocks too small for the order, in thousandths. (unusable_index)
[[nodiscard]] unsigned unusable_free_index(const Zone& zone, Order order);
// The same in percent, 0 when nothing is free (extfrag_for_order).
[[nodiscard]] unsigned extfrag_for_order(const Zone& zone, Order order);

// Room that compaction needs to work in: twice the block (compact_gap).
[[nodiscard]] constexpr std::uint64_t compact_gap(Order order) { return 2 * order.pages(); }

enum class CompactSuitable : std::uint8_t {
  kSkipped,   // too little is free for compaction to work with: reclaim first
  kContinue,  // compaction may make the block
  kSuccess,   // the request fits as things stand
};
// What compaction could do for a request in this zone; `free_pages` lets the caller ask "what if". Large orders are left to
// reclaim, too, when the fragmentation index does not exceed `extfrag_threshold` (vm.extfrag_threshold).
[[nodiscard]] CompactSuitable compaction_suitable(const Zone& zone, Order order, AllocFlags flags, ZoneType highest,
                                                  std::uint64_t free_pages, int extfrag_threshold);

}  // namespace quire::phys
