// The daemon that keeps a node's free pages between its low and high marks.
#include <algorithm>
#include <array>

#include "quire/phys/task_flags.h"
#include "quire/reclaim/reclaim.h"
#include "quire/sim/lock_guards.h"

namespace quire::reclaim {

using phys::Gfp;
using phys::VmEvent;
using phys::Watermark;
using phys::Zone;
using phys::ZoneType;

namespace {

constexpr sim::Nanos kShortSleep = 100 * sim::kMillisecond;  // HZ/10
constexpr ZoneType kNothingAsked = ZoneType::kCount;

// kswapd_highest_zoneidx: what is asked for, or what was asked for last.
ZoneType asked_zone(const NodeReclaim& node, ZoneType previous) {
  return node.kswapd_highest_zoneidx == kNothingAsked ? previous : node.kswapd_highest_zoneidx;
}

// The boosts of a node's zones at the start of a pass (after fragmentation events), to be worked off by it.
class WatermarkBoost {
 public:
  WatermarkBoost(phys::Node& node, ZoneType highest) : node_(node) {
    node.for_each_zone([&](Zone& zone) {
      if (zone.type() > highest || !zone.managed()) return;
      boosts_[static_cast<std::size_t>(zone.type())] = zone.watermark_boost();
      total_ += zone.watermark_boost();
    });
  }
  [[nodiscard]] std::uint64_t total() const { return total_; }
  void account() {
    if (total_ == 0) return;
    node_.for_each_zone([&](Zone& zone) {
      const std::uint64_t boost = boosts_[static_cast<std::size_t>(zone.type())];
      if (boost == 0) return;
      sim::SpinGuard guard(zone.lock);
      zone.set_watermark_boost(zone.watermark_boost() - std::min(zone.watermark_boost(), boost));
    });
  }

 private:
  phys::Node& node_;
  std::array<std::uint64_t, phys::kZoneTypes> boosts_{};
  std::uint64_t total_ = 0;
};

// Tells the allocator that a node's zones are being reclaimed: per-CPU lists stay short, so that what is freed
// can be seen (set_reclaim_active).
class ReclaimActive {
 public:
  ReclaimActive(phys::Node& node, ZoneType highest) : node_(node), highest_(highest) {
    for_each([](Zone& zone) { zone.set(phys::ZoneFlag::kReclaimActive); });
  }
  ~ReclaimActive() {
    for_each([](Zone& zone) { zone.clear(phys::ZoneFlag::kReclaimActive); });
  }
  ReclaimActive(const ReclaimActive&) = delete;
  ReclaimActive& operator=(const ReclaimActive&) = delete;

 private:
  template <class F>
  void for_each(F&& f) {
    node_.for_each_zone([&](Zone& zone) {
      if (zone.type() <= highest_ && zone.managed()) f(zone);
    });
  }
  phys::Node& node_;
  ZoneType highest_;
};

}  // namespace

void Reclaim::wakeup_kswapd(Zone& zone, Gfp gfp, Order order, ZoneType highest_zoneidx) {
  if (!zone.managed()) return;
  NodeReclaim& node = node_of(zone.node());
  if (node.kswapd_highest_zoneidx == kNothingAsked || node.kswapd_highest_zoneidx < highest_zoneidx) {
    node.kswapd_highest_zoneidx = highest_zoneidx;
  }
  node.kswapd_order = std::max(node.kswapd_order, order);
  if (node.kswapd_wait.empty()) return;
  const bool hopeless = node.kswapd_failures >= kMaxReclaimRetries;
  if (hopeless || (pgdat_balanced(node.node, order, highest_zoneidx) && !pgdat_watermark_boosted(node.node, highest_zoneidx))) {
    // Enough is free, or no more can be: what is missing is a block. Who may not compact himself has it done.
    if (!any(gfp, Gfp::kDirectReclaim) && compaction_ != nullptr) {
      compaction_->wakeup_kcompactd(node.node, order, highest_zoneidx);
    }
    return;
  }
  events_.wakeup_kswapd([&] {
    return MmVmscanWakeupKswapd{node.node.nid().value(), parts_.phys.zone_index(highest_zoneidx),
                                static_cast<int>(order.value()), phys::gfp_names(gfp)};
  });
  node.kswapd_wait.wake_one();
}

void Reclaim::kswapd(NodeReclaim& node) {
  const phys::TaskFlagScope flags(parts_.scheduler, phys::TaskFlag::kMemalloc | phys::TaskFlag::kKswapd);
  node.kswapd_order = Order(0);
  node.kswapd_highest_zoneidx = kNothingAsked;
  ZoneType highest_zoneidx = ZoneType::kMovable;
  Order alloc_order{};
  Order reclaim_order{};
  for (;;) {
    // Reclaim that gave up a large order sleeps for that order only; the request itself is still read anew below.
    if (reclaim_order >= alloc_order) {
      alloc_order = reclaim_order = node.kswapd_order;
      highest_zoneidx = asked_zone(node, highest_zoneidx);
    }
    kswapd_try_to_sleep(node, alloc_order, reclaim_order, highest_zoneidx);
    alloc_order = node.kswapd_order;
    highest_zoneidx = asked_zone(node, highest_zoneidx);
    node.kswapd_order = Order(0);
    node.kswapd_highest_zoneidx = kNothingAsked;
    events_.kswapd_wake([&] {
      return MmVmscanKswapdWake{node.node.nid().value(), parts_.phys.zone_index(highest_zoneidx),
                                static_cast<int>(alloc_order.value())};
    });
    reclaim_order = balance_pgdat(node, alloc_order, highest_zoneidx);
    node.kswapd_done.wake_all();
  }
}

// First a nap, to see whether the marks hold; then sleep until woken.
void Reclaim::kswapd_try_to_sleep(NodeReclaim& node, Order alloc_order, Order reclaim_order, ZoneType highest_zoneidx) {
  phys::VmStat& vmstat = parts_.phys.vmstat();
  bool woken_early = false;
  if (prepare_kswapd_sleep(node, reclaim_order, highest_zoneidx)) {
    if (compaction_ != nullptr) {
      // Single pages are free now; blocks of them are kcompactd's part.
      compaction_->reset_isolation_suitable(node.node);
      compaction_->wakeup_kcompactd(node.node, alloc_order, highest_zoneidx);
    }
    woken_early = node.kswapd_wait.wait_timeout(kShortSleep) == sim::WaitOutcome::kWoken;
    if (woken_early) {
      node.kswapd_highest_zoneidx = asked_zone(node, highest_zoneidx);
      node.kswapd_order = std::max(node.kswapd_order, reclaim_order);
    }
  }
  if (!woken_early && prepare_kswapd_sleep(node, reclaim_order, highest_zoneidx)) {
    events_.kswapd_sleep([&] { return MmVmscanKswapdSleep{node.node.nid().value()}; });
    node.kswapd_wait.wait();
    return;
  }
  vmstat.count_vm_event(woken_early ? VmEvent::kKswapdLowWmarkHitQuickly : VmEvent::kKswapdHighWmarkHitQuickly);
}

bool Reclaim::prepare_kswapd_sleep(NodeReclaim& node, Order order, ZoneType highest_zoneidx) {
  // Nobody may be left waiting for a kswapd that sleeps.
  node.pfmemalloc_wait.wake_all();
  if (node.kswapd_failures >= kMaxReclaimRetries) return true;
  if (!pgdat_balanced(node.node, order, highest_zoneidx)) return false;
  clear_congested(node);
  return true;
}

// One zone above its high mark is enough: the allocator falls back to it.
bool Reclaim::pgdat_balanced(const phys::Node& node, Order order, ZoneType highest_zoneidx) const {
  bool balanced = false;
  bool any_managed = false;
  node.for_each_zone([&](const Zone& zone) {
    if (balanced || zone.type() > highest_zoneidx || !zone.managed()) return;
    any_managed = true;
    balanced = watermark_ok(zone, order, zone.wmark_pages(Watermark::kHigh), highest_zoneidx);
  });
  return balanced || !any_managed;
}

bool Reclaim::pgdat_watermark_boosted(const phys::Node& node, ZoneType highest_zoneidx) {
  bool boosted = false;
  node.for_each_zone([&](const Zone& zone) {
    if (zone.type() <= highest_zoneidx && zone.managed() && zone.watermark_boost() != 0) boosted = true;
  });
  return boosted;
}

// Works until a zone of the node is above its high mark; returns the order it was last balanced for, which is 0 once a
// larger one has been given up to compaction.
Order Reclaim::balance_pgdat(NodeReclaim& node, Order order, ZoneType highest_zoneidx) {
  ScanControl sc{.reclaimer = Reclaimer::kKswapd, .gfp_mask = Gfp::kKernel, .order = order, .reclaim_idx = highest_zoneidx};
  parts_.phys.vmstat().count_vm_event(VmEvent::kPageoutrun);
  WatermarkBoost boost(node.node, highest_zoneidx);
  const ReclaimActive active(node.node, highest_zoneidx);
  std::uint64_t nr_boost_reclaim = boost.total();
  bool finished = false;
  for (sc.priority = kDefPriority; sc.priority >= 1;) {
    const bool balanced = pgdat_balanced(node.node, sc.order, highest_zoneidx);
    if (!balanced && nr_boost_reclaim != 0) {
      // Real shortage comes first; the boost waits for another time.
      nr_boost_reclaim = 0;
      sc.priority = kDefPriority;
      continue;
    }
    finished = nr_boost_reclaim == 0 && balanced;
    if (finished) break;
    // A boost is worked off without I/O and without pressing hard.
    bool raise_priority = nr_boost_reclaim == 0 || sc.priority != kDefPriority - 2;
    const May io = May::kWritepage | May::kSwap;
    sc.may = nr_boost_reclaim != 0 ? sc.may & ~io : sc.may | io;
    kswapd_age_node(node, sc);
    if (sc.priority < kDefPriority - 2) sc.may |= May::kWritepage;
    sc.nr_scanned = 0;
    const std::uint64_t before = sc.nr_reclaimed;
    if (kswapd_shrink_node(node, sc) == Scanned::kEnough) raise_priority = false;
    if (!node.pfmemalloc_wait.empty() && allow_direct_reclaim(node)) node.pfmemalloc_wait.wake_all();
    const std::uint64_t nr_reclaimed = sc.nr_reclaimed - before;
    nr_boost_reclaim -= std::min(nr_boost_reclaim, nr_reclaimed);
    if (nr_boost_reclaim != 0 && nr_reclaimed == 0) break;
    if (raise_priority || nr_reclaimed == 0) --sc.priority;
  }
  if (!finished && sc.nr_reclaimed == 0) ++node.kswapd_failures;
  boost.account();
  policy_->snapshot_refaults(node.node, parts_.lru.lruvec(node.node.nid()));
  return sc.order;
}

Reclaim::Scanned Reclaim::kswapd_shrink_node(NodeReclaim& node, ScanControl& sc) {
  sc.nr_to_reclaim = 0;
  node.node.for_each_zone([&](const Zone& zone) {
    if (zone.type() > sc.reclaim_idx || !zone.managed()) return;
    sc.nr_to_reclaim += std::max(zone.wmark_pages(Watermark::kHigh), kSwapClusterMax);
  });
  shrink_node(node, sc);
  // Enough for compaction to make the block from: balance for single pages from now on, so as not to reclaim the whole
  // node for one large block.
  if (sc.order.value() != 0 && sc.nr_reclaimed >= phys::compact_gap(sc.order)) sc.order = Order(0);
  return sc.nr_scanned >= sc.nr_to_reclaim ? Scanned::kEnough : Scanned::kTooLittle;
}

// Ages anonymous pages in the background even while only page cache is reclaimed.
void Reclaim::kswapd_age_node(NodeReclaim& node, ScanControl& sc) {
  if (!can_age_anon()) return;
  lru::Lruvec& lruvec = parts_.lru.lruvec(node.node.nid());
  if (!policy_->inactive_is_low(lruvec, lru::LruList::kInactiveAnon)) return;
  shrink_active_list(kSwapClusterMax, node, lruvec, sc, lru::LruList::kActiveAnon);
}

}  // namespace quire::reclaim
