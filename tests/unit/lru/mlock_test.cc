#include <gtest/gtest.h>

#include "lru_machine.h"

namespace quire::lru {
namespace {

using phys::Folio;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneStat;

TEST(Mlock, LocksAndUnlocksAListedFolio) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kAnon);
  m.lru.mlock_folio(f);
  EXPECT_TRUE(phys::folio_test_unevictable(f));
  EXPECT_EQ(m.node_stat(NodeStat::kNrUnevictable), 1);
  EXPECT_EQ(m.node_stat(NodeStat::kNrInactiveAnon), 0);
  EXPECT_EQ(m.zone_stat(ZoneStat::kNrMlock), 1);
  m.lru.validate();
  m.lru.munlock_folio(f);
  EXPECT_FALSE(phys::folio_test_mlocked(f));
  EXPECT_EQ(m.node_stat(NodeStat::kNrUnevictable), 0);
  EXPECT_EQ(m.node_stat(NodeStat::kNrInactiveAnon), 1);
  EXPECT_EQ(m.zone_stat(ZoneStat::kNrMlock), 0);
  EXPECT_EQ(m.event(VmEvent::kUnevictablePgsMlocked), 1);
  EXPECT_EQ(m.event(VmEvent::kUnevictablePgsMunlocked), 1);
  EXPECT_EQ(m.event(VmEvent::kUnevictablePgsCulled), 1);
  EXPECT_EQ(m.event(VmEvent::kUnevictablePgsRescued), 1);
  m.lru.validate();
}

TEST(Mlock, CountsHowManyMappingsLockIt) {
  LruMachine m;
  Folio& f = m.folio(AnonOrFile::kAnon);
  m.lru.mlock_new_folio(f);
  m.lru.mlock_folio(f);
  m.lru.mlock_folio(f);
  EXPECT_EQ(folio_mlock_count(f), 3u);
  m.lru.munlock_folio(f);
  m.lru.munlock_folio(f);
  EXPECT_TRUE(phys::folio_test_mlocked(f));
  m.lru.validate();
  m.lru.munlock_folio(f);
  EXPECT_FALSE(phys::folio_test_unevictable(f));
  EXPECT_EQ(m.size(LruList::kInactiveAnon), 1u);
  m.lru.validate();
}

TEST(Mlock, AFolioStillInABatchIsLockedToo) {
  LruMachine m;
  Folio& f = m.folio(AnonOrFile::kFile);
  m.lru.folio_add_lru(f);
  m.lru.mlock_folio(f);
  EXPECT_EQ(m.size(LruList::kUnevictable), 1u);
  EXPECT_EQ(folio_mlock_count(f), 1u);
  m.lru.validate();
}

TEST(Mlock, AnIsolatedFolioComesBackUnevictable) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kFile);
  ASSERT_TRUE(m.lru.folio_isolate_lru(f));
  m.lru.mlock_folio(f);
  EXPECT_FALSE(phys::folio_test_unevictable(f));
  m.lru.folio_putback_lru(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.size(LruList::kUnevictable), 1u);
  m.lru.munlock_folio(f);
  EXPECT_EQ(m.size(LruList::kInactiveFile), 1u);
  m.lru.validate();
}

TEST(Mlock, IsolatingAndReleasingUnevictableFolios) {
  LruMachine m;
  const std::uint64_t before = m.free_pages();
  Folio& f = m.folio(AnonOrFile::kAnon);
  m.lru.mlock_new_folio(f);
  ASSERT_TRUE(m.lru.folio_isolate_lru(f));
  EXPECT_EQ(m.size(LruList::kUnevictable), 0u);
  m.lru.folio_putback_lru(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.size(LruList::kUnevictable), 1u);
  // Freed while locked (its file was truncated): the count goes with it.
  m.put(f);
  EXPECT_EQ(m.zone_stat(ZoneStat::kNrMlock), 0);
  EXPECT_EQ(m.event(VmEvent::kUnevictablePgsCleared), 1);
  EXPECT_EQ(m.free_pages(), before);
  m.lru.validate();
}

TEST(Mlock, CheckMoveUnevictableRescuesWhatIsNoLongerLocked) {
  LruMachine m;
  Folio& f = m.folio(AnonOrFile::kFile);
  m.lru.mlock_new_folio(f);
  phys::folio_clear_mlocked(f);
  m.phys->page_zone(f).stats.sub(ZoneStat::kNrMlock);
  Folio* folios[] = {&f};
  m.lru.check_move_unevictable_folios(folios);
  EXPECT_EQ(m.size(LruList::kInactiveFile), 1u);
  EXPECT_EQ(m.event(VmEvent::kUnevictablePgsScanned), 1);
  m.lru.validate();
}

}  // namespace
}  // namespace quire::lru
