#include "quire/lru/shadow_nodes.h"

#include <gtest/gtest.h>

#include "lru_machine.h"
#include "quire/slab/xa_node_cache.h"

namespace quire::lru {
namespace {

using phys::NodeStat;

struct Arrays final : ShadowArrays {
  Outcome reclaim_shadow_node(XaNode& node) override {
    if (busy) return Outcome::kBusy;
    XArray& array = node.array();
    // The leaf's indices: its own offsets under those of its parents.
    std::uint64_t base = 0;
    for (const XaNode* n = &node; n->up() != nullptr; n = n->up()) {
      base += static_cast<std::uint64_t>(n->offset) << (n->shift + 6);
    }
    array.for_range(base, base + 63, [&](std::uint64_t i, XaEntry) { array.erase(i); });
    return Outcome::kReclaimed;
  }
  bool busy = false;
};

TEST(ShadowNodes, ListsNodesThatHoldOnlyShadowsAndGivesThemUpWhenTooMany) {
  LruMachine m({.ram = 24 * kMiB});
  slab::SlabSystem slab(*m.phys, m.scheduler);
  slab::XaNodeCache nodes(slab);
  ShadowNodes shadows(*m.phys, slab.shrinkers());
  Arrays arrays;
  shadows.set_arrays(&arrays);
  XArray array(nodes);
  array.set_observer(&shadows);

  phys::Folio& folio = m.folio(AnonOrFile::kFile);
  ASSERT_TRUE(array.store(0, XaEntry(&folio)).has_value());
  ASSERT_TRUE(array.store(1, XaValue(1)).has_value());
  EXPECT_EQ(shadows.nodes(Nid(0)), 0u);  // a folio among them
  ASSERT_TRUE(array.store(0, XaValue(2)).has_value());
  EXPECT_EQ(shadows.nodes(Nid(0)), 1u);
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetNodes), 1);
  ASSERT_TRUE(array.store(0, XaEntry(&folio)).has_value());
  EXPECT_EQ(shadows.nodes(Nid(0)), 0u);
  array.erase(0);

  const std::uint64_t limit = m.phys->node(Nid(0)).present_pages() >> 3;
  const slab::ShrinkControl control{.nid = Nid(0)};
  for (std::uint64_t n = 1; n <= limit + 300; ++n) ASSERT_TRUE(array.store(n * 64, XaValue(n)).has_value());
  EXPECT_EQ(shadows.count_objects(control), 301u);
  shadows.validate();

  arrays.busy = true;
  EXPECT_EQ(slab.shrinkers().shrink_slab(phys::Gfp::kKernel, Nid(0), 0).freed, 0u);
  arrays.busy = false;
  EXPECT_GT(slab.shrinkers().shrink_slab(phys::Gfp::kKernel, Nid(0), 0).freed, 100u);
  EXPECT_GT(m.node_stat(NodeStat::kWorkingsetNodereclaim), 100);
  shadows.validate();
  array.validate();
  array.clear();
  EXPECT_EQ(shadows.nodes(Nid(0)), 0u);
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetNodes), 0);
}

}  // namespace
}  // namespace quire::lru
