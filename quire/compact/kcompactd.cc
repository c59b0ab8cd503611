// kcompactd: compaction in the background, one task a node. kswapd wakes it when it has freed enough single pages for a request
// that wants a block; now and then it looks by itself whether the node is too fragmented for huge pages.
#include "quire/compact/compaction.h"

namespace quire::compact {

using phys::CompactResult;
using phys::CompactSuitable;
using phys::MigrateMode;
using phys::VmEvent;
using phys::Zone;
using phys::ZoneType;

namespace {

constexpr sim::Nanos kProactiveInterval = 500'000'000;  // HPAGE_FRAG_CHECK_INTERVAL_MSEC
constexpr Order kHugePage{9};                           // COMPACTION_HPAGE_ORDER
constexpr unsigned kMaxProactiveDefer = 64;             // 1 << COMPACT_MAX_DEFER_SHIFT

}  // namespace

void Compaction::start() {
  for (auto& node : nodes_) {
    if (node->node.has_memory()) kcompactd_run(*node);
  }
  parts_.phys.set_page_mover(this);
  parts_.phys.hotplug().add_listener(*this);
}

void Compaction::kcompactd_run(NodeCompaction& node) {
  if (node.kcompactd != nullptr) return;
  const sim::TaskOptions options{.kind = sim::TaskKind::kDaemon};
  node.kcompactd = &parts_.scheduler.spawn(
      "kcompactd" + std::to_string(node.node.nid().value()), [this, &node] { kcompactd(node); }, options);
}

void Compaction::online(const phys::MemoryNotify& notify) {
  if (notify.status_change_nid != kNoNode) kcompactd_run(*nodes_[static_cast<std::size_t>(notify.nid.value())]);
}

void Compaction::wakeup_kcompactd(phys::Node& which, Order order, ZoneType highest_zoneidx) {
  if (order.value() == 0) return;
  NodeCompaction& node = *nodes_[static_cast<std::size_t>(which.nid().value())];
  node.kcompactd_max_order = std::max(node.kcompactd_max_order, order);
  node.kcompactd_highest_zoneidx = std::min(node.kcompactd_highest_zoneidx, highest_zoneidx);
  if (node.kcompactd_wait.empty() || !kcompactd_node_suitable(node)) return;
  events_.wakeup_kcompactd([&] {
    return MmCompactionWakeupKcompactd{
        {which.nid().value(), order.value(), static_cast<unsigned>(parts_.phys.zone_index(highest_zoneidx))}};
  });
  node.kcompactd_wait.wake_one();
}

bool Compaction::kcompactd_node_suitable(const NodeCompaction& node) {
  bool found = false;
  const Order order = node.kcompactd_max_order;
  static_cast<const phys::Node&>(node.node).for_each_zone([&](const Zone& zone) {
    if (zone.type() > node.kcompactd_highest_zoneidx || !zone.populated()) return;
    const CompactSuitable s = suitable(zone, order, phys::AllocFlags::kWmarkMin, node.kcompactd_highest_zoneidx);
    found = found || s == CompactSuitable::kContinue;
  });
  return found;
}

void Compaction::kcompactd(NodeCompaction& node) {
  const int nid = node.node.nid().value();
  for (;;) {
    if (node.kcompactd_max_order.value() == 0) {
      events_.kcompactd_sleep([&] { return MmCompactionKcompactdSleep{nid}; });
      if (tunables_.compaction_proactiveness == 0) {
        node.kcompactd_wait.wait();
      } else if (node.kcompactd_wait.wait_timeout(kProactiveInterval) != sim::WaitOutcome::kWoken &&
                 should_proactive_compact_node(node)) {
        proactive_compact_node(node);
      }
      continue;
    }
    kcompactd_do_work(node);
  }
}

void Compaction::kcompactd_do_work(NodeCompaction& node) {
  phys::VmStat& vmstat = parts_.phys.vmstat();
  const Order order = node.kcompactd_max_order;
  const ZoneType highest = node.kcompactd_highest_zoneidx;
  events_.kcompactd_wake([&] {
    return MmCompactionKcompactdWake{
        {node.node.nid().value(), order.value(), static_cast<unsigned>(parts_.phys.zone_index(highest))}};
  });
  vmstat.count_vm_event(VmEvent::kCompactDaemonWake);
  node.node.for_each_zone([&](Zone& zone) {
    if (zone.type() > highest || !zone.populated() || compaction_deferred(zone, order)) return;
    if (suitable(zone, order, phys::AllocFlags::kWmarkMin, highest) != CompactSuitable::kContinue) return;
    CompactControl cc{.zone = zone, .order = order, .highest_zoneidx = highest};
    const CompactResult status = compact_zone(cc);
    if (status == CompactResult::kSuccess) {
      compaction_defer_reset(zone, order, AllocSuccess::kNo);
    } else if (status == CompactResult::kComplete || status == CompactResult::kPartialSkipped) {
      // What lies on per-CPU lists may complete a block.
      parts_.phys.drain_all_pages();
      defer_compaction(zone, order);
    }
    vmstat.count_vm_events(VmEvent::kCompactDaemonMigrateScanned, static_cast<std::int64_t>(cc.total_migrate_scanned));
    vmstat.count_vm_events(VmEvent::kCompactDaemonFreeScanned, static_cast<std::int64_t>(cc.total_free_scanned));
  });
  // Somebody may have asked for more meanwhile.
  if (node.kcompactd_max_order <= order) node.kcompactd_max_order = Order(0);
  if (node.kcompactd_highest_zoneidx >= highest) node.kcompactd_highest_zoneidx = ZoneType::kMovable;
}

unsigned Compaction::fragmentation_score_zone(const Zone& zone) { return extfrag_for_order(zone, kHugePage); }

unsigned Compaction::fragmentation_score_node(const phys::Node& node) {
  unsigned score = 0;
  node.for_each_zone([&](const Zone& zone) {
    if (!zone.populated()) return;
    score += static_cast<unsigned>(zone.present_pages() * fragmentation_score_zone(zone) / (node.present_pages() + 1));
  });
  return score;
}

unsigned Compaction::fragmentation_score_wmark(bool low) const {
  const unsigned wmark = std::max(100u - std::min(100u, tunables_.compaction_proactiveness), 5u);
  return low ? wmark : std::min(wmark + 10, 100u);
}

bool Compaction::should_proactive_compact_node(const NodeCompaction& node) const {
  bool kswapd_is_running = false;
  static_cast<const phys::Node&>(node.node).for_each_zone(
      [&](const Zone& zone) { kswapd_is_running = kswapd_is_running || zone.test(phys::ZoneFlag::kReclaimActive); });
  return !kswapd_is_running && fragmentation_score_node(node.node) > fragmentation_score_wmark(false);
}

void Compaction::proactive_compact_node(NodeCompaction& node) {
  if (node.proactive_defer != 0) {
    --node.proactive_defer;
    return;
  }
  const unsigned before = fragmentation_score_node(node.node);
  node.node.for_each_zone([&](Zone& zone) {
    if (!zone.populated()) return;
    CompactControl cc{.zone = zone, .whole_zone = true, .ignore_skip_hint = true, .proactive = true};
    static_cast<void>(compact_zone(cc));
  });
  // No better than before: leave it alone for a while.
  if (fragmentation_score_node(node.node) >= before) node.proactive_defer = kMaxProactiveDefer;
}

}  // namespace quire::compact
