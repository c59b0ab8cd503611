#include "quire/reclaim/reclaim.h"

#include <string>

#include "quire/base/bug.h"

namespace quire::reclaim {

using phys::NodeStat;
using phys::ZoneStat;

NodeReclaim::NodeReclaim(sim::Scheduler& scheduler, phys::Node& node_of)
    : node(node_of),
      kswapd_wait(scheduler, "kswapd_wait", sim::Sleep::kInterruptible),
      pfmemalloc_wait(scheduler, "pfmemalloc_wait"),
      kswapd_done(scheduler, "kswapd_done") {
  for (auto& queue : reclaim_wait) queue = std::make_unique<sim::WaitQueue>(scheduler, "reclaim_wait");
}

Reclaim::Reclaim(const ReclaimParts& parts, std::unique_ptr<ReclaimPolicy> policy)
    : parts_(parts), policy_(std::move(policy)), events_(parts.traces) {
  parts_.slab.shrinkers().trace_to(parts_.traces);
  for (const auto& node : parts_.phys.nodes()) {
    nodes_.push_back(std::make_unique<NodeReclaim>(parts_.scheduler, *node));
  }
}

Reclaim::~Reclaim() {
  if (parts_.phys.memory_pressure() != this) return;
  parts_.phys.hotplug().remove_listener(*this);
  parts_.phys.set_memory_pressure(nullptr);
  parts_.lru.set_hooks(nullptr);
}

void Reclaim::start() {
  for (auto& node : nodes_) {
    if (node->node.has_memory()) kswapd_run(*node);
  }
  parts_.phys.hotplug().add_listener(*this);
  parts_.phys.set_memory_pressure(this);
  parts_.lru.set_hooks(policy_->lru_hooks());
}

void Reclaim::kswapd_run(NodeReclaim& node) {
  if (node.kswapd != nullptr) return;
  const sim::TaskOptions options{.kind = sim::TaskKind::kDaemon};
  node.kswapd =
      &parts_.scheduler.spawn("kswapd" + std::to_string(node.node.nid().value()), [this, &node] { kswapd(node); }, options);
}

void Reclaim::online(const phys::MemoryNotify& notify) {
  if (notify.status_change_nid != kNoNode) kswapd_run(node_of(parts_.phys.node(notify.nid)));
}

phys::CompactResult Reclaim::try_to_compact_pages(phys::ZoneList& zonelist, Order order, phys::Gfp gfp, phys::AllocFlags flags,
                                                  phys::CompactPriority priority) {
  if (compaction_ == nullptr) return phys::CompactResult::kSkipped;
  return compaction_->try_to_compact_pages(zonelist, order, gfp, flags, priority);
}

void Reclaim::compaction_succeeded(phys::Zone& zone, Order order) {
  if (compaction_ != nullptr) compaction_->compaction_succeeded(zone, order);
}

ReclaimView Reclaim::view() const {
  return ReclaimView{parts_.swap.get_nr_swap_pages(), parts_.swap.total_swap_pages(), tunables_.swappiness};
}

std::uint64_t Reclaim::zone_reclaimable_pages(const phys::Zone& zone) const {
  std::int64_t pages = zone.state(ZoneStat::kNrZoneInactiveFile) + zone.state(ZoneStat::kNrZoneActiveFile);
  if (can_reclaim_anon()) {
    pages += zone.state(ZoneStat::kNrZoneInactiveAnon) + zone.state(ZoneStat::kNrZoneActiveAnon);
  }
  return static_cast<std::uint64_t>(pages);
}

std::uint64_t Reclaim::reclaim_folio_list(phys::FolioList& folios) {
  std::uint64_t nr_reclaimed = 0;
  // By node, since shrink_folio_list works for one; most lists are of one node.
  while (!folios.empty()) {
    NodeReclaim& node = node_of(parts_.phys.page_node(folios.front()));
    phys::FolioList of_node;
    phys::FolioList others;
    std::array<std::int64_t, 2> isolated{};
    while (phys::Folio* folio = folios.pop_front()) {
      if (&parts_.phys.page_node(*folio) != &node.node) {
        others.push_back(*folio);
        continue;
      }
      phys::folio_clear_active(*folio);
      isolated[lru::folio_is_file_lru(*folio) ? 1 : 0] += static_cast<std::int64_t>(folio_nr_pages(*folio));
      of_node.push_back(*folio);
    }
    node.node.stats.add(NodeStat::kNrIsolatedAnon, isolated[0]);
    node.node.stats.add(NodeStat::kNrIsolatedFile, isolated[1]);
    ScanControl sc{.gfp_mask = phys::Gfp::kKernel};
    ReclaimStat stat;
    const phys::MemallocScope memalloc(parts_.scheduler);
    nr_reclaimed += shrink_folio_list(of_node, node, sc, stat, References::kIgnore);
    while (phys::Folio* folio = of_node.pop_back()) parts_.lru.folio_putback_lru(*folio);
    node.node.stats.sub(NodeStat::kNrIsolatedAnon, isolated[0]);
    node.node.stats.sub(NodeStat::kNrIsolatedFile, isolated[1]);
    folios.splice_back(others);
  }
  return nr_reclaimed;
}

void Reclaim::drop_slab() {
  for (const auto& node : nodes_) {
    // Each further round has to free twice as much to be followed by one more.
    unsigned shift = 0;
    while (parts_.slab.shrinkers().shrink_slab(phys::Gfp::kKernel, node->node.nid(), 0).freed >> shift++ > 1) {}
  }
  parts_.slab.cache_reap(slab::SlabSystem::ReapMode::kAll);
  parts_.phys.vmstat().count_vm_event(phys::VmEvent::kDropSlab);
}

void Reclaim::validate() const {
  for (const auto& node : nodes_) {
    QUIRE_BUG_ON(node->node.stats[NodeStat::kNrIsolatedAnon] != 0 || node->node.stats[NodeStat::kNrIsolatedFile] != 0);
    QUIRE_BUG_ON(node->nr_writeback_throttled != 0);
    QUIRE_BUG_ON(node->kswapd_order > phys::kMaxOrder);
  }
  const phys::VmStat& vmstat = parts_.phys.vmstat();
  using phys::VmEvent;
  const std::int64_t scanned = vmstat[VmEvent::kPgscanKswapd] + vmstat[VmEvent::kPgscanDirect];
  const std::int64_t stolen = vmstat[VmEvent::kPgstealKswapd] + vmstat[VmEvent::kPgstealDirect];
  QUIRE_BUG_ON(scanned != vmstat[VmEvent::kPgscanAnon] + vmstat[VmEvent::kPgscanFile]);
  QUIRE_BUG_ON(stolen != vmstat[VmEvent::kPgstealAnon] + vmstat[VmEvent::kPgstealFile]);
  QUIRE_BUG_ON(stolen > scanned);
}

}  // namespace quire::reclaim
