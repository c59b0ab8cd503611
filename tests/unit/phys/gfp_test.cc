// Each allocation flag does what Linux's documentation says it does.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>

#include "machine.h"

namespace quire::phys {
namespace {

using ::testing::HasSubstr;

// --- zone and mobility ----------------------------------------------------------------------------------------------------------

struct ZoneRow {
  Gfp gfp;
  ZoneType zone;
};
class GfpZone : public ::testing::TestWithParam<ZoneRow> {};
INSTANTIATE_TEST_SUITE_P(X86_64, GfpZone,
                         ::testing::Values(ZoneRow{Gfp::kKernel, ZoneType::kNormal}, ZoneRow{Gfp::kDma, ZoneType::kDma},
                                           ZoneRow{Gfp::kKernel | Gfp::kDma, ZoneType::kDma},
                                           ZoneRow{Gfp::kDma32, ZoneType::kDma32}, ZoneRow{Gfp::kHighUser, ZoneType::kNormal},
                                           ZoneRow{Gfp::kHighUserMovable, ZoneType::kMovable},
                                           ZoneRow{Gfp::kMovable, ZoneType::kNormal},
                                           ZoneRow{Gfp::kMovable | Gfp::kBareDma, ZoneType::kDma},
                                           ZoneRow{Gfp::kMovable | Gfp::kBareDma32, ZoneType::kDma32}),
                         [](const auto& p) { return fmt::format("case{}", p.index); });

TEST_P(GfpZone, IsTheHighestZoneThatThePageComesFrom) {
  EXPECT_EQ(gfp_zone(GetParam().gfp), GetParam().zone);
  PhysConfig config = small_machine(6 * 1024);
  config.data_mode = DataMode::kDataless;
  config.cmdline = "movablecore=512M";
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  Page* page = machine.mem->alloc_page(GetParam().gfp);
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(page->zone_type(), GetParam().zone) << zone_name(page->zone_type());
  machine.mem->free_page(*page);
}

TEST(Gfp, MobilityDecidesThePageblock) {
  TestMachine machine(small_machine(256));
  PhysMem& mem = *machine.mem;
  const auto block_of = [&](Gfp gfp) {
    Page* page = mem.alloc_page(gfp);
    return mem.pageblock_migratetype(mem.page_to_pfn(*page));
  };
  EXPECT_EQ(block_of(Gfp::kKernel), MigrateType::kUnmovable);
  EXPECT_EQ(block_of(Gfp::kKernel | Gfp::kReclaimable), MigrateType::kReclaimable);
  EXPECT_EQ(block_of(Gfp::kUser | Gfp::kMovable), MigrateType::kMovable);
  EXPECT_EQ(gfp_migratetype(Gfp::kMovable), MigrateType::kMovable);
}

TEST(Gfp, ThisNodeStaysOnTheNode) {
  PhysConfig config = small_machine(256);
  config.nodes = {{.bytes = 128 * kMiB}, {.bytes = 128 * kMiB}};
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  const Gfp gfp = Gfp::kHighUserMovable & ~Gfp::kReclaim;
  while (Page* page = mem.alloc_pages(gfp | Gfp::kThisNode, Order(0), Nid(0))) ASSERT_EQ(page->nid(), Nid(0));
  Page* elsewhere = mem.alloc_pages(gfp, Order(0), Nid(0));
  ASSERT_NE(elsewhere, nullptr);
  EXPECT_EQ(elsewhere->nid(), Nid(1));
}

// --- watermark modifiers --------------------------------------------------------------------------------------------------------

// How many pages of a full machine a request may still take; more rights, more pages.
std::uint64_t below_min(Gfp gfp, TaskFlag task = TaskFlag::kNone) {
  TestMachine machine(small_machine());
  PhysMem& mem = *machine.mem;
  const auto plain = Gfp::kKswapdReclaim | Gfp::kMovable;
  while (mem.alloc_page(plain) != nullptr) {}
  mem.for_each_populated_zone([](Zone& zone) { zone.set_watermark_boost(0); });
  while (mem.alloc_page(plain) != nullptr) {}
  const TaskFlagScope scope(machine.scheduler, task);
  std::uint64_t pages = 0;
  while (mem.alloc_page(gfp | Gfp::kMovable) != nullptr) ++pages;
  return pages;
}

TEST(Gfp, ReservesOpenStepByStep) {
  const std::uint64_t high = below_min(Gfp::kHigh);
  const std::uint64_t atomic = below_min(Gfp::kAtomic);
  const std::uint64_t victim = below_min(Gfp::kNoWait, TaskFlag::kOomVictim);
  const std::uint64_t memalloc = below_min(Gfp::kMemAlloc);
  EXPECT_EQ(below_min(Gfp::kNoWait), 0u);
  EXPECT_GT(high, 0u);
  EXPECT_GT(atomic, high);
  EXPECT_GT(victim, 0u);
  EXPECT_GT(memalloc, atomic);
  EXPECT_EQ(below_min(Gfp::kNoWait, TaskFlag::kMemalloc), memalloc);
  EXPECT_EQ(below_min(Gfp::kMemAlloc | Gfp::kNoMemAlloc), 0u);
  EXPECT_EQ(below_min(Gfp::kNoWait | Gfp::kNoMemAlloc, TaskFlag::kMemalloc), 0u);
}

TEST(Gfp, AtomicWithoutReservesIsNoHarder) {
  EXPECT_EQ(below_min(Gfp::kBareAtomic | Gfp::kNoMemAlloc | Gfp::kKswapdReclaim), 0u);
}

// --- reclaim modifiers ----------------------------------------------------------------------------------------------------------

class Recorder : public MemoryPressure {
 public:
  void wakeup_kswapd(Zone&, Gfp, Order, ZoneType) override { ++kswapd; }
  std::uint64_t try_to_free_pages(ZoneList&, Order, Gfp gfp) override {
    ++reclaim;
    seen = gfp;
    return 0;
  }
  bool out_of_memory(Gfp, Order) override {
    ++oom;
    return false;
  }
  bool node_dirty_ok(const Node& node) override { return node.nid() != dirty_node; }
  int kswapd = 0;
  int reclaim = 0;
  int oom = 0;
  Gfp seen = Gfp::kNone;
  Nid dirty_node = kNoNode;
};

struct ReclaimRow {
  std::string_view name;
  Gfp gfp;
  bool kswapd, reclaim, oom;
};
class GfpReclaim : public ::testing::TestWithParam<ReclaimRow> {};
INSTANTIATE_TEST_SUITE_P(Flags, GfpReclaim,
                         ::testing::Values(ReclaimRow{"kernel", Gfp::kKernel, true, true, true},
                                           ReclaimRow{"nowait", Gfp::kNoWait, true, false, false},
                                           ReclaimRow{"atomic", Gfp::kAtomic, true, false, false},
                                           ReclaimRow{"none", Gfp::kNone, false, false, false},
                                           ReclaimRow{"direct_only", Gfp::kDirectReclaim | Gfp::kIo | Gfp::kFs, false, true,
                                                      true},
                                           ReclaimRow{"noretry", Gfp::kKernel | Gfp::kNoRetry, true, true, false},
                                           ReclaimRow{"retry_mayfail", Gfp::kKernel | Gfp::kRetryMayFail, true, true, false},
                                           ReclaimRow{"thisnode", Gfp::kKernel | Gfp::kThisNode, true, true, false},
                                           ReclaimRow{"dma", Gfp::kKernel | Gfp::kDma, true, true, false}),
                         [](const auto& p) { return std::string(p.param.name); });

TEST_P(GfpReclaim, AsksOnlyThoseItMay) {
  TestMachine machine(small_machine());
  PhysMem& mem = *machine.mem;
  while (mem.alloc_page(Gfp::kMovable | Gfp::kMemAlloc) != nullptr) {}
  Recorder recorder;
  mem.set_memory_pressure(&recorder);
  machine.scheduler.spawn("test", [&] { EXPECT_EQ(mem.alloc_page(GetParam().gfp), nullptr); });
  ASSERT_TRUE(machine.scheduler.run().done());
  EXPECT_EQ(recorder.kswapd > 0, GetParam().kswapd);
  EXPECT_EQ(recorder.reclaim > 0, GetParam().reclaim);
  EXPECT_EQ(recorder.oom > 0, GetParam().oom);
  mem.set_memory_pressure(nullptr);
}

TEST(Gfp, ScopesTakeIoAndFsAway) {
  TestMachine machine(small_machine());
  PhysMem& mem = *machine.mem;
  while (mem.alloc_page(Gfp::kMovable | Gfp::kMemAlloc) != nullptr) {}
  Recorder recorder;
  mem.set_memory_pressure(&recorder);
  const auto seen = [&](TaskFlag flag) {
    machine.scheduler.spawn("test", [&, flag] {
      const TaskFlagScope scope(machine.scheduler, flag);
      EXPECT_EQ(mem.alloc_page(Gfp::kKernel | Gfp::kNoRetry), nullptr);
    });
    EXPECT_TRUE(machine.scheduler.run().done());
    return recorder.seen & (Gfp::kIo | Gfp::kFs);
  };
  EXPECT_EQ(seen(TaskFlag::kNone), Gfp::kIo | Gfp::kFs);
  EXPECT_EQ(seen(TaskFlag::kMemallocNoFs), Gfp::kIo);
  EXPECT_EQ(seen(TaskFlag::kMemallocNoIo), Gfp::kNone);
  mem.set_memory_pressure(nullptr);
}

TEST(Gfp, WriteAvoidsANodeThatHasItsShareOfDirtyPages) {
  PhysConfig config = small_machine(256);
  config.nodes = {{.bytes = 128 * kMiB}, {.bytes = 128 * kMiB}};
  TestMachine machine(config);
  PhysMem& mem = *machine.mem;
  Recorder recorder;
  recorder.dirty_node = Nid(0);
  mem.set_memory_pressure(&recorder);
  EXPECT_EQ(mem.alloc_pages(Gfp::kHighUserMovable | Gfp::kWrite, Order(0), Nid(0))->nid(), Nid(1));
  EXPECT_EQ(mem.alloc_pages(Gfp::kHighUserMovable, Order(0), Nid(0))->nid(), Nid(0));
  mem.set_memory_pressure(nullptr);
}

// --- what the page comes with -----------------------------------------------------------------------------------------------------

TEST(Gfp, CompMakesACompoundPageAndWithoutItThereAreSinglePages) {
  TestMachine machine(small_machine());
  PhysMem& mem = *machine.mem;
  Page* compound = mem.alloc_pages(Gfp::kKernel | Gfp::kComp, Order(2));
  EXPECT_TRUE(compound->is_head());
  EXPECT_TRUE(compound[3].is_tail());
  Page* plain = mem.alloc_pages(Gfp::kKernel, Order(2));
  EXPECT_FALSE(plain->is_compound());
  EXPECT_FALSE(plain[3].is_compound());
  mem.free_pages(*compound, Order(2));
  mem.free_pages(*plain, Order(2));
}

TEST(Gfp, ZeroClearsEveryPageOfTheBlock) {
  TestMachine machine(small_machine());
  PhysMem& mem = *machine.mem;
  Page* page = mem.alloc_pages(Gfp::kKernel, Order(3));
  std::memset(mem.page_address(*page), 0xaa, 8 * kPageSize);
  mem.free_pages(*page, Order(3));
  mem.drain_all_pages();
  Page* again = mem.alloc_pages(Gfp::kKernel | Gfp::kZero, Order(3));
  ASSERT_EQ(again, page);
  for (std::size_t i = 0; i < 8 * kPageSize; ++i) ASSERT_EQ(mem.page_address(*again)[i], std::byte{0}) << i;
}

// HARDWALL and ACCOUNT say whom a page is charged to; without cpusets and memory cgroups they change nothing.
TEST(Gfp, HardwallAndAccountChangeNothingHere) {
  TestMachine machine(small_machine());
  PhysMem& mem = *machine.mem;
  for (const Gfp extra : {Gfp::kHardWall, Gfp::kAccount}) {
    Page* plain = mem.alloc_page(Gfp::kKernel);
    mem.free_page(*plain);
    Page* flagged = mem.alloc_page(Gfp::kKernel | extra);
    EXPECT_EQ(flagged, plain);
    EXPECT_EQ(flagged->memcg_data, 0u);
    mem.free_page(*flagged);
  }
}

// --- failure -----------------------------------------------------------------------------------------------------------------------

class GfpReport : public ::testing::Test {
 protected:
  GfpReport() : machine_(small_machine()) {
    mem().set_log_sink([this](std::string_view line) { log_.emplace_back(line); });
  }
  PhysMem& mem() { return *machine_.mem; }
  TestMachine machine_;
  std::vector<std::string> log_;
};

TEST_F(GfpReport, AFailureIsReportedWithTheStateOfMemory) {
  std::vector<Page*> pages;
  while (Page* page = mem().alloc_page(Gfp::kNoWait | Gfp::kNoWarn)) pages.push_back(page);
  EXPECT_TRUE(log_.empty());
  EXPECT_EQ(mem().alloc_pages(Gfp::kNoWait, Order(4)), nullptr);
  ASSERT_GT(log_.size(), 12u);
  EXPECT_THAT(log_[0], HasSubstr("page allocation failure: order:4, mode:0x800(GFP_NOWAIT), nodemask=(null)"));
  EXPECT_EQ(log_[1], "Mem-Info:");
  const std::uint64_t free = mem().meminfo().freeram;
  EXPECT_THAT(log_[8], HasSubstr(fmt::format(" free:{} ", free)));
  EXPECT_THAT(log_[9], HasSubstr("Node 0 DMA free:"));
  EXPECT_THAT(log_[10], HasSubstr("lowmem_reserve[]: 0 "));
  // The blocks of a zone's line add up to what is free in it.
  const Zone& dma = mem().node(Nid(0)).zone(ZoneType::kDma);
  EXPECT_THAT(log_[11], HasSubstr(fmt::format("= {}kB", dma.free_pages() * 4)));
  for (Page* page : pages) mem().free_page(*page);
}

TEST_F(GfpReport, NoWarnKeepsSilentAndTenReportsAreEnough) {
  while (mem().alloc_page(Gfp::kMemAlloc | Gfp::kNoWarn) != nullptr) {}
  log_.clear();
  EXPECT_EQ(mem().alloc_page(Gfp::kNoWait | Gfp::kNoWarn), nullptr);
  EXPECT_TRUE(log_.empty());
  for (int i = 0; i < 30; ++i) EXPECT_EQ(mem().alloc_page(Gfp::kNoWait), nullptr);
  EXPECT_EQ(std::ranges::count(log_, "Mem-Info:"), 10);
}

TEST_F(GfpReport, AnOrderOutOfRangeWarnsOnceAndChangesNothing) {
  const std::uint64_t free = mem().meminfo().freeram;
  for (const unsigned order : {11u, 12u, 63u, 64u, 255u}) EXPECT_EQ(mem().alloc_pages(Gfp::kKernel, Order(order)), nullptr);
  EXPECT_EQ(mem().meminfo().freeram, free);
  ASSERT_EQ(log_.size(), 1u);
  EXPECT_THAT(log_[0], HasSubstr("order:11 is above MAX_ORDER - 1 = 10"));
  mem().validate();
}

TEST_F(GfpReport, BitsThatAreNoFlagsAreDropped) {
  const auto bad = static_cast<Gfp>(0xff800000u);
  Page* page = mem().alloc_pages(Gfp::kKernel | bad, Order(1));
  ASSERT_NE(page, nullptr);
  mem().free_pages(*page, Order(1));
  mem().validate();
}

// --- names ---------------------------------------------------------------------------------------------------------------------------

TEST(GfpNames, AreReadAsTheyArePrinted) {
  for (const Gfp gfp : {Gfp::kKernel, Gfp::kAtomic, Gfp::kHighUserMovable | Gfp::kZero, Gfp::kTransHuge,
                        Gfp::kDma32 | Gfp::kNoFail, Gfp::kNoIo | Gfp::kThisNode | Gfp::kWrite}) {
    const auto read = parse_gfp(gfp_names(gfp));
    ASSERT_TRUE(read) << gfp_names(gfp) << ": " << read.error().sentence;
    EXPECT_EQ(*read, gfp) << gfp_names(gfp);
  }
}

TEST(GfpNames, AnyCaseWithOrWithoutPrefixAndNumbers) {
  EXPECT_EQ(*parse_gfp("gfp_kernel|__gfp_nofail"), Gfp::kKernel | Gfp::kNoFail);
  EXPECT_EQ(*parse_gfp(" KERNEL | zero "), Gfp::kKernel | Gfp::kZero);
  EXPECT_EQ(*parse_gfp("0xcc0"), Gfp::kKernel);
  EXPECT_EQ(*parse_gfp("GFP_ATOMIC"), Gfp::kAtomic);
  EXPECT_EQ(*parse_gfp("__GFP_ATOMIC"), Gfp::kBareAtomic);
}

TEST(GfpNames, AMistakeIsNamed) {
  EXPECT_THAT(parse_gfp("GFP_KERNAL").error().sentence, HasSubstr("no flag 'GFP_KERNAL'; did you mean 'GFP_KERNEL'?"));
  EXPECT_THAT(parse_gfp("").error().sentence, HasSubstr("a name is missing"));
  EXPECT_THAT(parse_gfp("GFP_KERNEL||__GFP_ZERO").error().sentence, HasSubstr("a name is missing"));
  EXPECT_THAT(parse_gfp("0x80000000").error().sentence, HasSubstr("up to 0x7fffff"));
  EXPECT_THAT(parse_gfp("12z").error().sentence, HasSubstr("not a number"));
}

}  // namespace
}  // namespace quire::phys
