#include <set>

#include "swap_machine.h"

namespace quire::swap {
namespace {

TEST(SwapSlots, AreaCostsItsTablesAndGivesAllSlotsButTheHeader) {
  SwapMachine m;
  const std::uint64_t free_before = m.free_pages();
  m.add_disk(16 * kMiB);  // 4096 slots: one page of map, one of cluster counts
  EXPECT_EQ(free_before - m.free_pages(), 2u);
  EXPECT_EQ(m.swap->si_swapinfo().total, 4095u);
  std::set<std::uint64_t> seen;
  while (auto entry = m.swap->get_swap_page()) seen.insert(entry->offset);
  EXPECT_EQ(seen.size(), 4095u);
  EXPECT_EQ(*seen.begin(), 1u);
  EXPECT_EQ(m.swap->get_swap_page().error(), Errno::kNoSpc);
  EXPECT_EQ(m.swap->si_swapinfo().free, 0u);
  m.swap->validate();
  for (const std::uint64_t offset : seen) m.swap->put_swap_folio(SwapEntry{0, offset});
  EXPECT_EQ(m.swap->si_swapinfo().free, 4095u);
  m.swap->validate();
}

TEST(SwapSlots, OneCpuFillsAClusterFromFrontToBack) {
  SwapMachine m;
  m.add_disk(16 * kMiB);
  const SwapEntry first = *m.swap->get_swap_page();
  // Cluster 0 holds the header and is never empty, so the first free cluster is 1.
  EXPECT_EQ(first.offset, kSwapfileCluster);
  for (std::uint64_t i = 1; i < kSwapfileCluster; ++i) EXPECT_EQ(m.swap->get_swap_page()->offset, first.offset + i);
  EXPECT_EQ(m.swap->get_swap_page()->offset, 2 * kSwapfileCluster);
}

TEST(SwapSlots, EachCpuHasAClusterOfItsOwn) {
  SwapMachine m({.cpus = 2});
  m.add_disk(16 * kMiB);
  std::array<std::set<std::uint64_t>, 2> clusters;
  for (unsigned cpu = 0; cpu < 2; ++cpu) {
    m.scheduler.spawn("t",
                      [&m, &clusters, cpu] {
                        for (int i = 0; i < 100; ++i) {
                          clusters[cpu].insert(m.swap->get_swap_page()->offset / kSwapfileCluster);
                          m.scheduler.charge(1000);
                        }
                      },
                      {.cpu = cpu});
  }
  m.scheduler.run();
  EXPECT_EQ(clusters[0].size(), 1u);
  EXPECT_EQ(clusters[1].size(), 1u);
  EXPECT_NE(*clusters[0].begin(), *clusters[1].begin());
}

TEST(SwapSlots, EmptiedClusterIsGivenOutAgain) {
  SwapMachine m;
  m.add_disk(8 * kMiB);  // 4 clusters
  while (m.swap->get_swap_page()) {}
  for (std::uint64_t i = 0; i < kSwapfileCluster; ++i) m.swap->put_swap_folio(SwapEntry{0, 2 * kSwapfileCluster + i});
  m.swap->validate();
  EXPECT_EQ(m.swap->get_swap_page()->offset, 2 * kSwapfileCluster);
}

TEST(SwapSlots, SeekingDiskGoesOnWhereItLeftOff) {
  SwapMachine m;
  m.add_disk(8 * kMiB, std::nullopt, SwapDeviceFlags::kNone);
  EXPECT_EQ(m.swap->get_swap_page()->offset, 1u);
  EXPECT_EQ(m.swap->get_swap_page()->offset, 2u);
  m.swap->put_swap_folio(SwapEntry{0, 1});
  EXPECT_EQ(m.swap->get_swap_page()->offset, 3u);
  m.swap->validate();
}

TEST(SwapSlots, HighestPriorityFirstEqualsTakeTurns) {
  SwapMachine m;
  m.add_disk(8 * kMiB, 5);   // type 0
  m.add_disk(8 * kMiB, 10);  // type 1
  m.add_disk(8 * kMiB, 10);  // type 2
  m.add_disk(8 * kMiB);      // type 3: -2
  EXPECT_EQ(m.swap->area(3)->priority(), -2);
  std::array<int, 4> from{};
  for (int i = 0; i < 1000; ++i) ++from[m.swap->get_swap_page()->type];
  EXPECT_EQ(from, (std::array{0, 500, 500, 0}));
  for (int i = 0; i < 2047 * 2 - 1000; ++i) ++from[m.swap->get_swap_page()->type];
  EXPECT_EQ(from, (std::array{0, 2047, 2047, 0}));
  EXPECT_EQ(m.swap->get_swap_page()->type, 0u);
  m.swap->validate();
}

TEST(SwapSlots, ASeekingDiskIsFilledByAllCpusTogetherAndLooksForWholeClusters) {
  SwapMachine m({.cpus = 2});
  m.add_disk(16 * kMiB, std::nullopt, SwapDeviceFlags::kNone);
  std::vector<std::uint64_t> offsets;
  for (unsigned cpu = 0; cpu < 2; ++cpu) {
    m.scheduler.spawn("t",
                      [&m, &offsets] {
                        for (int i = 0; i < 300; ++i) {
                          offsets.push_back(m.swap->get_swap_page()->offset);
                          m.scheduler.charge(1000);
                          m.scheduler.sync_point();
                        }
                      },
                      {.cpu = cpu});
  }
  m.scheduler.run();
  // 600 slots one after the other, whoever took them.
  for (std::size_t i = 0; i < offsets.size(); ++i) ASSERT_EQ(offsets[i], i + 1);
  // A gap of 300 slots is no cluster: the next round goes where 512 lie free.
  for (std::uint64_t offset = 100; offset < 400; ++offset) m.swap->put_swap_folio(SwapEntry{0, offset});
  std::set<std::uint64_t> next;
  for (int i = 0; i < 1100; ++i) next.insert(m.swap->get_swap_page()->offset);
  EXPECT_EQ(*next.begin(), 601u);
  m.swap->validate();
}

// Many at once for the last slots of equal areas: nobody is turned away while one has room.
TEST(SwapSlots, NobodyIsTurnedAwayWhileAnEqualHasRoom) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SwapMachine m({.cpus = 4, .seed = seed, .preempt_permille = 300});
    for (int i = 0; i < 3; ++i) m.add_disk(4 * kPageSize, 1);
    unsigned given = 0;
    unsigned refused_early = 0;
    for (int task = 0; task < 9; ++task) {
      m.scheduler.spawn("t", [&] {
        if (m.swap->get_swap_page()) {
          ++given;
        } else {
          ++refused_early;
        }
      });
    }
    m.scheduler.run();
    ASSERT_EQ(given, 9u) << seed;
    ASSERT_EQ(refused_early, 0u) << seed;
  }
}

TEST(SwapSlots, CountsGoBeyondWhatAByteHolds) {
  SwapMachine m;
  m.add_disk(8 * kMiB);
  const SwapEntry entry = *m.swap->get_swap_page();
  EXPECT_EQ(m.swap->swap_count(entry), 0u);
  // The first user comes while the cache holds the slot.
  for (std::uint64_t n = 1; n <= 1000; ++n) {
    ASSERT_TRUE(m.swap->swap_duplicate(entry));
    ASSERT_EQ(m.swap->swap_count(entry), n);
  }
  m.swap->validate();
  m.swap->put_swap_folio(entry);
  for (std::uint64_t n = 1000; n > 0; --n) {
    ASSERT_EQ(m.swap->swap_count(entry), n);
    m.swap->swap_free(entry);
  }
  EXPECT_EQ(m.swap->si_swapinfo().free, m.swap->si_swapinfo().total);
  m.swap->validate();
  EXPECT_EQ(m.swap->swap_duplicate(entry).error(), Errno::kNoEnt);
}

TEST(SwapSlots, FullOnDemand) {
  SwapMachine m;
  m.add_disk(8 * kMiB);
  m.faults.set(sim::FaultPoint::kSwapFull, {.nth = 2});
  EXPECT_TRUE(m.swap->get_swap_page());
  EXPECT_EQ(m.swap->get_swap_page().error(), Errno::kNoSpc);
  EXPECT_TRUE(m.swap->get_swap_page());
}

TEST(SwapSlots, NoMoreAreasThanTypes) {
  SwapMachine m;
  for (unsigned i = 0; i < kMaxSwapFiles; ++i) m.add_disk(64 * kKiB);
  auto device = DiskSwap::create({.size = 64 * kKiB}, m.disk, *m.phys, m.scheduler);
  ASSERT_TRUE(device);
  EXPECT_EQ(m.swap->swapon(std::move(*device)).error(), Errno::kPerm);
}

}  // namespace
}  // namespace quire::swap
