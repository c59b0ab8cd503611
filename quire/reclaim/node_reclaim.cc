// Reclaim of a node for a request that was made on it, before memory of a farther node is used (vm.zone_reclaim_mode).
#include <algorithm>

#include "quire/phys/task_flags.h"
#include "quire/reclaim/reclaim.h"

namespace quire::reclaim {

using phys::Gfp;
using phys::NodeReclaimResult;
using phys::NodeStat;

namespace {

constexpr unsigned kReclaimWrite = 2;  // RECLAIM_WRITE
constexpr unsigned kReclaimUnmap = 4;  // RECLAIM_UNMAP
constexpr int kNodeReclaimPriority = 4;

std::uint64_t pages(const phys::Node& node, NodeStat stat) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(node.stats[stat], 0));
}

}  // namespace

// Page cache that the mode lets go of.
std::uint64_t Reclaim::node_pagecache_reclaimable(const phys::Node& node) const {
  std::uint64_t reclaimable = pages(node, NodeStat::kNrFilePages);
  if ((tunables_.zone_reclaim_mode & kReclaimUnmap) == 0) {
    const std::uint64_t file_lru = pages(node, NodeStat::kNrInactiveFile) + pages(node, NodeStat::kNrActiveFile);
    // More may be mapped than is on the lists, since shmem is not on those of files.
    reclaimable = file_lru - std::min(file_lru, pages(node, NodeStat::kNrMapped));
  }
  const std::uint64_t dirty =
      (tunables_.zone_reclaim_mode & kReclaimWrite) == 0 ? pages(node, NodeStat::kNrDirty) : std::uint64_t{0};
  return reclaimable - std::min(reclaimable, dirty);
}

NodeReclaimResult Reclaim::node_reclaim(phys::Zone& zone, Gfp gfp, Order order) {
  NodeReclaim& node = node_of(zone.node());
  const std::uint64_t managed = node.node.managed_pages();
  if (node_pagecache_reclaimable(node.node) <= managed * tunables_.min_unmapped_ratio / 100 &&
      pages(node.node, NodeStat::kNrSlabReclaimable) <= managed * tunables_.min_slab_ratio / 100) {
    return NodeReclaimResult::kFull;
  }
  if (!phys::gfpflags_allow_blocking(gfp) || phys::task_test(parts_.scheduler, phys::TaskFlag::kMemalloc)) {
    return NodeReclaimResult::kNoScan;
  }
  // A node with CPUs is left to those who run there.
  if (!node.node.cpus().empty() && node.node.nid() != parts_.phys.numa_node_id()) return NodeReclaimResult::kNoScan;
  if (any(node.flags, PgdatFlag::kReclaimLocked)) return NodeReclaimResult::kNoScan;
  node.flags |= PgdatFlag::kReclaimLocked;
  const std::uint64_t nr_reclaimed = do_node_reclaim(node, gfp, order);
  node.flags &= ~PgdatFlag::kReclaimLocked;
  if (nr_reclaimed >= order.pages()) return NodeReclaimResult::kSuccess;
  parts_.phys.vmstat().count_vm_event(phys::VmEvent::kZoneReclaimFailed);
  return NodeReclaimResult::kSome;
}

std::uint64_t Reclaim::do_node_reclaim(NodeReclaim& node, Gfp gfp, Order order) {
  const phys::MemallocScope memalloc(parts_.scheduler);
  ScanControl sc{.reclaimer = Reclaimer::kDirect,
                 .nr_to_reclaim = std::max(order.pages(), kSwapClusterMax),
                 .gfp_mask = gfp,
                 .order = order,
                 .reclaim_idx = parts_.phys.gfp_zone(gfp),
                 .priority = kNodeReclaimPriority,
                 .may = May::kSwap};
  if ((tunables_.zone_reclaim_mode & kReclaimWrite) != 0) sc.may |= May::kWritepage;
  if ((tunables_.zone_reclaim_mode & kReclaimUnmap) != 0) sc.may |= May::kUnmap;
  events_.node_reclaim_begin(
      [&] { return MmVmscanNodeReclaimBegin{node.node.nid().value(), static_cast<int>(order.value()), phys::gfp_names(gfp)}; });
  const std::uint64_t spared = node.node.managed_pages() * tunables_.min_unmapped_ratio / 100;
  if (node_pagecache_reclaimable(node.node) > spared ||
      pages(node.node, NodeStat::kNrSlabReclaimable) > node.node.managed_pages() * tunables_.min_slab_ratio / 100) {
    do {
      shrink_node(node, sc);
    } while (sc.nr_reclaimed < order.pages() && --sc.priority >= 0);
  }
  events_.node_reclaim_end([&] { return MmVmscanNodeReclaimEnd{sc.nr_reclaimed}; });
  return sc.nr_reclaimed;
}

}  // namespace quire::reclaim
