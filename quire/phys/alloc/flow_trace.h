// How the flows tell what they do: the tracepoints of trace_events.h, each fired in one line. Nothing is computed when
// nobody listens.
#pragma once

#include <string_view>

#include "quire/phys/alloc/alloc_policy.h"
#include "quire/phys/phys_mem.h"

namespace quire::phys::flow {

[[nodiscard]] constexpr std::string_view watermark_name(Watermark mark) {
  switch (mark) {
    case Watermark::kMin: return "min";
    case Watermark::kLow: return "low";
    case Watermark::kHigh: return "high";
    default: return "promo";
  }
}

// Why a zone would not do, in the words of the reports: too few pages free, or enough of them but no block that large.
[[nodiscard]] inline std::string_view refusal(const Zone& zone, Order order, std::uint64_t mark, std::int64_t protection) {
  const auto needed = static_cast<std::int64_t>(mark) + protection;
  if (static_cast<std::int64_t>(zone.free_pages()) > needed + static_cast<std::int64_t>(order.pages())) {
    return order.value() == 0 ? "what is free is reserved" : "no free block of the order";
  }
  return "below the mark";
}

[[nodiscard]] constexpr std::string_view compact_step_name(CompactPriority priority) {
  switch (priority) {
    case CompactPriority::kAsync: return "compaction (async)";
    case CompactPriority::kSyncLight: return "compaction (sync, light)";
    case CompactPriority::kSyncFull: break;
  }
  return "compaction (sync, full)";
}

inline void begin(PhysMem& mem, std::string_view policy, const AllocContext& ac) {
  mem.trace().alloc_begin([&] {
    const Zone* zone = ac.preferred_zone;
    return AllocBegin{policy,
                      ac.order.value(),
                      ac.gfp,
                      ac.migratetype,
                      zone == nullptr ? -1 : zone->node().nid().value(),
                      zone == nullptr ? "" : zone->name()};
  });
}

inline void pass(PhysMem& mem, std::string_view why, AllocFlags flags) {
  mem.trace().alloc_pass([&] { return AllocPass{why, bits(flags)}; });
}

inline void zone(PhysMem& mem, const Zone& zone, Order order, Watermark mark, std::uint64_t mark_pages, std::int64_t protection,
                 std::string_view verdict) {
  mem.trace().alloc_zone([&] {
    return AllocZone{zone.node().nid().value(), zone.name(), order.value(), zone.free_pages(),
                     watermark_name(mark),      mark_pages,  protection,    verdict};
  });
}

inline void step(PhysMem& mem, std::string_view what, std::string_view result = {}, std::uint64_t pages = 0) {
  mem.trace().alloc_step([&] { return AllocStep{what, result, pages}; });
}

inline void retry(PhysMem& mem, std::string_view why) {
  mem.trace().alloc_retry([&] { return AllocRetry{why}; });
}

inline void gave_up(PhysMem& mem, std::string_view why) {
  mem.trace().alloc_gave_up([&] { return AllocGaveUp{why}; });
}

}  // namespace quire::phys::flow
