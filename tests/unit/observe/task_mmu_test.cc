// maps and smaps of small address spaces. That every figure is the kernel's own is tests/differential's to show.
#include "quire/observe/task_mmu.h"

#include <fmt/format.h>

#include "../vm/vm_machine.h"

namespace quire::observe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using vm::MapFlags;
using vm::Prot;

constexpr VirtAddr kAt{0x10000000};

class TaskMmuTest : public ::testing::Test {
 protected:
  void in_task(const std::function<void()>& body) {
    m_.run([&] {
      mm_ = &m_.mm_alloc();
      body();
      m_.vm.mmput(*mm_);
    });
  }

  vm::VmMachine m_;
  vm::Mm* mm_ = nullptr;
};

TEST_F(TaskMmuTest, MapsNamesFilesAndLeavesABlankBehindTheNumberOfOthers) {
  in_task([&] {
    m_.anon(*mm_, 2, Prot::kRead | Prot::kWrite, MapFlags::kPrivate | MapFlags::kFixed, kAt);
    file::File& file = m_.open("/usr/bin/cat", 3 * kPageSize, 1);
    const VirtAddr at(0x20000000);
    ASSERT_TRUE(m_.vm.mmap(*mm_, at, kPageSize, Prot::kRead, MapFlags::kShared | MapFlags::kFixed, &file, 2 * kPageSize));
    EXPECT_EQ(maps(m_.vm, *mm_),
              "10000000-10002000 rw-p 00000000 00:00 0 \n"
              "20000000-20001000 r--s 00002000 08:01 12                                 /usr/bin/cat\n");
    m_.vfs.fput(file);
  });
}

TEST_F(TaskMmuTest, SharedAnonymousMemoryIsADeletedFile) {
  in_task([&] {
    m_.anon(*mm_, 1, Prot::kRead, MapFlags::kShared | MapFlags::kFixed, kAt);
    EXPECT_THAT(maps(m_.vm, *mm_), HasSubstr(" /dev/zero (deleted)\n"));
  });
}

TEST_F(TaskMmuTest, APathStaysOnItsLineAndSaysThatItIsGone) {
  in_task([&] {
    file::File& file = m_.open("/tmp/two\nlines", kPageSize, 1);
    const VirtAddr at(0x20000000);
    ASSERT_TRUE(m_.vm.mmap(*mm_, at, kPageSize, Prot::kRead, MapFlags::kPrivate | MapFlags::kFixed, &file, 0));
    EXPECT_THAT(maps(m_.vm, *mm_), HasSubstr(" /tmp/two\\012lines\n"));
    ASSERT_TRUE(m_.fs().unlink("/tmp/two\nlines"));
    EXPECT_THAT(maps(m_.vm, *mm_), HasSubstr(" /tmp/two\\012lines (deleted)\n"));
    EXPECT_THAT(smaps(m_.vm, *mm_), HasSubstr(" /tmp/two\\012lines (deleted)\nSize: "));
    m_.vfs.fput(file);
  });
}

TEST_F(TaskMmuTest, MinorsAbove255StandInTheUpperBitsOfTheDeviceNumber) {
  in_task([&] {
    file::FileSystem& fs = m_.vfs.mount({.dev = 0x10082c});  // what stat says of 8:300
    file::File& file = *m_.vfs.open(*fs.create("/big").value(), file::FileMode::kRead).value();
    ASSERT_TRUE(m_.vm.mmap(*mm_, kAt, kPageSize, Prot::kRead, MapFlags::kPrivate | MapFlags::kFixed, &file, 0));
    EXPECT_THAT(maps(m_.vm, *mm_), HasSubstr(" r--p 00000000 08:12c 12 "));
    m_.vfs.fput(file);
  });
}

TEST_F(TaskMmuTest, SmapsSharesPagesAmongThoseThatMapThem) {
  in_task([&] {
    m_.anon(*mm_, 4, Prot::kRead | Prot::kWrite, MapFlags::kPrivate | MapFlags::kFixed, kAt);
    for (std::uint64_t page = 0; page < 2; ++page) m_.write(*mm_, kAt + page * kPageSize, 1);
    EXPECT_EQ(m_.read(*mm_, kAt + 2 * kPageSize), 0);  // the zero page is nobody's
    vm::Mm* child = m_.vm.dup_mm(*mm_).value();
    m_.write(*mm_, kAt, 2);
    const std::string text = smaps(m_.vm, *mm_);
    EXPECT_THAT(text, HasSubstr("Size:                 16 kB\n"));
    EXPECT_THAT(text, HasSubstr("Rss:                   8 kB\nPss:                   6 kB\n"));
    EXPECT_THAT(text, HasSubstr("Shared_Dirty:          4 kB\n"));
    EXPECT_THAT(text, HasSubstr("Private_Dirty:         4 kB\n"));
    EXPECT_THAT(text, HasSubstr("Anonymous:             8 kB\n"));
    EXPECT_THAT(text, HasSubstr("VmFlags: rd wr mr mw me ac sd \n"));
    m_.vm.mmput(*child);
    EXPECT_THAT(smaps(m_.vm, *mm_), HasSubstr("Pss:                   8 kB\n"));
  });
}

// It stays resident and its bytes the area's, though nobody knows who else has it.
TEST_F(TaskMmuTest, SmapsCountsAPageThatIsOnItsWayAsShared) {
  in_task([&] {
    m_.anon(*mm_, 2, Prot::kRead | Prot::kWrite, MapFlags::kPrivate | MapFlags::kFixed, kAt);
    for (std::uint64_t page = 0; page < 2; ++page) m_.write(*mm_, kAt + page * kPageSize, 1);
    phys::Folio& folio = m_.folio_at(*mm_, kAt);
    phys::folio_get(folio);
    phys::folio_lock(*m_.phys, folio);
    vm::AnonVma* anon_vma = m_.vm.rmap().folio_get_anon_vma(folio);
    ASSERT_TRUE(m_.vm.rmap().try_to_migrate(folio));
    const std::string text = smaps(m_.vm, *mm_);
    EXPECT_THAT(text, HasSubstr("Rss:                   8 kB\nPss:                   8 kB\nPss_Dirty:             8 kB\n"
                                "Shared_Clean:          0 kB\nShared_Dirty:          4 kB\n"
                                "Private_Clean:         0 kB\nPrivate_Dirty:         4 kB\n"));
    EXPECT_THAT(text, HasSubstr("Anonymous:             8 kB\n"));
    EXPECT_THAT(text, HasSubstr("Swap:                  0 kB\n"));
    m_.vm.rmap().remove_migration_ptes(folio, folio);
    m_.vm.rmap().put_anon_vma(*anon_vma);
    phys::folio_unlock(*m_.phys, folio);
    m_.lru.folio_put(folio);
    EXPECT_THAT(smaps(m_.vm, *mm_), HasSubstr("Private_Dirty:         8 kB\n"));
  });
}

TEST_F(TaskMmuTest, LockedAndRollupSumUp) {
  in_task([&] {
    m_.anon(*mm_, 2, Prot::kRead | Prot::kWrite, MapFlags::kPrivate | MapFlags::kFixed, kAt);
    m_.anon(*mm_, 3, Prot::kRead | Prot::kWrite, MapFlags::kShared | MapFlags::kFixed, kAt + 8 * kPageSize);
    ASSERT_TRUE(m_.vm.mlock(*mm_, kAt, 2 * kPageSize));
    m_.write(*mm_, kAt + 8 * kPageSize, 1);
    const std::string text = smaps_rollup(m_.vm, *mm_);
    EXPECT_THAT(text, HasSubstr("10000000-1000b000 ---p 00000000 00:00 0"));
    EXPECT_THAT(text, HasSubstr("[rollup]\nRss:                  12 kB\n"));
    EXPECT_THAT(text, HasSubstr("Pss_Anon:              8 kB\nPss_File:              0 kB\nPss_Shmem:             4 kB\n"));
    EXPECT_THAT(text, HasSubstr("Locked:                8 kB\n"));
    EXPECT_THAT(text, Not(HasSubstr("VmFlags")));
    EXPECT_EQ(statm(*mm_), "5 3 1 0 0 2 0\n");
  });
}

// Eight pages of shared memory, all written, of which those at the given indices have gone to swap.
class SwappedShmem : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 8;

  void with_file(std::initializer_list<std::uint64_t> out, const std::function<void(file::File&)>& body) {
    m_.run([&] {
      mm_ = &m_.mm_alloc();
      file::File& file = *m_.vfs.memfd_create("", file::MemfdFlags::kNone).value();
      std::vector<std::byte> bytes(kPages * kPageSize, std::byte{5});
      file::KernelBuffer from(bytes);
      ASSERT_TRUE(m_.vfs.pwrite(file, 0, bytes.size(), from));
      for (const std::uint64_t index : out) swap_out(file, index);
      body(file);
      m_.vm.mmput(*mm_);
      m_.vfs.fput(file);
    });
    m_.validate();
  }
  void swap_out(file::File& file, std::uint64_t index) {
    phys::Folio& folio = *file.inode().mapping.i_pages().load(index).pointer<phys::Folio>();
    m_.lru.lru_add_drain_all();
    ASSERT_TRUE(m_.lru.folio_isolate_lru(folio));
    ASSERT_TRUE(phys::folio_trylock(folio));
    phys::folio_clear_dirty(folio);
    ASSERT_TRUE(m_.vfs.shmem().shmem_writepage(folio));
    m_.lru.folio_putback_lru(folio);
  }
  // Swap: of an area of the file's pages [first, first + pages), in pages.
  std::uint64_t swapped(file::File& file, std::uint64_t first, std::uint64_t pages, Prot prot, MapFlags flags,
                        const std::function<void(VirtAddr)>& before = {}) {
    const VirtAddr at = m_.vm.mmap(*mm_, VirtAddr(0), pages * kPageSize, prot, flags, &file, first * kPageSize).value();
    if (before) before(at);
    const MemSize size = smap_gather_stats(m_.vm, *mm_->mm_vmas.find(at));
    EXPECT_EQ(size.swap_pss, 0u);
    EXPECT_THAT(smaps_rollup(m_.vm, *mm_), HasSubstr(fmt::format("Swap:           {:>8} kB\n", size.swap / kKiB)));
    EXPECT_TRUE(m_.vm.munmap(*mm_, at, pages * kPageSize));
    return size.swap / kPageSize;
  }

  static constexpr Prot kRw = Prot::kRead | Prot::kWrite;
  vm::VmMachine m_{{.zram = 8 * kMiB}};
  vm::Mm* mm_ = nullptr;
};

TEST_F(SwappedShmem, CountsForASharedAreaWhatItsPartOfTheFileHasInSwap) {
  with_file({1, 2, 6}, [&](file::File& file) {
    EXPECT_EQ(swapped(file, 0, kPages, kRw, MapFlags::kShared), 3u);
    EXPECT_EQ(swapped(file, 0, kPages, Prot::kRead, MapFlags::kPrivate), 3u);
    EXPECT_EQ(swapped(file, 2, kPages - 2, kRw, MapFlags::kShared), 2u);
    EXPECT_EQ(swapped(file, 3, 3, kRw, MapFlags::kShared), 0u);
  });
}

// A page of one's own hides the file's, be it in memory or not.
TEST_F(SwappedShmem, CountsForAPrivateWritableAreaWhatNoEntryHides) {
  with_file({1, 2, 6}, [&](file::File& file) {
    EXPECT_EQ(swapped(file, 0, kPages, kRw, MapFlags::kPrivate), 3u);
    const auto write_around = [&](VirtAddr at) {
      for (const std::uint64_t page : {0, 3, 7}) m_.write(*mm_, at + page * kPageSize, 1);
    };
    EXPECT_EQ(swapped(file, 0, kPages, kRw, MapFlags::kPrivate, write_around), 3u);
    const auto write_and_lose = [&](VirtAddr at) {
      m_.write(*mm_, at + kPageSize, 1);  // swaps the file's page in, and copies it
      swap_out(file, 1);
    };
    EXPECT_EQ(swapped(file, 0, kPages, kRw, MapFlags::kPrivate, write_and_lose), 2u);
  });
}

TEST_F(SwappedShmem, CountsNothingWhereNothingIsInSwap) {
  with_file({}, [&](file::File& file) { EXPECT_EQ(swapped(file, 0, kPages, kRw, MapFlags::kShared), 0u); });
}

}  // namespace
}  // namespace quire::observe
