// The fault tree: anonymous, file, copy on write, swap; fork; reverse mapping; what reclaim does to mappings.
#include <cstring>

#include "vm_machine.h"

namespace quire::vm {
namespace {

using phys::VmEvent;

class FaultTest : public ::testing::Test {
 protected:
  VmMachine m_{{.zram = 8 * kMiB}};
  Mm& mm_ = m_.mm_alloc();
  // The body of a test is a task, since file and swap I/O may sleep.
  void in_task(std::function<void()> body) {
    m_.run([&] {
      body();
      m_.vm.validate();
      m_.vm.mmput(mm_);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
    EXPECT_EQ(m_.swap.si_swapinfo().free, m_.swap.si_swapinfo().total);
  }
};

TEST_F(FaultTest, ReadsGetTheZeroPageAndWritesTheirOwn) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    EXPECT_EQ(m_.read(mm_, at + 5), 0);
    EXPECT_EQ(m_.page_at(mm_, at), &m_.vm.zero_page());
    EXPECT_EQ(mm_.rss(), 0u);
    ASSERT_TRUE(m_.write(mm_, at + 5, 42).ok());
    EXPECT_NE(m_.page_at(mm_, at), &m_.vm.zero_page());
    EXPECT_EQ(m_.read(mm_, at + 5), 42);
    EXPECT_EQ(m_.read(mm_, at + 6), 0);
    EXPECT_EQ(mm_.counter(Rss::kAnonPages), 1);
    EXPECT_EQ(mm_.min_flt, 2u);
    EXPECT_EQ(m_.event(VmEvent::kPgfault), 2);
    const phys::Folio& folio = m_.folio_at(mm_, at);
    EXPECT_TRUE(phys::folio_test_anon_exclusive(folio));
    EXPECT_EQ(folio.mapcount, 1);
  });
}

TEST_F(FaultTest, AccessesOutsideEndInTheRightSignal) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1, Prot::kRead);
    EXPECT_EQ(m_.vm.access(mm_, at, arch::Access::kWrite).si_code, SiCode::kSegvAccErr);
    EXPECT_EQ(m_.vm.access(mm_, VirtAddr(at.value() - kPageSize), arch::Access::kRead).si_code, SiCode::kSegvMapErr);
    EXPECT_EQ(m_.vm.access(mm_, VirtAddr(1ull << 62), arch::Access::kRead).si_code, SiCode::kKernel);
    EXPECT_EQ(m_.vm.access(mm_, VirtAddr(~0ull << 20), arch::Access::kRead).signal, Signal::kSegv);
  });
}

TEST_F(FaultTest, ForkCopiesOnWriteAndReusesWhenAlone) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 1);
    Mm& child = **m_.vm.dup_mm(mm_);
    phys::Folio& shared = m_.folio_at(mm_, at);
    EXPECT_EQ(&m_.folio_at(child, at), &shared);
    EXPECT_EQ(shared.mapcount, 2);
    EXPECT_FALSE(phys::folio_test_anon_exclusive(shared));
    m_.vm.validate();
    ASSERT_TRUE(m_.write(child, at, 2).ok());
    EXPECT_NE(&m_.folio_at(child, at), &shared);
    EXPECT_EQ(m_.read(mm_, at), 1);
    EXPECT_EQ(m_.read(child, at), 2);
    const std::int64_t reused = m_.event(VmEvent::kPgreuse);
    ASSERT_TRUE(m_.write(mm_, at, 3).ok());  // alone again: the page is reused
    EXPECT_EQ(&m_.folio_at(mm_, at), &shared);
    EXPECT_EQ(m_.event(VmEvent::kPgreuse), reused + 1);
    EXPECT_EQ(m_.read(child, at), 2);
    m_.vm.mmput(child);
  });
}

TEST_F(FaultTest, ForkHonoursAdvice) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 3);
    for (int i = 0; i < 3; ++i) m_.write(mm_, at + i * kPageSize, 9);
    ASSERT_TRUE(m_.vm.madvise(mm_, at, kPageSize, Advice::kDontFork));
    ASSERT_TRUE(m_.vm.madvise(mm_, at + kPageSize, kPageSize, Advice::kWipeOnFork));
    Mm& child = **m_.vm.dup_mm(mm_);
    EXPECT_EQ(m_.read(child, at), -11);
    EXPECT_EQ(m_.read(child, at + kPageSize), 0);
    EXPECT_EQ(m_.read(child, at + 2 * kPageSize), 9);
    EXPECT_EQ(child.total_vm, 2u);
    m_.vm.mmput(child);
  });
}

TEST_F(FaultTest, LongForkChainsStayFlat) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 1);
    Mm* parent = &mm_;
    VmMachine& m = m_;
    Vm::mmget(mm_);
    for (int generation = 0; generation < 40; ++generation) {
      Mm& child = **m.vm.dup_mm(*parent);
      m.vm.mmput(*parent);
      parent = &child;
      m.write(*parent, at, static_cast<std::uint8_t>(generation));
      m.vm.validate();
    }
    EXPECT_LE(parent->mm_vmas.first()->anon_vma_chain.count(), 4u);
    m.vm.mmput(*parent);
  });
}

TEST_F(FaultTest, SwapsOutAndInWithEveryByte) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 4);
    for (int i = 0; i < 4; ++i) m_.write(mm_, at + i * kPageSize + 7, static_cast<std::uint8_t>(60 + i));
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(m_.swap_out(mm_, at + i * kPageSize));
    EXPECT_EQ(mm_.counter(Rss::kSwapEnts), 4);
    EXPECT_EQ(mm_.rss(), 0u);
    m_.vm.validate();
    const std::uint64_t major = mm_.maj_flt;
    for (int i = 0; i < 4; ++i) EXPECT_EQ(m_.read(mm_, at + i * kPageSize + 7), 60 + i);
    EXPECT_EQ(mm_.maj_flt, major + 4);
    EXPECT_EQ(mm_.counter(Rss::kSwapEnts), 0);
    ASSERT_TRUE(m_.swap_out(mm_, at));
    ASSERT_TRUE(m_.write(mm_, at + 8, 5).ok());
    EXPECT_EQ(m_.read(mm_, at + 7), 60);
  });
}

TEST_F(FaultTest, SwappedPagesAreSharedByFork) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 33);
    ASSERT_TRUE(m_.swap_out(mm_, at));
    Mm& child = **m_.vm.dup_mm(mm_);
    EXPECT_EQ(child.counter(Rss::kSwapEnts), 1);
    m_.vm.validate();
    ASSERT_TRUE(m_.write(child, at, 34).ok());
    EXPECT_EQ(m_.read(mm_, at), 33);
    EXPECT_EQ(m_.read(child, at), 34);
    m_.vm.validate();
    m_.vm.mmput(child);
  });
}

TEST_F(FaultTest, UnmappingAForkedPageTakesItFromBoth) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    Mm& child = **m_.vm.dup_mm(mm_);
    ASSERT_TRUE(m_.swap_out(mm_, at));
    EXPECT_EQ(m_.page_at(child, at), nullptr);
    EXPECT_EQ(m_.read(child, at), 5);
    EXPECT_EQ(m_.read(mm_, at), 5);
    m_.vm.mmput(child);
  });
}

TEST_F(FaultTest, ReferencesAreCountedOnce) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    phys::Folio& folio = m_.folio_at(mm_, at);
    EXPECT_EQ(m_.vm.rmap().folio_referenced(folio).referenced, 1);
    EXPECT_EQ(m_.vm.rmap().folio_referenced(folio).referenced, 0);
    m_.vm.shootdown().flush_tlb_mm(mm_);  // the hardware sets the bit at the next walk
    m_.read(mm_, at);
    EXPECT_EQ(m_.vm.rmap().folio_referenced(folio).referenced, 1);
  });
}

TEST_F(FaultTest, FilesAreReadAroundAndCopiedOnWrite) {
  in_task([&] {
    file::File& file = m_.open("/f", 64 * kPageSize + 100, 3);
    const file::GeneratedBacking bytes(64 * kPageSize + 100, 3);
    const auto byte = [&](std::uint64_t offset) { return std::to_integer<int>(bytes.byte_at(offset)); };
    const VirtAddr at = *m_.vm.mmap(mm_, VirtAddr(0), 70 * kPageSize, kRw, MapFlags::kPrivate, &file, 0);
    EXPECT_EQ(m_.read(mm_, at + 10), byte(10));
    EXPECT_EQ(mm_.maj_flt, 1u);
    m_.scheduler.sleep_for(sim::kSecond);  // until the readahead is in
    m_.read(mm_, at + 20 * kPageSize);
    EXPECT_GT(mm_.counter(Rss::kFilePages), 8);  // fault-around
    EXPECT_EQ(m_.read(mm_, at + 21 * kPageSize + 5), byte(21 * kPageSize + 5));
    ASSERT_TRUE(m_.write(mm_, at + 11, 1).ok());
    EXPECT_EQ(m_.read(mm_, at + 10), byte(10));
    EXPECT_EQ(m_.read(mm_, at + 11), 1);
    EXPECT_EQ(mm_.counter(Rss::kAnonPages), 1);
    EXPECT_EQ(m_.read(mm_, at + 64 * kPageSize + 200), 0);  // behind the end, in its page
    EXPECT_EQ(m_.vm.access(mm_, at + 65 * kPageSize, arch::Access::kRead).signal, Signal::kBus);
    ASSERT_TRUE(m_.vm.madvise(mm_, at, kPageSize, Advice::kDontNeed));
    EXPECT_EQ(m_.read(mm_, at + 11), byte(11));
    m_.vfs.fput(file);
  });
}

TEST_F(FaultTest, SharedWritesReachTheFileAndOthers) {
  in_task([&] {
    file::File& file = m_.open("/f", 4 * kPageSize, 3);
    const VirtAddr a = *m_.vm.mmap(mm_, VirtAddr(0), 4 * kPageSize, kRw, MapFlags::kShared, &file, 0);
    const VirtAddr b = *m_.vm.mmap(mm_, VirtAddr(0), 4 * kPageSize, Prot::kRead, MapFlags::kPrivate, &file, 0);
    m_.read(mm_, a);
    ASSERT_TRUE(m_.write(mm_, a, 200).ok());
    EXPECT_EQ(m_.read(mm_, b), 200);
    EXPECT_TRUE(phys::folio_test_dirty(m_.folio_at(mm_, a)));
    ASSERT_TRUE(m_.vm.msync(mm_, a, kPageSize, MsyncFlags::kSync));
    EXPECT_FALSE(phys::folio_test_dirty(m_.folio_at(mm_, a)));
    ASSERT_TRUE(m_.write(mm_, a, 201).ok());  // noticed again
    EXPECT_TRUE(phys::folio_test_dirty(m_.folio_at(mm_, a)));
    ASSERT_TRUE(m_.vfs.ftruncate(file, kPageSize));
    EXPECT_EQ(m_.vm.access(mm_, a + 2 * kPageSize, arch::Access::kRead).signal, Signal::kBus);
    EXPECT_EQ(m_.read(mm_, a), 201);
    m_.vfs.fput(file);
  });
}

TEST_F(FaultTest, SharedAnonymousMemoryIsSharedWithTheChild) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2, kRw, MapFlags::kShared);
    m_.write(mm_, at, 1);
    Mm& child = **m_.vm.dup_mm(mm_);
    ASSERT_TRUE(m_.write(child, at + 1, 2).ok());
    EXPECT_EQ(m_.read(mm_, at + 1), 2);
    EXPECT_EQ(mm_.counter(Rss::kShmemPages), 1);
    m_.vm.mmput(child);
  });
}

TEST_F(FaultTest, LazilyFreedPagesGoCleanAndStayWhenWritten) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    m_.write(mm_, at, 1);
    m_.write(mm_, at + kPageSize, 2);
    ASSERT_TRUE(m_.vm.madvise(mm_, at, 2 * kPageSize, Advice::kFree));
    m_.lru.lru_add_drain_all();
    EXPECT_EQ(m_.read(mm_, at), 1);
    ASSERT_TRUE(m_.write(mm_, at + kPageSize + 1, 3).ok());
    EXPECT_TRUE(m_.reclaim(m_.folio_at(mm_, at)));
    m_.reclaim(m_.folio_at(mm_, at + kPageSize));
    EXPECT_EQ(m_.read(mm_, at), 0);
    EXPECT_EQ(m_.read(mm_, at + kPageSize), 2);
  });
}

TEST_F(FaultTest, KernelCopiesGoThroughTheSamePath) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    std::array<std::byte, 6000> out;
    std::memset(out.data(), 7, out.size());
    EXPECT_EQ(m_.vm.copy_to_user(mm_, at + 100, out), 6000u);
    std::array<std::byte, 6000> in{};
    EXPECT_EQ(m_.vm.copy_from_user(mm_, in, at + 100), 6000u);
    EXPECT_EQ(in, out);
    EXPECT_EQ(m_.vm.copy_to_user(mm_, at + kPageSize, out), kPageSize);  // part of the way
    EXPECT_EQ(m_.vm.copy_to_user(mm_, VirtAddr(0), out), 0u);
    std::array<phys::Page*, 2> pages{};
    EXPECT_EQ(*m_.vm.get_user_pages(mm_, at, pages, arch::Access::kWrite), 2u);
    for (phys::Page* page : pages) m_.lru.folio_put(phys::page_folio(*page));
  });
}

TEST_F(FaultTest, AKilledProcessFaultsNoMore) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.vm.mark_oom_victim(mm_);
    EXPECT_EQ(m_.vm.access(mm_, at, arch::Access::kWrite).signal, Signal::kKill);
  });
}

// Two CPUs fault, write, fork and unmap the same pages while a third takes them away.
TEST(VmRace, ThreadsAndReclaimAgree) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    VmMachine m({.cpus = 3, .seed = seed, .preempt_permille = 200, .zram = 8 * kMiB});
    Mm& mm = m.mm_alloc();
    const VirtAddr at = m.anon(mm, 8);
    for (unsigned thread = 0; thread < 2; ++thread) {
      m.scheduler.spawn("thread", [&, thread] {
        Rng rng(seed * 10 + thread);
        std::array<std::uint8_t, 8> mine{};  // each thread owns one byte of each page
        for (int i = 0; i < 150; ++i) {
          const std::uint64_t page = rng.below(8);
          const VirtAddr byte = at + page * kPageSize + 64 * thread;
          if (rng.chance(1, 2)) {
            const AccessOutcome outcome = m.vm.access(mm, byte, arch::Access::kWrite);
            ASSERT_TRUE(outcome.ok());
            *m.vm.to_host(outcome.phys) = std::byte{mine[page] = static_cast<std::uint8_t>(rng.below(256))};
          } else {
            ASSERT_EQ(m.read(mm, byte), mine[page]);
          }
          if (rng.chance(1, 20)) {
            Mm& child = **m.vm.dup_mm(mm);
            ASSERT_EQ(m.read(child, byte), mine[page]);
            m.vm.mmput(child);
          }
        }
      });
    }
    m.scheduler.spawn("reclaim", [&] {
      Rng rng(seed);
      for (int i = 0; i < 150; ++i) {
        m.swap_out(mm, at + rng.below(8) * kPageSize);
        m.scheduler.sleep_for(500);
      }
    });
    ASSERT_TRUE(m.scheduler.run().done());
    m.vm.validate();
    m.run([&] { m.vm.mmput(mm); });
    m.validate();
  }
}

}  // namespace
}  // namespace quire::vm
