// What mremap(2), mprotect(2) and mseal(2) promise.
#include "promises.h"

namespace quire::vm {
namespace {

class MremapPromise : public PromiseTest {
 protected:
  Result<VirtAddr> remap(std::uint64_t first, std::uint64_t count, std::uint64_t new_count, MremapFlags flags,
                         VirtAddr target = {}) {
    return m_.vm.mremap(mm_, page(first), bytes(count), bytes(new_count), flags, target);
  }
  static constexpr MremapFlags kMove = MremapFlags::kMayMove | MremapFlags::kFixed;
};

TEST_F(MremapPromise, ShrinkingUnmapsTheEnd) {
  at(0, 4);
  EXPECT_EQ(*remap(0, 4, 2, MremapFlags::kNone), page(0));
  EXPECT_EQ(maps(), "0-2 rw-p\n");
}

TEST_F(MremapPromise, GrowsInPlaceWhereThereIsRoom) {
  at(0, 2);
  EXPECT_EQ(*remap(0, 2, 4, MremapFlags::kNone), page(0));
  EXPECT_EQ(maps(), "0-4 rw-p\n");
}

TEST_F(MremapPromise, WithoutMayMoveItFailsWhereThereIsNone) {
  at(0, 2);
  at(2, 1, Prot::kRead);
  EXPECT_TRUE(fails_with(remap(0, 2, 4, MremapFlags::kNone), Errno::kNoMem));
  EXPECT_EQ(maps(), "0-2 rw-p\n2-3 r--p\n");
}

TEST_F(MremapPromise, WithMayMoveItTakesItsPagesAlong) {
  at(0, 2);
  at(2, 1, Prot::kRead);
  write(1, 42);
  const VirtAddr moved = *remap(0, 2, 4, MremapFlags::kMayMove);
  EXPECT_NE(moved, page(0));
  EXPECT_EQ(m_.read(mm_, moved + kPageSize), 42);
  EXPECT_EQ(maps().substr(0, 9), "2-3 r--p\n");
}

TEST_F(MremapPromise, FixedUnmapsWhatWasThere) {
  at(0, 2);
  at(8, 2, Prot::kRead);
  write(0, 1);
  EXPECT_EQ(*remap(0, 2, 2, kMove, page(8)), page(8));
  EXPECT_EQ(maps(), "8-10 rw-p\n");
  EXPECT_EQ(read(8), 1);
}

TEST_F(MremapPromise, DontUnmapLeavesAnEmptyAreaBehind) {
  at(0, 2);
  write(0, 1);
  EXPECT_EQ(*remap(0, 2, 2, kMove | MremapFlags::kDontUnmap, page(8)), page(8));
  EXPECT_EQ(maps(), "0-2 rw-p\n8-10 rw-p\n");
  EXPECT_EQ(read(0), 0);
  EXPECT_EQ(read(8), 1);
}

// The page offsets of an area that was moved are those of where it came from, also when it has no pages any more.
TEST_F(MremapPromise, AnAreaThatWasMovedAndLosesItsPagesIsUsedOn) {
  at(0, 1);
  write(0, 1);
  ASSERT_TRUE(remap(0, 1, 1, kMove, page(4)));
  ASSERT_TRUE(remap(4, 1, 1, kMove | MremapFlags::kDontUnmap, page(8)));
  m_.vm.validate();
  EXPECT_EQ(read(4), 0);
  EXPECT_TRUE(write(4, 2).ok());
  ASSERT_TRUE(remap(4, 1, 1, kMove, page(12)));
  EXPECT_EQ(read(12), 2);
  EXPECT_EQ(read(8), 1);
}

TEST_F(MremapPromise, AnOldSizeOf0MapsSharedPagesTwice) {
  at(0, 2, kRw, MapFlags::kShared);
  write(1, 6);
  const VirtAddr again = *remap(0, 0, 2, MremapFlags::kMayMove);
  EXPECT_EQ(m_.read(mm_, again + kPageSize), 6);
  m_.write(mm_, again, 7);
  EXPECT_EQ(read(0), 7);
}

TEST_F(MremapPromise, Errors) {
  at(0, 2);
  at(4, 2);
  mm_.rlimits.memlock = bytes(3);
  ASSERT_TRUE(m_.vm.mlock(mm_, page(4), bytes(2)));
  struct Case {
    const char* what;
    std::uint64_t from, length, new_length;
    MremapFlags flags;
    VirtAddr target;
    Errno error;
  };
  const Case cases[]{
      {"odd address", page(0).value() + 1, 4096, 4096, MremapFlags::kMayMove, {}, Errno::kInval},
      {"unknown flag", page(0).value(), 4096, 4096, static_cast<MremapFlags>(8), {}, Errno::kInval},
      {"new size 0", page(0).value(), 4096, 0, MremapFlags::kMayMove, {}, Errno::kInval},
      {"FIXED without MAYMOVE", page(0).value(), 4096, 4096, MremapFlags::kFixed, page(8), Errno::kInval},
      {"odd target", page(0).value(), 4096, 4096, kMove, page(8) + 1, Errno::kInval},
      {"overlap", page(0).value(), 8192, 8192, kMove, page(1), Errno::kInval},
      {"DONTUNMAP without MAYMOVE", page(0).value(), 4096, 4096, MremapFlags::kDontUnmap, {}, Errno::kInval},
      {"DONTUNMAP of another size",
       page(0).value(),
       4096,
       8192,
       MremapFlags::kMayMove | MremapFlags::kDontUnmap,
       {},
       Errno::kInval},
      {"old size 0 of private memory", page(0).value(), 0, 4096, MremapFlags::kMayMove, {}, Errno::kInval},
      {"nothing mapped", page(2).value(), 4096, 8192, MremapFlags::kMayMove, {}, Errno::kFault},
      {"more than one area", page(0).value(), 5 * 4096, 6 * 4096, MremapFlags::kMayMove, {}, Errno::kFault},
      {"beyond what may be locked", page(4).value(), 8192, 4 * 4096, MremapFlags::kMayMove, {}, Errno::kAgain},
  };
  for (const Case& refused : cases) {
    SCOPED_TRACE(refused.what);
    EXPECT_TRUE(
        fails_with(m_.vm.mremap(mm_, VirtAddr(refused.from), refused.length, refused.new_length, refused.flags, refused.target),
                   refused.error));
  }
  EXPECT_EQ(maps(), "0-2 rw-p\n4-6 rw-p\n");
}

class MprotectPromise : public PromiseTest {
 protected:
  Status protect(std::uint64_t first, std::uint64_t count, Prot prot) {
    return m_.vm.mprotect(mm_, page(first), bytes(count), prot);
  }
};

TEST_F(MprotectPromise, NoneForbidsEveryAccess) {
  at(0, 1);
  write(0, 4);
  ASSERT_TRUE(protect(0, 1, Prot::kNone));
  EXPECT_EQ(read(0), -11);
  ASSERT_TRUE(protect(0, 1, Prot::kRead));
  EXPECT_EQ(read(0), 4);
}

TEST_F(MprotectPromise, AnAccessAgainstItIsSigsegvAccerr) {
  at(0, 1);
  ASSERT_TRUE(protect(0, 1, Prot::kRead));
  EXPECT_EQ(write(0, 1).si_code, SiCode::kSegvAccErr);
  EXPECT_EQ(m_.vm.access(mm_, page(0), arch::Access::kExec).si_code, SiCode::kSegvAccErr);
}

TEST_F(MprotectPromise, WholePagesChange) {
  at(0, 3);
  ASSERT_TRUE(m_.vm.mprotect(mm_, page(0), kPageSize + 1, Prot::kRead));
  EXPECT_EQ(maps(), "0-2 r--p\n2-3 rw-p\n");
}

TEST_F(MprotectPromise, GrowsDownReachesTheStartOfTheArea) {
  at(1000, 4, kRw, MapFlags::kPrivate | MapFlags::kGrowsDown);
  ASSERT_TRUE(protect(1002, 1, Prot::kRead | Prot::kGrowsDown));
  EXPECT_EQ(maps(), "1000-1003 r--p\n1003-1004 rw-p\n");
}

TEST_F(MprotectPromise, LengthZeroDoesNothing) { EXPECT_TRUE(m_.vm.mprotect(mm_, page(0), 0, Prot::kRead)); }

TEST_F(MprotectPromise, Errors) {
  at(0, 2);
  file::File& file = disk_file(1, file::FileMode::kRead);
  ASSERT_TRUE(map(page(4), 1, Prot::kRead, MapFlags::kShared | MapFlags::kFixed, &file));
  EXPECT_TRUE(fails_with(protect(4, 1, kRw), Errno::kAcces));
  EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, page(0) + 1, bytes(1), Prot::kRead), Errno::kInval));
  EXPECT_TRUE(fails_with(protect(0, 1, static_cast<Prot>(0x10)), Errno::kInval));
  EXPECT_TRUE(fails_with(protect(0, 1, Prot::kGrowsDown | Prot::kGrowsUp), Errno::kInval));
  EXPECT_TRUE(fails_with(protect(0, 1, Prot::kGrowsDown), Errno::kInval));  // does not grow
  EXPECT_TRUE(fails_with(protect(2, 1, Prot::kRead), Errno::kNoMem));       // nothing there
  m_.vm.tunables().max_map_count = 2;
  EXPECT_TRUE(fails_with(protect(0, 1, Prot::kRead), Errno::kNoMem));  // one area more
}

TEST_F(MprotectPromise, PrivateMemoryMadeWritableIsAccountedFor) {
  m_.vm.tunables().overcommit_memory = OvercommitMode::kNever;
  m_.vm.tunables().overcommit_kbytes = 16;
  m_.vm.tunables().admin_reserve_kbytes = 0;
  at(0, 8, Prot::kRead);
  EXPECT_TRUE(fails_with(protect(0, 8, kRw), Errno::kNoMem));
  EXPECT_TRUE(protect(0, 2, kRw));
  EXPECT_EQ(m_.vm.commit().committed_as(), 2u);
}

class MsealPromise : public PromiseTest {};

TEST_F(MsealPromise, WithoutRoomForAnotherAreaItIsEnomem) {
  at(0, 3);
  m_.vm.tunables().max_map_count = 1;
  EXPECT_TRUE(fails_with(seal(1, 1), Errno::kNoMem));
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(1), bytes(1)), Errno::kNoMem));
  EXPECT_EQ(maps(), "0-3 rw-p\n");
}

TEST_F(MsealPromise, ASealedAreaIsNeitherUnmappedMovedNorChanged) {
  at(0, 3);
  write(1, 8);
  ASSERT_TRUE(seal(1, 1));
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(1), bytes(1)), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(0), bytes(3)), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, page(1), bytes(1), Prot::kRead), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, page(1), bytes(1), kRw), Errno::kPerm));  // not even to what it is
  EXPECT_TRUE(fails_with(m_.vm.mremap(mm_, page(1), bytes(1), bytes(2), MremapFlags::kMayMove), Errno::kPerm));
  EXPECT_TRUE(fails_with(map(page(1), 1, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kPerm));
  at(8, 1);
  EXPECT_TRUE(fails_with(m_.vm.mremap(mm_, page(8), bytes(1), bytes(1), MremapFlags::kMayMove | MremapFlags::kFixed, page(1)),
                         Errno::kPerm));
  EXPECT_EQ(read(1), 8);
}

// As in 6.18: a mapping over a sealed area is refused for the seal, whatever the limits say.
TEST_F(MsealPromise, TheSealIsNamedBeforeALimit) {
  at(0, 2);
  EXPECT_TRUE(m_.vm.mseal(mm_, page(1), bytes(1)));
  mm_.rlimits.as = mm_.total_vm * kPageSize;
  constexpr MapFlags kOver = MapFlags::kPrivate | MapFlags::kAnonymous | MapFlags::kFixed;
  EXPECT_TRUE(fails_with(m_.vm.mmap(mm_, page(0), bytes(8), Prot::kRead, kOver, nullptr, 0), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vm.mmap(mm_, page(2), bytes(8), Prot::kRead, kOver, nullptr, 0), Errno::kNoMem));
}

TEST_F(MsealPromise, ReadOnlyAnonymousMemoryIsNotDiscarded) {
  at(0, 1);
  write(0, 8);
  ASSERT_TRUE(m_.vm.mprotect(mm_, page(0), bytes(1), Prot::kRead));
  ASSERT_TRUE(seal(0, 1));
  for (const Advice advice : {Advice::kDontNeed, Advice::kFree, Advice::kDontNeedLocked, Advice::kDontFork, Advice::kWipeOnFork,
                              Advice::kGuardInstall, Advice::kRemove}) {
    EXPECT_TRUE(fails_with(advise(0, 1, advice), Errno::kPerm)) << static_cast<int>(advice);
  }
  EXPECT_TRUE(advise(0, 1, Advice::kCold));
  EXPECT_EQ(read(0), 8);
}

TEST_F(MsealPromise, WhatCanBeWrittenCanBeDiscarded) {
  at(0, 1);
  write(0, 8);
  ASSERT_TRUE(seal(0, 1));
  EXPECT_TRUE(advise(0, 1, Advice::kDontNeed));
  EXPECT_EQ(read(0), 0);
}

TEST_F(MsealPromise, PagesOfAFileCanBeDiscarded) {
  ASSERT_TRUE(map(page(0), 1, Prot::kRead, MapFlags::kPrivate | MapFlags::kFixed, &memfd(1)));
  ASSERT_TRUE(seal(0, 1));
  EXPECT_TRUE(advise(0, 1, Advice::kDontNeed));
}

TEST_F(MsealPromise, SealsStayInAChild) {
  at(0, 1);
  ASSERT_TRUE(seal(0, 1));
  EXPECT_TRUE(fails_with(m_.vm.munmap(fork(), page(0), bytes(1)), Errno::kPerm));
}

TEST_F(MsealPromise, SealingTwiceIsNoError) {
  at(0, 2);
  ASSERT_TRUE(seal(0, 1));
  EXPECT_TRUE(seal(0, 2));
  EXPECT_EQ(mm_.map_count, 1);
}

TEST_F(MsealPromise, AnUnmappedPartSealsNothing) {
  at(0, 1);
  at(2, 1);
  EXPECT_TRUE(fails_with(seal(0, 3), Errno::kNoMem));
  EXPECT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
}

TEST_F(MsealPromise, Errors) {
  at(0, 1);
  EXPECT_TRUE(fails_with(m_.vm.mseal(mm_, page(0), bytes(1), 1), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.mseal(mm_, page(0) + 1, bytes(1)), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.mseal(mm_, page(0), ~std::uint64_t{0}), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.mseal(mm_, page(0), ~std::uint64_t{0xffff}), Errno::kInval));
  EXPECT_TRUE(m_.vm.mseal(mm_, page(5), 0));
}

TEST_F(MsealPromise, ABreakOverASealedHeapStays) {
  mm_.start_brk = mm_.brk = page(0);
  ASSERT_EQ(m_.vm.brk(mm_, page(4)), page(4));
  ASSERT_TRUE(seal(2, 1));
  EXPECT_EQ(m_.vm.brk(mm_, page(1)), page(4));
  EXPECT_EQ(m_.vm.brk(mm_, page(3)), page(3));
}

}  // namespace
}  // namespace quire::vm
