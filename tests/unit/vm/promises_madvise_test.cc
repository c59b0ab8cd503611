// What madvise(2) and process_madvise(2) promise.
#include "promises.h"

namespace quire::vm {
namespace {

class MadvisePromise : public PromiseTest {
 protected:
  bool flagged(std::uint64_t n, VmFlags flag) { return mm_.mm_vmas.lookup(page(n))->has(flag); }
};

TEST_F(MadvisePromise, AdviceOnUseSetsAndClearsItsFlag) {
  struct Case {
    Advice set;
    Advice clear;
    VmFlags flag;
  };
  constexpr Case kCases[]{
      {Advice::kRandom, Advice::kNormal, VmFlags::kRandRead},
      {Advice::kSequential, Advice::kNormal, VmFlags::kSeqRead},
      {Advice::kDontFork, Advice::kDoFork, VmFlags::kDontCopy},
      {Advice::kDontDump, Advice::kDoDump, VmFlags::kDontDump},
      {Advice::kHugePage, Advice::kNoHugePage, VmFlags::kHugePage},
      {Advice::kMergeable, Advice::kUnmergeable, VmFlags::kMergeable},
      {Advice::kWipeOnFork, Advice::kKeepOnFork, VmFlags::kWipeOnFork},
  };
  at(0, 3);
  for (const Case& advice : kCases) {
    SCOPED_TRACE(static_cast<int>(advice.set));
    ASSERT_TRUE(advise(1, 1, advice.set));
    EXPECT_FALSE(flagged(0, advice.flag));
    EXPECT_TRUE(flagged(1, advice.flag));
    EXPECT_FALSE(flagged(2, advice.flag));
    ASSERT_TRUE(advise(1, 1, advice.clear));
    EXPECT_FALSE(flagged(1, advice.flag));
  }
}

TEST_F(MadvisePromise, RandomAndSequentialExcludeEachOther) {
  at(0, 1);
  ASSERT_TRUE(advise(0, 1, Advice::kRandom));
  ASSERT_TRUE(advise(0, 1, Advice::kSequential));
  EXPECT_FALSE(flagged(0, VmFlags::kRandRead));
}

TEST_F(MadvisePromise, SharedMemoryIsNotMerged) {
  at(0, 1, kRw, MapFlags::kShared);
  EXPECT_TRUE(advise(0, 1, Advice::kMergeable));
  EXPECT_FALSE(flagged(0, VmFlags::kMergeable));
}

TEST_F(MadvisePromise, DontNeedGivesZeroesToAnonymousMemory) {
  at(0, 2);
  write(0, 5);
  ASSERT_TRUE(advise(0, 2, Advice::kDontNeed));
  EXPECT_EQ(read(0), 0);
}

TEST_F(MadvisePromise, DontNeedGivesAPrivateMappingTheFilesBytesAgain) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(1), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  write(1, 9);
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kPrivate | MapFlags::kFixed, &file));
  write(0, 5);
  ASSERT_TRUE(advise(0, 1, Advice::kDontNeed));
  EXPECT_EQ(read(0), 9);
}

TEST_F(MadvisePromise, DontNeedLosesNothingOfSharedMemory) {
  at(0, 1, kRw, MapFlags::kShared);
  write(0, 5);
  ASSERT_TRUE(advise(0, 1, Advice::kDontNeed));
  EXPECT_EQ(read(0), 5);
}

TEST_F(MadvisePromise, DontNeedRefusesLockedMemoryAndDontNeedLockedDoesNot) {
  at(0, 1, kRw, MapFlags::kPrivate | MapFlags::kLocked);
  write(0, 5);
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kDontNeed), Errno::kInval));
  ASSERT_TRUE(advise(0, 1, Advice::kDontNeedLocked));
  EXPECT_EQ(read(0), 0);
}

TEST_F(MadvisePromise, FreedPagesKeepTheirBytesUntilReclaimComes) {
  at(0, 2);
  write(0, 5);
  write(1, 6);
  ASSERT_TRUE(advise(0, 2, Advice::kFree));
  EXPECT_EQ(read(0), 5);
  write(1, 7);  // takes the advice back
  EXPECT_TRUE(m_.reclaim(m_.folio_at(mm_, page(0))));
  EXPECT_FALSE(m_.reclaim(m_.folio_at(mm_, page(1))));
  EXPECT_EQ(read(0), 0);
  EXPECT_EQ(read(1), 7);
}

TEST_F(MadvisePromise, FreeIsForPrivateAnonymousMemoryOnly) {
  at(0, 1, kRw, MapFlags::kShared);
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kFree), Errno::kInval));
}

TEST_F(MadvisePromise, RemoveFreesPagesAndStore) {
  file::File& file = memfd(2);
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  write(0, 5);
  write(1, 6);
  ASSERT_TRUE(advise(0, 1, Advice::kRemove));
  EXPECT_EQ(read(0), 0);
  EXPECT_EQ(read(1), 6);
}

TEST_F(MadvisePromise, AHoleInTheFileLeavesPrivateCopiesAndTheFilesEndTakesThem) {
  file::File& file = memfd(2);
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  ASSERT_TRUE(map(page(2), 2, kRw, MapFlags::kPrivate | MapFlags::kFixed, &file));
  write(0, 5);
  EXPECT_EQ(read(3), 0);
  write(2, 9);  // a copy of the first page
  ASSERT_TRUE(advise(0, 2, Advice::kRemove));
  EXPECT_EQ(read(0), 0);
  EXPECT_EQ(read(2), 9);
  EXPECT_EQ(read(3), 0);
  ASSERT_TRUE(m_.vfs.ftruncate(file, 0));
  EXPECT_EQ(read(2), -static_cast<int>(Signal::kBus));
}

TEST_F(MadvisePromise, AHoleInTheFileLeavesPrivateCopiesThatAreInSwap) {
  VmMachine swapping({.zram = 8 * kMiB});
  Mm& mm = swapping.mm_alloc();
  swapping.run([&] {
    file::File& file = *swapping.vfs.memfd_create("", file::MemfdFlags::kNone).value();
    ASSERT_TRUE(swapping.vfs.ftruncate(file, kPageSize));
    const VirtAddr shared = swapping.vm.mmap(mm, VirtAddr(0), kPageSize, kRw, MapFlags::kShared, &file, 0).value();
    const VirtAddr copy = swapping.vm.mmap(mm, VirtAddr(0), kPageSize, kRw, MapFlags::kPrivate, &file, 0).value();
    swapping.write(mm, copy, 9);
    ASSERT_TRUE(swapping.swap_out(mm, copy));
    ASSERT_TRUE(swapping.vm.madvise(mm, shared, kPageSize, Advice::kRemove));
    EXPECT_EQ(swapping.read(mm, copy), 9);
    ASSERT_TRUE(swapping.swap_out(mm, copy));
    ASSERT_TRUE(swapping.vfs.ftruncate(file, 0));
    EXPECT_EQ(swapping.read(mm, copy), -static_cast<int>(Signal::kBus));
    swapping.vm.mmput(mm);
    swapping.vfs.fput(file);
  });
  swapping.validate();
}

TEST_F(MadvisePromise, TheEndOfADiskFileTakesPrivateCopies) {
  file::File& file = disk_file(2);
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kPrivate | MapFlags::kFixed, &file));
  m_.run([&] {
    write(0, 5);
    write(1, 6);
    ASSERT_TRUE(m_.vfs.ftruncate(file, bytes(1)));
    EXPECT_EQ(read(0), 5);
    EXPECT_EQ(read(1), -static_cast<int>(Signal::kBus));
  });
}

TEST_F(MadvisePromise, RemoveErrors) {
  file::File& file = memfd(1);
  at(0, 1);
  ASSERT_TRUE(map(page(1), 1, kRw, MapFlags::kPrivate | MapFlags::kFixed, &file));
  ASSERT_TRUE(map(page(2), 1, kRw, MapFlags::kShared | MapFlags::kFixed | MapFlags::kLocked, &file));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kRemove), Errno::kInval));  // no file
  EXPECT_TRUE(fails_with(advise(1, 1, Advice::kRemove), Errno::kAcces));
  EXPECT_TRUE(fails_with(advise(2, 1, Advice::kRemove), Errno::kInval));  // locked
}

TEST_F(MadvisePromise, DontForkLeavesAHoleInTheChild) {
  at(0, 3);
  ASSERT_TRUE(advise(1, 1, Advice::kDontFork));
  EXPECT_EQ(layout(fork(), kArena), "0-1 rw-p\n2-3 rw-p\n");
}

TEST_F(MadvisePromise, WipeOnForkGivesTheChildZeroes) {
  at(0, 1);
  write(0, 5);
  ASSERT_TRUE(advise(0, 1, Advice::kWipeOnFork));
  EXPECT_EQ(m_.read(fork(), page(0)), 0);
  EXPECT_EQ(read(0), 5);
}

TEST_F(MadvisePromise, WhatWasWipedMayBeKeptAgain) {
  at(0, 1);
  write(0, 5);
  ASSERT_TRUE(m_.vm.mremap(mm_, page(0), bytes(1), bytes(1), MremapFlags::kMayMove | MremapFlags::kFixed, page(4)));
  ASSERT_TRUE(advise(4, 1, Advice::kWipeOnFork));
  Mm& child = fork();
  ASSERT_TRUE(m_.vm.madvise(child, page(4), bytes(1), Advice::kKeepOnFork));
  m_.vm.validate();
  EXPECT_EQ(m_.read(child, page(4)), 0);
  EXPECT_TRUE(m_.write(child, page(4), 6).ok());
  Mm& grandchild = *m_.vm.dup_mm(child).value();
  EXPECT_EQ(m_.read(grandchild, page(4)), 6);
  m_.vm.mmput(grandchild);
}

TEST_F(MadvisePromise, WipeOnForkIsForPrivateAnonymousMemoryOnly) {
  at(0, 1, kRw, MapFlags::kShared);
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kWipeOnFork), Errno::kInval));
}

TEST_F(MadvisePromise, PopulateReadAndWriteFaultPagesIn) {
  at(0, 4);
  ASSERT_TRUE(advise(0, 2, Advice::kPopulateRead));
  EXPECT_EQ(mm_.counter(Rss::kAnonPages), 0);  // the zero page
  ASSERT_TRUE(advise(2, 2, Advice::kPopulateWrite));
  EXPECT_EQ(mm_.counter(Rss::kAnonPages), 2);
  EXPECT_EQ(residency(0, 4), "1111");
}

TEST_F(MadvisePromise, PopulateErrors) {
  at(0, 1, Prot::kRead);
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(1), 2, Prot::kRead, MapFlags::kShared | MapFlags::kFixed, &file));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kPopulateWrite), Errno::kInval));  // no right
  EXPECT_TRUE(fails_with(advise(2, 1, Advice::kPopulateRead), Errno::kFault));   // SIGBUS
  EXPECT_TRUE(fails_with(advise(8, 1, Advice::kPopulateRead), Errno::kNoMem));   // nothing there
}

TEST_F(MadvisePromise, WillNeedReadsWhatWasSwappedOut) {
  VmMachine swapping({.zram = 8 * kMiB});
  Mm& mm = swapping.mm_alloc();
  swapping.run([&] {
    const VirtAddr at = swapping.anon(mm, 1);
    swapping.write(mm, at, 5);
    ASSERT_TRUE(swapping.swap_out(mm, at));
    ASSERT_TRUE(swapping.vm.madvise(mm, at, kPageSize, Advice::kWillNeed));
    std::array<std::uint8_t, 1> vec{};
    ASSERT_TRUE(swapping.vm.mincore(mm, at, kPageSize, vec));
    EXPECT_EQ(vec[0] & 1, 1);
    EXPECT_EQ(swapping.read(mm, at), 5);
    swapping.vm.mmput(mm);
  });
}

TEST_F(MadvisePromise, WillNeedReadsSharedMemoryToo) {
  VmMachine swapping({.zram = 8 * kMiB});
  Mm& mm = swapping.mm_alloc();
  swapping.run([&] {
    file::File& file = *swapping.vfs.memfd_create("", file::MemfdFlags::kNone).value();
    std::array<std::byte, 4 * kPageSize> bytes;
    bytes.fill(std::byte{5});
    file::KernelBuffer from(bytes);
    ASSERT_TRUE(swapping.vfs.pwrite(file, 0, bytes.size(), from));
    const VirtAddr at = swapping.vm.mmap(mm, VirtAddr(0), bytes.size(), kRw, MapFlags::kShared, &file, 0).value();
    auto& inode = static_cast<file::ShmemInode&>(file.inode());
    for (std::uint64_t i = 0; i < 4; ++i) {
      phys::Folio& folio = *inode.mapping.i_pages().load(i).pointer<phys::Folio>();
      swapping.lru.lru_add_drain_all();
      ASSERT_TRUE(swapping.lru.folio_isolate_lru(folio));
      ASSERT_TRUE(phys::folio_trylock(folio));
      phys::folio_clear_dirty(folio);
      ASSERT_EQ(swapping.vfs.shmem().shmem_writepage(folio), file::WritepageOutcome::kStarted);
      swapping.lru.folio_putback_lru(folio);
    }
    EXPECT_EQ(inode.swapped, 4u);
    for (std::uint64_t i = 0; i < 4; ++i) {  // what is in the swap cache still is there
      if (phys::Folio* folio =
              swapping.swap.lookup_swap_cache(swap::SwapEntry::from_value(inode.mapping.i_pages().load(i).value().value()))) {
        swapping.lru.folio_put(*folio);
        ASSERT_TRUE(swapping.reclaim(*folio));
      }
    }
    const auto resident = [&] {
      std::array<std::uint8_t, 4> vec{};
      EXPECT_TRUE(swapping.vm.mincore(mm, at, bytes.size(), vec));
      std::string text;
      for (const std::uint8_t page : vec) text += (page & 1) != 0 ? '1' : '0';
      return text;
    };
    EXPECT_EQ(resident(), "0000");
    ASSERT_TRUE(swapping.vm.madvise(mm, at + kPageSize, 2 * kPageSize, Advice::kWillNeed));
    EXPECT_EQ(resident(), "0110");
    EXPECT_EQ(swapping.read(mm, at + kPageSize), 5);
    swapping.vm.mmput(mm);
    swapping.vfs.fput(file);
  });
  swapping.validate();
}

TEST_F(MadvisePromise, AHoleIsAnErrorInTheEnd) {
  at(0, 1);
  at(2, 1);
  write(2, 5);
  EXPECT_TRUE(fails_with(advise(0, 3, Advice::kDontNeed), Errno::kNoMem));
  EXPECT_EQ(read(2), 0);  // done all the same
}

TEST_F(MadvisePromise, Errors) {
  at(0, 1);
  EXPECT_TRUE(fails_with(m_.vm.madvise(mm_, page(0) + 1, bytes(1), Advice::kNormal), Errno::kInval));
  EXPECT_TRUE(fails_with(advise(0, 1, static_cast<Advice>(99)), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.madvise(mm_, page(0), ~std::uint64_t{0}, Advice::kNormal), Errno::kInval));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kHwPoison), Errno::kPerm));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kSoftOffline), Errno::kPerm));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kCollapse), Errno::kInval));
  EXPECT_TRUE(m_.vm.madvise(mm_, page(9), 0, Advice::kNormal));
}

// ENOMEM says that something is not mapped; what the kernel runs out of may be there again soon.
TEST_F(MadvisePromise, WithoutRoomForAnotherAreaItIsEagain) {
  at(0, 3);
  m_.vm.tunables().max_map_count = 1;
  EXPECT_TRUE(fails_with(advise(1, 1, Advice::kDontFork), Errno::kAgain));
  const std::array parts{UserIovec{page(1), bytes(1)}};
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &mm_, parts, Advice::kDontFork), Errno::kAgain));
  EXPECT_EQ(maps(), "0-3 rw-p\n");
}

TEST_F(MadvisePromise, GuardsTakeTheirTime) {
  at(0, 512, kRw);
  const auto cost = [&](std::uint64_t pages, Advice advice) {
    const sim::Nanos begun = m_.scheduler.now();
    EXPECT_TRUE(advise(0, pages, advice));
    return m_.scheduler.now() - begun;
  };
  ASSERT_TRUE(advise(0, 1, Advice::kGuardInstall));  // with the table
  const sim::Nanos each = m_.scheduler.costs().pte_zap;
  EXPECT_GE(cost(512, Advice::kGuardInstall), 512 * each);
  EXPECT_GE(cost(512, Advice::kGuardRemove), 512 * each);
  EXPECT_LT(cost(512, Advice::kGuardRemove), 512 * each);  // nothing there any more
}

// --- guards ---------------------------------------------------------------------------------------------------------------

TEST_F(MadvisePromise, TouchingAGuardIsSigsegv) {
  at(0, 3);
  write(1, 5);
  ASSERT_TRUE(advise(1, 1, Advice::kGuardInstall));
  const AccessOutcome outcome = m_.vm.access(mm_, page(1), arch::Access::kRead);
  EXPECT_EQ(outcome.signal, Signal::kSegv);
  EXPECT_EQ(outcome.si_code, SiCode::kSegvMapErr);
  EXPECT_EQ(maps(), "0-3 rw-p\n");  // no area of its own
  EXPECT_EQ(mm_.counter(Rss::kAnonPages), 0);
}

TEST_F(MadvisePromise, RemovingGuardsGivesZeroesAndSparesPages) {
  at(0, 3);
  ASSERT_TRUE(advise(1, 1, Advice::kGuardInstall));
  write(0, 5);
  ASSERT_TRUE(advise(0, 3, Advice::kGuardRemove));
  EXPECT_EQ(read(0), 5);
  EXPECT_EQ(read(1), 0);
}

TEST_F(MadvisePromise, GuardsOutliveDontNeedAndProtection) {
  at(0, 2);
  ASSERT_TRUE(advise(0, 1, Advice::kGuardInstall));
  ASSERT_TRUE(advise(0, 2, Advice::kDontNeed));
  ASSERT_TRUE(advise(0, 2, Advice::kFree));
  ASSERT_TRUE(m_.vm.mprotect(mm_, page(0), bytes(2), Prot::kNone));
  ASSERT_TRUE(m_.vm.mprotect(mm_, page(0), bytes(2), kRw));
  EXPECT_EQ(read(0), -11);
  EXPECT_EQ(read(1), 0);
}

TEST_F(MadvisePromise, GuardsGoWithTheirArea) {
  at(0, 1);
  ASSERT_TRUE(advise(0, 1, Advice::kGuardInstall));
  at(0, 1);
  EXPECT_EQ(read(0), 0);
}

TEST_F(MadvisePromise, GuardsAreInherited) {
  at(0, 1);
  ASSERT_TRUE(advise(0, 1, Advice::kGuardInstall));
  EXPECT_EQ(m_.read(fork(), page(0)), -11);
}

TEST_F(MadvisePromise, GuardsMoveWithMremap) {
  at(0, 2);
  ASSERT_TRUE(advise(1, 1, Advice::kGuardInstall));
  ASSERT_TRUE(m_.vm.mremap(mm_, page(0), bytes(2), bytes(2), MremapFlags::kMayMove | MremapFlags::kFixed, page(8)));
  EXPECT_EQ(read(8), 0);
  EXPECT_EQ(read(9), -11);
}

TEST_F(MadvisePromise, GuardsMayLieInFileMappings) {
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &memfd(2)));
  write(0, 5);
  ASSERT_TRUE(advise(0, 1, Advice::kGuardInstall));
  EXPECT_EQ(read(0), -11);
  ASSERT_TRUE(advise(0, 1, Advice::kGuardRemove));
  EXPECT_EQ(read(0), 5);
}

TEST_F(MadvisePromise, GuardsDoNotGoIntoLockedMemoryAndStopLocking) {
  at(0, 1);
  ASSERT_TRUE(advise(0, 1, Advice::kGuardInstall));
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(0), bytes(1)), Errno::kNoMem));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kGuardInstall), Errno::kInval));  // the flag is set all the same
  EXPECT_TRUE(advise(0, 1, Advice::kGuardRemove));
}

// --- process_madvise ------------------------------------------------------------------------------------------------------

TEST_F(MadvisePromise, OthersAreAdvisedAsFarAsItGoes) {
  at(0, 2);
  Mm& other = fork();
  const std::array parts{UserIovec{page(0), bytes(2)}, UserIovec{page(8), bytes(1)}, UserIovec{page(0), bytes(1)}};
  EXPECT_EQ(*m_.vm.process_madvise(mm_, &other, parts, Advice::kCold), bytes(2));
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &other, std::span(parts).subspan(1), Advice::kCold), Errno::kNoMem));
}

TEST_F(MadvisePromise, OthersLoseNothingByAdvice) {
  at(0, 1);
  Mm& other = fork();
  const std::array parts{UserIovec{page(0), bytes(1)}};
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &other, parts, Advice::kDontNeed), Errno::kInval));
  EXPECT_TRUE(m_.vm.process_madvise(mm_, &mm_, parts, Advice::kDontNeed));  // oneself may
}

TEST_F(MadvisePromise, OneCallAdvisesNoMoreThan2GiB) {
  constexpr std::uint64_t kMost = 0x7fff'f000;  // MAX_RW_COUNT
  const std::uint64_t size = 4 * kGiB;
  const VirtAddr start(0x2'0000'0000);
  ASSERT_TRUE(m_.vm.mmap(mm_, start, size, kRw, kPrivateAnon | MapFlags::kFixed | MapFlags::kNoReserve, nullptr, 0));
  m_.write(mm_, start + kMost - kPageSize, 1);
  m_.write(mm_, start + kMost, 2);
  const std::array parts{UserIovec{start, size}, UserIovec{start + 1, 0}};  // what comes behind is not looked at
  EXPECT_EQ(*m_.vm.process_madvise(mm_, &mm_, parts, Advice::kDontNeed), kMost);
  EXPECT_EQ(m_.read(mm_, start + kMost - kPageSize), 0);
  EXPECT_EQ(m_.read(mm_, start + kMost), 2);
}

TEST_F(MadvisePromise, EmptyPartsBehindTheLastAreNotLookedAt) {
  at(0, 1);
  const std::array parts{UserIovec{page(0), bytes(1)}, UserIovec{page(0) + 1, 0}};
  EXPECT_EQ(*m_.vm.process_madvise(mm_, &mm_, parts, Advice::kCold), bytes(1));
  const std::array front{UserIovec{page(0) + 1, 0}, UserIovec{page(0), bytes(1)}};
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &mm_, front, Advice::kCold), Errno::kInval));
  EXPECT_EQ(*m_.vm.process_madvise(mm_, &mm_, std::span(front).first(1), Advice::kCold), 0u);
}

TEST_F(MadvisePromise, ErrorsOfProcessMadvise) {
  const std::array parts{UserIovec{page(0), bytes(1)}};
  const std::array negative{UserIovec{page(0), ~std::uint64_t{0}}};
  const std::vector<UserIovec> many(kUioMaxIov + 1);
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, fail(Errno::kBadF), parts, Advice::kCold), Errno::kBadF));
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, fail(Errno::kSrch), parts, Advice::kCold), Errno::kSrch));
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &mm_, parts, Advice::kCold, 1), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &mm_, negative, Advice::kCold), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.process_madvise(mm_, &mm_, many, Advice::kCold), Errno::kInval));
}

}  // namespace
}  // namespace quire::vm
