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
  EXPECT_EQ(mover.drains(), 5) << "before each try";
  EXPECT_EQ(free_pages(), free);
  EXPECT_EQ(mem.pageblock_migratetype(begin), MigrateType::kMovable);
  EXPECT_TRUE(mover.intact());
  mem.validate();
  mover.clear();
}

// As the LRU does it: a page whose migration failed is put back into a CPU's batch, where the next try does not see it.
class BatchingMover final : public PageMover {
 public:
  explicit BatchingMover(PhysMem& mem) : pages(mem) { mem.set_page_mover(this); }
  void lru_add_drain_all() override { batched_ = false; }
  std::uint64_t migrate_range(Range<Pfn> pfns, MigrateMode mode, MigrateReason reason) override {
    if (batched_) return 0;
    batched_ = failures > 0;
    if (failures == 0) return pages.migrate_range(pfns, mode, reason);
    --failures;
    return 1;
  }
  FakeMover pages;
  int failures = 0;

 private:
  bool batched_ = false;
};

TEST(ContigMover, APageThatWaitsInABatchIsSeenByTheNextTry) {
  const TestMachine machine(small_machine(128));
  BatchingMover mover(*machine.mem);
  for (std::uint64_t i = 0; i < 5000; ++i) ASSERT_TRUE(mover.pages.add(i));
  const Range<Pfn> range = mover.pages.full_block();
  mover.failures = 4;
  ASSERT_TRUE(machine.mem->alloc_contig_range(range, MigrateType::kMovable, kNow));
  EXPECT_EQ(mover.pages.pages().size(), 5000u);
  machine.mem->free_contig_range(range);
  mover.pages.clear();
  machine.mem->validate();
}

// A page just before the range comes free on another CPU at any time meanwhile, and joins the range's first block.
TEST(ContigRace, ANeighbourThatComesFreeMeanwhileHarmsNothing) {
  PhysConfig config = small_machine(128);
  config.cpus = 2;
  TraceRegistry traces;
  sim::Scheduler scheduler({.cpus = 2, .seed = 1, .preempt_permille = 300}, sim::CostModel{}, traces);
  auto booted = PhysMem::boot(config, scheduler, traces);
  ASSERT_TRUE(booted);
  PhysMem& mem = **booted;
  FakeMover mover(mem);
  const Pfn at(0x4200);
  const Range<Pfn> range{at + 1, at + 64};
  mem.drain_all_pages();
  const std::uint64_t free = mem.meminfo().freeram;
  Rng rng(1);
  unsigned taken = 0;
  unsigned meanwhile = 0;
  sim::Nanos usual = sim::kMicrosecond;  // how long it takes
  for (int round = 0; round < 500; ++round) {
    ASSERT_TRUE(mem.alloc_contig_range({at, at + 1}, MigrateType::kMovable, kNow));
    mover.adopt(mem.pfn_to_page(at), 7);
    Status status;
    bool running = false;
    scheduler.spawn("contig",
                    [&] {
                      const sim::Nanos begin = scheduler.now();
                      running = true;
                      status = mem.alloc_contig_range(range, MigrateType::kMovable, kNow);
                      running = false;
                      usual = (7 * usual + scheduler.now() - begin) / 8;
                    },
                    {.cpu = 0});
    scheduler.spawn("free",
                    [&, delay = rng.below(usual + 1)] {
                      scheduler.charge(delay);
                      scheduler.sync_point();
                      meanwhile += running ? 1 : 0;
                      mover.remove(at);
                    },
                    {.cpu = 1});
    ASSERT_TRUE(scheduler.run().done());
    if (status) {
      ++taken;
      mem.free_contig_range(range);
    } else {
      ASSERT_EQ(status.error(), Errno::kBusy);
    }
    mem.drain_all_pages();
    ASSERT_EQ(mem.meminfo().freeram, free) << "round " << round;
    mem.validate();
  }
  EXPECT_GT(taken, 0u);
  EXPECT_GT(meanwhile, 50u) << "there was no race; it takes " << usual;
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
