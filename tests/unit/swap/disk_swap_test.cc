#include "swap_machine.h"

namespace quire::swap {
namespace {

using phys::Folio;

TEST(DiskSwap, WriteIsAsynchronousAndReadWaitsForTheDisk) {
  SwapMachine m;
  DiskSwap& device = m.add_disk(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(3);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    ASSERT_TRUE(m.swap->swap_duplicate(entry));
    phys::folio_clear_dirty(folio);
    ASSERT_TRUE(m.swap->swap_writepage(folio));
    EXPECT_TRUE(phys::folio_test_writeback(folio));
    EXPECT_FALSE(phys::folio_test_locked(folio));
    EXPECT_EQ(device.in_flight(), 1u);
    EXPECT_EQ(m.node_stat(phys::NodeStat::kNrWriteback), 1);
    m.swap->validate();
    const sim::Nanos start = m.scheduler.now();
    phys::folio_wait_writeback(*m.phys, folio);
    EXPECT_GE(m.scheduler.now() - start, m.scheduler.costs().disk_write_latency - 10 * sim::kMicrosecond);
    EXPECT_EQ(m.node_stat(phys::NodeStat::kNrWriteback), 0);
    EXPECT_EQ(m.node_stat(phys::NodeStat::kNrWritten), 1);
    phys::folio_lock(*m.phys, folio);
    m.swap->delete_from_swap_cache(folio);
    phys::folio_unlock(*m.phys, folio);
    m.put(folio);

    Folio* back = m.swap->read_swap_cache_async(entry, phys::Gfp::kHighUserMovable);
    ASSERT_NE(back, nullptr);
    EXPECT_TRUE(phys::folio_test_locked(*back));
    EXPECT_FALSE(phys::folio_test_uptodate(*back));
    phys::folio_wait_locked(*m.phys, *back);
    EXPECT_TRUE(phys::folio_test_uptodate(*back));
    EXPECT_TRUE(m.holds(*back, 3));
    m.put(*back);
  });
  EXPECT_EQ(m.disk.stats().writes, 1u);
  EXPECT_EQ(m.disk.stats().reads, 1u);
  // A disk's traffic, in KiB: swap is part of it.
  EXPECT_EQ(m.phys->vmstat()[phys::VmEvent::kPgpgout], 4);
  EXPECT_EQ(m.phys->vmstat()[phys::VmEvent::kPgpgin], 4);
  m.validate();
}

TEST(DiskSwap, ManyInFlightComeBackRight) {
  SwapMachine m({.cpus = 2, .seed = 5});
  m.add_disk(16 * kMiB);
  for (std::uint64_t t = 0; t < 4; ++t) {
    m.scheduler.spawn("writer", [&m, t] {
      std::vector<SwapEntry> entries;
      for (std::uint64_t i = 0; i < 200; ++i) entries.push_back(m.swap_out(m.anon_folio(t * 1000 + i)));
      for (std::uint64_t i = 0; i < 200; ++i) {
        Folio& folio = m.swap_in(entries[i]);
        EXPECT_TRUE(m.holds(folio, t * 1000 + i));
        m.lru.lru_add_drain_all();
        m.put(folio);
      }
    });
  }
  m.scheduler.run();
  m.validate();
  EXPECT_EQ(m.swap->si_swapinfo().free, m.swap->si_swapinfo().total - m.swap->si_swapinfo().cached);
}

TEST(DiskSwap, WriteErrorKeepsThePageDirty) {
  SwapMachine m;
  m.add_disk(16 * kMiB);
  m.faults.set(sim::FaultPoint::kIoWrite, {.nth = 1});
  m.run([&] {
    Folio& folio = m.anon_folio(3);
    phys::folio_set_locked(folio);
    ASSERT_TRUE(m.swap->add_to_swap(folio));
    ASSERT_TRUE(m.swap->swap_duplicate(SwapSystem::folio_swap_entry(folio)));
    phys::folio_clear_dirty(folio);
    EXPECT_EQ(m.swap->swap_writepage(folio).error(), Errno::kIo);
    EXPECT_TRUE(phys::folio_test_dirty(folio));
    EXPECT_TRUE(phys::folio_test_swapcache(folio));
    EXPECT_FALSE(phys::folio_test_writeback(folio));
    EXPECT_TRUE(m.holds(folio, 3));
  });
  EXPECT_EQ(m.swap->write_errors(), 1u);
  EXPECT_EQ(m.node_stat(phys::NodeStat::kNrWritten), 1);  // a write that ended, however
  m.validate();
}

TEST(DiskSwap, ReadErrorLeavesTheFolioNotUptodate) {
  SwapMachine m;
  m.add_disk(16 * kMiB);
  m.run([&] {
    const SwapEntry entry = m.swap_out(m.anon_folio(3));
    m.faults.set(sim::FaultPoint::kIoRead, {.nth = 1});
    Folio* back = m.swap->read_swap_cache_async(entry, phys::Gfp::kHighUserMovable);
    ASSERT_NE(back, nullptr);
    phys::folio_wait_locked(*m.phys, *back);
    EXPECT_FALSE(phys::folio_test_uptodate(*back));
    EXPECT_TRUE(phys::folio_test_error(*back));
    m.put(*back);
  });
  EXPECT_EQ(m.swap->read_errors(), 1u);
}

TEST(DiskSwap, TwoReadersOfOneSlotShareAFolio) {
  SwapMachine m({.cpus = 2});
  m.add_disk(16 * kMiB);
  SwapEntry entry;
  m.run([&] {
    entry = m.swap_out(m.anon_folio(3));
    ASSERT_TRUE(m.swap->swap_duplicate(entry));
  });
  std::array<Folio*, 2> got{};
  for (unsigned i = 0; i < 2; ++i) {
    m.scheduler.spawn("reader", [&m, &got, entry, i] {
      got[i] = m.swap->swapin_readahead(entry, phys::Gfp::kHighUserMovable);
      phys::folio_wait_locked(*m.phys, *got[i]);
      EXPECT_TRUE(m.holds(*got[i], 3));
    });
  }
  m.scheduler.run();
  EXPECT_EQ(got[0], got[1]);
  EXPECT_EQ(m.disk.stats().reads, 1u);
  m.validate();
}

}  // namespace
}  // namespace quire::swap
