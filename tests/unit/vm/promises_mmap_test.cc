// What mmap(2), munmap(2) and remap_file_pages(2) promise.
#include "promises.h"

namespace quire::vm {
namespace {

class MmapPromise : public PromiseTest {};

TEST_F(MmapPromise, WithoutAHintTheKernelChooses) { EXPECT_TRUE(map(VirtAddr(0), 1, kRw, kPrivateAnon)); }

TEST_F(MmapPromise, AHintIsRoundedToAPage) { EXPECT_EQ(*map(page(3) + 7, 1, kRw, kPrivateAnon), page(3)); }

TEST_F(MmapPromise, AHintThatIsTakenMovesTheMapping) {
  at(0, 2);
  EXPECT_NE(*map(page(1), 1, kRw, kPrivateAnon), page(1));
  EXPECT_EQ(maps().substr(0, 9), "0-2 rw-p\n");
}

TEST_F(MmapPromise, FixedReplacesWhatWasThere) {
  at(0, 4);
  write(1, 9);
  at(1, 2, Prot::kRead);
  EXPECT_EQ(maps(), "0-1 rw-p\n1-3 r--p\n3-4 rw-p\n");
  EXPECT_EQ(read(1), 0);
}

TEST_F(MmapPromise, FixedNoReplaceNeverClobbers) {
  at(0, 2);
  write(1, 9);
  EXPECT_TRUE(fails_with(map(page(1), 3, kRw, kPrivateAnon | MapFlags::kFixedNoReplace), Errno::kExist));
  EXPECT_EQ(read(1), 9);
  EXPECT_EQ(*map(page(2), 1, kRw, kPrivateAnon | MapFlags::kFixedNoReplace), page(2));
}

TEST_F(MmapPromise, TheLengthIsRoundedUp) {
  ASSERT_TRUE(m_.vm.mmap(mm_, page(0), kPageSize + 1, kRw, kPrivateAnon | MapFlags::kFixed, nullptr, 0));
  EXPECT_EQ(maps(), "0-2 rw-p\n");
}

TEST_F(MmapPromise, AnonymousMemoryIsZero) {
  at(0, 1);
  EXPECT_EQ(read(0), 0);
}

TEST_F(MmapPromise, SharedUpdatesAreSeenByOthers) {
  at(0, 1, kRw, MapFlags::kShared);
  Mm& child = fork();
  m_.write(child, page(0), 5);
  EXPECT_EQ(read(0), 5);
}

TEST_F(MmapPromise, PrivateUpdatesAreNot) {
  at(0, 1);
  Mm& child = fork();
  m_.write(child, page(0), 5);
  EXPECT_EQ(read(0), 0);
}

TEST_F(MmapPromise, PrivateUpdatesDoNotReachTheFile) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kPrivate | MapFlags::kFixed, &file));
  ASSERT_TRUE(map(page(1), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  write(0, 7);
  EXPECT_EQ(read(1), 0);
}

TEST_F(MmapPromise, AClosedFileStaysMapped) {
  file::File& file = *m_.vfs.shmem_file_setup(bytes(1)).value();
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  m_.vfs.fput(file);
  EXPECT_TRUE(write(0, 3).ok());
  EXPECT_EQ(read(0), 3);
}

TEST_F(MmapPromise, BeyondTheLastPageOfTheFileIsSigbus) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  EXPECT_EQ(read(0), 0);
  const AccessOutcome outcome = m_.vm.access(mm_, page(1), arch::Access::kRead);
  EXPECT_EQ(outcome.signal, Signal::kBus);
  EXPECT_EQ(outcome.si_code, SiCode::kBusAdrErr);
}

TEST_F(MmapPromise, WritingWhatIsReadOnlyIsSigsegv) {
  at(0, 1, Prot::kRead);
  const AccessOutcome outcome = write(0, 1);
  EXPECT_EQ(outcome.signal, Signal::kSegv);
  EXPECT_EQ(outcome.si_code, SiCode::kSegvAccErr);
}

TEST_F(MmapPromise, LockedMemoryIsThereAtOnce) {
  at(0, 3, kRw, MapFlags::kPrivate | MapFlags::kLocked);
  EXPECT_EQ(residency(0, 3), "111");
  EXPECT_EQ(mm_.locked_vm, 3u);
}

TEST_F(MmapPromise, PopulatedMemoryIsThereAtOnce) {
  at(0, 3, kRw, MapFlags::kPrivate | MapFlags::kPopulate);
  EXPECT_EQ(residency(0, 3), "111");
}

TEST_F(MmapPromise, NonBlockTakesPopulateBack) {
  at(0, 3, kRw, MapFlags::kPrivate | MapFlags::kPopulate | MapFlags::kNonBlock);
  EXPECT_EQ(residency(0, 3), "000");
}

TEST_F(MmapPromise, NoReserveIsNotAccountedFor) {
  at(0, 8, kRw, MapFlags::kPrivate | MapFlags::kNoReserve);
  EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
}

TEST_F(MmapPromise, NeverOvercommitDoesNotKnowNoReserve) {
  m_.vm.tunables().overcommit_memory = OvercommitMode::kNever;
  m_.vm.tunables().overcommit_kbytes = 64 * 1024;
  m_.vm.tunables().admin_reserve_kbytes = 0;
  at(0, 8, kRw, MapFlags::kPrivate | MapFlags::kNoReserve);
  EXPECT_EQ(m_.vm.commit().committed_as(), 8u);
}

TEST_F(MmapPromise, Low32IsInTheFirst2GiB) {
  const Result<VirtAddr> low = map(VirtAddr(0), 4, kRw, kPrivateAnon | MapFlags::k32Bit);
  ASSERT_TRUE(low);
  EXPECT_LT(low->value(), std::uint64_t{1} << 31);
}

TEST_F(MmapPromise, FixedGoesBeforeLow32) {
  const VirtAddr high(0x7000'0000'0000);
  EXPECT_EQ(*map(high, 1, kRw, kPrivateAnon | MapFlags::k32Bit | MapFlags::kFixed), high);
}

TEST_F(MmapPromise, StackIsAcceptedAndDoesNothing) {
  at(0, 1, kRw, MapFlags::kPrivate | MapFlags::kStack);
  EXPECT_EQ(maps(), "0-1 rw-p\n");
}

TEST_F(MmapPromise, GrowsDownWhenTouchedBelow) {
  at(1000, 4, kRw, MapFlags::kPrivate | MapFlags::kGrowsDown);
  EXPECT_TRUE(write(990, 1).ok());
  EXPECT_EQ(maps(), "990-1004 rw-p\n");
  EXPECT_EQ(mm_.stack_vm, 14u);
}

TEST_F(MmapPromise, GrowsDownOnlyUpToTheGuardGap) {
  at(0, 1);
  at(1000, 4, kRw, MapFlags::kPrivate | MapFlags::kGrowsDown);
  EXPECT_EQ(write(256, 1).signal, Signal::kSegv);  // 255 pages would be left
  EXPECT_TRUE(write(257, 1).ok());
}

TEST_F(MmapPromise, GrowsDownToAnInaccessibleArea) {
  at(0, 1, Prot::kNone);
  at(1000, 4, kRw, MapFlags::kPrivate | MapFlags::kGrowsDown);
  EXPECT_TRUE(write(1, 1).ok());
}

TEST_F(MmapPromise, GrowsDownAsFarAsTheLimitAllows) {
  mm_.rlimits.stack = bytes(16);
  at(1000, 4, kRw, MapFlags::kPrivate | MapFlags::kGrowsDown);
  EXPECT_EQ(write(987, 1).signal, Signal::kSegv);
  EXPECT_TRUE(write(988, 1).ok());
}

TEST_F(MmapPromise, NothingIsPlacedInTheGuardGap) {
  at(1000, 4, kRw, MapFlags::kPrivate | MapFlags::kGrowsDown);
  EXPECT_NE(*map(page(900), 1, kRw, kPrivateAnon), page(900));
  EXPECT_EQ(*map(page(743), 1, kRw, kPrivateAnon), page(743));
}

TEST_F(MmapPromise, DroppableMemoryVanishesUnderPressureAndInChildren) {
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kDroppable | MapFlags::kAnonymous | MapFlags::kFixed));
  write(0, 7);
  EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
  EXPECT_EQ(m_.read(fork(), page(0)), 0);
  EXPECT_TRUE(m_.reclaim(m_.folio_at(mm_, page(0))));  // dirty, and there is no swap
  EXPECT_EQ(read(0), 0);
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kKeepOnFork), Errno::kInval));
  EXPECT_TRUE(fails_with(advise(0, 1, Advice::kDoDump), Errno::kInval));
}

struct Refused {
  const char* what;
  std::uint64_t address;
  std::uint64_t length;
  MapFlags flags;
  Errno error;
  std::uint64_t offset = 0;
};

TEST_F(MmapPromise, ErrorsOfAnonymousMappings) {
  constexpr MapFlags kFixed = kPrivateAnon | MapFlags::kFixed;
  constexpr Refused kCases[]{
      {"length 0", 0, 0, kPrivateAnon, Errno::kInval},
      {"length wraps", 0, ~std::uint64_t{0}, kPrivateAnon, Errno::kNoMem},
      {"no type", 0, 4096, MapFlags::kAnonymous, Errno::kInval},
      {"a type that needs a file", 0, 4096, MapFlags::kSharedValidate | MapFlags::kAnonymous, Errno::kInval},
      {"odd fixed address", 0x10000001, 4096, kFixed, Errno::kInval},
      {"odd offset", 0, 4096, kPrivateAnon, Errno::kInval, 1},
      {"below mmap_min_addr", 0, 4096, kFixed, Errno::kPerm},
      {"beyond user space", std::uint64_t{1} << 47, 4096, kFixed, Errno::kNoMem},
      {"shared and growing", 0, 4096, kSharedAnon | MapFlags::kGrowsDown, Errno::kInval},
      {"droppable and locked", 0, 4096, MapFlags::kDroppable | MapFlags::kAnonymous | MapFlags::kLocked, Errno::kInval},
      {"droppable and growing", 0, 4096, MapFlags::kDroppable | MapFlags::kAnonymous | MapFlags::kGrowsDown, Errno::kInval},
  };
  for (const Refused& refused : kCases) {
    SCOPED_TRACE(refused.what);
    EXPECT_TRUE(
        fails_with(m_.vm.mmap(mm_, VirtAddr(refused.address), refused.length, kRw, refused.flags, nullptr, refused.offset),
                   refused.error));
  }
  EXPECT_EQ(mm_.map_count, 0);
}

TEST_F(MmapPromise, ErrorsOfFileMappings) {
  file::File& disk = disk_file(2);
  file::File& memory = memfd(2);
  struct Case {
    const char* what;
    file::File* file;
    MapFlags flags;
    Errno error;
  };
  const Case cases[]{
      {"no file", nullptr, MapFlags::kPrivate, Errno::kBadF},
      {"MAP_SYNC without DAX", &disk, MapFlags::kSharedValidate | MapFlags::kSync, Errno::kOpNotSupp},
      {"MAP_SYNC without DAX, not validated", &disk, MapFlags::kShared | MapFlags::kSync, Errno::kOpNotSupp},
      {"MAP_SYNC of memory, validated", &memory, MapFlags::kSharedValidate | MapFlags::kSync, Errno::kOpNotSupp},
      {"an unknown flag, validated", &disk, MapFlags::kSharedValidate | static_cast<MapFlags>(1u << 30), Errno::kOpNotSupp},
      {"NOREPLACE is none of the old flags", &disk, MapFlags::kSharedValidate | MapFlags::kFixedNoReplace, Errno::kOpNotSupp},
      {"droppable", &disk, MapFlags::kDroppable, Errno::kInval},
      {"growing", &disk, MapFlags::kPrivate | MapFlags::kGrowsDown, Errno::kInval},
      {"huge pages of an ordinary file", &disk, MapFlags::kPrivate | MapFlags::kHugeTlb, Errno::kInval},
  };
  for (const Case& refused : cases) {
    SCOPED_TRACE(refused.what);
    EXPECT_TRUE(fails_with(map(page(20), 1, kRw, refused.flags, refused.file), refused.error));
  }
  EXPECT_TRUE(map(VirtAddr(0), 1, kRw, MapFlags::kShared | static_cast<MapFlags>(1u << 30), &disk));  // ignored
  EXPECT_TRUE(fails_with(map(VirtAddr(0), 1, kRw, MapFlags::kShared, &disk, std::uint64_t{1} << 63), Errno::kOverflow));
}

TEST_F(MmapPromise, AFileOpenForReadingIsNotSharedForWriting) {
  file::File& file = disk_file(1, file::FileMode::kRead);
  EXPECT_TRUE(fails_with(map(page(0), 1, kRw, MapFlags::kShared, &file), Errno::kAcces));
  EXPECT_TRUE(map(page(0), 1, kRw, MapFlags::kPrivate, &file));
}

TEST_F(MmapPromise, AFileOpenForWritingOnlyIsNotMapped) {
  file::File& file = disk_file(1, file::FileMode::kWrite);
  EXPECT_TRUE(fails_with(map(page(0), 1, Prot::kWrite, MapFlags::kShared, &file), Errno::kAcces));
}

TEST_F(MmapPromise, LockedNeedsTheRightToLock) {
  mm_.rlimits.memlock = 0;
  EXPECT_TRUE(fails_with(map(page(0), 1, kRw, kPrivateAnon | MapFlags::kLocked), Errno::kPerm));
  mm_.rlimits.memlock = bytes(1);
  EXPECT_TRUE(fails_with(map(page(0), 2, kRw, kPrivateAnon | MapFlags::kLocked), Errno::kAgain));
  mm_.ipc_lock = CapIpcLock::kYes;
  EXPECT_TRUE(map(page(0), 2, kRw, kPrivateAnon | MapFlags::kLocked));
}

TEST_F(MmapPromise, RlimitAsEndsMapping) {
  mm_.rlimits.as = bytes(4);
  at(0, 4);
  EXPECT_TRUE(fails_with(map(page(4), 1, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kNoMem));
  at(1, 2, Prot::kRead);  // in place of as much
}

TEST_F(MmapPromise, RlimitDataCountsPrivateWritableMemory) {
  mm_.rlimits.data = bytes(4);
  at(0, 4);
  EXPECT_TRUE(fails_with(map(page(4), 1, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kNoMem));
  at(4, 1, Prot::kRead);
  at(8, 1, kRw, MapFlags::kShared);
}

// A soft limit of 0 is how some programs forbid only the heap: mappings go up to the hard one.
TEST_F(MmapPromise, RlimitDataOf0LeavesMappingsToTheHardLimit) {
  mm_.rlimits.data = 0;
  at(0, 4);
  mm_.start_brk = mm_.brk = page(100);
  EXPECT_EQ(m_.vm.brk(mm_, page(101)), page(100));
  mm_.rlimits.data_max = bytes(4);
  EXPECT_TRUE(fails_with(map(page(4), 1, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kNoMem));
}

// Only DAX can be synchronous. Who knows the flag at all is asked first; who has it not, when what lay there is gone.
TEST_F(MmapPromise, SynchronousMappingsAreRefusedByTheFile) {
  constexpr MapFlags kSync = MapFlags::kFixed | MapFlags::kSync;
  file::File& disk = disk_file(1);
  file::File& memory = memfd(1);
  for (std::uint64_t i = 0; i < 3; ++i) at(2 * i, 1);
  EXPECT_TRUE(fails_with(map(page(0), 1, kRw, kSync | MapFlags::kShared, &disk), Errno::kOpNotSupp));
  EXPECT_TRUE(fails_with(map(page(2), 1, kRw, kSync | MapFlags::kSharedValidate, &disk), Errno::kOpNotSupp));
  EXPECT_TRUE(fails_with(map(page(4), 1, kRw, kSync | MapFlags::kSharedValidate, &memory), Errno::kOpNotSupp));
  EXPECT_EQ(maps(), "4-5 rw-p\n");
}

TEST_F(MmapPromise, MaxMapCountEndsMapping) {
  m_.vm.tunables().max_map_count = 3;
  for (std::uint64_t i = 0; i < 4; ++i) at(2 * i, 1);  // "more than", not "as many as"
  EXPECT_TRUE(fails_with(map(page(10), 1, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kNoMem));
}

TEST_F(MmapPromise, UnmappingAHoleIsNoError) { EXPECT_TRUE(m_.vm.munmap(mm_, page(0), bytes(4))); }

TEST_F(MmapPromise, WhatIsUnmappedIsGone) {
  at(0, 2);
  write(0, 1);
  ASSERT_TRUE(m_.vm.munmap(mm_, page(0), 1));  // the whole page
  const AccessOutcome outcome = m_.vm.access(mm_, page(0), arch::Access::kRead);
  EXPECT_EQ(outcome.signal, Signal::kSegv);
  EXPECT_EQ(outcome.si_code, SiCode::kSegvMapErr);
  EXPECT_EQ(maps(), "1-2 rw-p\n");
}

TEST_F(MmapPromise, ErrorsOfMunmap) {
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(0) + 1, bytes(1)), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(0), 0), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, VirtAddr(0), std::uint64_t{1} << 48), Errno::kInval));
  m_.vm.tunables().max_map_count = 1;
  at(0, 3);
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(1), bytes(1)), Errno::kNoMem));  // one area would become two
  EXPECT_EQ(maps(), "0-3 rw-p\n");
}

class RemapFilePagesPromise : public PromiseTest {
 protected:
  Status remap(std::uint64_t first, std::uint64_t count, std::uint64_t pgoff, Prot prot = Prot::kNone) {
    return m_.vm.remap_file_pages(mm_, page(first), bytes(count), prot, pgoff, MapFlags::kNone);
  }
};

TEST_F(RemapFilePagesPromise, PagesOfTheFileAppearInAnotherOrder) {
  ASSERT_TRUE(map(page(0), 3, kRw, MapFlags::kShared | MapFlags::kFixed, &memfd(3)));
  for (std::uint64_t i = 0; i < 3; ++i) write(i, static_cast<std::uint8_t>(10 + i));
  ASSERT_TRUE(remap(0, 1, 2));
  ASSERT_TRUE(remap(2, 1, 0));
  EXPECT_EQ(read(0), 12);
  EXPECT_EQ(read(1), 11);
  EXPECT_EQ(read(2), 10);
  write(0, 99);
  EXPECT_EQ(mm_.map_count, 3);
}

TEST_F(RemapFilePagesPromise, TheAddressAndSizeAreRoundedDown) {
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &memfd(2)));
  ASSERT_TRUE(m_.vm.remap_file_pages(mm_, page(0) + 5, bytes(1) + 9, Prot::kNone, 1, MapFlags::kNone));
  EXPECT_EQ(maps(), "0-1 rw-s\n1-2 rw-s\n");
}

TEST_F(RemapFilePagesPromise, Errors) {
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &memfd(2)));
  at(8, 2);
  EXPECT_TRUE(fails_with(remap(0, 1, 0, Prot::kRead), Errno::kInval));             // prot must be 0
  EXPECT_TRUE(fails_with(remap(0, 0, 0), Errno::kInval));                          // nothing
  EXPECT_TRUE(fails_with(remap(0, 1, ~std::uint64_t{0}), Errno::kInval));          // the offset wraps
  EXPECT_TRUE(fails_with(remap(0, 1, std::uint64_t{1} << 52), Errno::kOverflow));  // beyond any file
  EXPECT_TRUE(fails_with(remap(4, 1, 0), Errno::kInval));                          // nothing mapped there
  EXPECT_TRUE(fails_with(remap(8, 1, 0), Errno::kInval));                          // private
  EXPECT_TRUE(fails_with(remap(1, 2, 0), Errno::kInval));                          // beyond the area
  EXPECT_EQ(maps(), "0-2 rw-s\n8-10 rw-p\n");
}

}  // namespace
}  // namespace quire::vm
