// The fault tree: anonymous, file, copy on write, swap; fork; reverse mapping; what reclaim does to mappings.
#include <cstring>

#include "vm_machine.h"

namespace quire::vm {
namespace {

using phys::VmEvent;

class FaultTest : public ::testing::Test {
 protected:
  explicit FaultTest(unsigned cpus = 1) : m_({.cpus = cpus, .zram = 8 * kMiB}) {}
  VmMachine m_;
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

// A page may be the only copy of its bytes although no entry and no flag says so: a child's MADV_FREE leaves it to its parent.
TEST_F(FaultTest, AChildFreesNoPageOfItsParentsThatWasReadFromSwap) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 1);
    ASSERT_TRUE(m_.swap_out(mm_, at));
    EXPECT_EQ(m_.read(mm_, at), 1);
    ASSERT_FALSE(phys::folio_test_swapcache(m_.folio_at(mm_, at)));
    Mm& child = **m_.vm.dup_mm(mm_);
    ASSERT_TRUE(m_.vm.madvise(child, at, kPageSize, Advice::kFree));
    m_.reclaim(m_.folio_at(mm_, at));
    EXPECT_EQ(m_.read(mm_, at), 1);
    m_.vm.mmput(child);
  });
}

TEST_F(FaultTest, AChildFreesNoPageOfItsParentsThatAPinUnshared) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 1);
    Mm& first = **m_.vm.dup_mm(mm_);
    std::array<phys::Page*, 1> page{};
    ASSERT_TRUE(m_.vm.pin_user_pages(mm_, at, page, arch::Access::kRead));
    m_.vm.unpin_user_pages(page);
    ASSERT_NE(&m_.folio_at(mm_, at), &m_.folio_at(first, at));
    Mm& second = **m_.vm.dup_mm(mm_);
    ASSERT_TRUE(m_.vm.madvise(second, at, kPageSize, Advice::kFree));
    m_.reclaim(m_.folio_at(mm_, at));
    EXPECT_EQ(m_.read(mm_, at), 1);
    m_.vm.mmput(second);
    m_.vm.mmput(first);
  });
}

TEST_F(FaultTest, MincoreSeesTheSwapCacheAndTeachesReadaheadNothing) {
  in_task([&] {
    const VirtAddr anon = m_.anon(mm_, 1);
    const VirtAddr shared = m_.anon(mm_, 1, kRw, MapFlags::kShared);
    m_.write(mm_, anon, 1);
    m_.write(mm_, shared, 2);
    const auto resident = [&](VirtAddr at) {
      std::array<std::uint8_t, 1> vec{};
      EXPECT_TRUE(m_.vm.mincore(mm_, at, kPageSize, vec));
      return vec[0];
    };
    // In the swap cache, not mapped.
    phys::Folio& folio = m_.folio_at(mm_, anon);
    m_.lru.lru_add_drain_all();
    phys::folio_lock(*m_.phys, folio);
    ASSERT_TRUE(m_.swap.add_to_swap(folio));
    ASSERT_TRUE(m_.vm.rmap().try_to_unmap(folio, TtuFlags::kNone));
    phys::folio_set_readahead(folio);
    phys::folio_unlock(*m_.phys, folio);
    const std::int64_t hits = m_.event(VmEvent::kSwapRaHit);
    EXPECT_EQ(resident(anon), 1);
    EXPECT_TRUE(phys::folio_test_readahead(folio));
    EXPECT_EQ(m_.event(VmEvent::kSwapRaHit), hits);
    phys::folio_clear_readahead(folio);
    // A page of shared memory between page cache and swap.
    phys::Folio& moved = m_.folio_at(mm_, shared);
    ASSERT_TRUE(m_.lru.folio_isolate_lru(moved));
    phys::folio_lock(*m_.phys, moved);
    ASSERT_TRUE(m_.vm.rmap().try_to_unmap(moved, TtuFlags::kNone));
    phys::folio_clear_dirty(moved);
    ASSERT_TRUE(m_.vfs.shmem().shmem_writepage(moved));
    m_.lru.folio_putback_lru(moved);
    EXPECT_EQ(resident(shared), 1);
    EXPECT_EQ(m_.read(mm_, shared), 2);
  });
}

// A read maps shared memory writable and clean; who then populates to write does not fault any more.
TEST_F(FaultTest, PopulatingToWriteMakesPagesDirtyThatAReadHadMapped) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2, Prot::kRead | Prot::kWrite, MapFlags::kShared);
    EXPECT_EQ(m_.read(mm_, at), 0);
    ASSERT_FALSE(phys::folio_test_dirty(m_.folio_at(mm_, at)));
    ASSERT_TRUE(m_.vm.madvise(mm_, at, 2 * kPageSize, Advice::kPopulateWrite));
    EXPECT_TRUE(phys::folio_test_dirty(m_.folio_at(mm_, at)));
    EXPECT_TRUE(phys::folio_test_dirty(m_.folio_at(mm_, at + kPageSize)) ||
                arch::pte_dirty(*m_.vm.pgtable().pte_offset(mm_, at + kPageSize)));
  });
}

TEST_F(FaultTest, EveryFaultCountsForItsAddressSpaceWhoeverCausedIt) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 8);
    const std::int64_t before = m_.event(VmEvent::kPgfault);
    ASSERT_TRUE(m_.vm.madvise(mm_, at, 4 * kPageSize, Advice::kPopulateWrite));
    EXPECT_EQ(m_.event(VmEvent::kPgfault) - before, 4);
    EXPECT_EQ(mm_.min_flt, 4u);
    // Nobody's area: no fault that counts.
    EXPECT_EQ(m_.read(mm_, VirtAddr(at.value() - kPageSize)), -11);
    EXPECT_EQ(m_.event(VmEvent::kPgfault) - before, 4);
    // One that cannot be served is counted at each try, and is neither minor nor major.
    m_.faults.set(sim::FaultPoint::kIoRead, {.probability = 100});
    file::File& file = m_.open("/broken", kPageSize, 1);
    const VirtAddr broken = *m_.vm.mmap(mm_, VirtAddr(0), kPageSize, Prot::kRead, MapFlags::kPrivate, &file, 0);
    const std::uint64_t major = mm_.maj_flt;
    EXPECT_EQ(m_.read(mm_, broken), -7);
    EXPECT_EQ(m_.event(VmEvent::kPgfault) - before, 6);
    EXPECT_EQ(mm_.maj_flt, major);
    EXPECT_EQ(mm_.min_flt, 4u);
    m_.vfs.fput(file);
  });
}

TEST_F(FaultTest, ColdAdviceIsSeenByTheNextAccess) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 1);
    phys::Folio& folio = m_.folio_at(mm_, at);
    ASSERT_TRUE(m_.vm.madvise(mm_, at, kPageSize, Advice::kCold));
    EXPECT_EQ(m_.vm.rmap().folio_referenced(folio).referenced, 0);
    m_.read(mm_, at);  // walks the tables again
    EXPECT_EQ(m_.vm.rmap().folio_referenced(folio).referenced, 1);
  });
}

// A call on a long range takes time by the page, and others get at the page tables meanwhile.
TEST(VmLocks, AreNotHeldOverALongRange) {
  VmMachine m({.cpus = 2});
  Mm& mm = m.mm_alloc();
  constexpr std::uint64_t kPages = 8 * 512;
  const VirtAddr at = m.anon(mm, kPages);
  m.run([&] { ASSERT_EQ(m.vm.touch_user(mm, at, kPages * kPageSize, arch::Access::kWrite), kPages * kPageSize); });
  using Call = std::function<Status()>;
  for (const Call& call : {Call([&] { return m.vm.mprotect(mm, at, kPages * kPageSize, Prot::kRead); }),
                           Call([&] { return m.vm.mlock(mm, at, kPages * kPageSize, MlockFlags::kOnFault); }),
                           Call([&] { return m.vm.munlock(mm, at, kPages * kPageSize); }),
                           Call([&] { return m.vm.madvise(mm, at, kPages * kPageSize, Advice::kFree); })}) {
    sim::Nanos took = 0;
    sim::Nanos longest_wait = 0;
    bool done = false;
    m.scheduler.spawn("caller", [&] {
      mm.rlimits.memlock = kRlimInfinity;
      const sim::Nanos start = m.scheduler.now();
      EXPECT_TRUE(call());
      took = m.scheduler.now() - start;
      done = true;
    });
    m.scheduler.spawn("other", [&] {
      while (!done) {
        const sim::Nanos start = m.scheduler.now();
        { sim::SpinGuard guard(mm.page_table_lock); }
        longest_wait = std::max(longest_wait, m.scheduler.now() - start);
        m.scheduler.charge(sim::kMicrosecond);
        m.scheduler.sync_point();
      }
    });
    ASSERT_TRUE(m.scheduler.run().done());
    EXPECT_GE(took, kPages * m.scheduler.costs().pte_zap);
    EXPECT_LT(longest_wait, took / 2);
  }
  m.run([&] { m.vm.mmput(mm); });
  m.validate();
}

TEST_F(FaultTest, TablesOfTheUpperLevelsAreNotPageTablesOfTheStatistics) {
  in_task([&] {
    EXPECT_EQ(mm_.pgtables_pages, 0u);  // the root is not counted
    m_.write(mm_, m_.anon(mm_, 1), 1);
    EXPECT_EQ(mm_.pgtables_pages, 3u);  // PUD, PMD and PTE page
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrPageTablePages), 2);
  });
}

TEST_F(FaultTest, WritersOfSharedMemoryDoNotWaitForTheDisk) {
  in_task([&] {
    file::Writeback& writeback = m_.vfs.writeback();
    writeback.start_flusher();
    writeback.tunables().dirty_bytes = 2 * kPageSize;
    file::File& file = m_.open("/f", 64 * kPageSize, 3);
    // Far too much is dirty, and nobody has been held yet.
    const VirtAddr mapped = *m_.vm.mmap(mm_, VirtAddr(0), 64 * kPageSize, Prot::kRead, MapFlags::kPrivate, &file, 0);
    for (std::uint64_t i = 0; i < 31; ++i) {
      m_.read(mm_, mapped + i * kPageSize);
      phys::Folio& folio = m_.folio_at(mm_, mapped + i * kPageSize);
      phys::folio_lock(*m_.phys, folio);
      ASSERT_TRUE(m_.vfs.filemap().folio_mark_dirty(folio));
      phys::folio_unlock(*m_.phys, folio);
    }
    const VirtAddr at = m_.anon(mm_, 64, kRw, MapFlags::kShared);
    const sim::Nanos start = m_.scheduler.now();
    for (std::uint64_t i = 0; i < 64; ++i) m_.write(mm_, at + i * kPageSize, 1);
    EXPECT_LT(m_.scheduler.now() - start, sim::kMillisecond);
    ASSERT_TRUE(m_.vfs.fsync(file, file::SyncKind::kFsync));
    m_.vfs.fput(file);
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

// kswapd has unmapped a page and not flushed yet; the owner's calls must not leave the old translation usable.
class DeferredFlushTest : public FaultTest {
 protected:
  DeferredFlushTest() : FaultTest(2) {}
  void unmap_without_flush(VirtAddr at) {
    phys::Folio& folio = m_.folio_at(mm_, at);
    m_.lru.lru_add_drain_all();
    phys::folio_lock(*m_.phys, folio);
    ASSERT_TRUE(m_.swap.add_to_swap(folio));
    ASSERT_TRUE(m_.vm.rmap().try_to_unmap(folio, TtuFlags::kBatchFlush));
    phys::folio_unlock(*m_.phys, folio);
    ASSERT_TRUE(m_.vm.shootdown().pending());
  }
  VirtAddr written_page(std::uint8_t value) {
    const VirtAddr at = m_.anon(mm_, 2);
    EXPECT_TRUE(m_.write(mm_, at, value).ok());
    // Another CPU knows the page too: else there would be nothing to put off.
    sim::Task& other =
        m_.scheduler.spawn("other", [&] { EXPECT_EQ(m_.read(mm_, at), value); }, {.cpu = 1 - m_.scheduler.cpu()});
    m_.scheduler.join(other);
    return at;
  }
};

TEST_F(DeferredFlushTest, IsSettledByMunmap) {
  in_task([&] {
    const VirtAddr at = written_page(7);
    unmap_without_flush(at);
    ASSERT_TRUE(m_.vm.munmap(mm_, at, kPageSize));
    ASSERT_EQ(m_.anon(mm_, 1, kRw, MapFlags::kPrivate | MapFlags::kFixed, at), at);
    EXPECT_EQ(m_.read(mm_, at), 0);
    EXPECT_TRUE(m_.write(mm_, at, 9).ok());
    m_.vm.shootdown().flush_pending();
    EXPECT_EQ(m_.read(mm_, at), 9);
  });
}

TEST_F(DeferredFlushTest, IsSettledByMprotect) {
  in_task([&] {
    const VirtAddr at = written_page(7);
    unmap_without_flush(at);
    ASSERT_TRUE(m_.vm.mprotect(mm_, at, kPageSize, Prot::kRead));
    EXPECT_EQ(m_.write(mm_, at, 9).si_code, SiCode::kSegvAccErr);
    EXPECT_EQ(m_.read(mm_, at), 7);
  });
}

TEST_F(DeferredFlushTest, IsSettledByMremap) {
  in_task([&] {
    const VirtAddr at = written_page(7);
    unmap_without_flush(at);
    const Result<VirtAddr> to =
        m_.vm.mremap(mm_, at, kPageSize, kPageSize, MremapFlags::kMayMove | MremapFlags::kFixed, VirtAddr(at.value() - kGiB));
    ASSERT_TRUE(to);
    EXPECT_EQ(m_.read(mm_, at), -11);
    EXPECT_EQ(m_.read(mm_, *to), 7);
  });
}

TEST_F(DeferredFlushTest, IsSettledByAdvice) {
  in_task([&] {
    for (const Advice advice : {Advice::kDontNeed, Advice::kFree, Advice::kCold}) {
      const VirtAddr at = written_page(7);
      unmap_without_flush(at);
      ASSERT_TRUE(m_.vm.madvise(mm_, at, kPageSize, advice));
      EXPECT_EQ(m_.read(mm_, at), advice == Advice::kCold ? 7 : 0);
      EXPECT_TRUE(m_.write(mm_, at, 8).ok());
      m_.vm.shootdown().flush_pending();
      EXPECT_EQ(m_.read(mm_, at), 8);
    }
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
