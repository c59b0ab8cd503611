// XArray nodes that hold nothing but shadow entries, and how they are given up when they become too many.
//
// Shadows are worth remembering only as long as they can make a difference: a refault distance beyond the node's memory
// never activates. So when shadow-only nodes outgrow an eighth of it (in slots), reclaim's shrinker call takes the oldest.
//
//   XArray ── node_changed ──▶ list of its NUMA node ◀── shrink_slab: count_objects, scan_objects ── ShadowArrays upcall
//
// An owner of page-cache arrays sets this as their observer. Counters: workingset_nodes, workingset_nodereclaim.
// Lock: the array's own, held by who changes it; the shrinker asks ShadowArrays, which refuses when it is taken. The lists
// need none of their own (Linux's list_lru lock): nobody reaches a sync point while he looks at one.
// Linux: workingset_update_node and workingset_shadow_shrinker.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quire/base/intrusive_list.h"
#include "quire/base/xarray.h"
#include "quire/phys/phys_mem.h"
#include "quire/slab/shrinker.h"

namespace quire::lru {

// Implemented by the owner of the arrays.
class ShadowArrays {
 public:
  virtual ~ShadowArrays() = default;
  enum class Outcome : std::uint8_t { kReclaimed, kBusy };
  // Erases all entries of this leaf, which holds shadows only, so that it is freed. kBusy when its array is locked. No sync
  // point lies between the choice of the leaf and this call, nor may one come before the array's lock is held: another CPU
  // could put a folio into the leaf or free it.
  virtual Outcome reclaim_shadow_node(XaNode& node) = 0;
};

class ShadowNodes final : public XaNodeObserver, public slab::Shrinker {
 public:
  ShadowNodes(phys::PhysMem& phys, slab::ShrinkerRegistry& shrinkers);
  ~ShadowNodes() override;
  ShadowNodes(const ShadowNodes&) = delete;
  ShadowNodes& operator=(const ShadowNodes&) = delete;

  void set_arrays(ShadowArrays* arrays) { arrays_ = arrays; }

  void node_changed(XaNode& node) override;

  [[nodiscard]] std::string_view name() const override { return "mm-shadow"; }
  std::uint64_t count_objects(const slab::ShrinkControl& control) override;
  std::uint64_t scan_objects(slab::ShrinkControl& control) override;
  [[nodiscard]] unsigned seeks() const override { return 0; }
  [[nodiscard]] slab::ShrinkerFlags flags() const override { return slab::ShrinkerFlags::kNumaAware; }

  [[nodiscard]] std::uint64_t nodes(Nid nid) const { return lists_[static_cast<std::size_t>(nid.value())].count; }
  void validate() const;

 private:
  using NodeList = List<XaNode, &XaNode::private_list>;
  struct PerNode {
    NodeList list;  // oldest first
    std::uint64_t count = 0;
  };

  phys::PhysMem& phys_;
  slab::ShrinkerRegistry& shrinkers_;
  std::vector<PerNode> lists_;  // by NUMA node; fixed at boot
  ShadowArrays* arrays_ = nullptr;
};

}  // namespace quire::lru
