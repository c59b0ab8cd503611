// What mlock(2) and its family, mincore(2), msync(2) and brk(2) promise.
#include "promises.h"

namespace quire::vm {
namespace {

class MlockPromise : public PromiseTest {};

TEST_F(MlockPromise, LockedPagesAreResidentOnReturn) {
  at(0, 3);
  ASSERT_TRUE(m_.vm.mlock(mm_, page(0), bytes(3)));
  EXPECT_EQ(residency(0, 3), "111");
}

TEST_F(MlockPromise, WholePagesAreLocked) {
  at(0, 3);
  ASSERT_TRUE(m_.vm.mlock(mm_, page(0) + 4095, 2));
  EXPECT_EQ(mm_.locked_vm, 2u);
}

TEST_F(MlockPromise, OnFaultLocksPagesAsTheyCome) {
  at(0, 3);
  ASSERT_TRUE(m_.vm.mlock(mm_, page(0), bytes(3), MlockFlags::kOnFault));
  EXPECT_EQ(residency(0, 3), "000");
  write(1, 1);
  EXPECT_FALSE(m_.reclaim(m_.folio_at(mm_, page(1))));
}

TEST_F(MlockPromise, LocksDoNotStack) {
  at(0, 1);
  ASSERT_TRUE(m_.vm.mlock(mm_, page(0), bytes(1)));
  ASSERT_TRUE(m_.vm.mlock(mm_, page(0), bytes(1)));
  ASSERT_TRUE(m_.vm.munlock(mm_, page(0), bytes(1)));
  EXPECT_EQ(mm_.locked_vm, 0u);
}

TEST_F(MlockPromise, LocksAreNotInherited) {
  at(0, 2);
  ASSERT_TRUE(m_.vm.mlockall(mm_, MclFlags::kCurrent | MclFlags::kFuture));
  Mm& child = fork();
  EXPECT_EQ(child.locked_vm, 0u);
  EXPECT_EQ(child.def_flags, VmFlags::kNone);
}

TEST_F(MlockPromise, LocksGoWithTheirMapping) {
  at(0, 2);
  ASSERT_TRUE(m_.vm.mlock(mm_, page(0), bytes(2)));
  ASSERT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
  EXPECT_EQ(mm_.locked_vm, 1u);
}

TEST_F(MlockPromise, FutureLocksWhatIsMappedLater) {
  ASSERT_TRUE(m_.vm.mlockall(mm_, MclFlags::kFuture));
  at(0, 2);
  EXPECT_EQ(residency(0, 2), "11");
  ASSERT_TRUE(m_.vm.munlockall(mm_));
  EXPECT_EQ(mm_.locked_vm, 0u);
  at(4, 1);
  EXPECT_EQ(residency(4, 1), "0");
}

TEST_F(MlockPromise, FutureOnFaultDoesNotFill) {
  ASSERT_TRUE(m_.vm.mlockall(mm_, MclFlags::kFuture | MclFlags::kOnFault));
  at(0, 2);
  EXPECT_EQ(residency(0, 2), "00");
  EXPECT_EQ(mm_.locked_vm, 2u);
}

TEST_F(MlockPromise, AFutureLockBeyondTheLimitIsNoMapping) {
  mm_.rlimits.memlock = bytes(2);
  ASSERT_TRUE(m_.vm.mlockall(mm_, MclFlags::kFuture));
  at(0, 2);
  EXPECT_TRUE(fails_with(map(page(4), 1, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kAgain));
  mm_.start_brk = mm_.brk = page(8);
  EXPECT_EQ(m_.vm.brk(mm_, page(9)), page(8));
}

TEST_F(MlockPromise, WhoMayLockHasNoLimit) {
  mm_.rlimits.memlock = 0;
  mm_.ipc_lock = CapIpcLock::kYes;
  at(0, 4);
  EXPECT_TRUE(m_.vm.mlock(mm_, page(0), bytes(4)));
}

TEST_F(MlockPromise, Errors) {
  at(0, 2);
  at(4, 1, Prot::kNone);
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(0), bytes(4)), Errno::kNoMem));  // not all mapped
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(4), bytes(1)), Errno::kNoMem));  // cannot be read
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(0), bytes(1), static_cast<MlockFlags>(2)), Errno::kInval));
  mm_.ipc_lock = CapIpcLock::kYes;
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(1), ~std::uint64_t{0} - kPageSize), Errno::kInval));  // wraps
  mm_.ipc_lock = CapIpcLock::kNo;
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(1), ~std::uint64_t{0} - kPageSize), Errno::kNoMem));  // the limit comes first
  EXPECT_TRUE(fails_with(m_.vm.munlock(mm_, page(2), bytes(1)), Errno::kNoMem));
  for (const MclFlags flags : {MclFlags::kNone, MclFlags::kOnFault, static_cast<MclFlags>(8)}) {
    EXPECT_TRUE(fails_with(m_.vm.mlockall(mm_, flags), Errno::kInval));
  }
  mm_.rlimits.memlock = bytes(1);
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(0), bytes(4)), Errno::kNoMem));
  mm_.rlimits.memlock = 0;
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(0), bytes(1)), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vm.mlockall(mm_, MclFlags::kCurrent), Errno::kPerm));
}

class MincorePromise : public PromiseTest {};

TEST_F(MincorePromise, TellsOfPagesOfTheFileThatNobodyMapsYet) {
  file::File& file = memfd(3);
  ASSERT_TRUE(map(page(0), 3, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  ASSERT_TRUE(map(page(8), 3, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  write(1, 1);
  EXPECT_EQ(residency(8, 3), "010");
}

TEST_F(MincorePromise, TheZeroPageIsResidentAndAGuardIsNot) {
  at(0, 3);
  EXPECT_EQ(read(0), 0);
  ASSERT_TRUE(advise(1, 1, Advice::kGuardInstall));
  EXPECT_EQ(residency(0, 3), "100");
}

TEST_F(MincorePromise, ASwappedPageIsNotResident) {
  VmMachine m({.zram = 8 * kMiB});
  Mm& mm = m.mm_alloc();
  m.run([&] {
    const VirtAddr at = m.anon(mm, 1);
    m.write(mm, at, 5);
    ASSERT_TRUE(m.swap_out(mm, at));
    std::array<std::uint8_t, 1> vec{1};
    ASSERT_TRUE(m.vm.mincore(mm, at, 1, vec));  // rounded up
    EXPECT_EQ(vec[0], 0);
    m.vm.mmput(mm);
  });
}

TEST_F(MincorePromise, Errors) {
  at(0, 1);
  std::array<std::uint8_t, 4> vec{};
  EXPECT_TRUE(fails_with(m_.vm.mincore(mm_, page(0) + 1, 1, vec), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.mincore(mm_, page(0), bytes(2), vec), Errno::kNoMem));
  EXPECT_TRUE(fails_with(m_.vm.mincore(mm_, page(0), ~std::uint64_t{0}, vec), Errno::kNoMem));
  EXPECT_TRUE(fails_with(m_.vm.mincore(mm_, page(0), bytes(1), {}), Errno::kFault));
  EXPECT_TRUE(m_.vm.mincore(mm_, page(0), 0, {}));
}

class MsyncPromise : public PromiseTest {};

TEST_F(MsyncPromise, SyncWritesTheFileBack) {
  m_.run([&] {
    file::File& file = disk_file(1);
    ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
    ASSERT_TRUE(write(0, 5).ok());
    EXPECT_TRUE(file.mapping().mapping_tagged(file::kTagDirty));
    ASSERT_TRUE(m_.vm.msync(mm_, page(0), bytes(1), MsyncFlags::kSync));
    EXPECT_FALSE(file.mapping().mapping_tagged(file::kTagDirty));
    EXPECT_FALSE(file.mapping().mapping_tagged(file::kTagWriteback));
  });
}

TEST_F(MsyncPromise, AsyncStartsNothing) {
  m_.run([&] {
    file::File& file = disk_file(1);
    ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
    ASSERT_TRUE(write(0, 5).ok());
    ASSERT_TRUE(m_.vm.msync(mm_, page(0), bytes(1), MsyncFlags::kAsync));
    EXPECT_TRUE(file.mapping().mapping_tagged(file::kTagDirty));
  });
}

TEST_F(MsyncPromise, InvalidateRefusesLockedMemory) {
  at(0, 1, kRw, MapFlags::kPrivate | MapFlags::kLocked);
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0), bytes(1), MsyncFlags::kInvalidate), Errno::kBusy));
}

TEST_F(MsyncPromise, Errors) {
  at(0, 1);
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0) + 1, bytes(1), MsyncFlags::kSync), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0), bytes(1), MsyncFlags::kSync | MsyncFlags::kAsync), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0), bytes(1), static_cast<MsyncFlags>(8)), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0), bytes(2), MsyncFlags::kAsync), Errno::kNoMem));
  EXPECT_TRUE(m_.vm.msync(mm_, page(0), 0, MsyncFlags::kSync));
}

class BrkPromise : public PromiseTest {
 protected:
  void SetUp() override { mm_.start_brk = mm_.brk = page(0); }
};

TEST_F(BrkPromise, GrowsAndShrinksTheHeap) {
  EXPECT_EQ(m_.vm.brk(mm_, page(4)), page(4));
  EXPECT_EQ(maps(), "0-4 rw-p\n");
  EXPECT_TRUE(write(3, 1).ok());
  EXPECT_EQ(m_.vm.brk(mm_, page(2)), page(2));
  EXPECT_EQ(maps(), "0-2 rw-p\n");
  EXPECT_EQ(m_.vm.brk(mm_, page(4)), page(4));
  EXPECT_EQ(read(3), 0);
}

TEST_F(BrkPromise, TheBreakNeedNotBeAPage) {
  EXPECT_EQ(m_.vm.brk(mm_, page(0) + 1), page(0) + 1);
  EXPECT_EQ(maps(), "0-1 rw-p\n");
}

TEST_F(BrkPromise, ARefusedBreakIsTheOldOne) {
  at(4, 1);
  EXPECT_EQ(m_.vm.brk(mm_, VirtAddr(0)), page(0));                       // how sbrk asks
  EXPECT_EQ(m_.vm.brk(mm_, page(5)), page(0));                           // another mapping
  EXPECT_EQ(m_.vm.brk(mm_, page(4)), page(0));                           // no page between
  EXPECT_EQ(m_.vm.brk(mm_, VirtAddr(std::uint64_t{1} << 47)), page(0));  // not user space
  EXPECT_EQ(m_.vm.brk(mm_, page(3)), page(3));
}

TEST_F(BrkPromise, RlimitDataBoundsHeapAndData) {
  mm_.start_data = page(100);
  mm_.end_data = page(102);
  mm_.rlimits.data = bytes(4);
  EXPECT_EQ(m_.vm.brk(mm_, page(3)), page(0));
  EXPECT_EQ(m_.vm.brk(mm_, page(2)), page(2));
}

TEST_F(BrkPromise, RlimitAsBoundsTheHeap) {
  mm_.rlimits.as = bytes(2);
  EXPECT_EQ(m_.vm.brk(mm_, page(3)), page(0));
}

TEST_F(BrkPromise, TheHeapIsAnAreaOfItsOwn) {
  mm_.start_brk = mm_.brk = page(4);
  at(3, 1);
  ASSERT_EQ(m_.vm.brk(mm_, page(5)), page(5));
  EXPECT_EQ(maps(), "3-4 rw-p\n4-5 rw-p\n");
}

TEST_F(BrkPromise, AHeapThatTheProgramUnmappedDoesNotShrink) {
  ASSERT_EQ(m_.vm.brk(mm_, page(4)), page(4));
  ASSERT_TRUE(m_.vm.munmap(mm_, page(2), bytes(2)));
  EXPECT_EQ(m_.vm.brk(mm_, page(3)), page(4));
  EXPECT_EQ(m_.vm.brk(mm_, page(1)), page(1));
}

}  // namespace
}  // namespace quire::vm
