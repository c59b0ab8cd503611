#include "quire/phys/page_isolation.h"

#include "fake_mover.h"
#include "machine.h"
#include "snapshot.h"

namespace quire::phys {
namespace {

constexpr Gfp kKernelNow = Gfp::kNoWait;

struct IsolationTest : ::testing::Test {
  IsolationTest() : machine(config()), mem(*machine.mem), isolation(mem) {}
  static PhysConfig config() {
    PhysConfig config = small_machine(128);
    config.deferred_init = DeferredInit::kOff;
    return config;
  }
  // The zone of the tests, and a stretch in it that is free and starts at a block of the largest order.
  Zone& zone() { return mem.node(Nid(0)).zone(ZoneType::kDma32); }
  Range<Pfn> free_range(std::uint64_t pages) const {
    const Pfn begin(64 * kMiB >> kPageShift);
    return {begin, begin + pages};
  }
  std::uint64_t listed(MigrateType type) {
    std::uint64_t pages = 0;
    for (unsigned order = 0; order < kNrOrders; ++order) {
      pages += zone().free_area(Order(order)).list(type).count() << order;
    }
    return pages;
  }

  TestMachine machine;
  PhysMem& mem;
  PageIsolation isolation;
};

TEST_F(IsolationTest, FreePagesLeaveTheCountAndGoToTheIsolateList) {
  const std::uint64_t before = zone().free_pages();
  const Range<Pfn> range = free_range(4 * kPageblockPages);
  ASSERT_TRUE(isolation.start_isolate_page_range(range, MigrateType::kMovable));
  EXPECT_EQ(zone().free_pages(), before - range.size());
  EXPECT_EQ(listed(MigrateType::kIsolate), range.size());
  EXPECT_EQ(zone().nr_isolate_pageblock(), 4u);
  EXPECT_EQ(mem.pageblock_migratetype(range.end), MigrateType::kMovable);
  EXPECT_TRUE(isolation.test_pages_isolated(range));
  EXPECT_EQ(isolation.test_pages_isolated({range.begin, range.end + 1}).error(), Errno::kBusy);
  mem.validate();
  isolation.undo_isolate_page_range(range, MigrateType::kMovable);
  EXPECT_EQ(zone().free_pages(), before);
  EXPECT_EQ(listed(MigrateType::kIsolate), 0u);
  mem.validate();
}

// A block of the largest order covers two pageblocks: isolating one of them cuts it, ending that makes it whole again.
TEST_F(IsolationTest, ABlockThatReachesOverTheEdgeIsCut) {
  const std::string before = snapshot(mem);
  for (const std::uint64_t first : {0u, 1u}) {
    const Pfn begin = free_range(1).begin + first * kPageblockPages;
    const std::uint64_t free = zone().free_pages();
    ASSERT_TRUE(isolation.start_isolate_page_range({begin, begin + kPageblockPages}, MigrateType::kMovable));
    EXPECT_EQ(zone().free_pages(), free - kPageblockPages);
    const Page& other = mem.pfn_to_page(free_range(1).begin + (1 - first) * kPageblockPages);
    EXPECT_TRUE(other.test(PageFlag::kBuddy));
    EXPECT_EQ(other.private_, kPageblockOrder.value());
    mem.validate();
    isolation.undo_isolate_page_range({begin, begin + kPageblockPages}, MigrateType::kMovable);
    EXPECT_EQ(snapshot(mem), before);
  }
}

TEST_F(IsolationTest, AnUnmovablePageRefusesAndEverythingIsAsBefore) {
  // A kernel page in the middle of free pageblocks.
  const Pfn block = free_range(1).begin + 6 * kPageblockPages;
  ASSERT_TRUE(mem.alloc_contig_range({block + 40, block + 41}, MigrateType::kMovable, kKernelNow));
  Page* kernel = &mem.pfn_to_page(block + 40);
  const std::string before = snapshot(mem);
  const Range<Pfn> range{block - 2 * kPageblockPages, block + kPageblockPages};
  EXPECT_EQ(isolation.start_isolate_page_range(range, MigrateType::kMovable).error(), Errno::kBusy);
  EXPECT_EQ(isolation.unmovable(), kernel);
  EXPECT_EQ(snapshot(mem), before);
  mem.free_page(*kernel);
  mem.validate();
}

TEST_F(IsolationTest, ReservedPagesAndForeignRangesAreRefused) {
  const std::string before = snapshot(mem);
  const Pfn image(16 * kMiB >> kPageShift);
  EXPECT_EQ(isolation.start_isolate_page_range({image, image + kPageblockPages}, MigrateType::kMovable).error(), Errno::kBusy);
  const Range<Pfn> two_zones{image - kPageblockPages, image + kPageblockPages};
  EXPECT_EQ(isolation.start_isolate_page_range(two_zones, MigrateType::kMovable).error(), Errno::kInval);
  const Pfn absent(4 * kGiB >> kPageShift);
  EXPECT_EQ(isolation.start_isolate_page_range({absent, absent + 512}, MigrateType::kMovable).error(), Errno::kInval);
  EXPECT_EQ(isolation.start_isolate_page_range({image, image}, MigrateType::kMovable).error(), Errno::kInval);
  EXPECT_EQ(snapshot(mem), before);
}

TEST_F(IsolationTest, AnIsolatedBlockIsNotIsolatedTwice) {
  const Range<Pfn> range = free_range(kPageblockPages);
  ASSERT_TRUE(isolation.start_isolate_page_range(range, MigrateType::kMovable));
  EXPECT_EQ(PageIsolation(mem).start_isolate_page_range(range, MigrateType::kMovable).error(), Errno::kBusy);
  EXPECT_EQ(mem.pageblock_migratetype(range.begin), MigrateType::kIsolate);
  isolation.undo_isolate_page_range(range, MigrateType::kMovable);
}

TEST_F(IsolationTest, WhatComesFreeMeanwhileLandsThereToo) {
  FakeMover mover(mem);
  std::vector<Page*> pages;
  for (std::uint64_t i = 0; i < 3000; ++i) ASSERT_TRUE(mover.add(i));
  const Range<Pfn> range = mover.full_block();
  ASSERT_FALSE(range.empty());
  // One page waits on a per-CPU list, typed before the block was isolated; the others are freed afterwards.
  const Pfn early = mover.pages().lower_bound(range.begin)->first;
  mover.remove(early);
  ASSERT_TRUE(mem.pfn_to_page(early).test(PageFlag::kPcp));
  ASSERT_TRUE(isolation.start_isolate_page_range(range, MigrateType::kMovable));
  const std::uint64_t free = zone().free_pages();
  while (mover.pages().lower_bound(range.begin) != mover.pages().lower_bound(range.end)) {
    mover.remove(mover.pages().lower_bound(range.begin)->first);
  }
  EXPECT_EQ(isolation.test_pages_isolated(range).error(), Errno::kBusy) << "a page is on a per-CPU list";
  mem.drain_all_pages();
  EXPECT_TRUE(isolation.test_pages_isolated(range));
  EXPECT_GE(free + 3000, zone().free_pages());
  EXPECT_EQ(listed(MigrateType::kIsolate), kPageblockPages);
  isolation.undo_isolate_page_range(range, MigrateType::kMovable);
  mover.clear();
  mem.validate();
}

// Two neighbours isolated for two reasons come free and merge; ending one isolation leaves the other alone.
TEST_F(IsolationTest, NeighboursThatMergedComeBackOneByOne) {
  FakeMover mover(mem);
  for (std::uint64_t i = 0; i < 6000; ++i) ASSERT_TRUE(mover.add(i));
  Pfn pair{};
  for (const auto& [pfn, mark] : mover.pages()) {
    const auto end = mover.pages().lower_bound(pfn + 2 * kPageblockPages);
    if (pfn.value() % kMaxOrder.pages() == 0 && std::distance(mover.pages().find(pfn), end) == 1024) pair = pfn;
  }
  ASSERT_NE(pair, Pfn{});
  const Range<Pfn> low{pair, pair + kPageblockPages};
  const Range<Pfn> high{low.end, low.end + kPageblockPages};
  for (const auto& [first, second] : {std::pair(low, high), std::pair(high, low)}) {
    ASSERT_TRUE(isolation.start_isolate_page_range(low, MigrateType::kMovable));
    ASSERT_TRUE(PageIsolation(mem).start_isolate_page_range(high, MigrateType::kMovable));
    while (mover.pages().lower_bound(low.begin) != mover.pages().lower_bound(high.end)) {
      mover.remove(mover.pages().lower_bound(low.begin)->first);
    }
    mem.drain_all_pages();
    mem.validate();
    const std::uint64_t free = zone().free_pages();
    isolation.undo_isolate_page_range(first, MigrateType::kMovable);
    EXPECT_EQ(zone().free_pages(), free + kPageblockPages);
    EXPECT_EQ(listed(MigrateType::kIsolate), kPageblockPages);
    EXPECT_TRUE(isolation.test_pages_isolated(second));
    mem.validate();
    isolation.undo_isolate_page_range(second, MigrateType::kMovable);
    EXPECT_EQ(zone().free_pages(), free + 2 * kPageblockPages);
    EXPECT_EQ(mem.pfn_to_page(pair).private_, kMaxOrder.value()) << "one block again";
    mem.validate();
  }
  mover.clear();
}

TEST_F(IsolationTest, TheTypeABlockHadComesBack) {
  const Range<Pfn> range = free_range(2 * kPageblockPages);
  // Unmovable requests steal a whole pageblock; then they are gone again.
  Page* kernel = mem.alloc_pages(kKernelNow, kPageblockOrder);
  ASSERT_NE(kernel, nullptr);
  const Pfn pfn = mem.page_to_pfn(*kernel);
  mem.free_pages(*kernel, kPageblockOrder);
  mem.drain_all_pages();
  ASSERT_EQ(mem.pageblock_migratetype(pfn), MigrateType::kUnmovable);
  const Range<Pfn> block{pfn, pfn + kPageblockPages};
  ASSERT_TRUE(isolation.start_isolate_page_range(block, MigrateType::kMovable));
  isolation.cancel_isolate_page_range(block);
  EXPECT_EQ(mem.pageblock_migratetype(pfn), MigrateType::kUnmovable);
  ASSERT_TRUE(isolation.start_isolate_page_range(block, MigrateType::kMovable));
  isolation.undo_isolate_page_range(block, MigrateType::kMovable);
  EXPECT_EQ(mem.pageblock_migratetype(pfn), MigrateType::kMovable);
  EXPECT_EQ(mem.pageblock_migratetype(range.begin), MigrateType::kMovable);
  mem.validate();
}

TEST_F(IsolationTest, TheAtomicReserveShrinksWithItsBlock) {
  const Range<Pfn> block{free_range(1).begin, free_range(1).begin + kPageblockPages};
  mem.reserve_highatomic_pageblock(zone(), mem.pfn_to_page(block.begin));
  ASSERT_EQ(mem.pageblock_migratetype(block.begin), MigrateType::kHighAtomic);
  const std::uint64_t reserve = zone().nr_reserved_highatomic();
  ASSERT_TRUE(isolation.start_isolate_page_range(block, MigrateType::kMovable));
  isolation.cancel_isolate_page_range(block);
  EXPECT_EQ(zone().nr_reserved_highatomic(), reserve);
  ASSERT_TRUE(isolation.start_isolate_page_range(block, MigrateType::kMovable));
  isolation.undo_isolate_page_range(block, MigrateType::kMovable);
  EXPECT_EQ(zone().nr_reserved_highatomic(), reserve - kPageblockPages);
  mem.validate();
}

// Whether a driver can move a compound page, its head says; the tails say nothing.
TEST_F(IsolationTest, ACompoundPageOfADriverIsJudgedByItsHead) {
  Page* page = mem.alloc_pages(kKernelNow | Gfp::kComp, Order(3));
  ASSERT_NE(page, nullptr);
  const Pfn pfn = mem.page_to_pfn(*page);
  const Range<Pfn> tails{pfn + 3, pfn + 8};
  EXPECT_EQ(isolation.has_unmovable_pages(tails, MigrateType::kMovable, IsolateFlags::kNone), &mem.pfn_to_page(pfn + 3));
  page->mapping |= kMappingMovable;
  EXPECT_EQ(isolation.has_unmovable_pages(tails, MigrateType::kMovable, IsolateFlags::kNone), nullptr);
  page->mapping = 0;
  mem.free_pages(*page, Order(3));
}

TEST(DeferredIsolation, FramesThatWaitAreInitialisedFirst) {
  PhysConfig config = small_machine(4096);
  config.deferred_init = DeferredInit::kOn;
  TestMachine machine(config);
  PhysMem& mem = *machine.mem;
  const Pfn begin(2 * kGiB >> kPageShift);
  ASSERT_FALSE(mem.page_initialised(begin));
  Zone& zone = mem.node(Nid(0)).zone(ZoneType::kDma32);
  const std::uint64_t free = zone.free_pages();
  PageIsolation isolation(mem);
  const Range<Pfn> range{begin, begin + kPageblockPages};
  ASSERT_TRUE(isolation.start_isolate_page_range(range, MigrateType::kMovable));
  EXPECT_EQ(zone.free_pages(), free - kPageblockPages);
  EXPECT_FALSE(mem.page_initialised(begin + 2 * kPagesPerSection)) << "and no others";
  mem.validate();
  isolation.cancel_isolate_page_range(range);
  EXPECT_EQ(zone.free_pages(), free);
  mem.validate();
}

}  // namespace
}  // namespace quire::phys
