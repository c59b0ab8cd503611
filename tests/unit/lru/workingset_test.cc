#include <gtest/gtest.h>

#include "lru_machine.h"

namespace quire::lru {
namespace {

using phys::Folio;
using phys::NodeStat;

TEST(Shadow, PacksAndUnpacks) {
  Rng rng(3);
  for (int i = 0; i < 10'000; ++i) {
    const Shadow s{.memcg_id = static_cast<std::uint16_t>(rng()),
                   .nid = Nid(static_cast<int>(rng.below(1024))),
                   .eviction = rng() & kEvictionMask,
                   .workingset = rng.below(2) != 0 ? WorkingsetBit::kYes : WorkingsetBit::kNo};
    const XaValue v = pack_shadow(s);
    EXPECT_LE(v.value(), kXaValueMax);
    EXPECT_EQ(unpack_shadow(v), s);
  }
}

TEST(Shadow, BucketsOnlyOnMachinesLargerThanTheCounter) {
  EXPECT_EQ(workingset_bucket_order(1 << 14), 0u);
  EXPECT_EQ(workingset_bucket_order(std::uint64_t{1} << 36), 0u);
  EXPECT_EQ(workingset_bucket_order(std::uint64_t{1} << 40), 4u);
}

struct Swap final : SwapSpace {
  std::uint64_t nr_swap_pages() const override { return pages; }
  std::uint64_t pages = 0;
};

// As reclaim does: off the list, references frozen, folio locked, a shadow left, the page freed.
XaValue evict(LruMachine& m, Folio& f) {
  EXPECT_TRUE(m.lru.folio_isolate_lru(f));
  phys::folio_set_locked(f);
  EXPECT_TRUE(phys::folio_ref_freeze(f, 2));
  const XaValue shadow = m.lru.workingset_eviction(f);
  phys::folio_clear_locked(f);
  f.mapping = 0;
  m.phys->free_unref_folio(f);
  return shadow;
}

Folio& refault(LruMachine& m, AnonOrFile kind, XaValue shadow) {
  Folio& f = m.folio(kind);
  phys::folio_set_locked(f);
  m.lru.workingset_refault(f, shadow);
  phys::folio_clear_locked(f);
  m.lru.folio_add_lru(f);
  m.lru.lru_add_drain();
  return f;
}

TEST(Workingset, ACloseRefaultActivatesAFarOneDoesNot) {
  LruMachine m;
  // Ten active file pages: a page that came back within ten evictions could have stayed.
  for (int i = 0; i < 10; ++i) m.lru.folio_activate(m.added(AnonOrFile::kFile));
  m.lru.lru_add_drain();
  ASSERT_EQ(m.size(LruList::kActiveFile), 10u);
  const XaValue shadow = evict(m, m.added(AnonOrFile::kFile));
  const XaValue other = evict(m, m.added(AnonOrFile::kFile));
  EXPECT_EQ(unpack_shadow(other).eviction, unpack_shadow(shadow).eviction + 1);

  for (int i = 0; i < 8; ++i) evict(m, m.added(AnonOrFile::kFile));
  Folio& near = refault(m, AnonOrFile::kFile, shadow);  // distance 10 ≤ 10
  EXPECT_TRUE(phys::folio_test_active(near));
  EXPECT_FALSE(phys::folio_test_workingset(near));
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetRefaultFile), 1);
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetActivateFile), 1);

  for (int i = 0; i < 2; ++i) evict(m, m.added(AnonOrFile::kFile));
  Folio& far = refault(m, AnonOrFile::kFile, other);  // distance 9 + 1 (activation) + 2 = 12 > 11
  EXPECT_FALSE(phys::folio_test_active(far));
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetRefaultFile), 2);
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetActivateFile), 1);
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetRestoreFile), 0);
  m.lru.validate();
}

TEST(Workingset, AnonymousPagesCountOnlyWhenTheyCanBeSwapped) {
  LruMachine m;
  Swap swap;
  m.lru.set_swap_space(&swap);
  for (int i = 0; i < 5; ++i) m.lru.folio_activate(m.added(AnonOrFile::kAnon));
  m.lru.lru_add_drain();
  const XaValue shadow = evict(m, m.added(AnonOrFile::kFile));
  EXPECT_FALSE(phys::folio_test_active(refault(m, AnonOrFile::kFile, shadow)));  // distance 1 > 0
  swap.pages = 100;
  EXPECT_TRUE(phys::folio_test_active(refault(m, AnonOrFile::kFile, shadow)));
  m.lru.set_swap_space(nullptr);
}

TEST(Workingset, AReturningWorkingsetPageIsRestoredAndItsCostNoted) {
  LruMachine m;
  for (int i = 0; i < 40; ++i) m.lru.folio_activate(m.added(AnonOrFile::kFile));
  m.lru.lru_add_drain();
  Folio& f = m.added(AnonOrFile::kFile);
  phys::folio_set_workingset(f);
  const XaValue shadow = evict(m, f);
  EXPECT_EQ(unpack_shadow(shadow).workingset, WorkingsetBit::kYes);
  const auto cost = m.lru.lruvec(Nid(0)).file_cost;
  Folio& back = refault(m, AnonOrFile::kFile, shadow);
  EXPECT_TRUE(phys::folio_test_workingset(back));
  EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetRestoreFile), 1);
  EXPECT_EQ(m.lru.lruvec(Nid(0)).file_cost, cost + 1);
}

TEST(Workingset, CostFadesWhenItOutgrowsTheLists) {
  LruMachine m;
  for (int i = 0; i < 80; ++i) m.added(AnonOrFile::kFile);
  Lruvec& lruvec = m.lru.lruvec(Nid(0));
  m.lru.lru_note_cost(lruvec, AnonOrFile::kAnon, 12);
  m.lru.lru_note_cost(lruvec, AnonOrFile::kFile, 8);
  EXPECT_EQ(lruvec.anon_cost, 12u);
  EXPECT_EQ(lruvec.file_cost, 8u);
  m.lru.lru_note_cost(lruvec, AnonOrFile::kFile, 2);  // 22 > 80 / 4
  EXPECT_EQ(lruvec.anon_cost, 6u);
  EXPECT_EQ(lruvec.file_cost, 5u);
}

TEST(Workingset, TheCounterMayWrap) {
  LruMachine m;
  m.lru.lruvec(Nid(0)).nonresident_age = kEvictionMask;  // the next one is 0 in the shadow's bits
  for (int i = 0; i < 3; ++i) m.lru.folio_activate(m.added(AnonOrFile::kFile));
  m.lru.lru_add_drain();
  const XaValue shadow = evict(m, m.added(AnonOrFile::kFile));
  evict(m, m.added(AnonOrFile::kFile));
  EXPECT_TRUE(phys::folio_test_active(refault(m, AnonOrFile::kFile, shadow)));  // distance 2, over the wrap
}

}  // namespace
}  // namespace quire::lru
