// /proc/PID/pagemap, bit by bit as Documentation/admin-guide/mm/pagemap.rst promises.
#include "quire/observe/pagemap.h"

#include <array>
#include <cstring>

#include "../vm/vm_machine.h"

namespace quire::observe {
namespace {

using vm::kRw;
using vm::MapFlags;
using vm::Prot;

constexpr VirtAddr kAt{0x10000000};
constexpr vm::MapFlags kHere = MapFlags::kPrivate | MapFlags::kFixed;

class PagemapTest : public ::testing::Test {
 protected:
  explicit PagemapTest(const vm::MachineSpec& spec = {.zram = 8 * kMiB}) : m_(spec) {}

  void in_task(const std::function<void()>& body) {
    m_.run([&] {
      mm_ = &m_.mm_alloc();
      body();
      m_.vm.mmput(*mm_);
    });
  }
  std::uint64_t word(VirtAddr at, ShowPfn show = ShowPfn::kYes) {
    std::array<std::byte, 8> bytes{};
    EXPECT_EQ(read_pagemap(m_.vm, *mm_, (at.value() >> kPageShift) * 8, bytes, show).value(), 8u);
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data(), 8);
    return value;
  }
  std::uint64_t pfn(VirtAddr at) { return m_.phys->page_to_pfn(*m_.page_at(*mm_, at)).value(); }

  vm::VmMachine m_;
  vm::Mm* mm_ = nullptr;
};

TEST_F(PagemapTest, AnUntouchedPageOfAnAreaIsSoftDirtyAndAnUnmappedOneIsZero) {
  in_task([&] {
    m_.anon(*mm_, 2, kRw, kHere, kAt);
    EXPECT_EQ(word(kAt), kPagemapSoftDirty);
    EXPECT_EQ(word(kAt + kPageSize, ShowPfn::kNo), kPagemapSoftDirty);
    EXPECT_EQ(word(kAt + 2 * kPageSize), 0u);
    EXPECT_EQ(word(VirtAddr(0x30000000)), 0u);
    EXPECT_EQ(pagemap(m_.vm, *mm_), "");
  });
}

// As all of Linux's: whatever made the area, and whatever it was split off or merged with.
TEST_F(PagemapTest, EveryAreaIsSoftDirty) {
  in_task([&] {
    m_.anon(*mm_, 8, kRw, kHere, kAt);
    ASSERT_TRUE(m_.vm.mprotect(*mm_, kAt, kPageSize, Prot::kRead));
    m_.anon(*mm_, 8, kRw, kHere, kAt + 8 * kPageSize);
    ASSERT_TRUE(m_.vm.setup_stack(*mm_));
    ASSERT_TRUE(m_.vm.vm_brk_flags(*mm_, {kAt + kMiB, kAt + kMiB + kPageSize}, vm::VmFlags::kNone));
    vm::Mm* child = m_.vm.dup_mm(*mm_).value();
    for (const vm::Mm* mm : {mm_, child}) {
      EXPECT_EQ(mm->map_count, 4);
      for (const vm::Vma& vma : mm->mm_vmas) EXPECT_TRUE(vma.has(vm::VmFlags::kSoftDirty)) << std::hex << vma.vm_start.value();
    }
    m_.vm.mmput(*child);
  });
}

TEST_F(PagemapTest, APageOfItsOwnIsPresentAndExclusiveWithItsFrame) {
  in_task([&] {
    m_.anon(*mm_, 2, kRw, kHere, kAt);
    m_.write(*mm_, kAt, 1);
    EXPECT_EQ(word(kAt), kPagemapPresent | kPagemapExclusive | kPagemapSoftDirty | pfn(kAt));
  });
}

TEST_F(PagemapTest, WithoutTheRightFramesReadAsZero) {
  in_task([&] {
    m_.anon(*mm_, 1, kRw, kHere, kAt);
    m_.write(*mm_, kAt, 1);
    EXPECT_EQ(word(kAt, ShowPfn::kNo), kPagemapPresent | kPagemapExclusive | kPagemapSoftDirty);
  });
}

TEST_F(PagemapTest, AfterForkThePageIsNobodysAlone) {
  in_task([&] {
    m_.anon(*mm_, 1, kRw, kHere, kAt);
    m_.write(*mm_, kAt, 1);
    vm::Mm* child = m_.vm.dup_mm(*mm_).value();
    EXPECT_EQ(word(kAt) & kPagemapExclusive, 0u);
    m_.vm.mmput(*child);
    EXPECT_NE(word(kAt) & kPagemapExclusive, 0u);
  });
}

TEST_F(PagemapTest, TheZeroPageIsPresentAndNothingElse) {
  in_task([&] {
    m_.anon(*mm_, 1, kRw, kHere, kAt);
    EXPECT_EQ(m_.read(*mm_, kAt), 0);
    EXPECT_EQ(word(kAt), kPagemapPresent | kPagemapSoftDirty | m_.phys->page_to_pfn(m_.vm.zero_page()).value());
  });
}

TEST_F(PagemapTest, FilePagesAndSharedAnonymousPagesAreMarked) {
  in_task([&] {
    file::File& file = m_.open("/data", 2 * kPageSize, 1);
    ASSERT_TRUE(m_.vm.mmap(*mm_, kAt, kPageSize, Prot::kRead, kHere, &file, 0));
    m_.vfs.fput(file);
    const VirtAddr shared = kAt + kMiB;
    m_.anon(*mm_, 1, kRw, MapFlags::kShared | MapFlags::kFixed, shared);
    ASSERT_GE(m_.read(*mm_, kAt), 0);
    m_.write(*mm_, shared, 1);
    for (const VirtAddr at : {kAt, shared}) {
      EXPECT_EQ(word(at), kPagemapPresent | kPagemapFile | kPagemapExclusive | kPagemapSoftDirty | pfn(at));
    }
  });
}

TEST_F(PagemapTest, ASwappedPageTellsTypeAndOffset) {
  in_task([&] {
    m_.anon(*mm_, 1, kRw, kHere, kAt);
    m_.write(*mm_, kAt, 1);
    ASSERT_TRUE(m_.swap_out(*mm_, kAt));
    const arch::SwapEntry entry = arch::pte_to_swp_entry(*m_.vm.pgtable().pte_offset(*mm_, kAt));
    EXPECT_EQ(word(kAt), kPagemapSwap | kPagemapSoftDirty | entry.type | entry.offset << 5);
    EXPECT_EQ(pagemap(m_.vm, *mm_).find("10000000-10001000 swapped"), 0u);
  });
}

TEST_F(PagemapTest, AReadCoversAreasAndHolesInOrder) {
  in_task([&] {
    m_.anon(*mm_, 1, kRw, kHere, kAt);
    m_.anon(*mm_, 1, kRw, kHere, kAt + 2 * kPageSize);
    m_.write(*mm_, kAt, 1);
    m_.write(*mm_, kAt + 2 * kPageSize, 1);
    std::array<std::uint64_t, 4> words{1, 1, 1, 1};
    const std::uint64_t offset = (kAt.value() >> kPageShift) * 8;
    ASSERT_EQ(read_pagemap(m_.vm, *mm_, offset, std::as_writable_bytes(std::span(words))).value(), 32u);
    EXPECT_EQ(words[0] & kPagemapFrameMask, pfn(kAt));
    EXPECT_EQ(words[1], 0u);
    EXPECT_EQ(words[2] & kPagemapFrameMask, pfn(kAt + 2 * kPageSize));
    EXPECT_EQ(words[3], 0u);
  });
}

TEST_F(PagemapTest, ReadsMustBeOfWholeWordsAndEndWithUserSpace) {
  in_task([&] {
    std::array<std::byte, 16> bytes{};
    EXPECT_TRUE(vm::fails_with(read_pagemap(m_.vm, *mm_, 4, bytes), Errno::kInval));
    EXPECT_TRUE(vm::fails_with(read_pagemap(m_.vm, *mm_, 8, std::span(bytes).first(4)), Errno::kInval));
    const std::uint64_t end = (mm_->task_size.value() >> kPageShift) * 8;
    EXPECT_EQ(read_pagemap(m_.vm, *mm_, end - 8, bytes).value(), 8u);
    EXPECT_EQ(read_pagemap(m_.vm, *mm_, end, bytes).value(), 0u);
  });
}

TEST_F(PagemapTest, TheTextHasALineForEachRunOfFrames) {
  in_task([&] {
    file::File& file = m_.open("/data", 4 * kPageSize, 1);
    ASSERT_TRUE(m_.vm.mmap(*mm_, kAt, 4 * kPageSize, Prot::kRead, kHere, &file, 0));
    m_.vfs.fput(file);
    for (std::uint64_t page = 0; page < 4; ++page) ASSERT_GE(m_.read(*mm_, kAt + page * kPageSize), 0);
    std::uint64_t pages = 0;
    const std::string text = pagemap(m_.vm, *mm_);
    for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
      const std::uint64_t begin = std::stoull(text.substr(at), nullptr, 16);
      const std::uint64_t end = std::stoull(text.substr(text.find('-', at) + 1), nullptr, 16);
      const std::string line = text.substr(at, text.find('\n', at) - at);
      EXPECT_NE(line.find(" present file exclusive"), std::string::npos) << line;
      EXPECT_EQ(std::stoull(line.substr(line.find("pfn ") + 4), nullptr, 16), pfn(VirtAddr(begin)));
      pages += (end - begin) >> kPageShift;
    }
    EXPECT_EQ(pages, 4u);
  });
}

}  // namespace
}  // namespace quire::observe
