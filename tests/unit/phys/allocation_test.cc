#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "machine.h"
#include "quire/phys/alloc/alloc_policy.h"

namespace quire::phys {
namespace {

class Allocation : public ::testing::Test {
 protected:
  Allocation() : machine_(small_machine()) {}
  void SetUp() override { ASSERT_TRUE(machine_.mem) << machine_.error; }
  void TearDown() override { mem().validate(); }
  PhysMem& mem() { return *machine_.mem; }
  Zone& dma32() { return mem().node(Nid(0)).zone(ZoneType::kDma32); }
  // Free pages, those on per-CPU lists included.
  std::uint64_t all_free() {
    mem().drain_all_pages();
    return mem().meminfo().freeram;
  }
  TestMachine machine_;
};

TEST_F(Allocation, PairGivesEverythingBack) {
  const std::uint64_t before = all_free();
  for (unsigned order = 0; order <= kMaxOrder.value(); ++order) {
    Page* page = mem().alloc_pages(Gfp::kKernel, Order(order));
    ASSERT_NE(page, nullptr) << order;
    EXPECT_EQ(page->refcount, 1);
    EXPECT_EQ(page->flags & kPageFlagsMask, 0u);
    EXPECT_EQ(mem().page_to_pfn(*page).value() % Order(order).pages(), 0u);
    mem().free_pages(*page, Order(order));
  }
  EXPECT_EQ(all_free(), before);
  EXPECT_EQ(mem().alloc_pages(Gfp::kKernel, Order(11)), nullptr);
}

TEST_F(Allocation, ExactSizesThatCannotBeHadGiveNothing) {
  const std::uint64_t before = all_free();
  for (const std::uint64_t bytes : {std::uint64_t{0}, ~std::uint64_t{0}, ~std::uint64_t{0} - kPageSize, 5 * kMiB}) {
    EXPECT_EQ(mem().alloc_pages_exact(bytes, Gfp::kKernel), nullptr) << bytes;
  }
  EXPECT_EQ(all_free(), before);
}

TEST_F(Allocation, CountersFollow) {
  Page* page = mem().alloc_page(Gfp::kKernel);
  EXPECT_EQ(mem().vmstat()[VmEvent::kPgallocDma32], 1);
  EXPECT_EQ(mem().global_numa_state(NumaStat::kNumaHit), 1);
  EXPECT_EQ(mem().global_numa_state(NumaStat::kNumaLocal), 1);
  mem().free_page(*page);
  EXPECT_EQ(mem().vmstat()[VmEvent::kPgfree], 1);
  // The second comes from the list that the first filled.
  EXPECT_EQ(dma32().pcp(0).count, 1);
  page = mem().alloc_page(Gfp::kKernel);
  EXPECT_EQ(mem().vmstat()[VmEvent::kPgallocDma32], 2);
  EXPECT_EQ(dma32().pcp(0).count, 0);
  mem().free_page(*page);
}

TEST_F(Allocation, PerCpuListStaysBelowHigh) {
  std::vector<Page*> pages;
  for (int i = 0; i < 3000; ++i) pages.push_back(mem().alloc_page(Gfp::kHighUserMovable));
  for (Page* page : pages) {
    mem().free_page(*page);
    ASSERT_LE(dma32().pcp(0).count, dma32().pcp(0).high);
  }
}

TEST_F(Allocation, ZeroedPagesAreZero) {
  Page* page = mem().alloc_page(Gfp::kKernel);
  std::memset(mem().page_address(*page), 0xff, kPageSize);
  mem().free_page(*page);
  page = mem().alloc_page(Gfp::kKernel | Gfp::kZero);
  const std::byte* bytes = mem().page_address(*page);
  for (std::size_t i = 0; i < kPageSize; ++i) ASSERT_EQ(bytes[i], std::byte{0});
  mem().free_page(*page);
}

TEST_F(Allocation, DatalessZeroesWhatTheKernelAsksForOnly) {
  PhysConfig config = small_machine();
  config.data_mode = DataMode::kDataless;
  TestMachine machine(config);
  PhysMem& m = *machine.mem;
  const auto first_byte_after = [&](Gfp gfp) {
    Page* page = m.alloc_page(gfp);
    *m.page_address(*page) = std::byte{7};
    m.free_page(*page);
    Page* again = m.alloc_page(gfp | Gfp::kZero);
    EXPECT_EQ(again, page);
    return *m.page_address(*again);
  };
  EXPECT_EQ(first_byte_after(Gfp::kHighUserMovable), std::byte{7});
  EXPECT_EQ(first_byte_after(Gfp::kKernel), std::byte{0});
}

TEST_F(Allocation, FolioIsCompound) {
  Folio* folio = mem().folio_alloc(Gfp::kHighUserMovable, Order(4));
  ASSERT_NE(folio, nullptr);
  EXPECT_EQ(folio_order(*folio), Order(4));
  EXPECT_EQ(folio_nr_pages(*folio), 16u);
  EXPECT_EQ(&page_folio(folio_page(*folio, 11)), folio);
  EXPECT_EQ(folio_page_idx(*folio, folio_page(*folio, 11)), 11u);
  EXPECT_FALSE(folio_mapped(*folio));
  EXPECT_TRUE(folio_put_testzero(*folio));
  mem().free_unref_folio(*folio);
}

TEST_F(Allocation, FreeingClearsWhatAFreePageDoesNotCarry) {
  Folio* folio = mem().folio_alloc(Gfp::kHighUserMovable);
  folio_set_uptodate(*folio);
  folio_set_swapbacked(*folio);
  folio->mapping = 0x1000 | kMappingAnon;
  mem().free_page(*folio);
  Folio* again = mem().folio_alloc(Gfp::kHighUserMovable);
  EXPECT_EQ(again, folio);
  EXPECT_EQ(again->flags & kPageFlagsMask, 0u);
  EXPECT_EQ(again->mapping, 0u);
  mem().free_page(*again);
}

TEST_F(Allocation, ExactAndBulk) {
  const std::uint64_t before = all_free();
  Page* exact = mem().alloc_pages_exact(5 * kPageSize, Gfp::kKernel);
  ASSERT_NE(exact, nullptr);
  EXPECT_EQ(all_free(), before - 5);
  mem().free_pages_exact(*exact, 5 * kPageSize);
  std::array<Page*, 40> pages{};
  pages[3] = mem().alloc_page(Gfp::kKernel);
  EXPECT_EQ(mem().alloc_pages_bulk(Gfp::kKernel, pages), 40u);
  EXPECT_EQ(std::set<Page*>(pages.begin(), pages.end()).size(), 40u);
  for (Page* page : pages) mem().free_page(*page);
  EXPECT_EQ(all_free(), before);
}

TEST_F(Allocation, LowZonesKeepTheirProtection) {
  // GFP_KERNEL may use DMA only above min + protection; GFP_DMA may go lower.
  Zone& dma = mem().node(Nid(0)).zone(ZoneType::kDma);
  std::vector<Page*> pages;
  // Without the boost that mixing pageblocks brings (kswapd would take it back).
  const auto unboost = [&] { mem().for_each_populated_zone([](Zone& zone) { zone.set_watermark_boost(0); }); };
  while (Page* page = mem().alloc_page(Gfp::kNoWait | Gfp::kNoWarn)) pages.push_back(page);
  unboost();
  while (Page* page = mem().alloc_page(Gfp::kNoWait | Gfp::kNoWarn)) pages.push_back(page);
  const std::uint64_t left = dma.free_pages();
  unboost();
  EXPECT_GT(left, static_cast<std::uint64_t>(dma.lowmem_reserve(ZoneType::kNormal)));
  Page* low = mem().alloc_page(Gfp::kNoWait | Gfp::kBareDma);
  ASSERT_NE(low, nullptr);
  EXPECT_EQ(low->zone_type(), ZoneType::kDma);
  mem().free_page(*low);
  // The reserves: atomic below min, PF_MEMALLOC down to the last page.
  std::size_t atomic = 0;
  while (Page* page = mem().alloc_page(Gfp::kAtomic)) {
    pages.push_back(page);
    ++atomic;
  }
  EXPECT_GT(atomic, 0u);
  EXPECT_EQ(mem().alloc_page(Gfp::kNoWait), nullptr);
  {
    const MemallocScope scope(machine_.scheduler);
    EXPECT_EQ(mem().alloc_page(Gfp::kNoWait | Gfp::kNoMemAlloc), nullptr);
    while (Page* page = mem().alloc_page(Gfp::kNoWait)) pages.push_back(page);
  }
  EXPECT_LT(mem().meminfo().freeram, 64u);
  for (Page* page : pages) mem().free_page(*page);
}

TEST_F(Allocation, UnmovableRequestsTakeAPageblockOver) {
  Page* page = mem().alloc_page(Gfp::kKernel);
  EXPECT_EQ(mem().pageblock_migratetype(mem().page_to_pfn(*page)), MigrateType::kUnmovable);
  Page* movable = mem().alloc_page(Gfp::kHighUserMovable);
  EXPECT_EQ(mem().pageblock_migratetype(mem().page_to_pfn(*movable)), MigrateType::kMovable);
  EXPECT_NE(mem().page_to_pfn(*page).value() >> 9, mem().page_to_pfn(*movable).value() >> 9);
  mem().free_page(*page);
  mem().free_page(*movable);
}

TEST_F(Allocation, HighOrderAtomicReservesAPageblock) {
  std::vector<Page*> pages;
  const auto exhaust = [&] {
    while (Page* page = mem().alloc_page(Gfp::kNoWait)) pages.push_back(page);
  };
  exhaust();
  // What is left lies at the end of memory, in half a pageblock, which cannot move. Let it lie in a whole one.
  const Pfn whole = align_down(mem().page_to_pfn(*pages.front()), kPageblockPages);
  std::erase_if(pages, [&](Page* page) {
    const bool inside = align_down(mem().page_to_pfn(*page), kPageblockPages) == whole;
    if (inside) mem().free_page(*page);
    return inside;
  });
  mem().drain_all_pages();
  exhaust();
  Page* high = mem().alloc_pages(Gfp::kAtomic, Order(1));
  ASSERT_NE(high, nullptr);
  Zone& zone = mem().page_zone(*high);
  const Pfn pfn = mem().page_to_pfn(*high);
  EXPECT_EQ(zone.nr_reserved_highatomic(), kPageblockPages);
  EXPECT_EQ(mem().pageblock_migratetype(pfn), MigrateType::kHighAtomic);
  mem().free_pages(*high, Order(1));
  mem().drain_all_pages();
  mem().validate();
  // The reserve is no one's but theirs, until reclaim has failed.
  EXPECT_EQ(mem().alloc_page(Gfp::kNoWait | Gfp::kNoWarn), nullptr);
  AllocContext request{};
  request.gfp = Gfp::kKernel;
  request.zonelist = &mem().zonelist(Nid(0));
  request.highest_zoneidx = ZoneType::kNormal;
  request.migratetype = MigrateType::kUnmovable;
  EXPECT_TRUE(mem().unreserve_highatomic_pageblock(request, PhysMem::Unreserve::kAll));
  EXPECT_EQ(zone.nr_reserved_highatomic(), 0u);
  EXPECT_NE(mem().pageblock_migratetype(pfn), MigrateType::kHighAtomic);
  for (Page* page : pages) mem().free_page(*page);
}

TEST_F(Allocation, TracepointsTellEachStep) {
  std::vector<std::string> seen;
  for (TracepointBase* t : machine_.traces.all()) {
    if (t->name().starts_with("lock_")) continue;  // told where lock checks are on, and no step
    t->listen([&](const EventView& e) { seen.emplace_back(e.name()); });
  }
  Page* page = mem().alloc_page(Gfp::kKernel);
  mem().free_page(*page);
  EXPECT_THAT(seen, ::testing::Contains("mm_page_alloc"));
  EXPECT_THAT(seen, ::testing::Contains("mm_page_alloc_zone_locked"));
  EXPECT_THAT(seen, ::testing::Contains("mm_page_alloc_extfrag"));
  EXPECT_EQ(seen.back(), "mm_page_free");
  mem().drain_all_pages();
  EXPECT_EQ(seen.back(), "mm_page_pcpu_drain");
  for (TracepointBase* t : machine_.traces.all()) t->silence();
}

TEST_F(Allocation, InjectedFailuresLoseNothing) {
  const std::uint64_t before = all_free();
  sim::FaultInjection faults(3);
  faults.set(sim::FaultPoint::kPageAlloc, {.probability = 30});
  mem().set_fault_injection(&faults);
  std::vector<Page*> pages;
  int failed = 0;
  for (int i = 0; i < 1000; ++i) {
    Page* page = mem().alloc_page(Gfp::kKernel);
    page != nullptr ? pages.push_back(page) : static_cast<void>(++failed);
  }
  EXPECT_GT(failed, 200);
  EXPECT_NE(mem().alloc_page(Gfp::kKernel | Gfp::kNoFail), nullptr);
  for (Page* page : pages) mem().free_page(*page);
  mem().set_fault_injection(nullptr);
  EXPECT_EQ(all_free(), before - 1);
}

TEST_F(Allocation, SysctlsRecompute) {
  const std::uint64_t min = dma32().watermark(Watermark::kMin);
  mem().set_min_free_kbytes(mem().min_free_kbytes() * 4);
  EXPECT_NEAR(static_cast<double>(dma32().watermark(Watermark::kMin)), static_cast<double>(min) * 4, 4);
  mem().set_watermark_scale_factor(1000);
  EXPECT_GE(dma32().watermark(Watermark::kLow) - dma32().watermark(Watermark::kMin), dma32().managed_pages() / 10);
  const std::array<std::uint32_t, 5> none{};
  mem().set_lowmem_reserve_ratio(none);
  EXPECT_EQ(mem().node(Nid(0)).zone(ZoneType::kDma).lowmem_reserve(ZoneType::kNormal), 0);
}

// The arena is shared memory: what a death test's child did to a struct Page stays, so each one sets it right again.
using BadPage = Allocation;

TEST_F(BadPage, DoubleFreeIsReportedWithADump) {
  Page* page = mem().alloc_page(Gfp::kKernel);
  mem().free_page(*page);
  EXPECT_DEATH(mem().free_page(*page), "refcount:0(.|\n)*flags: 0x[0-9a-f]*\\(pcp.node=0.zone=1\\)(.|\n)*double free");
}

TEST_F(BadPage, FreeingAMappedPageIsReported) {
  Page* page = mem().alloc_page(Gfp::kKernel);
  page->mapcount = 1;
  EXPECT_DEATH(mem().free_page(*page), "mapcount:1(.|\n)*nonzero mapcount");
  page->mapcount = 0;
  page->refcount = 1;
  page->set(PageFlag::kLru);
  EXPECT_DEATH(mem().free_page(*page), "flags: 0x[0-9a-f]*\\(lru.node(.|\n)*PAGE_FLAGS_CHECK_AT_FREE");
  page->clear(PageFlag::kLru);
  page->refcount = 1;
  mem().free_page(*page);
}

TEST_F(BadPage, FreeingATailOrWithAnotherOrderIsReported) {
  Folio* folio = mem().folio_alloc(Gfp::kKernel, Order(2));
  folio_page(*folio, 1).refcount = 1;
  EXPECT_DEATH(mem().free_page(folio_page(*folio, 1)), "tail page");
  folio_page(*folio, 1).refcount = 0;
  EXPECT_DEATH(mem().free_pages(*folio, Order(3)), "another order");
  folio->refcount = 1;
  mem().free_pages(*folio, Order(2));
}

TEST(BadPageDeathTest, WritingToAFreePageIsFoundAtTheNextAllocation) {
  const auto write_after_free = [] {
    TestMachine machine(small_machine());
    Page* page = machine.mem->alloc_page(Gfp::kKernel);
    machine.mem->free_page(*page);
    page->mapping = 0x1000;
    page->set(PageFlag::kDirty);
    (void)machine.mem->alloc_page(Gfp::kKernel);
  };
  EXPECT_DEATH(write_after_free(), "Bad page state(.|\n)*mapping:0*1000 (.|\n)*dirty(.|\n)*PAGE_FLAGS_CHECK_AT_PREP");
}

}  // namespace
}  // namespace quire::phys
