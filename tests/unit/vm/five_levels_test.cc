// Five levels of page tables: who gets addresses above 2^47, and where the tables of the fifth level go.
#include <gtest/gtest.h>

#include "vm_machine.h"

namespace quire::vm {
namespace {

constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;
constexpr VirtAddr kWindow = arch::Geometry::x86_64_5level().default_map_window;
constexpr VirtAddr kTaskSize = arch::Geometry::x86_64_5level().task_size;
constexpr VirtAddr kHigh{0x00ab'0000'0000'0000};

class FiveLevels : public testing::Test {
 protected:
  VmMachine m_{{.zram = 8 * kMiB, .geometry = arch::Geometry::x86_64_5level()}};
  Mm& mm_ = m_.mm_alloc();

  void in_task(const std::function<void()>& body) {
    m_.run([&] {
      body();
      m_.vm.validate();
      m_.vm.mmput(mm_);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
    EXPECT_EQ(m_.phys->global_node_page_state(phys::NodeStat::kNrPageTablePages), 0);
  }
  Result<VirtAddr> map(VirtAddr hint, std::uint64_t length, MapFlags more = MapFlags::kNone) {
    return m_.vm.mmap(mm_, hint, length, kReadWrite, MapFlags::kPrivate | MapFlags::kAnonymous | more, nullptr, 0);
  }
  [[nodiscard]] bool has_p4d(VirtAddr at) { return !m_.vm.pgtable().tables().pgd_offset(mm_.pgd, at)->none(); }
};

TEST_F(FiveLevels, AddressesAboveTheWindowGoToWhoAsksForThem) {
  in_task([&] {
    EXPECT_EQ(mm_.task_size, kTaskSize);
    const auto anywhere = map(VirtAddr(0), kPageSize);
    ASSERT_TRUE(anywhere);
    EXPECT_LT(*anywhere, kWindow);
    EXPECT_EQ(map(kHigh, kPageSize).value(), kHigh);
    // Taken: another address, above the window as well, since the hint was.
    const auto next = map(kHigh, kPageSize);
    ASSERT_TRUE(next);
    EXPECT_GT(*next, kWindow);
    // A hint within the window: the mapping does not reach out of it.
    const auto within = map(VirtAddr(kWindow.value() - kPageSize), 2 * kPageSize);
    ASSERT_TRUE(within);
    EXPECT_LE(*within + 2 * kPageSize, kWindow);
    // More than the window holds: only who asks gets it.
    constexpr std::uint64_t kTooLong = std::uint64_t{1} << 48;
    mm_.rlimits.as = ~std::uint64_t{0};
    EXPECT_FALSE(map(VirtAddr(0), kTooLong, MapFlags::kNoReserve));
    EXPECT_TRUE(map(kHigh, kTooLong, MapFlags::kNoReserve));
  });
}

TEST_F(FiveLevels, TheLegacyLayoutToo) {
  in_task([&] {
    m_.vm.arch_pick_mmap_layout(mm_, Personality::kAddrCompatLayout | Personality::kAddrNoRandomize);
    const auto first = map(VirtAddr(0), kPageSize);
    ASSERT_TRUE(first);
    EXPECT_EQ(first->value(), align_up(kWindow.value() / 3, kPageSize));
    EXPECT_EQ(map(kHigh, kPageSize).value(), kHigh);
  });
}

TEST_F(FiveLevels, FixedMappingsReachToTheEndOfUserSpace) {
  in_task([&] {
    const VirtAddr last(kTaskSize.value() - kPageSize);
    EXPECT_EQ(map(last, kPageSize, MapFlags::kFixed).value(), last);
    EXPECT_EQ(map(last, 2 * kPageSize, MapFlags::kFixed).error(), Errno::kNoMem);
    EXPECT_EQ(map(kTaskSize, kPageSize, MapFlags::kFixed).error(), Errno::kNoMem);
    ASSERT_TRUE(m_.write(mm_, last + 9, 77).ok());
    EXPECT_EQ(m_.read(mm_, last + 9), 77);
    EXPECT_EQ(m_.vm.access(mm_, kTaskSize, arch::Access::kRead).si_code, SiCode::kSegvMapErr);
    EXPECT_EQ(m_.vm.access(mm_, VirtAddr(std::uint64_t{1} << 57), arch::Access::kRead).si_code,
              SiCode::kKernel);  // not canonical
    ASSERT_TRUE(m_.vm.munmap(mm_, last, kPageSize));
    EXPECT_EQ(m_.read(mm_, last), -static_cast<int>(Signal::kSegv));
  });
}

TEST_F(FiveLevels, BytesSurviveForkAndMovesAcrossTheWindowAndSwap) {
  in_task([&] {
    const VirtAddr low = map(VirtAddr(0), 2 * kPageSize).value();
    ASSERT_TRUE(m_.write(mm_, low, 1).ok());
    ASSERT_TRUE(m_.write(mm_, low + kPageSize, 2).ok());
    constexpr MremapFlags kMove = MremapFlags::kMayMove | MremapFlags::kFixed;
    ASSERT_EQ(m_.vm.mremap(mm_, low, 2 * kPageSize, 2 * kPageSize, kMove, kHigh).value(), kHigh);
    EXPECT_EQ(m_.read(mm_, kHigh), 1);
    Mm& child = *m_.vm.dup_mm(mm_).value();
    ASSERT_TRUE(m_.write(mm_, kHigh, 3).ok());
    EXPECT_EQ(m_.read(child, kHigh), 1);
    EXPECT_EQ(m_.read(child, kHigh + kPageSize), 2);
    m_.vm.validate();
    m_.vm.mmput(child);
    ASSERT_TRUE(m_.swap_out(mm_, kHigh));
    EXPECT_EQ(m_.read(mm_, kHigh), 3);
  });
}

TEST_F(FiveLevels, ATableOfTheFourthLevelGoesWithTheLastMappingUnderIt) {
  in_task([&] {
    const VirtAddr other = kHigh + 3 * (std::uint64_t{1} << 40);  // another PUD table, the same P4D table
    for (const VirtAddr at : {kHigh, other}) {
      ASSERT_EQ(map(at, kPageSize, MapFlags::kFixed).value(), at);
      ASSERT_TRUE(m_.write(mm_, at, 1).ok());
    }
    EXPECT_EQ(mm_.pgtables_pages, 6u);  // entries, PMDs and PUDs; tables of the fourth level are not counted
    ASSERT_TRUE(m_.vm.munmap(mm_, kHigh, kPageSize));
    EXPECT_EQ(mm_.pgtables_pages, 3u);
    EXPECT_TRUE(has_p4d(other));
    EXPECT_EQ(m_.read(mm_, other), 1);
    ASSERT_TRUE(m_.vm.munmap(mm_, other, kPageSize));
    EXPECT_EQ(mm_.pgtables_pages, 0u);
    EXPECT_FALSE(has_p4d(other));
  });
}

TEST_F(FiveLevels, AFaultWithoutMemoryForAnyOneOfTheTablesLeavesNothingBehind) {
  in_task([&] {
    ASSERT_EQ(map(kHigh, kPageSize, MapFlags::kFixed).value(), kHigh);
    m_.phys->set_fault_injection(&m_.faults);
    unsigned failures = 0;
    for (std::uint64_t nth = 1; nth < 20; ++nth) {
      m_.faults.set(sim::FaultPoint::kPageAlloc, {.nth = nth});
      const AccessOutcome outcome = m_.vm.access(mm_, kHigh, arch::Access::kWrite);
      m_.faults.set(sim::FaultPoint::kPageAlloc, {});
      m_.vm.validate();
      if (outcome.ok()) break;
      EXPECT_EQ(outcome.status, AccessStatus::kOom);
      ++failures;
    }
    EXPECT_GE(failures, 1u);
    EXPECT_EQ(m_.read(mm_, kHigh), 0);
  });
}

TEST(FourLevels, AHintAboveTheWindowIsNoAddress) {
  VmMachine m;
  m.run([&] {
    Mm& mm = m.mm_alloc();
    const VirtAddr at = m.anon(mm, 1, kReadWrite, MapFlags::kPrivate, kHigh);
    EXPECT_LT(at, kWindow);
    m.vm.mmput(mm);
  });
}

TEST_F(FiveLevels, TheStackLiesBelowTheWindow) {
  in_task([&] { EXPECT_EQ(m_.vm.setup_stack(mm_).value(), kWindow); });
}

}  // namespace
}  // namespace quire::vm
