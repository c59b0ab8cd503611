// One pass over a node at one priority: its lists in the proportion that the policy says, then its slab caches.
#include <algorithm>
#include <utility>

#include "quire/reclaim/reclaim.h"

namespace quire::reclaim {

using lru::LruList;
using lru::Lruvec;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneType;

namespace {

constexpr std::uint64_t kLruvecCongested = 1;  // LRUVEC_CONGESTED, in Lruvec::flags
constexpr std::array kEvictable{LruList::kInactiveAnon, LruList::kActiveAnon, LruList::kInactiveFile, LruList::kActiveFile};

std::uint64_t& of(ScanCounts& counts, LruList list) { return counts[static_cast<std::size_t>(list)]; }

// Enough was reclaimed before all was scanned. The smaller of anon and file is let off; the larger is scanned on until the
// same part of it was scanned as of the smaller, so that stopping early does not favour either.
enum class Nudge : std::uint8_t { kContinue, kStop };
Nudge nudge_to_proportion(ScanCounts& nr, const ScanCounts& targets) {
  const auto sum = [](const ScanCounts& c, LruList inactive) {
    return c[static_cast<std::size_t>(inactive)] + c[static_cast<std::size_t>(inactive) + 1];
  };
  const std::uint64_t nr_anon = sum(nr, LruList::kInactiveAnon);
  const std::uint64_t nr_file = sum(nr, LruList::kInactiveFile);
  if (nr_anon == 0 || nr_file == 0) return Nudge::kStop;
  const LruList smaller = nr_file > nr_anon ? LruList::kInactiveAnon : LruList::kInactiveFile;
  const LruList larger = nr_file > nr_anon ? LruList::kInactiveFile : LruList::kInactiveAnon;
  const std::uint64_t percentage = sum(nr, smaller) * 100 / (sum(targets, smaller) + 1);
  of(nr, smaller) = 0;
  of(nr, active_lru(smaller)) = 0;
  for (const LruList list : {larger, active_lru(larger)}) {
    const std::uint64_t target = targets[static_cast<std::size_t>(list)];
    const std::uint64_t scanned = target - of(nr, list);
    const std::uint64_t wanted = target * (100 - percentage) / 100;
    of(nr, list) = wanted - std::min(wanted, scanned);
  }
  return Nudge::kContinue;
}

}  // namespace

std::uint64_t Reclaim::shrink_list(LruList list, std::uint64_t nr_to_scan, NodeReclaim& node, Lruvec& lruvec, ScanControl& sc) {
  if (!is_active_lru(list)) return shrink_inactive_list(nr_to_scan, node, lruvec, sc, list);
  if (any(sc.may, is_file_lru(list) ? May::kDeactivateFile : May::kDeactivateAnon)) {
    shrink_active_list(nr_to_scan, node, lruvec, sc, list);
  } else {
    sc.skipped_deactivate = true;
  }
  return 0;
}

void Reclaim::shrink_lruvec(NodeReclaim& node, Lruvec& lruvec, ScanControl& sc) {
  ScanCounts nr = policy_->get_scan_count(lruvec, sc, view());
  const ScanCounts targets = nr;
  // A direct reclaimer's first round scans everything it was told to, so that it leaves the balance as it found it; later
  // rounds, and kswapd, stop when they have enough.
  const bool proportional = !sc.is_kswapd() && sc.priority == kDefPriority;
  std::uint64_t nr_reclaimed = 0;
  while (of(nr, LruList::kInactiveAnon) != 0 || of(nr, LruList::kActiveFile) != 0 || of(nr, LruList::kInactiveFile) != 0) {
    for (const LruList list : kEvictable) {
      if (of(nr, list) == 0) continue;
      const std::uint64_t nr_to_scan = std::min(of(nr, list), kSwapClusterMax);
      of(nr, list) -= nr_to_scan;
      nr_reclaimed += shrink_list(list, nr_to_scan, node, lruvec, sc);
    }
    parts_.scheduler.sync_point();
    if (nr_reclaimed < sc.nr_to_reclaim || proportional) continue;
    if (nudge_to_proportion(nr, targets) == Nudge::kStop) break;
  }
  sc.nr_reclaimed += nr_reclaimed;
  // Keep the anonymous lists in proportion even when nothing anonymous was reclaimed, or an inactive list is missing when
  // it is needed.
  if (can_age_anon() && policy_->inactive_is_low(lruvec, LruList::kInactiveAnon)) {
    shrink_active_list(kSwapClusterMax, node, lruvec, sc, LruList::kActiveAnon);
  }
}

void Reclaim::shrink_node(NodeReclaim& node, ScanControl& sc) {
  Lruvec& lruvec = parts_.lru.lruvec(node.node.nid());
  bool reclaimable = false;
  for (;;) {
    sc.nr = {};
    const std::uint64_t nr_reclaimed = sc.nr_reclaimed;
    parts_.scheduler.charge(parts_.scheduler.costs().reclaim_node);
    policy_->prepare_scan_count(node.node, lruvec, sc, view());
    shrink_lruvec(node, lruvec, sc);
    shrink_slab(node, sc);
    if (sc.nr_reclaimed > nr_reclaimed) reclaimable = true;
    note_laundering(node, lruvec, sc);
    if (!should_continue_reclaim(node.node, sc.nr_reclaimed - nr_reclaimed, sc)) break;
  }
  if (reclaimable) node.kswapd_failures = 0;
}

void Reclaim::shrink_slab(NodeReclaim& node, ScanControl& sc) {
  // Shrinkers count objects; what counts here is pages, and only those that this task gave back.
  const std::uint64_t& reclaimed_slab = parts_.scheduler.context().reclaimed_slab;
  const std::uint64_t before = reclaimed_slab;
  parts_.slab.shrinkers().shrink_slab(sc.gfp_mask, node.node.nid(), sc.priority);
  sc.nr_reclaimed += reclaimed_slab - before;
  // Slabs without objects, when the lists alone did not do.
  if (sc.priority < kDefPriority - 2) {
    sc.nr_reclaimed +=
        parts_.slab.cache_reap(sc.priority == 0 ? slab::SlabSystem::ReapMode::kAll : slab::SlabSystem::ReapMode::kPeriodic);
  }
}

// What the pass says about writing: marks the node for kswapd's next passes, and slows down whoever gets ahead of the disk.
void Reclaim::note_laundering(NodeReclaim& node, Lruvec& lruvec, ScanControl& sc) {
  if (sc.is_kswapd()) {
    if (sc.nr.writeback != 0 && sc.nr.writeback == sc.nr.taken) node.flags |= PgdatFlag::kWriteback;
    if (sc.nr.unqueued_dirty == sc.nr.file_taken) node.flags |= PgdatFlag::kDirty;
    if (sc.nr.immediate != 0) reclaim_throttle(node, VmscanThrottle::kWriteback);
    if (sc.nr.dirty != 0 && sc.nr.dirty == sc.nr.congested) lruvec.flags |= kLruvecCongested;
    return;
  }
  if ((lruvec.flags & kLruvecCongested) != 0) reclaim_throttle(node, VmscanThrottle::kCongested);
}

void Reclaim::clear_congested(NodeReclaim& node) {
  parts_.lru.lruvec(node.node.nid()).flags &= ~kLruvecCongested;
  node.flags &= ~(PgdatFlag::kDirty | PgdatFlag::kWriteback);
}

// For a large block, order-0 pages alone do not do: go on while it makes progress and the lists still hold enough for
// compaction to work with.
bool Reclaim::should_continue_reclaim(const phys::Node& node, std::uint64_t nr_reclaimed, const ScanControl& sc) const {
  const bool for_compaction =
      sc.order.value() != 0 && (sc.order > phys::kPageAllocCostlyOrder || sc.priority < kDefPriority - 2);
  if (!for_compaction || nr_reclaimed == 0) return false;
  bool suitable = false;
  node.for_each_zone([&](const phys::Zone& zone) {
    if (zone.type() > sc.reclaim_idx || !zone.managed()) return;
    suitable = suitable || compaction_suitable(zone, sc) != phys::CompactSuitable::kSkipped;
  });
  if (suitable) return false;
  auto inactive = static_cast<std::uint64_t>(node.stats[NodeStat::kNrInactiveFile]);
  if (can_reclaim_anon()) inactive += static_cast<std::uint64_t>(node.stats[NodeStat::kNrInactiveAnon]);
  return inactive > phys::compact_gap(sc.order);
}

bool Reclaim::watermark_ok(const phys::Zone& zone, Order order, std::uint64_t mark, ZoneType highest) {
  return phys::PhysMem::zone_watermark_ok(zone, order, mark, highest, phys::AllocFlags::kWmarkMin, zone.free_pages());
}

}  // namespace quire::reclaim
