// One list at a time, through the entry for isolated folios and through pressure in small doses.
#include "reclaim_machine.h"

namespace quire::reclaim {
namespace {

using lru::LruList;

void isolate_all(ReclaimMachine& m, Space& space, phys::FolioList& folios) {
  m.lru.lru_add_drain_all();
  for (std::size_t i = 0; i < space.size(); ++i) {
    if (space[i].folio != nullptr && m.lru.folio_isolate_lru(*space[i].folio)) folios.push_back(*space[i].folio);
  }
}

TEST(ShrinkFolioList, FreesAnonymousFoliosIntoSwap) {
  ReclaimMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    Space space(m, 100);
    for (std::size_t i = 0; i < 100; ++i) space.write(i, i + 1);
    phys::FolioList folios;
    isolate_all(m, space, folios);
    EXPECT_EQ(m.reclaim->reclaim_folio_list(folios), 100u);
    EXPECT_EQ(space.resident(), 0u);
    EXPECT_EQ(space.swapped(), 100u);
    EXPECT_EQ(m.swap->cache().total_shadows(), 100u);
    for (std::size_t i = 0; i < 100; ++i) {
      EXPECT_EQ(space.read(i), Space::Touch::kMajor);
      EXPECT_TRUE(space.holds(i, i + 1));
    }
    EXPECT_EQ(m.node_stat(phys::NodeStat::kWorkingsetRefaultAnon), 100);
    m.lru.lru_add_drain_all();
    space.clear();
  });
  m.validate();
}

TEST(ShrinkFolioList, KeepsWhatDoesNotFitIntoSwap) {
  ReclaimMachine m;
  m.add_zram(64 * kKiB);  // 15 slots
  m.run([&] {
    Space space(m, 40);
    for (std::size_t i = 0; i < 40; ++i) space.write(i, i + 1);
    phys::FolioList folios;
    isolate_all(m, space, folios);
    EXPECT_EQ(m.reclaim->reclaim_folio_list(folios), 15u);
    EXPECT_EQ(space.resident(), 25u);
    m.lru.lru_add_drain_all();
    EXPECT_EQ(m.list_size(LruList::kActiveAnon), 25u);
    for (std::size_t i = 0; i < 40; ++i) {
      if (space[i].folio != nullptr) {
        EXPECT_TRUE(space.holds(i, i + 1));
      }
    }
    space.clear();
  });
  m.validate();
}

TEST(ShrinkFolioList, DirtyFilePagesAreLeftToTheFlusher) {
  ReclaimMachine m;
  m.run([&] {
    Space space(m, 64, Space::Backing::kFile);
    for (std::size_t i = 0; i < 64; ++i) {
      space.read(i);
      phys::folio_set_dirty(*space[i].folio);
    }
    phys::FolioList folios;
    isolate_all(m, space, folios);
    EXPECT_EQ(m.reclaim->reclaim_folio_list(folios), 0u);
    EXPECT_EQ(m.actions.file_writes, 0u);
    EXPECT_EQ(m.node_stat(phys::NodeStat::kNrVmscanImmediateReclaim), 64);
    space.clear();
  });
}

TEST(ShrinkFolioList, AsynchronousWriteIsFreedOnTheNextRound) {
  ReclaimMachine m;
  m.add_disk(16 * kMiB);
  m.run([&] {
    Space space(m, 32);
    for (std::size_t i = 0; i < 32; ++i) space.write(i, i + 1);
    phys::FolioList folios;
    isolate_all(m, space, folios);
    EXPECT_EQ(m.reclaim->reclaim_folio_list(folios), 0u);
    EXPECT_GT(m.node_stat(phys::NodeStat::kNrWriteback), 0);  // the first may be done already
    EXPECT_EQ(space.swapped(), 32u);
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_EQ(m.node_stat(phys::NodeStat::kNrWriteback), 0);
    EXPECT_EQ(m.node_stat(phys::NodeStat::kNrSwapcached), 32);
    // A fault finds them in the cache: no I/O.
    EXPECT_EQ(space.read(0), Space::Touch::kMinor);
    EXPECT_EQ(m.event(VmEvent::kPswpin), 0);
    m.lru.lru_add_drain_all();
    space.clear();
  });
  m.validate();
}

TEST(ShrinkFolioList, WriteErrorKeepsTheBytes) {
  ReclaimMachine m;
  m.add_zram(16 * kMiB);
  sim::FaultInjection faults(1);
  m.swap->set_fault_injection(&faults);
  faults.set(sim::FaultPoint::kIoWrite, {.probability = 50});
  m.run([&] {
    Space space(m, 200);
    for (std::size_t i = 0; i < 200; ++i) space.write(i, i + 1);
    phys::FolioList folios;
    isolate_all(m, space, folios);
    const std::uint64_t reclaimed = m.reclaim->reclaim_folio_list(folios);
    EXPECT_GT(reclaimed, 50u);
    EXPECT_LT(reclaimed, 150u);
    for (std::size_t i = 0; i < 200; ++i) {
      ASSERT_NE(space.read(i), Space::Touch::kNoMemory);
      ASSERT_TRUE(space.holds(i, i + 1));
    }
    m.lru.lru_add_drain_all();
    space.clear();
  });
  EXPECT_GT(m.swap->write_errors(), 50u);
  m.validate();
}

TEST(SecondChance, ReferencedInactivePageIsKeptThenActivated) {
  ReclaimMachine m({.kswapd = MachineSpec::Kswapd::kNo});
  m.add_zram(32 * kMiB);
  m.run([&] {
    Space hot(m, 500);
    Space cold(m, 9000);
    std::uint64_t major = 0;
    for (std::size_t i = 0; i < hot.size(); ++i) hot.write(i, 7);
    for (std::size_t i = 0; i < cold.size(); ++i) {
      cold.write(i, 1);
      // The hot set is touched again and again while the cold one streams through.
      for (std::size_t k = 0; k < 4; ++k) {
        const bool was_major = hot.read((i * 4 + k) % hot.size()) == Space::Touch::kMajor;
        // The first pass finds every page referenced and learns nothing; by and by the hot ones are known.
        if (was_major && i > 7500) ++major;
      }
    }
    EXPECT_LT(major, 20u);
    EXPECT_GT(hot.resident(), hot.size() - 10);
    EXPECT_GT(m.list_size(LruList::kActiveAnon), hot.size() / 4);
    hot.clear();
    cold.clear();
  });
  EXPECT_GT(m.event(VmEvent::kPgactivate) + m.node_stat(phys::NodeStat::kWorkingsetActivateAnon), 150);
  m.validate();
}

}  // namespace
}  // namespace quire::reclaim
