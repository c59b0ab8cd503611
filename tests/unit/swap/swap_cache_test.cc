#include "swap_machine.h"

namespace quire::swap {
namespace {

using phys::Folio;
using phys::NodeStat;

TEST(SwapCache, AddFindAndDelete) {
  SwapMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(1);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    EXPECT_TRUE(phys::folio_test_swapcache(folio));
    EXPECT_TRUE(phys::folio_test_dirty(folio));
    EXPECT_EQ(phys::folio_ref_count(folio), 2);
    EXPECT_EQ(m.node_stat(NodeStat::kNrSwapcached), 1);
    EXPECT_EQ(m.node_stat(NodeStat::kNrFilePages), 1);
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    Folio* found = m.swap->lookup_swap_cache(entry);
    ASSERT_EQ(found, &folio);
    EXPECT_EQ(phys::folio_ref_count(folio), 3);
    m.lru.folio_put(*found);
    m.validate();
    m.swap->delete_from_swap_cache(folio);
    EXPECT_EQ(m.swap->lookup_swap_cache(entry), nullptr);
    EXPECT_EQ(m.node_stat(NodeStat::kNrSwapcached), 0);
    EXPECT_EQ(m.swap->si_swapinfo().free, m.swap->si_swapinfo().total);
    phys::folio_unlock(*m.phys, folio);
    m.put(folio);
  });
  m.validate();
}

TEST(SwapCache, FolioKeepsItsSlotWhileAPteNamesIt) {
  SwapMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(1);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    ASSERT_TRUE(m.swap->swap_duplicate(entry));
    EXPECT_FALSE(m.swap->folio_free_swap(folio));
    m.swap->swap_free(entry);
    phys::folio_clear_dirty(folio);
    EXPECT_TRUE(m.swap->folio_free_swap(folio));
    EXPECT_TRUE(phys::folio_test_dirty(folio));  // its only copy now
    EXPECT_FALSE(phys::folio_test_swapcache(folio));
    phys::folio_unlock(*m.phys, folio);
    m.put(folio);
  });
  m.validate();
}

TEST(SwapCache, ZappedPteTakesAnUnmappedFolioWithIt) {
  SwapMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(1);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    ASSERT_TRUE(m.swap->swap_duplicate(entry));
    phys::folio_unlock(*m.phys, folio);
    m.swap->free_swap_and_cache(entry);
    EXPECT_FALSE(phys::folio_test_swapcache(folio));
    EXPECT_EQ(phys::folio_ref_count(folio), 1);
    m.put(folio);
  });
  EXPECT_EQ(m.swap->si_swapinfo().free, m.swap->si_swapinfo().total);
  m.validate();
}

TEST(SwapCache, ShadowStaysUntilTheSlotIsFree) {
  SwapMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(7);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    ASSERT_TRUE(m.swap->swap_duplicate(entry));
    phys::folio_clear_dirty(folio);
    ASSERT_TRUE(m.swap->swap_writepage(folio));
    phys::folio_set_locked(folio);
    // As __remove_mapping does it.
    ASSERT_TRUE(phys::folio_ref_freeze(folio, 2));
    m.swap->remove_from_swap_cache(folio, entry, m.lru.workingset_eviction(folio));
    m.swap->put_swap_folio(entry);
    phys::folio_unlock(*m.phys, folio);
    phys::FolioList dead;
    folio.mapping = 0;
    dead.push_back(folio);
    m.lru.free_folios(dead);
    EXPECT_EQ(m.swap->cache().total_shadows(), 1u);
    EXPECT_EQ(m.swap->lookup_swap_cache(entry), nullptr);

    Folio& back = m.swap_in(entry);
    EXPECT_TRUE(m.holds(back, 7));
    EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetRefaultAnon), 1);
    EXPECT_EQ(m.swap->cache().total_shadows(), 0u);
    m.put(back);
  });
  m.validate();
}

TEST(SwapCache, WriteOfAFolioThatNobodyNamesOnlyDropsItsSlot) {
  SwapMachine m;
  Zram& zram = m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(1);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    phys::folio_clear_dirty(folio);
    ASSERT_TRUE(m.swap->swap_writepage(folio));
    EXPECT_FALSE(phys::folio_test_locked(folio));
    EXPECT_FALSE(phys::folio_test_swapcache(folio));
    EXPECT_TRUE(phys::folio_test_dirty(folio));
    m.put(folio);
  });
  EXPECT_EQ(zram.mm_stat().num_writes, 0u);
  EXPECT_EQ(m.event(phys::VmEvent::kPswpout), 0);
  m.validate();
}

}  // namespace
}  // namespace quire::swap
