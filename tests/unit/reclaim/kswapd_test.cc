// Whole reclaim, driven by allocations: kswapd and direct reclaim under different loads.
#include "quire/phys/task_flags.h"
#include "reclaim_machine.h"

namespace quire::reclaim {
namespace {

using lru::LruList;

// Writes and rewrites a space larger than memory and compares each page with what was written last.
void thrash(ReclaimMachine& m, Space& space, std::uint64_t seed, int accesses) {
  Rng rng(seed);
  std::vector<std::uint64_t> last(space.size(), 0);
  for (int n = 0; n < accesses; ++n) {
    const std::size_t i = rng.below(space.size());
    if (last[i] != 0) {
      ASSERT_NE(space.read(i), Space::Touch::kNoMemory);
      ASSERT_TRUE(space.holds(i, last[i])) << "page " << i;
    }
    if (last[i] != 0 && rng.chance(1, 2)) continue;
    last[i] = rng() | 1;
    ASSERT_NE(space.write(i, last[i]), Space::Touch::kNoMemory);
  }
  m.lru.lru_add_drain_all();
  space.clear();
}

TEST(Kswapd, KeepsFreePagesAboveLowAndEveryByte) {
  ReclaimMachine m;
  m.add_zram(64 * kMiB);
  m.run([&] {
    Space space(m, 8000);
    thrash(m, space, 1, 40000);
  });
  EXPECT_GT(m.event(VmEvent::kPgstealKswapd), 1000);
  EXPECT_GT(m.event(VmEvent::kPswpout), 1000);
  EXPECT_GT(m.event(VmEvent::kPswpin), 1000);
  EXPECT_GT(m.event(VmEvent::kPageoutrun), 0);
  EXPECT_EQ(m.event(VmEvent::kOomKill), 0);
  m.validate();
  EXPECT_EQ(m.swap->get_nr_swap_pages(), m.swap->total_swap_pages());
}

TEST(Kswapd, SwapsToADiskAsWell) {
  ReclaimMachine m;
  m.add_disk(64 * kMiB);
  m.run([&] {
    Space space(m, 8000);
    thrash(m, space, 2, 30000);
  });
  EXPECT_GT(m.event(VmEvent::kPgstealKswapd) + m.event(VmEvent::kPgstealDirect), 1000);
  EXPECT_GT(m.disk.stats().writes, 1000u);
  m.scheduler.run_until(m.scheduler.now() + sim::kSecond);  // let what is on its way end
  m.validate();
}

TEST(Kswapd, SleepsWhenThereIsEnough) {
  ReclaimMachine m;
  m.add_zram(64 * kMiB);
  m.run([&] {
    Space space(m, 1000);
    for (std::size_t i = 0; i < space.size(); ++i) space.write(i, i);
    space.clear();
  });
  EXPECT_EQ(m.event(VmEvent::kPageoutrun), 0);
  EXPECT_EQ(m.event(VmEvent::kPgscanKswapd), 0);
}

TEST(Kswapd, StopsAboveTheHighMark) {
  ReclaimMachine m;
  m.add_zram(64 * kMiB);
  m.run([&] {
    Space space(m, 7000);
    for (std::size_t i = 0; i < space.size(); ++i) space.write(i, i);
    m.scheduler.sleep_for(2 * sim::kSecond);
    std::uint64_t high = 0;
    m.phys->for_each_populated_zone([&](const phys::Zone& z) { high += z.wmark_pages(phys::Watermark::kHigh); });
    EXPECT_GE(m.free_pages(), high / 2);
    // It took what it needed and not the whole space.
    EXPECT_GT(space.resident(), 3000u);
    space.clear();
  });
  EXPECT_GT(m.event(VmEvent::kKswapdLowWmarkHitQuickly) + m.event(VmEvent::kKswapdHighWmarkHitQuickly), 0);
}

TEST(Kswapd, KeepsPerCpuListsShortWhileItWorks) {
  ReclaimMachine m;
  m.add_zram(32 * kMiB);
  unsigned rounds = 0;
  const auto active = [&] {
    unsigned zones = 0;
    m.phys->node(Nid(0)).for_each_zone(
        [&](const phys::Zone& zone) { zones += zone.test(phys::ZoneFlag::kReclaimActive) ? 1 : 0; });
    return zones;
  };
  TracepointBase* shrink = m.traces.find("mm_vmscan_lru_shrink_inactive");
  ASSERT_NE(shrink, nullptr);
  shrink->listen([&](const EventView&) {
    if (!phys::task_test(m.scheduler, phys::TaskFlag::kKswapd)) return;
    ++rounds;
    EXPECT_GT(active(), 0u);
  });
  m.run([&] {
    Space space(m, 9000);
    for (std::size_t i = 0; i < space.size(); ++i) space.write(i, i);
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_EQ(active(), 0u);
    space.clear();
  });
  EXPECT_GT(rounds, 0u);
}

TEST(DirectReclaim, WorksWithoutKswapd) {
  ReclaimMachine m({.kswapd = MachineSpec::Kswapd::kNo});
  m.add_zram(64 * kMiB);
  m.run([&] {
    Space space(m, 8000);
    thrash(m, space, 3, 30000);
  });
  EXPECT_EQ(m.event(VmEvent::kPgscanKswapd), 0);
  EXPECT_GT(m.event(VmEvent::kPgstealDirect), 1000);
  EXPECT_GT(m.event(phys::for_zone(VmEvent::kAllocstallDma, phys::ZoneType::kMovable)), 0);
  m.validate();
}

TEST(Reclaim, SeedsAndCpusGiveTheSameBytes) {
  for (const std::uint64_t seed : {1, 2, 3, 4}) {
    ReclaimMachine m({.cpus = 2, .seed = seed, .preempt_permille = 100});
    m.add_zram(64 * kMiB);
    for (std::uint64_t t = 0; t < 3; ++t) {
      m.scheduler.spawn("thrash", [&m, seed, t] {
        Space space(m, 3000);
        thrash(m, space, seed * 10 + t, 8000);
      });
    }
    m.scheduler.run();
    m.lru.lru_add_drain_all();
    m.validate();
  }
}

TEST(Reclaim, SameSeedSameCounters) {
  const auto run = [] {
    ReclaimMachine m({.cpus = 2, .seed = 9, .preempt_permille = 50});
    m.add_zram(64 * kMiB);
    for (std::uint64_t t = 0; t < 2; ++t) {
      m.scheduler.spawn("thrash", [&m, t] {
        Space space(m, 4000);
        thrash(m, space, t, 10000);
      });
    }
    m.scheduler.run();
    return std::pair(m.phys->vmstat().events(), m.scheduler.now());
  };
  EXPECT_EQ(run(), run());
}

TEST(Reclaim, FilePagesGoFirstAndLeaveShadows) {
  ReclaimMachine m;
  m.add_zram(64 * kMiB);
  m.run([&] {
    Space anon(m, 2000);
    for (std::size_t i = 0; i < anon.size(); ++i) anon.write(i, i);
    Space file(m, 12000, Space::Backing::kFile);
    for (std::size_t i = 0; i < file.size(); ++i) ASSERT_NE(file.read(i), Space::Touch::kNoMemory);
    // A stream of file pages does not push anonymous memory out.
    EXPECT_EQ(anon.swapped(), 0u);
    EXPECT_LT(file.resident(), 8000u);
    anon.clear();
    file.clear();
  });
  EXPECT_GT(m.event(VmEvent::kPgstealFile), 5000);
  EXPECT_EQ(m.event(VmEvent::kPgstealAnon), 0);
  EXPECT_EQ(m.actions.file_writes, 0u);
  m.validate();
}

TEST(Reclaim, DatalessMachineReclaimsToo) {
  ReclaimMachine m({.data_mode = phys::DataMode::kDataless});
  swap::Zram& zram = m.add_zram(64 * kMiB);
  m.run([&] {
    Space space(m, 8000);
    Rng rng(4);
    for (int n = 0; n < 30000; ++n) ASSERT_NE(space.write(rng.below(space.size()), 1), Space::Touch::kNoMemory);
    EXPECT_GT(zram.mm_stat().mem_used_total, 0u);
    space.clear();
  });
  EXPECT_EQ(zram.mm_stat().mem_used_total, 0u);
  m.validate();
}

}  // namespace
}  // namespace quire::reclaim
