#include "fake_mover.h"
#include "machine.h"
#include "snapshot.h"

namespace quire::phys {
namespace {

constexpr Gfp kNow = Gfp::kNoWait;

struct ContigTest : ::testing::Test {
  ContigTest() : machine(small_machine(128)), mem(*machine.mem), mover(mem) {}
  std::uint64_t free_pages() {
    mem.drain_all_pages();
    return mem.meminfo().freeram;
  }

  TestMachine machine;
  PhysMem& mem;
  FakeMover mover;
};

TEST_F(ContigTest, TakesExactlyTheRange) {
  const std::uint64_t free = free_pages();
  const Range<Pfn> range{Pfn(0x4123), Pfn(0x4123 + 777)};
  ASSERT_TRUE(mem.alloc_contig_range(range, MigrateType::kMovable, kNow));
  for (Pfn pfn = range.begin; pfn < range.end; ++pfn) {
    ASSERT_EQ(mem.pfn_to_page(pfn).refcount, 1);
    ASSERT_FALSE(mem.pfn_to_page(pfn).test(PageFlag::kBuddy));
  }
  mem.validate();
  EXPECT_EQ(free_pages(), free - 777);
  EXPECT_EQ(mem.alloc_contig_range(range, MigrateType::kMovable, kNow).error(), Errno::kBusy) << "it is taken";
  mem.free_contig_range(range);
  EXPECT_EQ(free_pages(), free);
  mem.validate();
}

TEST_F(ContigTest, WhatIsInUseMovesAway) {
  for (std::uint64_t i = 0; i < 5000; ++i) ASSERT_TRUE(mover.add(i));
  const Range<Pfn> range = mover.full_block();
  ASSERT_FALSE(range.empty());
  const std::uint64_t free = free_pages();
  ASSERT_TRUE(mem.alloc_contig_range(range, MigrateType::kMovable, kNow));
  EXPECT_TRUE(mover.pages().lower_bound(range.begin) == mover.pages().lower_bound(range.end));
  EXPECT_EQ(mover.pages().size(), 5000u);
  EXPECT_TRUE(mover.intact());
  EXPECT_EQ(free_pages(), free - range.size());
  EXPECT_GT(mover.drains(), 0);
  mem.free_contig_range(range);
  mover.clear();
  mem.validate();
}

TEST_F(ContigTest, APageThatStaysFailsItAfterFiveTriesAndNothingIsLost) {
  for (std::uint64_t i = 0; i < 5000; ++i) ASSERT_TRUE(mover.add(i));
  const Pfn begin = mover.full_block().begin;
  mover.pin(begin + 77);
  const std::uint64_t free = free_pages();
  EXPECT_EQ(mem.alloc_contig_range({begin, begin + kPageblockPages}, MigrateType::kMovable, kNow).error(), Errno::kBusy);
  EXPECT_EQ(mover.calls(), 5);
  EXPECT_EQ(free_pages(), free);
  EXPECT_EQ(mem.pageblock_migratetype(begin), MigrateType::kMovable);
  EXPECT_TRUE(mover.intact());
  mem.validate();
  mover.clear();
}

TEST_F(ContigTest, AKernelPageRefusesAndTheMachineIsAsBefore) {
  Page* kernel = mem.alloc_pages(kNow, Order(4));
  const Pfn at = mem.page_to_pfn(*kernel);
  const std::string before = snapshot(mem);
  EXPECT_EQ(mem.alloc_contig_range({at - 100, at + 10}, MigrateType::kMovable, kNow).error(), Errno::kBusy);
  EXPECT_EQ(mem.alloc_contig_range({at, at}, MigrateType::kMovable, kNow).error(), Errno::kInval);
  EXPECT_EQ(mem.alloc_contig_range({at, at + 1}, MigrateType::kUnmovable, kNow).error(), Errno::kInval);
  EXPECT_EQ(snapshot(mem), before);
  mem.free_pages(*kernel, Order(4));
}

TEST_F(ContigTest, AKilledTaskGivesUp) {
  for (std::uint64_t i = 0; i < 2000; ++i) ASSERT_TRUE(mover.add(i));
  const Pfn at = mover.full_block().begin;
  const std::string before = snapshot(mem);
  Status status;
  {
    const TaskFlagScope killed(machine.scheduler, TaskFlag::kOomVictim);
    status = mem.alloc_contig_range({at, at + 1}, MigrateType::kMovable, kNow);
  }
  EXPECT_EQ(status.error(), Errno::kIntr);
  EXPECT_EQ(snapshot(mem), before);
  mover.clear();
}

TEST_F(ContigTest, FindsAPlaceForMoreThanTheBuddyHolds) {
  constexpr std::uint64_t kPages = 3 * 1024;  // 12 MiB: three times the largest block
  for (std::uint64_t i = 0; i < 3000; ++i) ASSERT_TRUE(mover.add(i));
  Page* page = mem.alloc_contig_pages(kPages, Gfp::kKernel & ~Gfp::kDirectReclaim);
  ASSERT_NE(page, nullptr);
  const Pfn pfn = mem.page_to_pfn(*page);
  EXPECT_EQ(pfn.value() % kPages, 0u);
  mem.validate();
  mem.free_contig_range({pfn, pfn + kPages});
  EXPECT_EQ(mem.alloc_contig_pages(std::uint64_t{1} << 20, kNow), nullptr) << "more than there is";
  EXPECT_EQ(mem.alloc_contig_pages(0, kNow), nullptr);
  mover.clear();
  mem.validate();
}

}  // namespace
}  // namespace quire::phys
