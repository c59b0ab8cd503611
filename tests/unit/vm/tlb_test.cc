// Address-space ids, lazy CPUs, generations, and what flushes cost whom; mmu_gather's batches.
#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "quire/vm/mmu_gather.h"
#include "two_cpus.h"

namespace quire::vm {
namespace {

using phys::VmEvent;

constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;

class TlbTest : public testing::Test {
 protected:
  arch::TlbStats tlb_stats(unsigned cpu) { return m_.vm.shootdown().cpu_state(cpu).mmu.tlb().stats(); }
  const CpuTlbState& cpu(unsigned n) { return m_.vm.shootdown().cpu_state(n); }
  TlbShootdown::Stats stats() { return m_.vm.shootdown().stats(); }
  VirtAddr written(Mm& mm, std::uint64_t pages) {
    const VirtAddr at = m_.anon(mm, pages);
    for (std::uint64_t i = 0; i < pages; ++i) EXPECT_TRUE(m_.write(mm, at + i * kPageSize, 1).ok());
    return at;
  }
  void run(const std::function<void(Mm&)>& body) {
    two_.run([&] {
      Mm& mm = m_.mm_alloc();
      body(mm);
      m_.vm.validate();
      m_.vm.mmput(mm);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_TRUE(two_.found.empty()) << two_.found.front();
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrPageTablePages), 0);
  }

  TwoCpus two_;
  VmMachine& m_ = two_.m;
};

TEST_F(TlbTest, SixAddressSpacesKeepTheirEntriesOnACpuAndTheSeventhTakesTheOldestsPlace) {
  run([&](Mm& first) {
    std::array<Mm*, kTlbNrDynAsids + 1> mms{&first};
    std::array<VirtAddr, kTlbNrDynAsids + 1> at{};
    for (std::size_t i = 0; i < mms.size(); ++i) {
      if (i != 0) mms[i] = &m_.mm_alloc();
      at[i] = m_.anon(*mms[i], 1);
    }
    const auto misses_of_a_round = [&](std::size_t n) {
      const std::uint64_t before = tlb_stats(0).misses;
      for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(m_.read(*mms[i], at[i]), 0);
      return tlb_stats(0).misses - before;
    };
    static_cast<void>(misses_of_a_round(kTlbNrDynAsids));
    const std::uint64_t flushes = stats().switch_flushes;
    EXPECT_EQ(misses_of_a_round(kTlbNrDynAsids), 0u);
    EXPECT_EQ(stats().switch_flushes, flushes);
    // One more than there are ids: each finds its place taken by the one before.
    static_cast<void>(misses_of_a_round(mms.size()));
    EXPECT_EQ(misses_of_a_round(mms.size()), mms.size());
    EXPECT_EQ(stats().switch_flushes, flushes + 1 + mms.size());
    for (std::size_t i = 1; i < mms.size(); ++i) m_.vm.mmput(*mms[i]);
  });
}

TEST_F(TlbTest, ACpuThatIsElsewhereIsNotInterruptedAndFlushesWhenItComesBack) {
  run([&](Mm& mm) {
    Mm& elsewhere = m_.mm_alloc();
    const VirtAddr at = written(mm, 3);
    for (int i = 0; i < 3; ++i) two_.touch_on_other(mm, at + static_cast<std::uint64_t>(i) * kPageSize);
    two_.touch_on_other(elsewhere, m_.anon(elsewhere, 1));
    EXPECT_FALSE(mm.cpumask.test(1));
    const auto before = stats();
    ASSERT_TRUE(m_.vm.munmap(mm, at, kPageSize));
    EXPECT_EQ(stats().ipis, before.ipis);
    two_.on_other([&] { EXPECT_EQ(m_.read(mm, at), -static_cast<int>(Signal::kSegv)); });
    EXPECT_EQ(stats().switch_flushes, before.switch_flushes + 1);
    // Nothing changed since: coming and going costs no flush.
    two_.touch_on_other(elsewhere, m_.anon(elsewhere, 1));
    two_.touch_on_other(mm, at + kPageSize);
    EXPECT_EQ(stats().switch_flushes, before.switch_flushes + 1);
    m_.vm.mmput(elsewhere);
  });
}

TEST_F(TlbTest, ALazyCpuIsSparedTheInterruptUnlessTablesGo) {
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 4);
    for (std::uint64_t i = 0; i < 4; ++i) two_.touch_on_other(mm, at + i * kPageSize);
    two_.other_is(TwoCpus::Between::kAsleep);
    auto before = stats();
    ASSERT_TRUE(m_.vm.mprotect(mm, at, kPageSize, Prot::kRead));
    EXPECT_EQ(stats().ipis, before.ipis);
    EXPECT_EQ(stats().lazy_skipped, before.lazy_skipped + 1);
    EXPECT_TRUE(mm.cpumask.test(1));  // it still has the Mm
    EXPECT_EQ(cpu(1).loaded_mm, &mm);
    two_.on_other([&] { EXPECT_EQ(m_.write(mm, at, 7).si_code, SiCode::kSegvAccErr); });
    // The whole mapping with its table: now even a lazy CPU is told, and leaves.
    before = stats();
    ASSERT_TRUE(m_.vm.munmap(mm, at, 4 * kPageSize));
    EXPECT_EQ(stats().ipis, before.ipis + 1);
    EXPECT_FALSE(mm.cpumask.test(1));
    EXPECT_EQ(cpu(1).loaded_mm, nullptr);
    two_.on_other([&] { EXPECT_EQ(m_.read(mm, at), -static_cast<int>(Signal::kSegv)); });
  });
}

TEST_F(TlbTest, ABusyCpuIsInterruptedAndTheCallerPays) {
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 2);
    two_.touch_on_other(mm, at);
    const auto before = stats();
    const sim::Nanos start = m_.scheduler.now();
    ASSERT_TRUE(m_.vm.mprotect(mm, at, kPageSize, Prot::kRead));
    EXPECT_EQ(stats().ipis, before.ipis + 1);
    EXPECT_GE(m_.scheduler.now() - start, m_.scheduler.costs().ipi);
    two_.on_other([&] { EXPECT_EQ(m_.write(mm, at, 7).si_code, SiCode::kSegvAccErr); });
  });
}

TEST_F(TlbTest, UpToTheCeilingPagesAreFlushedOneByOneAndCounted) {
  std::vector<std::pair<std::uint64_t, std::int64_t>> seen;  // reason, pages
  m_.vm.shootdown().tlb_flush.listen([&](const EventView& event) {
    std::pair<std::uint64_t, std::int64_t> fields;
    event.fields([&](std::string_view name, const FieldValue& value) {
      if (name == "reason") fields.first = std::get<std::uint64_t>(value);
      if (name == "pages") fields.second = std::get<std::int64_t>(value);
    });
    seen.push_back(fields);
  });
  const auto reason = [](TlbFlushReason r) { return static_cast<std::uint64_t>(r); };
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 100);
    const std::int64_t one = m_.event(VmEvent::kNrTlbLocalFlushOne);
    const std::int64_t all = m_.event(VmEvent::kNrTlbLocalFlushAll);
    seen.clear();
    ASSERT_TRUE(m_.vm.mprotect(mm, at, kTlbSinglePageFlushCeiling * kPageSize, Prot::kRead));
    EXPECT_EQ(m_.event(VmEvent::kNrTlbLocalFlushOne), one + 33);
    EXPECT_EQ(m_.event(VmEvent::kNrTlbLocalFlushAll), all);
    ASSERT_TRUE(m_.vm.mprotect(mm, at + 50 * kPageSize, (kTlbSinglePageFlushCeiling + 1) * kPageSize, Prot::kRead));
    EXPECT_EQ(m_.event(VmEvent::kNrTlbLocalFlushOne), one + 33);
    EXPECT_EQ(m_.event(VmEvent::kNrTlbLocalFlushAll), all + 1);
    EXPECT_EQ(m_.event(VmEvent::kNrTlbRemoteFlush), 0);
    ASSERT_EQ(seen.size(), 2u);
    EXPECT_EQ(seen[0], std::pair(reason(TlbFlushReason::kLocalMmShootdown), std::int64_t{33}));
    EXPECT_EQ(seen[1], std::pair(reason(TlbFlushReason::kLocalMmShootdown), std::int64_t{-1}));

    two_.touch_on_other(mm, at);
    seen.clear();
    ASSERT_TRUE(m_.vm.mprotect(mm, at, 2 * kPageSize, kReadWrite));
    EXPECT_EQ(m_.event(VmEvent::kNrTlbRemoteFlush), 1);
    EXPECT_EQ(m_.event(VmEvent::kNrTlbRemoteFlushReceived), 1);
    ASSERT_EQ(seen.size(), 3u);
    EXPECT_EQ(seen[0], std::pair(reason(TlbFlushReason::kRemoteSendIpi), std::int64_t{2}));
    EXPECT_EQ(seen[1], std::pair(reason(TlbFlushReason::kLocalMmShootdown), std::int64_t{2}));
    EXPECT_EQ(seen[2], std::pair(reason(TlbFlushReason::kRemoteShootdown), std::int64_t{2}));
  });
}

TEST_F(TlbTest, ProtectingWhatNoCpuRemembersFlushesNothing) {
  run([&](Mm& mm) {
    const VirtAddr at = m_.anon(mm, 4);
    const std::uint64_t gen = mm.tlb_gen;
    ASSERT_TRUE(m_.vm.mprotect(mm, at, 4 * kPageSize, Prot::kRead));
    ASSERT_TRUE(m_.vm.mprotect(mm, at, 4 * kPageSize, kReadWrite));
    EXPECT_EQ(mm.tlb_gen, gen);
    ASSERT_TRUE(m_.write(mm, at, 1).ok());
    ASSERT_TRUE(m_.vm.mprotect(mm, at, 4 * kPageSize, Prot::kNone));
    EXPECT_EQ(mm.tlb_gen, gen + 1);
    ASSERT_TRUE(m_.vm.mprotect(mm, at, 4 * kPageSize, kReadWrite));  // an entry that was not there for the hardware
    EXPECT_EQ(mm.tlb_gen, gen + 1);
    EXPECT_EQ(m_.read(mm, at), 1);
  });
}

TEST_F(TlbTest, InitMmTakesAnIdLikeAnyOther) {
  run([&](Mm& mm) {
    ASSERT_EQ(m_.read(mm, m_.anon(mm, 1)), 0);
    std::array<Mm*, kTlbNrDynAsids - 1> mms{};
    std::array<VirtAddr, kTlbNrDynAsids - 1> at{};
    for (std::size_t i = 0; i < mms.size(); ++i) at[i] = m_.anon(*(mms[i] = &m_.mm_alloc()), 1);
    const auto round = [&] {
      const std::uint64_t before = stats().switch_flushes;
      for (std::size_t i = 0; i < mms.size(); ++i) EXPECT_EQ(m_.read(*mms[i], at[i]), 0);
      return stats().switch_flushes - before;
    };
    static_cast<void>(round());
    EXPECT_EQ(round(), 0u);
    // One that ends frees its tables: the CPU goes over to init_mm, which has lost its id and takes one that is in use.
    Mm& ended = m_.mm_alloc();
    ASSERT_EQ(m_.read(ended, m_.anon(ended, 1)), 0);
    const std::uint64_t before = stats().switch_flushes;
    m_.vm.mmput(ended);
    EXPECT_EQ(stats().switch_flushes, before + 1);
    EXPECT_EQ(cpu(0).ctxs[cpu(0).loaded_mm_asid].ctx_id, kInitMmContext);
    EXPECT_GT(round(), 0u);
    for (Mm* other : mms) m_.vm.mmput(*other);
  });
}

TEST_F(TlbTest, OneCallOfMprotectIsOneFlush) {
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 8);
    for (std::uint64_t i = 0; i < 8; i += 2) {  // eight areas
      ASSERT_TRUE(m_.vm.madvise(mm, at + i * kPageSize, kPageSize, Advice::kDontFork));
    }
    two_.touch_on_other(mm, at);
    const std::uint64_t gen = mm.tlb_gen;
    const auto before = stats();
    ASSERT_TRUE(m_.vm.mprotect(mm, at, 8 * kPageSize, Prot::kRead));
    EXPECT_EQ(mm.tlb_gen, gen + 1);
    EXPECT_EQ(stats().ipis, before.ipis + 1);
    // What was changed before the call failed is flushed as well.
    ASSERT_TRUE(m_.vm.munmap(mm, at + 7 * kPageSize, kPageSize));
    two_.touch_on_other(mm, at);
    const std::uint64_t gen_of_unmap = mm.tlb_gen;
    EXPECT_TRUE(fails_with(m_.vm.mprotect(mm, at, 8 * kPageSize, Prot::kNone), Errno::kNoMem));
    EXPECT_EQ(mm.tlb_gen, gen_of_unmap + 1);
  });
}

TEST_F(TlbTest, LockingPagesSettlesNobodysBatch) {
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 4);
    two_.touch_on_other(mm, at);
    m_.lru.lru_add_drain_all();
    ASSERT_TRUE(m_.reclaim(m_.folio_at(mm, at), TtuFlags::kBatchFlush));
    ASSERT_NE(mm.tlb_flush_batched.pending, mm.tlb_flush_batched.flushed);
    const std::uint64_t gen = mm.tlb_gen;
    ASSERT_TRUE(m_.vm.mlock(mm, at + kPageSize, kPageSize));
    ASSERT_TRUE(m_.vm.munlock(mm, at + kPageSize, kPageSize));
    ASSERT_TRUE(m_.vm.madvise(mm, at + kPageSize, kPageSize, Advice::kGuardRemove));
    EXPECT_EQ(mm.tlb_gen, gen);
    ASSERT_TRUE(m_.vm.madvise(mm, at + kPageSize, kPageSize, Advice::kCold));
    EXPECT_EQ(mm.tlb_flush_batched.pending, mm.tlb_flush_batched.flushed);
  });
}

TEST_F(TlbTest, APageWithoutRightsGoesWithoutAFlush) {
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 2);
    ASSERT_TRUE(m_.vm.mprotect(mm, at, kPageSize, Prot::kNone));
    const std::uint64_t gen = mm.tlb_gen;
    ASSERT_TRUE(m_.swap_out(mm, at));
    EXPECT_EQ(mm.tlb_gen, gen);
    ASSERT_TRUE(m_.swap_out(mm, at + kPageSize));
    EXPECT_EQ(mm.tlb_gen, gen + 1);
  });
}

TEST_F(TlbTest, EverySwitchIsTraced) {
  std::vector<std::int64_t> pages;
  m_.vm.shootdown().tlb_flush.listen([&](const EventView& event) {
    event.fields([&](std::string_view name, const FieldValue& value) {
      if (name == "pages") pages.push_back(std::get<std::int64_t>(value));
    });
  });
  run([&](Mm& mm) {
    Mm& other = m_.mm_alloc();
    const VirtAddr at = m_.anon(mm, 1);
    const VirtAddr there = m_.anon(other, 1);
    for (int i = 0; i < 2; ++i) {
      ASSERT_EQ(m_.read(mm, at), 0);
      ASSERT_EQ(m_.read(other, there), 0);
    }
    EXPECT_EQ(pages, (std::vector<std::int64_t>{-1, -1, 0, 0}));
    m_.vm.mmput(other);
  });
}

TEST_F(TlbTest, AFlushIsPutOffOnlyWhereItWouldInterruptAnother) {
  run([&](Mm& mm) {
    const VirtAddr at = written(mm, 3);
    EXPECT_FALSE(m_.vm.shootdown().should_defer_flush(mm));
    m_.lru.lru_add_drain_all();
    phys::Folio& alone = m_.folio_at(mm, at);
    phys::folio_lock(*m_.phys, alone);
    ASSERT_TRUE(m_.swap.add_to_swap(alone));
    ASSERT_TRUE(m_.vm.rmap().try_to_unmap(alone, TtuFlags::kBatchFlush));
    phys::folio_unlock(*m_.phys, alone);
    EXPECT_FALSE(m_.vm.shootdown().pending());

    two_.touch_on_other(mm, at + kPageSize);
    EXPECT_TRUE(m_.vm.shootdown().should_defer_flush(mm));
    phys::Folio& shared = m_.folio_at(mm, at + kPageSize);
    phys::folio_lock(*m_.phys, shared);
    ASSERT_TRUE(m_.swap.add_to_swap(shared));
    const auto before = stats();
    ASSERT_TRUE(m_.vm.rmap().try_to_unmap(shared, TtuFlags::kBatchFlush));
    phys::folio_unlock(*m_.phys, shared);
    EXPECT_EQ(stats().ipis, before.ipis);
    EXPECT_TRUE(m_.vm.shootdown().pending(0, mm) && m_.vm.shootdown().pending(1, mm));
    // The batch is the task's own: another task's flush leaves it.
    two_.on_other([&] { m_.vm.shootdown().flush_pending(); });
    EXPECT_TRUE(m_.vm.shootdown().pending());
    m_.vm.shootdown().flush_pending();
    EXPECT_FALSE(m_.vm.shootdown().pending());
    EXPECT_EQ(stats().ipis, before.ipis + 1);
    EXPECT_EQ(m_.read(mm, at + kPageSize), 1);
  });
}

TEST_F(TlbTest, AnEndedAddressSpaceIsLoadedNowhere) {
  run([&](Mm&) {
    Mm& ended = m_.mm_alloc();
    const VirtAddr at = written(ended, 1);
    two_.touch_on_other(ended, at);
    two_.other_is(TwoCpus::Between::kAsleep);
    m_.vm.mmput(ended);
    EXPECT_EQ(cpu(0).loaded_mm, nullptr);
    EXPECT_EQ(cpu(1).loaded_mm, nullptr);
    Mm& empty = m_.mm_alloc();  // without a table that could be freed
    EXPECT_EQ(m_.read(empty, VirtAddr(0x10000)), -static_cast<int>(Signal::kSegv));
    EXPECT_EQ(cpu(0).loaded_mm, &empty);
    m_.vm.mmput(empty);
    EXPECT_EQ(cpu(0).loaded_mm, nullptr);
  });
}

class GatherTest : public testing::Test {
 protected:
  TwoCpus two_{phys::DataMode::kDataless};
  VmMachine& m_ = two_.m;
  // Flushes of one munmap of `pages` touched pages.
  std::uint64_t flushes_of_munmap(std::uint64_t pages) {
    std::uint64_t flushes = 0;
    two_.run([&] {
      Mm& mm = m_.mm_alloc();
      const VirtAddr at = m_.anon(mm, pages);
      EXPECT_EQ(m_.vm.touch_user(mm, at, pages * kPageSize, arch::Access::kWrite), pages * kPageSize);
      const std::uint64_t gen = mm.tlb_gen;
      EXPECT_TRUE(m_.vm.munmap(mm, at, pages * kPageSize));
      flushes = mm.tlb_gen - gen;
      m_.vm.mmput(mm);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_TRUE(two_.found.empty()) << two_.found.front();
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
    return flushes;
  }
};

// Pages and tables; the tables of so many pages are 19 or 20, and a few above them.
constexpr std::uint64_t kPlaces = 8 + 19 * 510;

TEST_F(GatherTest, OneFlushServesAFullGather) { EXPECT_EQ(flushes_of_munmap(kPlaces - 30), 1u); }

TEST_F(GatherTest, WhatDoesNotFitWaitsForAnother) { EXPECT_EQ(flushes_of_munmap(kPlaces + 1), 2u); }

TEST_F(GatherTest, TablesTakePlacesToo) { EXPECT_EQ(flushes_of_munmap(kPlaces - 10), 2u); }

// A lazy CPU is spared each full batch's flush; the last one, with the tables, throws it out.
TEST_F(GatherTest, AnExitInterruptsALazyCpuWhenItsTablesGo) {
  two_.run([&] {
    Mm& mm = m_.mm_alloc();
    const VirtAddr at = m_.anon(mm, kPlaces + 100);
    EXPECT_EQ(m_.vm.touch_user(mm, at, (kPlaces + 100) * kPageSize, arch::Access::kWrite), (kPlaces + 100) * kPageSize);
    two_.touch_on_other(mm, at);
    two_.other_is(TwoCpus::Between::kAsleep);
    const TlbShootdown::Stats before = m_.vm.shootdown().stats();
    m_.vm.mmput(mm);
    EXPECT_EQ(m_.vm.shootdown().stats().remote_flushes, before.remote_flushes + 2);
    EXPECT_EQ(m_.vm.shootdown().stats().ipis, before.ipis + 1);
    m_.lru.lru_add_drain_all();
  });
  m_.validate();
  EXPECT_TRUE(two_.found.empty()) << two_.found.front();
}

// Dirty pages of a file are flushed, and let go, a table at a time.
TEST_F(GatherTest, DirtyPagesOfAFileGoATableAtATime) {
  two_.run([&] {
    constexpr std::uint64_t kTwoTables = 2 * 512;
    constexpr VirtAddr kAt{512 * kMiB};
    file::File& file = m_.open("/f", kTwoTables * kPageSize, 3);
    Mm& mm = m_.mm_alloc();
    ASSERT_TRUE(m_.vm.mmap(mm, kAt, kTwoTables * kPageSize, kReadWrite, MapFlags::kShared | MapFlags::kFixed, &file, 0));
    ASSERT_EQ(m_.vm.touch_user(mm, kAt, kTwoTables * kPageSize, arch::Access::kWrite), kTwoTables * kPageSize);
    const std::uint64_t gen = mm.tlb_gen;
    ASSERT_TRUE(m_.vm.madvise(mm, kAt, kTwoTables * kPageSize, Advice::kDontNeed));
    EXPECT_EQ(mm.tlb_gen, gen + 2);
    m_.vm.mmput(mm);
    m_.vfs.fput(file);
    m_.lru.lru_add_drain_all();
  });
  EXPECT_TRUE(two_.found.empty()) << two_.found.front();
}

TEST_F(GatherTest, WithoutAFrameForTheBatchEveryEightPagesAreFlushed) {
  two_.run([&] {
    Mm& mm = m_.mm_alloc();
    const VirtAddr at = m_.anon(mm, 40);
    EXPECT_EQ(m_.vm.touch_user(mm, at, 40 * kPageSize, arch::Access::kWrite), 40 * kPageSize);
    const std::uint64_t gen = mm.tlb_gen;
    m_.phys->set_fault_injection(&m_.faults);
    m_.faults.set(sim::FaultPoint::kPageAlloc, {.probability = 100});
    EXPECT_TRUE(m_.vm.madvise(mm, at, 40 * kPageSize, Advice::kDontNeed));
    m_.faults.set(sim::FaultPoint::kPageAlloc, {});
    EXPECT_EQ(mm.tlb_gen, gen + 5);
    m_.vm.mmput(mm);
    m_.lru.lru_add_drain_all();
  });
  m_.validate();
  EXPECT_TRUE(two_.found.empty()) << two_.found.front();
}

}  // namespace
}  // namespace quire::vm
