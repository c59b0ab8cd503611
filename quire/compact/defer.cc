// When not to compact: after a failure, the next requests of that order and above are turned away, twice as many each time up
// to 64; a success, or a request that got its block some other way, ends that.
#include "quire/compact/compaction.h"

namespace quire::compact {

using phys::Zone;

namespace {

constexpr std::uint32_t kMaxDeferShift = 6;  // COMPACT_MAX_DEFER_SHIFT

}  // namespace

template <class Event>
Event Compaction::defer_event(const Zone& zone, Order order) {
  const phys::ZoneCompaction& c = zone.compaction;
  return Event{{{zone.node().nid().value(), zone.name(), order.value()}, c.considered, c.defer_shift, c.order_failed}};
}

bool Compaction::compaction_deferred(Zone& zone, Order order) {
  phys::ZoneCompaction& c = zone.compaction;
  if (order.value() < c.order_failed) return false;
  const std::uint32_t limit = 1u << c.defer_shift;
  if (++c.considered >= limit) {
    c.considered = limit;
    return false;
  }
  events_.deferred([&] { return defer_event<MmCompactionDeferred>(zone, order); });
  return true;
}

void Compaction::defer_compaction(Zone& zone, Order order) {
  phys::ZoneCompaction& c = zone.compaction;
  c.considered = 0;
  c.defer_shift = std::min(c.defer_shift + 1, kMaxDeferShift);
  c.order_failed = std::min(c.order_failed, order.value());
  events_.defer_compaction([&] { return defer_event<MmCompactionDeferCompaction>(zone, order); });
}

void Compaction::compaction_defer_reset(Zone& zone, Order order, AllocSuccess success) {
  phys::ZoneCompaction& c = zone.compaction;
  if (success == AllocSuccess::kYes) c.considered = c.defer_shift = 0;
  if (order.value() >= c.order_failed) c.order_failed = order.value() + 1;
  events_.defer_reset([&] { return defer_event<MmCompactionDeferReset>(zone, order); });
}

void Compaction::compaction_succeeded(Zone& zone, Order order) {
  zone.compaction.blockskip_flush = false;
  compaction_defer_reset(zone, order, AllocSuccess::kYes);
}

// After the longest deferral it starts afresh.
bool Compaction::compaction_restarting(const Zone& zone, Order order) {
  const phys::ZoneCompaction& c = zone.compaction;
  return order.value() >= c.order_failed && c.defer_shift == kMaxDeferShift && c.considered >= 1u << c.defer_shift;
}

void Compaction::reset_zone_isolation_suitable(Zone& zone) {
  phys::ZoneCompaction& c = zone.compaction;
  c.blockskip_flush = false;
  for (Pfn at = CompactControl::block_start(zone.start_pfn()); at < zone.end_pfn(); at += phys::kPageblockPages) {
    if (parts_.phys.pfn_valid(at)) parts_.phys.set_pageblock_skip(at, false);
  }
  c.cached_migrate_pfn.fill(zone.start_pfn());
  c.cached_free_pfn = CompactControl::block_start(zone.end_pfn() - 1);
}

void Compaction::reset_isolation_suitable(phys::Node& node) {
  node.for_each_zone([&](Zone& zone) {
    if (zone.populated() && zone.compaction.blockskip_flush) reset_zone_isolation_suitable(zone);
  });
}

}  // namespace quire::compact
