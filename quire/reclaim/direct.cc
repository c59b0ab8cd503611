// Direct reclaim: a task that cannot get a page makes room itself.
#include "quire/phys/task_flags.h"
#include "quire/reclaim/reclaim.h"

namespace quire::reclaim {

using phys::Gfp;
using phys::VmEvent;
using phys::Watermark;
using phys::Zone;
using phys::ZoneType;

namespace {

constexpr sim::Nanos kThrottleWithoutFs = sim::kSecond;  // HZ

// current_gfp_context: what the task may do now.
Gfp current_gfp_context(const sim::Scheduler& scheduler, Gfp gfp) {
  if (phys::task_test(scheduler, phys::TaskFlag::kMemallocNoIo)) return gfp & ~(Gfp::kIo | Gfp::kFs);
  if (phys::task_test(scheduler, phys::TaskFlag::kMemallocNoFs)) return gfp & ~Gfp::kFs;
  return gfp;
}

}  // namespace

std::uint64_t Reclaim::try_to_free_pages(phys::ZoneList& zonelist, Order order, Gfp gfp) {
  const phys::MemallocScope memalloc(parts_.scheduler);
  ScanControl sc{.reclaimer = Reclaimer::kDirect,
                 .gfp_mask = current_gfp_context(parts_.scheduler, gfp),
                 .order = order,
                 .reclaim_idx = parts_.phys.gfp_zone(gfp)};
  // A killed task gets its memory another way; the 1 keeps the allocator from the OOM killer.
  if (throttle_direct_reclaim(sc.gfp_mask, zonelist)) return 1;
  events_.direct_reclaim_begin(
      [&] { return MmVmscanDirectReclaimBegin{static_cast<int>(order.value()), phys::gfp_names(sc.gfp_mask)}; });
  const std::uint64_t nr_reclaimed = do_try_to_free_pages(zonelist, sc);
  events_.direct_reclaim_end([&] { return MmVmscanDirectReclaimEnd{nr_reclaimed}; });
  return nr_reclaimed;
}

std::uint64_t Reclaim::do_try_to_free_pages(phys::ZoneList& zonelist, ScanControl& sc) {
  for (;;) {
    parts_.phys.vmstat().count_zid_vm_events(VmEvent::kAllocstallDma, sc.reclaim_idx, 1);
    for (sc.priority = kDefPriority; sc.priority >= 0; --sc.priority) {
      sc.nr_scanned = 0;
      shrink_zones(zonelist, sc);
      if (sc.nr_reclaimed >= sc.nr_to_reclaim || sc.compaction_ready) break;
      if (sc.priority < kDefPriority - 2) sc.may |= May::kWritepage;
    }
    NodeReclaim* last = nullptr;
    zonelist.for_each_zone(sc.reclaim_idx, [&](Zone& zone) {
      NodeReclaim& node = node_of(zone.node());
      if (&node != last) policy_->snapshot_refaults(node.node, parts_.lru.lruvec(node.node.nid()));
      last = &node;
      return true;
    });
    if (sc.nr_reclaimed != 0) return sc.nr_reclaimed;
    if (sc.compaction_ready) return 1;
    // Active pages were spared because the lists looked balanced; they may all lie in zones that do not help. Once more,
    // by force.
    if (!sc.skipped_deactivate) return 0;
    sc.deactivate = ScanControl::Deactivate::kForce;
    sc.skipped_deactivate = false;
  }
}

// Each node of the zonelist once.
void Reclaim::shrink_zones(phys::ZoneList& zonelist, ScanControl& sc) {
  NodeReclaim* first = nullptr;
  NodeReclaim* last = nullptr;
  zonelist.for_each_zone(sc.reclaim_idx, [&](Zone& zone) {
    NodeReclaim& node = node_of(zone.node());
    // With this much free, compaction can make the block; reclaiming more does not help it.
    if (sc.order > phys::kPageAllocCostlyOrder && compaction_ready(zone, sc)) {
      sc.compaction_ready = true;
      return true;
    }
    if (&node == last) return true;
    if (first == nullptr) first = &node;
    last = &node;
    shrink_node(node, sc);
    return true;
  });
  if (first != nullptr) consider_reclaim_throttle(*first, sc);
}

phys::CompactSuitable Reclaim::compaction_suitable(const Zone& zone, const ScanControl& sc) const {
  return phys::compaction_suitable(zone, sc.order, phys::AllocFlags::kWmarkMin, sc.reclaim_idx, zone.free_pages(),
                                   parts_.phys.extfrag_threshold());
}

bool Reclaim::compaction_ready(const Zone& zone, const ScanControl& sc) const {
  switch (compaction_suitable(zone, sc)) {
    case phys::CompactSuitable::kSuccess: return true;
    case phys::CompactSuitable::kSkipped: return false;
    case phys::CompactSuitable::kContinue: break;
  }
  const std::uint64_t mark = zone.wmark_pages(Watermark::kHigh) + phys::compact_gap(sc.order);
  return watermark_ok(zone, Order(0), mark, sc.reclaim_idx);
}

// The reserves below the min mark are for reclaim itself (swapping out takes memory first). When half of them is gone, whoever
// asks for memory waits for kswapd instead of joining in.
bool Reclaim::throttle_direct_reclaim(Gfp gfp, phys::ZoneList& zonelist) {
  const sim::Task* task = parts_.scheduler.current();
  if (task == nullptr || task->kind() == sim::TaskKind::kDaemon || fatal_signal_pending()) return false;
  NodeReclaim* throttled = nullptr;
  zonelist.for_each_zone(parts_.phys.gfp_zone(gfp), [&](Zone& zone) {
    if (zone.type() > ZoneType::kNormal) return true;
    NodeReclaim& node = node_of(zone.node());
    // Without a kswapd nobody would end the wait.
    if (node.kswapd != nullptr && !allow_direct_reclaim(node)) throttled = &node;
    return false;
  });
  if (throttled == nullptr) return false;
  parts_.phys.vmstat().count_vm_event(VmEvent::kPgscanDirectThrottle);
  const auto may_go_on = [&] { return allow_direct_reclaim(*throttled) || fatal_signal_pending(); };
  if (any(gfp, Gfp::kFs)) {
    throttled->pfmemalloc_wait.wait_until(may_go_on);
  } else {
    // It may hold what kswapd needs to get on, so it does not wait for ever.
    throttled->pfmemalloc_wait.wait_until_timeout(kThrottleWithoutFs, may_go_on);
  }
  return fatal_signal_pending();
}

bool Reclaim::allow_direct_reclaim(NodeReclaim& node) {
  if (node.kswapd_failures >= kMaxReclaimRetries) return true;
  std::uint64_t reserve = 0;
  std::uint64_t free = 0;
  node.node.for_each_zone([&](const Zone& zone) {
    if (zone.type() > ZoneType::kNormal || !zone.managed() || zone_reclaimable_pages(zone) == 0) return;
    reserve += zone.wmark_pages(Watermark::kMin);
    free += zone.free_pages();
  });
  if (reserve == 0) return true;
  const bool ok = free > reserve / 2;
  if (!ok && !node.kswapd_wait.empty()) {
    if (node.kswapd_highest_zoneidx > ZoneType::kNormal) node.kswapd_highest_zoneidx = ZoneType::kNormal;
    node.kswapd_wait.wake_one();
  }
  return ok;
}

}  // namespace quire::reclaim
