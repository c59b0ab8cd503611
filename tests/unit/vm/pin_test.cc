// pin_user_pages: process and holder of a pin see the same page until it is given back.
#include <array>
#include <cstring>
#include <limits>

#include "quire/vm/gup.h"
#include "vm_machine.h"

namespace quire::vm {
namespace {

using arch::Access;

class PinTest : public ::testing::Test {
 protected:
  VmMachine m_{{.zram = 8 * kMiB}};
  Mm& mm_ = m_.mm_alloc();
  void in_task(std::function<void()> body) {
    m_.run([&] {
      body();
      m_.vm.validate();
      m_.vm.mmput(mm_);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
    EXPECT_EQ(acquired(), released());
  }
  [[nodiscard]] std::int64_t acquired() const { return m_.phys->global_node_page_state(phys::NodeStat::kNrFollPinAcquired); }
  [[nodiscard]] std::int64_t released() const { return m_.phys->global_node_page_state(phys::NodeStat::kNrFollPinReleased); }
  phys::Page* pin(Mm& mm, VirtAddr at, Access kind = Access::kWrite) {
    std::array<phys::Page*, 1> pages{};
    EXPECT_EQ(m_.vm.pin_user_pages(mm, at, pages, kind), 1u);
    return pages[0];
  }
  Vma& area(VirtAddr at) { return *mm_.mm_vmas.lookup(at); }
  void unpin(phys::Page* page) { m_.vm.unpin_user_pages(std::array{page}); }
  // As the device that holds the pin sees and writes the page.
  std::uint8_t& byte_of(phys::Page* page) { return *reinterpret_cast<std::uint8_t*>(m_.phys->page_address(*page)); }
};

TEST_F(PinTest, APinCountsAsAThousandReferencesAndIsCounted) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 4);
    std::array<phys::Page*, 4> pages{};
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, pages, Access::kWrite), 4u);
    for (phys::Page* page : pages) {
      EXPECT_TRUE(folio_maybe_dma_pinned(phys::page_folio(*page)));
      EXPECT_GE(phys::folio_ref_count(phys::page_folio(*page)), kGupPinCountingBias + 1);
    }
    EXPECT_EQ(acquired(), 4);
    m_.vm.unpin_user_pages(pages);
    EXPECT_FALSE(folio_maybe_dma_pinned(phys::page_folio(*pages[0])));
    EXPECT_EQ(released(), 4);
  });
}

TEST_F(PinTest, TheRangeEndsAtTheFirstPageThatCannotBeHad) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    std::array<phys::Page*, 4> pages{};
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, pages, Access::kWrite), 2u);
    m_.vm.unpin_user_pages(std::span(pages).first(2));
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at + 2 * kPageSize, pages, Access::kWrite).error(), Errno::kFault);
    ASSERT_TRUE(m_.vm.mprotect(mm_, at, kPageSize, Prot::kRead));
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, pages, Access::kWrite).error(), Errno::kFault);
  });
}

// As Linux's try_grab_page refuses a count that has overflown.
TEST_F(PinTest, APageTakesNoMorePinsThanItsCountHasRoomFor) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    std::array<phys::Page*, 2> pages{};
    ASSERT_TRUE(m_.write(mm_, at, 1).ok());
    ASSERT_TRUE(m_.write(mm_, at + kPageSize, 1).ok());
    phys::Folio& second = m_.folio_at(mm_, at + kPageSize);
    const int others = std::numeric_limits<int>::max() - kGupPinCountingBias - phys::folio_ref_count(second);
    phys::folio_ref_add(second, others);
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, pages, Access::kWrite), 2u);
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, std::span(pages).first(1), Access::kWrite), 1u);
    std::array<phys::Page*, 2> more{};
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, more, Access::kWrite), 1u);
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at + kPageSize, more, Access::kWrite).error(), Errno::kNoMem);
    EXPECT_EQ(m_.vm.get_user_pages(mm_, at + kPageSize, std::span(more).last(1), Access::kRead).error(), Errno::kNoMem);
    EXPECT_EQ(phys::folio_ref_count(second), std::numeric_limits<int>::max());
    m_.vm.unpin_user_pages(pages);
    m_.vm.unpin_user_pages(std::array{pages[0], pages[0]});
    phys::folio_ref_sub(second, others);
  });
}

TEST_F(PinTest, TheZeroPageIsNotPinned) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    phys::Page* page = pin(mm_, at, Access::kRead);
    EXPECT_EQ(page, &m_.vm.zero_page());
    EXPECT_EQ(acquired(), 0);
    unpin(page);
  });
}

TEST_F(PinTest, WhereNothingIsTheProcesssOwnThereIsNothingToUnshare) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    phys::Page* first = pin(mm_, at, Access::kRead);
    EXPECT_EQ(first, pin(mm_, at, Access::kRead)) << "the zero page again, not a copy of it";
    EXPECT_EQ(mm_.rss(), 0u);
    area(at).vm_flags |= VmFlags::kIo;
    std::array<phys::Page*, 1> pages{};
    EXPECT_EQ(m_.vm.pin_user_pages(mm_, at, pages, Access::kRead).error(), Errno::kFault) << "a device's memory has no page";
    area(at).vm_flags &= ~VmFlags::kIo;
  });
}

TEST_F(PinTest, ForkCopiesAPinnedPageAtOnceSoThatTheParentKeepsIt) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 3);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(m_.write(mm_, at + i * kPageSize, 1).ok());
    phys::Page* pinned = pin(mm_, at + kPageSize);
    Mm& child = **m_.vm.dup_mm(mm_);
    EXPECT_EQ(m_.page_at(mm_, at), m_.page_at(child, at)) << "what is not pinned is shared";
    EXPECT_NE(m_.page_at(mm_, at + kPageSize), m_.page_at(child, at + kPageSize));
    ASSERT_TRUE(m_.write(mm_, at + kPageSize, 2).ok());
    EXPECT_EQ(byte_of(pinned), 2) << "the parent writes to the page that the device reads";
    EXPECT_EQ(m_.read(child, at + kPageSize), 1) << "the child has the bytes of the moment of the fork";
    byte_of(pinned) = 3;
    EXPECT_EQ(m_.read(mm_, at + kPageSize), 3);
    EXPECT_EQ(m_.read(child, at + kPageSize), 1);
    ASSERT_TRUE(m_.write(child, at + kPageSize, 9).ok());
    EXPECT_EQ(byte_of(pinned), 3);
    m_.vm.validate();
    unpin(pinned);
    m_.vm.mmput(child);
  });
}

// What pins are for: with a mere reference, the parent's first write after a fork goes to a copy, and the holder's page is the
// child's.
TEST_F(PinTest, APlainReferenceLosesThePageAfterAFork) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    ASSERT_TRUE(m_.write(mm_, at, 1).ok());
    std::array<phys::Page*, 1> pages{};
    ASSERT_EQ(m_.vm.get_user_pages(mm_, at, pages, Access::kWrite), 1u);
    Mm& child = **m_.vm.dup_mm(mm_);
    ASSERT_TRUE(m_.write(mm_, at, 2).ok());
    EXPECT_EQ(byte_of(pages[0]), 1);
    m_.lru.folio_put(phys::page_folio(*pages[0]));
    m_.vm.mmput(child);
  });
}

TEST_F(PinTest, AReadPinUnsharesAPageThatAChildHasToo) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    ASSERT_TRUE(m_.write(mm_, at, 1).ok());
    Mm& child = **m_.vm.dup_mm(mm_);
    arch::Pte& entry = *m_.vm.pgtable().pte_offset(mm_, at);
    entry = arch::pte_mksoft_dirty(entry);
    phys::Page* pinned = pin(mm_, at, Access::kRead);
    EXPECT_EQ(byte_of(pinned), 1);
    EXPECT_TRUE(arch::pte_soft_dirty(entry)) << "what was known of earlier writes stays";
    EXPECT_NE(pinned, m_.page_at(child, at));
    EXPECT_FALSE(arch::pte_write(*m_.vm.pgtable().pte_offset(mm_, at))) << "unsharing gives no right to write";
    ASSERT_TRUE(m_.write(mm_, at, 2).ok());
    EXPECT_EQ(byte_of(pinned), 2);
    EXPECT_EQ(m_.read(child, at), 1);
    unpin(pinned);
    m_.vm.mmput(child);
  });
}

TEST_F(PinTest, ReclaimAndMigrationLeaveAPinnedPage) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    ASSERT_TRUE(m_.write(mm_, at, 7).ok());
    phys::Page* pinned = pin(mm_, at);
    EXPECT_FALSE(m_.swap_out(mm_, at));
    EXPECT_EQ(m_.page_at(mm_, at), pinned);
    phys::Folio& folio = phys::page_folio(*pinned);
    phys::folio_lock(*m_.phys, folio);
    EXPECT_FALSE(m_.vm.rmap().try_to_migrate(folio));
    phys::folio_unlock(*m_.phys, folio);
    EXPECT_EQ(m_.page_at(mm_, at), pinned);
    byte_of(pinned) = 8;
    EXPECT_EQ(m_.read(mm_, at), 8);
    unpin(pinned);
    EXPECT_TRUE(m_.swap_out(mm_, at));
    EXPECT_EQ(m_.read(mm_, at), 8);
  });
}

TEST_F(PinTest, AnUnmappedPageLivesUntilItIsUnpinned) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    ASSERT_TRUE(m_.write(mm_, at, 7).ok());
    phys::Page* pinned = pin(mm_, at);
    ASSERT_TRUE(m_.vm.munmap(mm_, at, kPageSize));
    m_.lru.lru_add_drain_all();  // the batch had a reference
    EXPECT_EQ(byte_of(pinned), 7);
    EXPECT_EQ(phys::folio_ref_count(phys::page_folio(*pinned)), kGupPinCountingBias);
    unpin(pinned);
  });
}

TEST_F(PinTest, UnpinningDirtyMarksAFilesPages) {
  in_task([&] {
    file::File& file = m_.open("f", 4 * kPageSize, 1);
    const VirtAddr at =
        m_.vm.mmap(mm_, VirtAddr(0), kPageSize, Prot::kRead | Prot::kWrite, MapFlags::kShared, &file, 0).value();
    phys::Page* pinned = pin(mm_, at, Access::kRead);
    EXPECT_FALSE(phys::folio_test_dirty(phys::page_folio(*pinned)));
    byte_of(pinned) = 0xee;
    m_.vm.unpin_user_pages_dirty_lock(std::array{pinned});
    EXPECT_TRUE(phys::folio_test_dirty(phys::page_folio(*pinned)));
    EXPECT_EQ(m_.read(mm_, at), 0xee);
    m_.vfs.fput(file);
  });
}

TEST_F(PinTest, AForkThatFindsNoMemoryForTheCopyFailsAndLeavesNothing) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 8);
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(m_.write(mm_, at + i * kPageSize, 1).ok());
    std::array<phys::Page*, 8> pages{};
    ASSERT_EQ(m_.vm.pin_user_pages(mm_, at, pages, Access::kWrite), 8u);
    m_.phys->set_fault_injection(&m_.faults);
    int failed = 0;
    for (std::int64_t nth = 1; nth <= 40; ++nth) {
      m_.faults.set(sim::FaultPoint::kPageAlloc, {.nth = static_cast<std::uint64_t>(nth)});
      const Result<Mm*> child = m_.vm.dup_mm(mm_);
      m_.faults.set(sim::FaultPoint::kPageAlloc, {});
      if (child) {
        m_.vm.mmput(**child);
      } else {
        EXPECT_EQ(child.error(), Errno::kNoMem);
        ++failed;
      }
      m_.vm.validate();
    }
    EXPECT_GE(failed, 8);
    m_.phys->set_fault_injection(nullptr);
    m_.vm.unpin_user_pages(pages);
  });
}

}  // namespace
}  // namespace quire::vm
