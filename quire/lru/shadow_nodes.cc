#include "quire/lru/shadow_nodes.h"

namespace quire::lru {

using phys::NodeStat;

namespace {

constexpr unsigned kXaChunkShift = 6;  // 64 slots a node

}  // namespace

ShadowNodes::ShadowNodes(phys::PhysMem& phys, slab::ShrinkerRegistry& shrinkers)
    : phys_(phys), shrinkers_(shrinkers), lists_(phys.nodes().size()) {
  shrinkers_.register_shrinker(*this);
}

ShadowNodes::~ShadowNodes() { shrinkers_.unregister_shrinker(*this); }

void ShadowNodes::node_changed(XaNode& node) {
  const bool shadows_only = node.count != 0 && node.count == node.nr_values;
  if (shadows_only == node.private_list.linked()) return;
  const Nid nid = phys_.virt_to_page(&node).nid();
  PerNode& here = lists_[static_cast<std::size_t>(nid.value())];
  Counters<NodeStat>& stats = phys_.node(nid).stats;
  if (shadows_only) {
    here.list.push_back(node);
    ++here.count;
    stats.add(NodeStat::kWorkingsetNodes);
  } else {
    here.list.erase(node);
    --here.count;
    stats.sub(NodeStat::kWorkingsetNodes);
  }
}

// Nodes beyond what could hold, an eighth full, one shadow for each page of the node.
std::uint64_t ShadowNodes::count_objects(const slab::ShrinkControl& control) {
  const std::uint64_t nodes_here = nodes(control.nid);
  const std::uint64_t max_nodes = phys_.node(control.nid).present_pages() >> (kXaChunkShift - 3);
  return nodes_here > max_nodes ? nodes_here - max_nodes : 0;
}

std::uint64_t ShadowNodes::scan_objects(slab::ShrinkControl& control) {
  if (arrays_ == nullptr) return slab::kShrinkStop;
  PerNode& here = lists_[static_cast<std::size_t>(control.nid.value())];
  std::uint64_t freed = 0;
  std::uint64_t scanned = 0;
  while (scanned < control.nr_to_scan) {
    phys_.scheduler().sync_point();
    XaNode* node = here.list.front_or_null();
    if (node == nullptr) break;
    ++scanned;
    if (arrays_->reclaim_shadow_node(*node) == ShadowArrays::Outcome::kReclaimed) {
      ++freed;
      phys_.node(control.nid).stats.add(NodeStat::kWorkingsetNodereclaim);
    } else {
      here.list.move_to_back(*node);
    }
  }
  control.nr_scanned = scanned;
  return freed;
}

void ShadowNodes::validate() const {
  for (std::size_t n = 0; n < lists_.size(); ++n) {
    QUIRE_BUG_ON(lists_[n].list.count() != lists_[n].count);
    const Nid nid(static_cast<int>(n));
    QUIRE_BUG_ON(phys_.node(nid).stats[NodeStat::kWorkingsetNodes] != static_cast<std::int64_t>(lists_[n].count));
    for (const XaNode& node : lists_[n].list) QUIRE_BUG_ON(node.count == 0 || node.count != node.nr_values);
  }
}

}  // namespace quire::lru
