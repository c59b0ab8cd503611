// Slowing reclaimers down when going on at once would only burn CPU.
#include "quire/reclaim/reclaim.h"

namespace quire::reclaim {

using phys::NodeStat;
using phys::ZoneStat;

namespace {

sim::Nanos throttle_timeout(VmscanThrottle reason) {
  switch (reason) {
    case VmscanThrottle::kWriteback: return 100 * sim::kMillisecond;  // HZ/10
    case VmscanThrottle::kIsolated: return 20 * sim::kMillisecond;    // HZ/50
    default: return sim::kJiffy;
  }
}

}  // namespace

std::string_view vmscan_throttle_name(VmscanThrottle reason) {
  switch (reason) {
    case VmscanThrottle::kWriteback: return "VMSCAN_THROTTLE_WRITEBACK";
    case VmscanThrottle::kIsolated: return "VMSCAN_THROTTLE_ISOLATED";
    case VmscanThrottle::kNoProgress: return "VMSCAN_THROTTLE_NOPROGRESS";
    case VmscanThrottle::kCongested: return "VMSCAN_THROTTLE_CONGESTED";
    case VmscanThrottle::kCount: break;
  }
  return "VMSCAN_THROTTLE_?";
}

void Reclaim::reclaim_throttle(NodeReclaim& node, VmscanThrottle reason) {
  sim::Scheduler& scheduler = parts_.scheduler;
  const sim::Task* task = scheduler.current();
  // Kernel threads other than kswapd may be the ones whose work the others wait for. Boot cannot wait at all.
  if (task == nullptr || (task->kind() == sim::TaskKind::kDaemon && task != node.kswapd)) {
    scheduler.sync_point();
    return;
  }
  const bool not_worth_it = reason == VmscanThrottle::kCongested || reason == VmscanThrottle::kNoProgress;
  if (not_worth_it && skip_throttle_noprogress(node)) {
    scheduler.sync_point();
    return;
  }
  const sim::Nanos timeout = throttle_timeout(reason);
  const sim::Nanos start = scheduler.now();
  sim::WaitQueue& queue = *node.reclaim_wait[static_cast<std::size_t>(reason)];
  if (reason == VmscanThrottle::kWriteback) {
    ++node.nr_writeback_throttled;
    const std::int64_t written_before = node.node.stats[NodeStat::kNrWritten];
    while (scheduler.now() - start < timeout) {
      queue.wait_timeout(sim::kJiffy);
      const std::int64_t written = node.node.stats[NodeStat::kNrWritten] - written_before;
      if (written > static_cast<std::int64_t>(kSwapClusterMax * node.nr_writeback_throttled)) break;
    }
    --node.nr_writeback_throttled;
  } else {
    queue.wait_timeout(timeout);
  }
  events_.throttled([&] {
    return MmVmscanThrottled{node.node.nid().value(), timeout / sim::kMicrosecond,
                             (scheduler.now() - start) / sim::kMicrosecond, vmscan_throttle_name(reason)};
  });
}

// Stalling helps only when there is writing to wait for.
bool Reclaim::skip_throttle_noprogress(const NodeReclaim& node) const {
  if (node.kswapd_failures >= kMaxReclaimRetries) return true;
  std::uint64_t reclaimable = 0;
  std::uint64_t write_pending = 0;
  node.node.for_each_zone([&](const phys::Zone& zone) {
    if (!zone.managed()) return;
    reclaimable += zone_reclaimable_pages(zone);
    write_pending += static_cast<std::uint64_t>(zone.state(ZoneStat::kNrZoneWritePending));
  });
  return 2 * write_pending <= reclaimable;
}

void Reclaim::consider_reclaim_throttle(NodeReclaim& node, const ScanControl& sc) {
  // One page in eight scanned: that is progress, for the others too.
  if (sc.nr_reclaimed > (sc.nr_scanned >> 3)) {
    node.reclaim_wait[static_cast<std::size_t>(VmscanThrottle::kNoProgress)]->wake_all();
    return;
  }
  if (sc.is_kswapd()) return;
  if (sc.priority == 1 && sc.nr_reclaimed == 0) reclaim_throttle(node, VmscanThrottle::kNoProgress);
}

}  // namespace quire::reclaim
