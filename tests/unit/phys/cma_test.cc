#include "quire/phys/cma.h"

#include "fake_mover.h"
#include "machine.h"
#include "snapshot.h"

namespace quire::phys {
namespace {

constexpr Gfp kMovableNow = Gfp::kHighUserMovable & ~Gfp::kDirectReclaim;

PhysConfig cma_machine(std::uint64_t mib, const char* cmdline) {
  PhysConfig config = small_machine(mib);
  config.cmdline = cmdline;
  return config;
}

bool logged(const PhysMem& mem, std::string_view line) { return std::ranges::count(mem.boot_log(), line) == 1; }

TEST(Cma, TheParameterReservesAnAreaOfWholePageblocks) {
  const TestMachine machine(cma_machine(128, "cma=15M"));
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  ASSERT_EQ(mem.cma().areas().size(), 1u);
  const CmaArea& area = *mem.cma().areas()[0];
  EXPECT_EQ(area.name(), "reserved");
  EXPECT_EQ(area.pfns().size(), 16 * kMiB / kPageSize);
  EXPECT_EQ(area.pfns().begin.value() % kPageblockPages, 0u);
  for (Pfn pfn = area.pfns().begin; pfn < area.pfns().end; pfn += kPageblockPages) {
    EXPECT_EQ(mem.pageblock_migratetype(pfn), MigrateType::kCma);
  }
  EXPECT_EQ(mem.cma().total_pages(), 4096u);
  EXPECT_EQ(mem.global_zone_page_state(ZoneStat::kNrFreeCma), 4096);
  EXPECT_EQ(mem.node(Nid(0)).zone(ZoneType::kDma32).cma_pages(), 4096u);
  EXPECT_TRUE(logged(mem, fmt::format("cma: Reserved 16 MiB at {:#018x}", pfn_to_phys(area.pfns().begin).value())));
  mem.validate();
  // It is managed memory like the rest: the same totals as without.
  const TestMachine plain(small_machine(128));
  EXPECT_EQ(mem.totalram_pages(), plain.mem->totalram_pages());
  EXPECT_EQ(mem.min_free_kbytes(), plain.mem->min_free_kbytes());
}

TEST(Cma, PlacesAsTheParameterSays) {
  const auto begin_of = [](const char* cmdline, std::uint64_t mib) -> std::uint64_t {
    const TestMachine machine(cma_machine(mib, cmdline));
    const auto areas = machine.mem->cma().areas();
    return areas.empty() ? 0 : pfn_to_phys(areas[0]->pfns().begin).value() / kMiB;
  };
  EXPECT_EQ(begin_of("cma=16M@64M", 128), 64u);
  EXPECT_EQ(begin_of("cma=16M@64M-80M", 128), 64u);
  EXPECT_EQ(begin_of("cma=16M@40M-100M", 128), 84u) << "anywhere in there: from the top";
  EXPECT_EQ(begin_of("cma=64M", 6144), 4096u) << "low above 4 GiB, where there is that much";
  EXPECT_EQ(begin_of("cma=0", 128), 0u);
}

TEST(Cma, WhatCannotBeReservedIsToldAndDoneWithout) {
  for (const auto& [cmdline, line] : {std::pair("cma=16M@16M", "cma: Failed to reserve 16 MiB (EBUSY)"),   // the kernel
                                      std::pair("cma=16M@1G", "cma: Failed to reserve 16 MiB (EINVAL)"),   // no RAM
                                      std::pair("cma=16M@63M", "cma: Failed to reserve 16 MiB (EINVAL)"),  // not aligned
                                      std::pair("cma=120M", "cma: Failed to reserve 120 MiB (ENOMEM)")}) {
    const TestMachine machine(cma_machine(128, cmdline));
    ASSERT_TRUE(machine.mem) << machine.error;
    EXPECT_TRUE(logged(*machine.mem, line)) << cmdline;
    EXPECT_TRUE(machine.mem->cma().areas().empty());
    machine.mem->validate();
  }
  const TestMachine machine(cma_machine(128, "cma=16M@"));
  ASSERT_TRUE(machine.mem) << machine.error;
  const TestMachine wrong(cma_machine(128, "cma=16M!8M"));
  EXPECT_NE(wrong.error.find("write cma=SIZE"), std::string::npos) << wrong.error;
}

struct CmaTest : ::testing::Test {
  CmaTest() : machine(cma_machine(128, "cma=32M@64M")), mem(*machine.mem), area(*mem.cma().areas()[0]), mover(mem) {}
  [[nodiscard]] std::uint64_t in_area() const {
    const auto& pages = mover.pages();
    return static_cast<std::uint64_t>(std::distance(pages.lower_bound(area.pfns().begin), pages.lower_bound(area.pfns().end)));
  }

  TestMachine machine;
  PhysMem& mem;
  CmaArea& area;
  FakeMover mover;
};

TEST_F(CmaTest, KernelPagesNeverComeFromIt) {
  std::vector<Page*> pages;
  while (Page* page = mem.alloc_page(Gfp::kNoWait)) pages.push_back(page);
  for (const Page* page : pages) EXPECT_FALSE(area.pfns().contains(mem.page_to_pfn(*page)));
  EXPECT_EQ(mem.global_zone_page_state(ZoneStat::kNrFreeCma), 8192);
  EXPECT_NE(mem.alloc_page(kMovableNow), nullptr) << "it still serves movable requests";
  mem.validate();
}

// While less than half of what is free is CMA, the rest serves; then CMA does, page by page.
TEST_F(CmaTest, MovablePagesUseItWhenItIsMoreThanHalfOfWhatIsFree) {
  std::uint64_t before_first = 0;
  while (in_area() == 0) {
    ASSERT_TRUE(mover.add(before_first));
    ++before_first;
  }
  mem.drain_all_pages();
  const auto& zone = mem.node(Nid(0)).zone(ZoneType::kDma32);
  const auto cma = static_cast<std::uint64_t>(zone.state(ZoneStat::kNrFreeCma));
  EXPECT_NEAR(static_cast<double>(cma) / static_cast<double>(zone.free_pages()), 0.5, 0.02);
  for (std::uint64_t i = 0; i < 4000; ++i) ASSERT_TRUE(mover.add(i));
  EXPECT_NEAR(static_cast<double>(in_area()), 2000, 200) << "half of them";
  mem.validate();
  mover.clear();
  mem.drain_all_pages();
  EXPECT_EQ(mem.global_zone_page_state(ZoneStat::kNrFreeCma), 8192);
  mem.validate();
}

TEST_F(CmaTest, AllocEmptiesARunAndReleaseGivesItBack) {
  for (std::uint64_t i = 0; i < 14000; ++i) ASSERT_TRUE(mover.add(i));
  ASSERT_GT(in_area(), 500u);
  Page* page = mem.cma().alloc(area, 3000, 4);
  ASSERT_NE(page, nullptr);
  const Range<Pfn> run{mem.page_to_pfn(*page), mem.page_to_pfn(*page) + 3000};
  EXPECT_TRUE(area.pfns().contains(run));
  EXPECT_EQ(run.begin.value() % 16, 0u);
  EXPECT_TRUE(mover.intact());
  EXPECT_EQ(mover.pages().lower_bound(run.begin), mover.pages().lower_bound(run.end));
  EXPECT_EQ(area.used_pages(), 3000u);
  EXPECT_EQ(area.alloc_pages_success(), 3000u);
  EXPECT_EQ(mem.pageblock_migratetype(run.begin), MigrateType::kCma);
  mem.validate();
  Page* second = mem.cma().alloc(area, 64, 6);
  ASSERT_NE(second, nullptr);
  EXPECT_FALSE(run.contains(mem.page_to_pfn(*second)));
  EXPECT_FALSE(mem.cma().release(area, mem.pfn_to_page(Pfn(0x4000) - 1), 2)) << "not of this area";
  EXPECT_TRUE(mem.cma().release(area, *page, 3000));
  EXPECT_TRUE(mem.cma().release(area, *second, 64));
  EXPECT_EQ(area.used_pages(), 0u);
  mover.clear();
  mem.drain_all_pages();
  EXPECT_EQ(mem.global_zone_page_state(ZoneStat::kNrFreeCma), 8192);
  mem.validate();
}

TEST_F(CmaTest, APinnedPageIsPassedBy) {
  for (std::uint64_t i = 0; i < 16000; ++i) ASSERT_TRUE(mover.add(i));
  const Pfn pinned = mover.pages().lower_bound(area.pfns().begin)->first;
  mover.pin(pinned);
  Page* page = mem.cma().alloc(area, 256, 8);
  ASSERT_NE(page, nullptr);
  EXPECT_FALSE((Range<Pfn>{mem.page_to_pfn(*page), mem.page_to_pfn(*page) + 256}.contains(pinned)));
  EXPECT_TRUE(mem.cma().release(area, *page, 256));
  const std::string before = snapshot(mem);
  EXPECT_EQ(mem.cma().alloc(area, 8192, 0), nullptr) << "all of it: the pinned page is in the way";
  EXPECT_EQ(area.used_pages(), 0u);
  EXPECT_EQ(area.alloc_pages_fail(), 8192u);
  EXPECT_EQ(mem.cma().alloc(area, 8193, 0), nullptr);
  EXPECT_EQ(mem.cma().alloc(area, 0, 0), nullptr);
  mover.clear();
  mem.validate();
}

TEST(Cma, BitsMayStandForMoreThanAPage) {
  PhysConfig config = small_machine(128);
  config.cma = {{.name = "camera", .bytes = 8 * kMiB, .base = PhysAddr(64 * kMiB), .limit = {}, .order_per_bit = 4}};
  const TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  CmaArea* area = mem.cma().find("camera");
  ASSERT_NE(area, nullptr);
  EXPECT_EQ(mem.cma().find("radio"), nullptr);
  Page* page = mem.cma().alloc(*area, 17, 0);
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(area->used_pages(), 32u);
  EXPECT_TRUE(mem.cma().release(*area, *page, 17));
  EXPECT_EQ(area->used_pages(), 0u);
  mem.validate();
}

}  // namespace
}  // namespace quire::phys
