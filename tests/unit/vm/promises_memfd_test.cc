// What memfd_create(2) and its seals (fcntl(2)), process_vm_readv(2) and membarrier(2) promise.
#include <array>
#include <functional>

#include "promises.h"
#include "quire/phys/task_flags.h"
#include "two_cpus.h"

namespace quire::vm {
namespace {

using file::FallocateMode;
using file::MemfdFlags;
using file::Seals;

class MemfdPromise : public PromiseTest {
 protected:
  Result<std::uint64_t> pwrite(file::File& file, std::uint64_t offset, std::uint64_t length) {
    std::vector<std::byte> bytes(length, std::byte{1});
    file::KernelBuffer from(bytes);
    return m_.vfs.pwrite(file, offset, length, from);
  }
  Status add(file::File& file, Seals seals) { return file::memfd_add_seals(file, seals); }
  static Seals seals(const file::File& file) { return *file::memfd_get_seals(file); }
};

TEST_F(MemfdPromise, ItIsEmptyAndGrowsByTruncation) {
  file::File& file = memfd(0);
  EXPECT_EQ(file.inode().i_size, 0u);
  ASSERT_TRUE(m_.vfs.ftruncate(file, bytes(2)));
  ASSERT_TRUE(map(page(0), 2, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  EXPECT_EQ(read(1), 0);
}

TEST_F(MemfdPromise, ItsNameIsSeenInMaps) {
  file::File& file = memfd(1);
  EXPECT_EQ(file.sb().path_of(file.inode()), "/memfd:promise (deleted)");
}

TEST_F(MemfdPromise, WithoutLeaveNothingCanBeSealed) {
  file::File& file = memfd(1, MemfdFlags::kNone);
  EXPECT_EQ(seals(file), Seals::kSeal);
  EXPECT_TRUE(fails_with(add(file, Seals::kShrink), Errno::kPerm));
}

TEST_F(MemfdPromise, NoexecSealMeansExecSealAndLeaveToSeal) {
  file::File& file = memfd(1, MemfdFlags::kNoexecSeal);
  EXPECT_EQ(seals(file), Seals::kExec);
  EXPECT_TRUE(add(file, Seals::kShrink));
}

TEST_F(MemfdPromise, CreationErrors) {
  const auto create = [&](std::string_view name, MemfdFlags flags) { return m_.vfs.memfd_create(name, flags); };
  EXPECT_TRUE(fails_with(create("x", static_cast<MemfdFlags>(0x20)), Errno::kInval));
  EXPECT_TRUE(fails_with(create("x", MemfdFlags::kExec | MemfdFlags::kNoexecSeal), Errno::kInval));
  EXPECT_TRUE(fails_with(create(std::string(250, 'x'), MemfdFlags::kNone), Errno::kInval));
  EXPECT_TRUE(fails_with(create("x", static_cast<MemfdFlags>(1u << 26)), Errno::kInval));  // a size without MFD_HUGETLB
  EXPECT_TRUE(fails_with(create("x", MemfdFlags::kHugeTlb), Errno::kNoMem));
  const auto longest = create(std::string(249, 'x'), MemfdFlags::kNone);
  ASSERT_TRUE(longest);
  m_.vfs.fput(**longest);
}

TEST_F(MemfdPromise, SealsAddUpAndStay) {
  file::File& file = memfd(1);
  ASSERT_TRUE(add(file, Seals::kShrink));
  ASSERT_TRUE(add(file, Seals::kGrow));
  EXPECT_EQ(seals(file), Seals::kShrink | Seals::kGrow);
}

TEST_F(MemfdPromise, SealSealIsTheLast) {
  file::File& file = memfd(1);
  ASSERT_TRUE(add(file, Seals::kSeal));
  EXPECT_TRUE(fails_with(add(file, Seals::kNone), Errno::kPerm));
}

TEST_F(MemfdPromise, SealErrors) {
  file::File& file = memfd(1);
  EXPECT_TRUE(fails_with(add(file, static_cast<Seals>(0x40)), Errno::kInval));
  file::File& disk = disk_file(1);
  EXPECT_TRUE(fails_with(file::memfd_get_seals(disk), Errno::kInval));
  EXPECT_TRUE(fails_with(add(disk, Seals::kSeal), Errno::kInval));
  file::File& read_only = *m_.vfs.open(file.inode(), file::FileMode::kRead).value();
  EXPECT_TRUE(fails_with(add(read_only, Seals::kSeal), Errno::kPerm));
  m_.vfs.fput(read_only);
}

TEST_F(MemfdPromise, ShrinkSealKeepsTheSize) {
  file::File& file = memfd(2);
  ASSERT_TRUE(add(file, Seals::kShrink));
  EXPECT_TRUE(fails_with(m_.vfs.ftruncate(file, bytes(1)), Errno::kPerm));
  EXPECT_TRUE(m_.vfs.ftruncate(file, bytes(2)));
  EXPECT_TRUE(m_.vfs.ftruncate(file, bytes(3)));
}

TEST_F(MemfdPromise, GrowSealKeepsTheSize) {
  file::File& file = memfd(2);
  ASSERT_TRUE(add(file, Seals::kGrow));
  EXPECT_TRUE(fails_with(m_.vfs.ftruncate(file, bytes(3)), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vfs.fallocate(file, FallocateMode::kNone, 0, bytes(2) + 1), Errno::kPerm));
  EXPECT_TRUE(fails_with(m_.vfs.fallocate(file, FallocateMode::kKeepSize, 0, bytes(2) + 1), Errno::kPerm));
  EXPECT_TRUE(m_.vfs.fallocate(file, FallocateMode::kNone, 0, bytes(2)));
  EXPECT_EQ(*pwrite(file, 0, bytes(3)), bytes(2));  // as far as the file reaches
  EXPECT_TRUE(fails_with(pwrite(file, bytes(2), 1), Errno::kPerm));
  EXPECT_EQ(file.inode().i_size, bytes(2));
}

TEST_F(MemfdPromise, WriteSealForbidsWritingAndHoles) {
  file::File& file = memfd(2);
  ASSERT_TRUE(add(file, Seals::kWrite));
  EXPECT_TRUE(fails_with(pwrite(file, 0, 1), Errno::kPerm));
  EXPECT_TRUE(
      fails_with(m_.vfs.fallocate(file, FallocateMode::kPunchHole | FallocateMode::kKeepSize, 0, bytes(1)), Errno::kPerm));
  EXPECT_TRUE(m_.vfs.ftruncate(file, bytes(1)));  // size is another seal's affair
}

TEST_F(MemfdPromise, WriteSealWaitsForNoWritableMapping) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  EXPECT_TRUE(fails_with(add(file, Seals::kWrite), Errno::kBusy));
  ASSERT_TRUE(m_.vm.mprotect(mm_, page(0), bytes(1), Prot::kRead));
  EXPECT_TRUE(fails_with(add(file, Seals::kWrite), Errno::kBusy));  // it may become writable again
  ASSERT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
  EXPECT_TRUE(add(file, Seals::kWrite));
}

TEST_F(MemfdPromise, FutureWriteSealLeavesOldMappingsWritable) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  ASSERT_TRUE(add(file, Seals::kFutureWrite));
  EXPECT_TRUE(write(0, 5).ok());
  EXPECT_TRUE(fails_with(map(page(1), 1, kRw, MapFlags::kShared, &file), Errno::kPerm));
  EXPECT_TRUE(fails_with(pwrite(file, 0, 1), Errno::kPerm));
}

TEST_F(MemfdPromise, ASealedFileIsSharedForReadingOnly) {
  for (const Seals seal : {Seals::kWrite, Seals::kFutureWrite}) {
    file::File& file = memfd(1);
    ASSERT_TRUE(add(file, seal));
    EXPECT_TRUE(fails_with(map(page(0), 1, kRw, MapFlags::kShared, &file), Errno::kPerm));
    ASSERT_TRUE(map(page(0), 1, Prot::kRead, MapFlags::kShared | MapFlags::kFixed, &file));
    EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, page(0), bytes(1), kRw), Errno::kAcces));
    ASSERT_TRUE(map(page(1), 1, kRw, MapFlags::kPrivate | MapFlags::kFixed, &file));
    EXPECT_TRUE(write(1, 1).ok());
  }
}

TEST_F(MemfdPromise, ExecSealOfAnExecutableFileSealsItsContents) {
  file::File& file = memfd(1, MemfdFlags::kAllowSealing | MemfdFlags::kExec);
  ASSERT_TRUE(add(file, Seals::kExec));
  EXPECT_EQ(seals(file), Seals::kExec | Seals::kShrink | Seals::kGrow | Seals::kWrite | Seals::kFutureWrite);
}

TEST_F(MemfdPromise, ARefusedWriteLeavesTheFileAsItWas) {
  for (const Seals seal : {Seals::kWrite, Seals::kGrow}) {
    file::File& file = memfd(1);
    ASSERT_TRUE(m_.vfs.ftruncate(file, 100));
    ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
    *m_.vm.to_host(write(0, 1).phys + 200) = std::byte{7};  // behind the end
    ASSERT_TRUE(map(page(0), 1, Prot::kRead, MapFlags::kPrivate | MapFlags::kFixed, &file));
    ASSERT_TRUE(add(file, seal));
    EXPECT_TRUE(fails_with(pwrite(file, bytes(2), 1), Errno::kPerm));
    EXPECT_EQ(m_.read(mm_, page(0) + 200), 7);
  }
}

// A pin outlives the mapping that it came from, and its holder may write at any time.
TEST_F(MemfdPromise, WriteSealWaitsForPins) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  std::array<phys::Page*, 1> pinned{};
  m_.run([&] {
    ASSERT_EQ(m_.vm.pin_user_pages(mm_, page(0), pinned, arch::Access::kWrite), 1u);
    ASSERT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
    const sim::Nanos begun = m_.scheduler.now();
    EXPECT_TRUE(fails_with(add(file, Seals::kWrite), Errno::kBusy));
    EXPECT_GE(m_.scheduler.now() - begun, 150 * sim::kMillisecond);
    EXPECT_EQ(seals(file), Seals::kNone);
    ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));  // nothing is denied
    ASSERT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
    m_.scheduler.spawn("holder", [&] {
      m_.scheduler.sleep_for(50 * sim::kMillisecond);
      m_.vm.unpin_user_pages(pinned);
    });
    EXPECT_TRUE(add(file, Seals::kWrite));
  });
}

// As a SIGKILL does it: the mark, and a wake-up out of whatever sleep it is in.
TEST_F(MemfdPromise, WriteSealOfATaskThatIsBeingKilledDoesNotWaitForPins) {
  file::File& file = memfd(1);
  ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));
  std::array<phys::Page*, 1> pinned{};
  m_.run([&] {
    ASSERT_EQ(m_.vm.pin_user_pages(mm_, page(0), pinned, arch::Access::kWrite), 1u);
    ASSERT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
    sim::Nanos took = sim::kSecond;
    Status sealed{};
    const auto seal = [&] {
      const sim::Nanos begun = m_.scheduler.now();
      sealed = add(file, Seals::kWrite);
      took = m_.scheduler.now() - begun;
    };
    const auto killed_after = [&](
                                  sim::Nanos delay, const std::function<void()>& at_that_moment = [] {}) {
      sim::Task& sealer = m_.scheduler.spawn("sealer", seal);
      m_.scheduler.sleep_for(delay);
      at_that_moment();
      sealer.pf_flags |= bits(phys::TaskFlag::kOomVictim);
      m_.scheduler.wake(sealer);
      m_.scheduler.join(sealer);
    };
    killed_after(20 * sim::kMillisecond);
    EXPECT_TRUE(fails_with(sealed, Errno::kBusy));
    EXPECT_LT(took, 21 * sim::kMillisecond);
    EXPECT_EQ(seals(file), Seals::kNone);
    killed_after(0);
    EXPECT_TRUE(fails_with(sealed, Errno::kBusy));
    EXPECT_LT(took, sim::kMillisecond);
    ASSERT_TRUE(map(page(0), 1, kRw, MapFlags::kShared | MapFlags::kFixed, &file));  // nothing is denied
    ASSERT_TRUE(m_.vm.munmap(mm_, page(0), bytes(1)));
    // What it finds let go when it wakes is no obstacle, killed or not.
    killed_after(20 * sim::kMillisecond, [&] { m_.vm.unpin_user_pages(pinned); });
    EXPECT_TRUE(sealed);
    EXPECT_LT(took, 21 * sim::kMillisecond);
    EXPECT_EQ(seals(file), Seals::kWrite);
  });
}

// Whichever of the two comes first wins: the other sees it.
TEST(MemfdRace, ASealedFileIsNotMappedWritable) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    VmMachine m({.cpus = 2, .seed = seed, .preempt_permille = 300});
    Mm& mm = m.mm_alloc();
    file::File& file = *m.vfs.memfd_create("race", MemfdFlags::kAllowSealing).value();
    m.run([&] { ASSERT_TRUE(m.vfs.ftruncate(file, kPageSize)); });
    Status mapped;
    Status sealed;
    m.scheduler.spawn("map", [&] {
      const auto at = m.vm.mmap(mm, kArena, kPageSize, kRw, MapFlags::kShared | MapFlags::kFixed, &file, 0);
      if (!at) mapped = fail(at.error());
      m.scheduler.charge(seed * 100);
    });
    m.scheduler.spawn("seal", [&] {
      m.scheduler.charge(seed * 10);
      m.scheduler.sync_point();
      sealed = file::memfd_add_seals(file, Seals::kWrite);
    });
    ASSERT_TRUE(m.scheduler.run().done());
    EXPECT_NE(mapped.has_value(), sealed.has_value()) << "seed " << seed;
    EXPECT_TRUE(mapped || mapped.error() == Errno::kPerm);
    EXPECT_TRUE(sealed || sealed.error() == Errno::kBusy);
    m.vm.mmput(mm);
    m.vfs.fput(file);
    m.validate();
  }
}

// An area that is split or merged does not go from the count of those that may write, not even for a moment.
TEST(MemfdRace, AMappingThatIsBeingSplitIsStillWritable) {
  VmMachine m({.cpus = 2});
  Mm& mm = m.mm_alloc();
  file::File& file = *m.vfs.memfd_create("race", MemfdFlags::kAllowSealing).value();
  m.run([&] {
    ASSERT_TRUE(m.vfs.ftruncate(file, 4 * kPageSize));
    ASSERT_TRUE(m.vm.mmap(mm, kArena, 4 * kPageSize, kRw, MapFlags::kShared | MapFlags::kFixed, &file, 0));
    ASSERT_TRUE(m.vm.madvise(mm, kArena, kPageSize, Advice::kGuardInstall));  // gives it an AnonVma
    AnonVma* anon_vma = mm.mm_vmas.lookup(kArena)->anon_vma;
    ASSERT_NE(anon_vma, nullptr);
    anon_vma->root->rwsem.down_read();
    m.scheduler.spawn("split", [&] { ASSERT_TRUE(m.vm.mprotect(mm, kArena, kPageSize, Prot::kRead)); });
    m.scheduler.sleep_for(sim::kMillisecond);  // it waits for the AnonVma now
    EXPECT_TRUE(fails_with(file::memfd_add_seals(file, Seals::kWrite), Errno::kBusy));
    anon_vma->root->rwsem.up_read();
  });
  m.vm.mmput(mm);
  m.vfs.fput(file);
  m.validate();
}

// --- process_vm_readv, process_vm_writev ------------------------------------------------------------------------------------

class ProcessVmPromise : public PromiseTest {
 protected:
  void SetUp() override {
    at(0, 4);
    other_ = &fork();
    for (std::uint64_t i = 0; i < 3; ++i) m_.write(*other_, page(i), static_cast<std::uint8_t>(10 + i));
  }
  using Parts = std::vector<UserIovec>;
  Result<std::uint64_t> readv(const Parts& local, const Parts& remote, std::uint64_t flags = 0) {
    return m_.vm.process_vm_readv(mm_, local, other_, remote, flags);
  }
  Mm* other_ = nullptr;
};

TEST_F(ProcessVmPromise, ReadsTheOthersBytesIntoItsParts) {
  EXPECT_EQ(*readv({{page(0), 1}, {page(1), bytes(1)}}, {{page(2), 1}, {page(1), bytes(1)}}), bytes(1) + 1);
  EXPECT_EQ(read(0), 12);
  EXPECT_EQ(read(1), 11);
}

// Its memory stays for the call that is at it, which waits for the disk here.
TEST_F(ProcessVmPromise, TheOtherMayEndMeanwhile) {
  file::File& file = disk_file(1);
  Mm& ending = *m_.vm.dup_mm(mm_).value();
  const VirtAddr there = *m_.vm.mmap(ending, VirtAddr(0), bytes(1), Prot::kRead, MapFlags::kPrivate, &file, 0);
  m_.run([&] {
    const auto mms = [&] { return std::ranges::distance(m_.vm.mms()); };
    const auto before = mms();
    bool ended = false;
    m_.scheduler.spawn("other", [&] {
      while (m_.event(phys::VmEvent::kPgmajfault) == 0) m_.scheduler.sleep_for(100);
      m_.vm.mmput(ending);
      EXPECT_EQ(mms(), before);
      ended = true;
    });
    const std::array local{UserIovec{page(0), bytes(1)}};
    EXPECT_EQ(*m_.vm.process_vm_readv(mm_, local, &ending, std::array{UserIovec{there, bytes(1)}}), bytes(1));
    EXPECT_TRUE(ended);
    EXPECT_EQ(mms(), before - 1);
    std::byte expected{};
    file::KernelBuffer to({&expected, 1});
    EXPECT_EQ(*m_.vfs.pread(file, 0, 1, to), 1u);
    EXPECT_EQ(std::byte(read(0)), expected);
  });
}

TEST_F(ProcessVmPromise, WritesIntoTheOthersMemory) {
  write(3, 77);
  const std::array local{UserIovec{page(3), 1}};
  const std::array remote{UserIovec{page(0), 1}};
  EXPECT_EQ(*m_.vm.process_vm_writev(mm_, local, other_, remote), 1u);
  EXPECT_EQ(m_.read(*other_, page(0)), 77);
}

TEST_F(ProcessVmPromise, TheShorterSideEndsIt) {
  EXPECT_EQ(*readv({{page(0), 100}}, {{page(0), 40}}), 40u);
  EXPECT_EQ(*readv({{page(0), 10}}, {{page(0), 40}}), 10u);
  EXPECT_EQ(*readv({{page(0), 0}}, {{page(0), 40}}), 0u);
}

TEST_F(ProcessVmPromise, WhatWasCopiedBeforeAnErrorCounts) {
  EXPECT_EQ(*readv({{page(0), bytes(4)}}, {{page(0), 8}, {page(9), 8}}), 8u);
  EXPECT_EQ(*readv({{page(0), bytes(4)}}, {{page(3), bytes(4)}}), bytes(1));  // up to the end of the other's area
  EXPECT_EQ(*readv({{page(3), bytes(2)}}, {{page(0), bytes(2)}}), bytes(1));  // or one's own
}

// Pages are pinned 16 at a time: what lies on both sides of a batch, and how many are pinned in the end.
TEST_F(ProcessVmPromise, LongTransfersGoBatchByBatch) {
  constexpr std::uint64_t kPages = 40;
  at(100, kPages);
  at(200, kPages);
  for (std::uint64_t i = 0; i < kPages; ++i) write(200 + i, static_cast<std::uint8_t>(1 + i));
  Mm& other = fork();
  const std::array to{UserIovec{page(100) + 8, bytes(kPages) - 8}};
  const std::array from{UserIovec{page(200) + 8, bytes(kPages)}};  // the last 8 bytes are not mapped
  EXPECT_EQ(*m_.vm.process_vm_readv(mm_, to, &other, from), bytes(kPages) - 8);
  EXPECT_EQ(read(100), 0);  // its first byte is none of them
  for (std::uint64_t i = 1; i < kPages; ++i) EXPECT_EQ(read(100 + i), static_cast<int>(1 + i));
  ASSERT_TRUE(m_.vm.munmap(other, page(200 + 20), bytes(1)));  // in the second batch
  EXPECT_EQ(*m_.vm.process_vm_readv(mm_, to, &other, from), bytes(20) - 8);
  const phys::PhysMem& phys = *m_.phys;
  EXPECT_EQ(phys.global_node_page_state(phys::NodeStat::kNrFollPinAcquired),
            phys.global_node_page_state(phys::NodeStat::kNrFollPinReleased));
}

TEST_F(ProcessVmPromise, CopyingTakesItsTimeWithoutData) {
  VmMachine dataless({.data = phys::DataMode::kDataless});
  Mm& mm = dataless.mm_alloc();
  const VirtAddr at = dataless.anon(mm, 8, kRw, MapFlags::kPrivate | MapFlags::kPopulate);
  const std::array to{UserIovec{at, 4 * kPageSize}};
  const std::array from{UserIovec{at + 4 * kPageSize, 4 * kPageSize}};
  const sim::Nanos begun = dataless.scheduler.now();
  ASSERT_TRUE(dataless.vm.process_vm_readv(mm, to, &mm, from));
  EXPECT_GE(dataless.scheduler.now() - begun, dataless.scheduler.costs().memcpy_bytes(4 * kPageSize));
  dataless.vm.mmput(mm);
}

TEST_F(ProcessVmPromise, ReadingUnsharesThePageOfACopiedProcess) {
  at(8, 1);
  write(8, 5);
  Mm& child = fork();
  const std::array from{UserIovec{page(8), 1}};
  const std::array to{UserIovec{page(0), 1}};
  ASSERT_EQ(&m_.folio_at(mm_, page(8)), &m_.folio_at(child, page(8)));
  ASSERT_TRUE(m_.vm.process_vm_readv(mm_, to, &child, from));
  EXPECT_EQ(read(0), 5);
  EXPECT_NE(&m_.folio_at(mm_, page(8)), &m_.folio_at(child, page(8)));
  EXPECT_EQ(m_.read(child, page(8)), 5);
}

TEST_F(ProcessVmPromise, RightsCount) {
  ASSERT_TRUE(m_.vm.mprotect(*other_, page(0), bytes(1), Prot::kRead));
  const std::array part{UserIovec{page(0), 1}};
  EXPECT_TRUE(fails_with(m_.vm.process_vm_writev(mm_, part, other_, part), Errno::kFault));
  EXPECT_TRUE(m_.vm.process_vm_readv(mm_, part, other_, part));
}

TEST_F(ProcessVmPromise, Errors) {
  const Parts many(kUioMaxIov + 1);
  EXPECT_TRUE(fails_with(readv({{page(0), 1}}, {{page(0), 1}}, 1), Errno::kInval));
  EXPECT_TRUE(fails_with(readv(many, {{page(0), 1}}), Errno::kInval));
  EXPECT_TRUE(fails_with(readv({{page(0), 1}}, many), Errno::kInval));
  EXPECT_TRUE(fails_with(readv({{page(0), ~std::uint64_t{0}}}, {{page(0), 1}}), Errno::kInval));
  EXPECT_TRUE(fails_with(readv({{VirtAddr(~std::uint64_t{0}), 1}}, {{page(0), 1}}), Errno::kFault));
  EXPECT_TRUE(fails_with(readv({{page(0), 1}}, {{page(9), 1}}), Errno::kFault));
  EXPECT_TRUE(fails_with(readv({{page(9), 1}}, {{page(0), 1}}), Errno::kFault));
  const std::array part{UserIovec{page(0), 1}};
  EXPECT_TRUE(fails_with(m_.vm.process_vm_readv(mm_, part, fail(Errno::kSrch), part), Errno::kSrch));
  EXPECT_TRUE(fails_with(m_.vm.process_vm_readv(mm_, part, fail(Errno::kPerm), part), Errno::kPerm));
}

// --- membarrier -----------------------------------------------------------------------------------------------------------

class MembarrierPromise : public PromiseTest {};

TEST_F(MembarrierPromise, QueryNamesEveryCommand) { EXPECT_EQ(*m_.vm.membarrier(mm_, MembarrierCmd::kQuery), 0x3ffu); }

TEST_F(MembarrierPromise, PrivateOnesNeedARegistration) {
  using Cmd = MembarrierCmd;
  constexpr std::pair<Cmd, Cmd> kKinds[]{
      {Cmd::kPrivateExpedited, Cmd::kRegisterPrivateExpedited},
      {Cmd::kPrivateExpeditedSyncCore, Cmd::kRegisterPrivateExpeditedSyncCore},
      {Cmd::kPrivateExpeditedRseq, Cmd::kRegisterPrivateExpeditedRseq},
  };
  std::uint32_t registered = 0;
  for (const auto& [cmd, registration] : kKinds) {
    EXPECT_TRUE(fails_with(m_.vm.membarrier(mm_, cmd), Errno::kPerm));
    ASSERT_TRUE(m_.vm.membarrier(mm_, registration));
    EXPECT_TRUE(m_.vm.membarrier(mm_, cmd));
    registered |= static_cast<std::uint32_t>(registration);
    EXPECT_EQ(*m_.vm.membarrier(mm_, Cmd::kGetRegistrations), registered);
  }
}

TEST_F(MembarrierPromise, GlobalOnesNeedNone) {
  EXPECT_TRUE(m_.vm.membarrier(mm_, MembarrierCmd::kGlobal));
  EXPECT_TRUE(m_.vm.membarrier(mm_, MembarrierCmd::kGlobalExpedited));
}

TEST_F(MembarrierPromise, AChildIsRegisteredToo) {
  ASSERT_TRUE(m_.vm.membarrier(mm_, MembarrierCmd::kRegisterPrivateExpedited));
  EXPECT_TRUE(m_.vm.membarrier(fork(), MembarrierCmd::kPrivateExpedited));
}

// Only CPUs that run whom it is for are interrupted, and who runs there says so for the global one, not who asks.
TEST(MembarrierPrice, IsThatOfTheCpusThatItReaches) {
  TwoCpus two;
  VmMachine& m = two.m;
  two.run([&] {
    using Cmd = MembarrierCmd;
    Mm& mine = m.mm_alloc();
    Mm& others = m.mm_alloc();
    const VirtAddr at = m.anon(mine, 1);
    ASSERT_TRUE(m.vm.mmap(others, at, kPageSize, kRw, kPrivateAnon | MapFlags::kFixed, nullptr, 0));
    const auto pays = [&](Cmd cmd) {
      const sim::Nanos begun = m.scheduler.now();
      EXPECT_TRUE(m.vm.membarrier(mine, cmd));
      return m.scheduler.now() != begun;
    };
    ASSERT_TRUE(m.vm.membarrier(mine, Cmd::kRegisterPrivateExpedited));
    ASSERT_TRUE(m.vm.membarrier(mine, Cmd::kRegisterGlobalExpedited));
    m.write(mine, at, 1);
    two.touch_on_other(others, at, arch::Access::kWrite);
    EXPECT_FALSE(pays(Cmd::kPrivateExpedited));
    EXPECT_FALSE(pays(Cmd::kGlobalExpedited));
    ASSERT_TRUE(m.vm.membarrier(others, Cmd::kRegisterGlobalExpedited));
    EXPECT_TRUE(pays(Cmd::kGlobalExpedited));
    two.touch_on_other(mine, at);
    EXPECT_TRUE(pays(Cmd::kPrivateExpedited));
    two.other_is(TwoCpus::Between::kAsleep);
    EXPECT_FALSE(pays(Cmd::kPrivateExpedited));
    m.vm.mmput(mine);
    m.vm.mmput(others);
  });
}

TEST_F(MembarrierPromise, Errors) {
  EXPECT_TRUE(fails_with(m_.vm.membarrier(mm_, static_cast<MembarrierCmd>(3)), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.membarrier(mm_, MembarrierCmd::kQuery, 1), Errno::kInval));
  ASSERT_TRUE(m_.vm.membarrier(mm_, MembarrierCmd::kRegisterPrivateExpeditedRseq));
  EXPECT_TRUE(m_.vm.membarrier(mm_, MembarrierCmd::kPrivateExpeditedRseq, kMembarrierCmdFlagCpu, 0));
  EXPECT_TRUE(fails_with(m_.vm.membarrier(mm_, MembarrierCmd::kPrivateExpeditedRseq, 2), Errno::kInval));
}

// --- without memory ---------------------------------------------------------------------------------------------------------

// Each allocation of the call fails once, in turn: ENOMEM, nothing leaks, and in the end the call works.
class OutOfMemoryPromise : public PromiseTest {
 protected:
  void SetUp() override {
    m_.slab.set_fault_injection(&m_.faults);
    m_.phys->set_fault_injection(&m_.faults);
  }
  template <class Call>
  void fails_until_done(sim::FaultPoint point, Call&& call) {
    std::uint64_t failures = 0;
    for (std::uint64_t nth = 1; nth <= 32; ++nth) {
      m_.faults.set(point, {.nth = nth});
      const auto done = call();
      const bool failed = m_.faults.failures(point) > 0;
      m_.faults.set(point, {});
      m_.vm.validate();
      failures += failed ? 1 : 0;
      if (done) {
        EXPECT_FALSE(failed);
        EXPECT_GT(failures, 0u) << "it allocates nothing";
        return;
      }
      EXPECT_EQ(done.error(), Errno::kNoMem);
    }
    FAIL() << "32 allocations, and it still fails";
  }
};

TEST_F(OutOfMemoryPromise, Mseal) {
  at(0, 3);
  fails_until_done(sim::FaultPoint::kSlabAlloc, [&] { return seal(1, 1); });
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(1), bytes(1)), Errno::kPerm));
}

TEST_F(OutOfMemoryPromise, GuardInstallOfAnAreaWithoutPages) {
  at(0, 3);
  fails_until_done(sim::FaultPoint::kSlabAlloc, [&] { return advise(0, 3, Advice::kGuardInstall); });
  EXPECT_EQ(read(2), -11);
}

TEST_F(OutOfMemoryPromise, GuardInstallOverTwoTables) {
  at(510, 4);
  fails_until_done(sim::FaultPoint::kPageAlloc, [&] { return advise(510, 4, Advice::kGuardInstall); });
  EXPECT_EQ(read(510), -11);
  EXPECT_EQ(read(513), -11);
}

TEST_F(OutOfMemoryPromise, MemfdCreate) {
  fails_until_done(sim::FaultPoint::kSlabAlloc, [&]() -> Status {
    const auto file = m_.vfs.memfd_create("a name that does not fit into a dentry", MemfdFlags::kNone);
    if (!file) return fail(file.error());
    m_.vfs.fput(**file);
    return {};
  });
}

TEST_F(OutOfMemoryPromise, RemapFilePages) {
  ASSERT_TRUE(map(page(0), 3, kRw, MapFlags::kShared | MapFlags::kFixed, &memfd(3)));
  fails_until_done(sim::FaultPoint::kSlabAlloc,
                   [&] { return m_.vm.remap_file_pages(mm_, page(1), bytes(1), Prot::kNone, 0, MapFlags::kNonBlock); });
}

}  // namespace
}  // namespace quire::vm
