// The mmap family: what each call returns, and the areas that stand afterwards.
#include "vm_machine.h"

namespace quire::vm {
namespace {

constexpr VirtAddr kBase{0x10000000};
constexpr MapFlags kPrivateAnon = MapFlags::kPrivate | MapFlags::kAnonymous;

VirtAddr page(std::uint64_t n) { return kBase + n * kPageSize; }

class MmapTest : public ::testing::Test {
 protected:
  Result<VirtAddr> map(VirtAddr hint, std::uint64_t length, Prot prot, MapFlags flags, file::File* file = nullptr,
                       std::uint64_t offset = 0) {
    return m_.vm.mmap(mm_, hint, length, prot, flags, file, offset);
  }
  // A fixed anonymous mapping of pages [first, end).
  void at(std::uint64_t first, std::uint64_t end, Prot prot = kRw, MapFlags more = MapFlags::kNone) {
    ASSERT_TRUE(map(page(first), (end - first) * kPageSize, prot, kPrivateAnon | MapFlags::kFixed | more));
  }
  Status protect(std::uint64_t first, std::uint64_t end, Prot prot) {
    return m_.vm.mprotect(mm_, page(first), (end - first) * kPageSize, prot);
  }
  Status unmap(std::uint64_t first, std::uint64_t end) { return m_.vm.munmap(mm_, page(first), (end - first) * kPageSize); }
  std::string maps() { return layout(mm_, kBase); }
  void TearDown() override {
    m_.vm.validate();
    m_.vm.mmput(mm_);
    EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
    m_.validate();
  }

  VmMachine m_;
  Mm& mm_ = m_.mm_alloc();
};

TEST_F(MmapTest, RefusesWhatLinuxRefuses) {
  EXPECT_TRUE(fails_with(map(VirtAddr(0), 0, kRw, kPrivateAnon), Errno::kInval));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), ~std::uint64_t{0}, kRw, kPrivateAnon), Errno::kNoMem));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), std::uint64_t{1} << 47, kRw, kPrivateAnon), Errno::kNoMem));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, MapFlags::kAnonymous), Errno::kInval));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, MapFlags::kPrivate), Errno::kBadF));
  EXPECT_TRUE(fails_with(map(page(0) + 1, kPageSize, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kInval));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, kPrivateAnon | MapFlags::kFixed), Errno::kPerm));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, kPrivateAnon, nullptr, 1), Errno::kInval));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, MapFlags::kSharedValidate | MapFlags::kAnonymous), Errno::kInval));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, MapFlags::kShared | MapFlags::kAnonymous | MapFlags::kGrowsDown),
                         Errno::kInval));
  at(0, 2);
  EXPECT_TRUE(fails_with(map(page(1), kPageSize, kRw, kPrivateAnon | MapFlags::kFixedNoReplace), Errno::kExist));
  EXPECT_EQ(maps(), "0-2 rw-p\n");
}

TEST_F(MmapTest, ChoosesTheHighestGapAndMerges) {
  const VirtAddr a = *map(VirtAddr(0), 4 * kPageSize, kRw, kPrivateAnon);
  EXPECT_EQ(a, VirtAddr(mm_.mmap_base.value() - 4 * kPageSize));
  const VirtAddr b = *map(VirtAddr(0), kPageSize, kRw, kPrivateAnon);
  EXPECT_EQ(b, VirtAddr(a.value() - kPageSize));
  EXPECT_EQ(mm_.map_count, 1);
  // A hint is taken when it is free, rounded down; otherwise it counts for nothing.
  EXPECT_EQ(*map(kBase + 5, kPageSize, kRw, kPrivateAnon), kBase);
  EXPECT_EQ(*map(kBase, kPageSize, kRw, kPrivateAnon), VirtAddr(b.value() - kPageSize));
  EXPECT_EQ(map(VirtAddr(0), kPageSize, kRw, kPrivateAnon | MapFlags::k32Bit)->value(), 0x40000000u);
}

TEST_F(MmapTest, UnmapSplitsAndFreesTables) {
  at(0, 10);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(m_.write(mm_, page(i), 1).ok());
  ASSERT_TRUE(unmap(3, 5));
  EXPECT_EQ(maps(), "0-3 rw-p\n5-10 rw-p\n");
  EXPECT_EQ(mm_.counter(Rss::kAnonPages), 8);
  ASSERT_TRUE(unmap(0, 100));
  EXPECT_EQ(maps(), "");
  EXPECT_EQ(mm_.rss(), 0u);
  EXPECT_EQ(mm_.pgtables_pages, 0u);
  EXPECT_TRUE(unmap(0, 100));  // nothing there: not an error
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(0) + 1, kPageSize), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(0), 0), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.munmap(mm_, page(0), ~std::uint64_t{0}), Errno::kInval));
}

TEST_F(MmapTest, ProtectSplitsAndMergesInEveryWay) {
  at(0, 12);
  ASSERT_TRUE(protect(4, 8, Prot::kRead));
  EXPECT_EQ(maps(), "0-4 rw-p\n4-8 r--p\n8-12 rw-p\n");
  ASSERT_TRUE(protect(4, 6, kRw));  // the head joins what is in front
  EXPECT_EQ(maps(), "0-6 rw-p\n6-8 r--p\n8-12 rw-p\n");
  ASSERT_TRUE(protect(7, 8, kRw));  // the tail joins what is behind
  EXPECT_EQ(maps(), "0-6 rw-p\n6-7 r--p\n7-12 rw-p\n");
  ASSERT_TRUE(protect(6, 7, kRw));  // the rest joins both
  EXPECT_EQ(maps(), "0-12 rw-p\n");
  ASSERT_TRUE(protect(0, 3, Prot::kNone));
  ASSERT_TRUE(protect(2, 10, Prot::kRead));
  EXPECT_EQ(maps(), "0-2 ---p\n2-10 r--p\n10-12 rw-p\n");
  EXPECT_EQ(mm_.map_count, 3);
}

TEST_F(MmapTest, ProtectErrors) {
  at(0, 2);
  at(4, 6);
  EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, page(0) + 1, kPageSize, kRw), Errno::kInval));
  EXPECT_TRUE(fails_with(protect(0, 2, static_cast<Prot>(0x10)), Errno::kInval));
  EXPECT_TRUE(fails_with(protect(2, 3, kRw), Errno::kNoMem));
  EXPECT_TRUE(fails_with(protect(0, 6, Prot::kRead), Errno::kNoMem));  // up to the hole it is done
  EXPECT_EQ(maps(), "0-2 r--p\n4-6 rw-p\n");
  EXPECT_TRUE(m_.vm.mprotect(mm_, page(2), 0, kRw));
  EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, page(0), kPageSize, kRw | Prot::kGrowsDown), Errno::kInval));
  file::File& file = m_.open("/ro", kPageSize, 1, file::FileMode::kRead);
  const VirtAddr shared = *map(VirtAddr(0), kPageSize, Prot::kRead, MapFlags::kShared, &file);
  EXPECT_TRUE(fails_with(m_.vm.mprotect(mm_, shared, kPageSize, kRw), Errno::kAcces));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, MapFlags::kShared, &file), Errno::kAcces));
  m_.vfs.fput(file);
}

TEST_F(MmapTest, ProtectedPagesKeepTheirBytes) {
  at(0, 3);
  for (int i = 0; i < 3; ++i) m_.write(mm_, page(i), static_cast<std::uint8_t>(10 + i));
  ASSERT_TRUE(protect(1, 2, Prot::kNone));
  EXPECT_EQ(m_.vm.access(mm_, page(1), arch::Access::kRead).si_code, SiCode::kSegvAccErr);
  EXPECT_EQ(m_.vm.access(mm_, page(0), arch::Access::kExec).si_code, SiCode::kSegvAccErr);
  ASSERT_TRUE(protect(1, 2, Prot::kRead));
  EXPECT_EQ(m_.read(mm_, page(1)), 11);
  EXPECT_EQ(m_.vm.access(mm_, page(1), arch::Access::kWrite).si_code, SiCode::kSegvAccErr);
  ASSERT_TRUE(protect(1, 2, kRw));
  EXPECT_TRUE(m_.write(mm_, page(1), 99).ok());
  EXPECT_EQ(m_.read(mm_, page(2)), 12);
}

TEST_F(MmapTest, RemapInPlaceAndAway) {
  at(0, 4);
  for (int i = 0; i < 4; ++i) m_.write(mm_, page(i), static_cast<std::uint8_t>(i + 1));
  EXPECT_EQ(*m_.vm.mremap(mm_, page(0), 4 * kPageSize, 6 * kPageSize, MremapFlags::kNone), page(0));
  EXPECT_EQ(maps(), "0-6 rw-p\n");
  EXPECT_EQ(*m_.vm.mremap(mm_, page(0), 6 * kPageSize, 5 * kPageSize, MremapFlags::kNone), page(0));
  EXPECT_EQ(maps(), "0-5 rw-p\n");
  at(5, 6, Prot::kRead);
  EXPECT_TRUE(fails_with(m_.vm.mremap(mm_, page(0), 5 * kPageSize, 8 * kPageSize, MremapFlags::kNone), Errno::kNoMem));
  EXPECT_EQ(*m_.vm.mremap(mm_, page(0), 5 * kPageSize, 8 * kPageSize, MremapFlags::kMayMove | MremapFlags::kFixed, page(20)),
            page(20));
  EXPECT_EQ(maps(), "5-6 r--p\n20-28 rw-p\n");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(m_.read(mm_, page(20 + i)), i + 1);
  EXPECT_EQ(m_.read(mm_, page(27)), 0);
  EXPECT_EQ(m_.read(mm_, page(0)), -11);
  const VirtAddr moved = *m_.vm.mremap(mm_, page(20), 8 * kPageSize, 64 * kPageSize, MremapFlags::kMayMove);
  EXPECT_EQ(m_.read(mm_, moved + kPageSize), 2);
}

TEST_F(MmapTest, RemapErrors) {
  at(0, 4);
  const auto remap = [&](VirtAddr from, std::uint64_t old_length, std::uint64_t new_length, MremapFlags flags,
                         VirtAddr to = {}) { return m_.vm.mremap(mm_, from, old_length, new_length, flags, to); };
  EXPECT_TRUE(fails_with(remap(page(0) + 1, kPageSize, kPageSize, MremapFlags::kNone), Errno::kInval));
  EXPECT_TRUE(fails_with(remap(page(0), kPageSize, 0, MremapFlags::kNone), Errno::kInval));
  EXPECT_TRUE(fails_with(remap(page(0), kPageSize, kPageSize, static_cast<MremapFlags>(8)), Errno::kInval));
  EXPECT_TRUE(fails_with(remap(page(0), kPageSize, kPageSize, MremapFlags::kFixed), Errno::kInval));
  EXPECT_TRUE(fails_with(remap(page(9), kPageSize, kPageSize, MremapFlags::kNone), Errno::kFault));
  EXPECT_TRUE(fails_with(remap(page(0), 5 * kPageSize, 9 * kPageSize, MremapFlags::kMayMove), Errno::kFault));
  EXPECT_TRUE(fails_with(remap(page(0), 0, kPageSize, MremapFlags::kMayMove), Errno::kInval));
  EXPECT_TRUE(fails_with(remap(page(0), 4 * kPageSize, 4 * kPageSize, MremapFlags::kMayMove | MremapFlags::kFixed, page(2)),
                         Errno::kInval));
  EXPECT_EQ(maps(), "0-4 rw-p\n");
}

TEST_F(MmapTest, RemapWithoutUnmappingLeavesAnEmptyArea) {
  at(0, 2);
  m_.write(mm_, page(0), 7);
  const MremapFlags flags = MremapFlags::kMayMove | MremapFlags::kDontUnmap;
  const VirtAddr moved = *m_.vm.mremap(mm_, page(0), 2 * kPageSize, 2 * kPageSize, flags);
  EXPECT_EQ(m_.read(mm_, moved), 7);
  EXPECT_EQ(m_.read(mm_, page(0)), 0);
}

TEST_F(MmapTest, BrkGrowsAndShrinks) {
  mm_.start_brk = mm_.brk = page(0) + 100;
  EXPECT_EQ(m_.vm.brk(mm_, VirtAddr(0)), page(0) + 100);
  EXPECT_EQ(m_.vm.brk(mm_, page(3) + 10), page(3) + 10);
  EXPECT_EQ(maps(), "1-4 rw-p\n");
  EXPECT_EQ(m_.vm.brk(mm_, page(2)), page(2));
  EXPECT_EQ(maps(), "1-2 rw-p\n");
  at(5, 6, Prot::kRead);
  EXPECT_EQ(m_.vm.brk(mm_, page(5)), page(2));  // a page must stay free in front of the next area
  EXPECT_EQ(m_.vm.brk(mm_, page(4)), page(4));
  mm_.rlimits.data = 2 * kPageSize;
  EXPECT_EQ(m_.vm.brk(mm_, page(4) + 1), page(4));
}

TEST_F(MmapTest, StacksGrowDownToTheirLimitAndGuard) {
  const VirtAddr top = *m_.vm.setup_stack(mm_);
  mm_.rlimits.stack = 2 * kMiB;
  EXPECT_TRUE(m_.write(mm_, VirtAddr(top.value() - kMiB), 1).ok());
  EXPECT_EQ(mm_.stack_vm, kMiB >> kPageShift);
  EXPECT_EQ(m_.vm.access(mm_, VirtAddr(top.value() - 3 * kMiB), arch::Access::kWrite).si_code, SiCode::kSegvMapErr);
  // Another mapping within the guard gap stops it.
  const VirtAddr near(top.value() - kMiB - 512 * kPageSize / 2);
  ASSERT_TRUE(map(near, kPageSize, kRw, kPrivateAnon | MapFlags::kFixed));
  EXPECT_EQ(m_.vm.access(mm_, VirtAddr(top.value() - kMiB - kPageSize), arch::Access::kWrite).signal, Signal::kSegv);
}

TEST_F(MmapTest, LimitsHold) {
  mm_.rlimits.as = 10 * kPageSize;
  at(0, 8);
  EXPECT_TRUE(fails_with(map(VirtAddr(0), 3 * kPageSize, kRw, kPrivateAnon), Errno::kNoMem));
  EXPECT_TRUE(map(page(0), 8 * kPageSize, kRw, kPrivateAnon | MapFlags::kFixed));  // what is replaced does not count
  mm_.rlimits = {};
  m_.vm.tunables().max_map_count = 3;
  ASSERT_TRUE(protect(2, 4, Prot::kRead));
  EXPECT_TRUE(fails_with(protect(0, 1, Prot::kRead), Errno::kNoMem));
  EXPECT_TRUE(fails_with(unmap(5, 6), Errno::kNoMem));
  EXPECT_EQ(maps(), "0-2 rw-p\n2-4 r--p\n4-8 rw-p\n");
}

// Only a hole in the middle of one area adds an area for good.
TEST_F(MmapTest, TheEndsOfAnAreaGoEvenAtTheMapCountLimit) {
  at(0, 10);
  at(20, 30, Prot::kRead);
  m_.vm.tunables().max_map_count = mm_.map_count;
  EXPECT_TRUE(fails_with(unmap(4, 6), Errno::kNoMem));
  EXPECT_TRUE(unmap(0, 1));
  EXPECT_TRUE(unmap(9, 10));
  EXPECT_TRUE(unmap(8, 21));
  EXPECT_EQ(maps(), "1-8 rw-p\n21-30 r--p\n");
  EXPECT_TRUE(fails_with(protect(2, 3, Prot::kRead), Errno::kNoMem));
}

TEST_F(MmapTest, OvercommitModes) {
  const std::uint64_t ram = m_.phys->totalram_pages() * kPageSize;
  EXPECT_TRUE(fails_with(map(VirtAddr(0), ram + kPageSize, kRw, kPrivateAnon), Errno::kNoMem));
  EXPECT_TRUE(map(VirtAddr(0), ram + kPageSize, kRw, kPrivateAnon | MapFlags::kNoReserve));
  EXPECT_TRUE(map(VirtAddr(0), ram + kPageSize, Prot::kRead, kPrivateAnon));
  m_.vm.tunables().overcommit_memory = OvercommitMode::kAlways;
  EXPECT_TRUE(map(VirtAddr(0), 4 * ram, kRw, kPrivateAnon));
  m_.vm.tunables().overcommit_memory = OvercommitMode::kNever;
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kPageSize, kRw, kPrivateAnon), Errno::kNoMem));
}

// A part of what the forking process has stays free for it, however little the child has yet.
TEST_F(MmapTest, ForkLeavesTheReserveOfTheParent) {
  at(0, 300);
  ASSERT_TRUE(map(page(1000), 16384 * kPageSize, Prot::kRead, kPrivateAnon));  // a 32nd: 512 pages and some
  VmTunables& tunables = m_.vm.tunables();
  tunables.overcommit_memory = OvercommitMode::kNever;
  tunables.overcommit_kbytes = 1000 * kPageSize / kKiB;
  tunables.admin_reserve_kbytes = 0;
  EXPECT_TRUE(fails_with(m_.vm.dup_mm(mm_), Errno::kNoMem));
  EXPECT_EQ(m_.vm.commit().committed_as(), 300u);
  tunables.user_reserve_kbytes = 0;
  const Result<Mm*> child = m_.vm.dup_mm(mm_);
  ASSERT_TRUE(child);
  EXPECT_EQ(m_.vm.commit().committed_as(), 600u);
  m_.vm.mmput(**child);
}

TEST_F(MmapTest, SharedMemoryIsPromisedToo) {
  const auto shared = MapFlags::kShared | MapFlags::kAnonymous;
  ASSERT_TRUE(map(page(0), 8 * kPageSize, kRw, shared | MapFlags::kFixed));
  EXPECT_EQ(m_.vm.commit().committed_as(), 8u);
  ASSERT_TRUE(unmap(0, 8));
  EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
  // Without a reservation page by page.
  ASSERT_TRUE(map(page(0), 8 * kPageSize, kRw, shared | MapFlags::kFixed | MapFlags::kNoReserve));
  EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
  EXPECT_TRUE(m_.write(mm_, page(3), 1).ok());
  EXPECT_EQ(m_.vm.commit().committed_as(), 1u);
  ASSERT_TRUE(unmap(0, 8));
  EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
  m_.vm.tunables().overcommit_memory = OvercommitMode::kNever;
  EXPECT_TRUE(fails_with(map(VirtAddr(0), kGiB, kRw, shared), Errno::kNoMem));
  EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
}

TEST_F(MmapTest, LocksAndTheirLimit) {
  mm_.rlimits.memlock = 4 * kPageSize;
  at(0, 6);
  m_.write(mm_, page(1), 1);  // one AnonVma for the parts to come, or they would not merge again
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(0), 5 * kPageSize), Errno::kNoMem));
  ASSERT_TRUE(m_.vm.mlock(mm_, page(1), 2 * kPageSize));
  EXPECT_EQ(mm_.locked_vm, 2u);
  EXPECT_EQ(mm_.counter(Rss::kAnonPages), 2);
  EXPECT_EQ(mm_.map_count, 3);
  EXPECT_FALSE(m_.reclaim(m_.folio_at(mm_, page(1))));
  EXPECT_TRUE(fails_with(m_.vm.madvise(mm_, page(0), 6 * kPageSize, Advice::kDontNeed), Errno::kInval));
  EXPECT_TRUE(fails_with(map(VirtAddr(0), 3 * kPageSize, kRw, kPrivateAnon | MapFlags::kLocked), Errno::kAgain));
  EXPECT_TRUE(fails_with(m_.vm.mlock(mm_, page(6), kPageSize), Errno::kNoMem));
  ASSERT_TRUE(m_.vm.munlock(mm_, page(0), 6 * kPageSize));
  EXPECT_EQ(mm_.locked_vm, 0u);
  EXPECT_EQ(mm_.map_count, 1);
  EXPECT_TRUE(fails_with(m_.vm.mlockall(mm_, MclFlags::kNone), Errno::kInval));
  EXPECT_TRUE(fails_with(m_.vm.mlockall(mm_, MclFlags::kCurrent), Errno::kNoMem));
  mm_.rlimits.memlock = 1 * kMiB;
  ASSERT_TRUE(m_.vm.mlockall(mm_, MclFlags::kCurrent | MclFlags::kFuture));
  EXPECT_EQ(mm_.locked_vm, 6u);
  at(10, 12);
  EXPECT_EQ(mm_.locked_vm, 8u);
  EXPECT_EQ(mm_.counter(Rss::kAnonPages), 8);
  ASSERT_TRUE(m_.vm.munlockall(mm_));
  EXPECT_EQ(mm_.locked_vm, 0u);
}

TEST_F(MmapTest, MincoreAndMsync) {
  at(0, 3);
  m_.write(mm_, page(1), 1);
  std::array<std::uint8_t, 3> vec{};
  ASSERT_TRUE(m_.vm.mincore(mm_, page(0), 3 * kPageSize, vec));
  EXPECT_EQ(vec, (std::array<std::uint8_t, 3>{0, 1, 0}));
  std::array<std::uint8_t, 8> more{};
  EXPECT_TRUE(fails_with(m_.vm.mincore(mm_, page(0), 4 * kPageSize, more), Errno::kNoMem));
  EXPECT_TRUE(fails_with(m_.vm.mincore(mm_, page(0) + 1, kPageSize, more), Errno::kInval));
  EXPECT_TRUE(m_.vm.msync(mm_, page(0), 3 * kPageSize, MsyncFlags::kSync));
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0), 4 * kPageSize, MsyncFlags::kSync), Errno::kNoMem));
  EXPECT_TRUE(fails_with(m_.vm.msync(mm_, page(0), kPageSize, MsyncFlags::kSync | MsyncFlags::kAsync), Errno::kInval));
}

// What a guest answered (6.1.0-56-cloud-amd64 under QEMU 7.2, a file of ext4): a mapping of a file on a disk that would hold a
// huge page lies so that one could be mapped; others' lie wherever there is room.
TEST(MmapPlaces, FilesOnADiskLieWhereHugePagesCouldBeMapped) {
  enum class What : std::uint8_t { kFile, kAnonymous, kMemfd };
  struct Call {
    std::uint64_t length, offset, hint;
    What what;
    std::uint64_t at;
  };
  constexpr std::uint64_t kHint = 0x500000001000;
  constexpr Call kCalls[] = {{0x1000, 0, 0, What::kAnonymous, 0x7ffff7ff8000},
                             {0x100000, 0, 0, What::kFile, 0x7ffff7ef8000},
                             {0x1ff000, 0, 0, What::kFile, 0x7ffff7cf9000},
                             {0x200000, 0, 0, What::kFile, 0x7ffff7a00000},
                             {0x201000, 0, 0, What::kFile, 0x7ffff7600000},
                             {0x300000, 0x1000, 0, What::kFile, 0x7ffff7300000},
                             {0x3fe000, 0x1000, 0, What::kFile, 0x7ffff6f02000},
                             {0x400000, 0x1000, 0, What::kFile, 0x7ffff6a01000},
                             {0x1000000, 0, 0, What::kFile, 0x7ffff5a00000},
                             {0x500000, 0, kHint, What::kFile, kHint},
                             {0x500000, 0, kHint, What::kFile, 0x7ffff5400000},
                             {0x500000, 0x1ff000, 0, What::kFile, 0x7ffff4dff000},
                             {0x1000000, 0, 0, What::kAnonymous, 0x7ffff3dff000},
                             {0x1000000, 0, 0, What::kMemfd, 0x7ffff2dff000},
                             {0x1000, 0, 0, What::kFile, 0x7ffff7cf8000},
                             {0x800000, 0, 0, What::kFile, 0x7ffff2400000}};
  VmMachine m;
  m.run([&] {
    Mm& mm = m.mm_alloc();
    mm.mmap_base = VirtAddr(0x7ffff7ff9000);
    file::File& file = m.open("/f", 16 * kMiB, 1);
    file::File& memfd = *m.vfs.memfd_create("x", file::MemfdFlags::kNone).value();
    ASSERT_TRUE(m.vfs.ftruncate(memfd, 64 * kMiB));
    for (const Call& call : kCalls) {
      file::File* of = call.what == What::kFile ? &file : call.what == What::kMemfd ? &memfd : nullptr;
      const MapFlags flags = MapFlags::kPrivate | (of == nullptr ? MapFlags::kAnonymous : MapFlags::kNone);
      // A guest's neighbours differ in flags, so that they do not merge; where they lie is the same.
      const auto at = m.vm.mmap(mm, VirtAddr(call.hint), call.length, Prot::kRead, flags, of, call.offset);
      ASSERT_TRUE(at);
      EXPECT_EQ(at->value(), call.at) << std::hex << call.length << " at " << call.offset;
    }
    const VirtAddr small = m.vm.mmap(mm, VirtAddr(0), 0x10000, Prot::kRead, MapFlags::kShared, &file, 0).value();
    EXPECT_EQ(small, VirtAddr(0x7ffff7ce8000));
    EXPECT_EQ(m.vm.mremap(mm, small, 0x10000, 0x600000, MremapFlags::kMayMove).value(), VirtAddr(0x7ffff1c00000));
    m.vfs.fput(file);
    m.vfs.fput(memfd);
    m.vm.mmput(mm);
  });
  m.validate();
}

}  // namespace
}  // namespace quire::vm
