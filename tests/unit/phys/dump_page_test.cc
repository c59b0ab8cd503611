// The layout of the reports is that of a 6.1 guest: page, head, flags, raw words, why.
#include "machine.h"

namespace quire::phys {
namespace {

struct DumpTest : ::testing::Test {
  DumpTest() : machine(small_machine()), mem(*machine.mem) {}
  TestMachine machine;
  PhysMem& mem;
};

TEST_F(DumpTest, TellsEverythingAboutASinglePage) {
  Page* page = mem.alloc_page(Gfp::kKernel & ~Gfp::kDirectReclaim);
  page->set(PageFlag::kUptodate | PageFlag::kLru);
  page->mapping = 0x1000 | kMappingAnon;
  page->index = 0x123;
  page->private_ = 0xabcdef;
  page->mapcount = 3;
  const std::string text = mem.dump_page(*page, "unmovable page");
  EXPECT_EQ(text, fmt::format("page:{} refcount:1 mapcount:3 mapping:0000000000001001 index:0x123 pfn:{:#x}\n"
                              "anon flags: {:#x}(uptodate|lru|node=0|zone=1)\n"
                              "raw: {:016x} 0000000000000000 0000000000000000 0000000000001001\n"
                              "raw: 0000000000000123 0000000000abcdef 0000000100000003 0000000000000000\n"
                              "page dumped because: unmovable page",
                              fmt::ptr(page), mem.page_to_pfn(*page).value(), page->flags, page->flags));
  page->mapping = 0;
  page->mapcount = 0;
  page->clear(PageFlag::kLru);
  mem.free_page(*page);
}

TEST_F(DumpTest, ShowsTheHeadOfACompoundPage) {
  Folio* folio = mem.folio_alloc(Gfp::kKernel & ~Gfp::kDirectReclaim, Order(2));
  const std::string text = mem.dump_page(static_cast<Page*>(folio)[2], "a test");
  EXPECT_NE(text.find(fmt::format("\nhead:{} order:2 compound_mapcount:0 compound_pincount:0\n", fmt::ptr(folio))),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("flags: 0x"), std::string::npos);
  EXPECT_NE(text.find("(head|node=0|zone=1)"), std::string::npos) << text;
  EXPECT_EQ(static_cast<std::size_t>(std::ranges::count(text, '\n')), 7u) << "two raw lines, two of the head";
  mem.free_pages(*folio, Order(2));
}

// A tail that points nowhere near: the report must not follow it.
TEST_F(DumpTest, DoesNotTrustATailThatLies) {
  Page* page = mem.alloc_page(Gfp::kKernel & ~Gfp::kDirectReclaim);
  page->tail.head = 0xdead'beef'0000'0001;
  const std::string text = mem.dump_page(*page, "");
  EXPECT_EQ(text.find("head:"), std::string::npos) << text;
  EXPECT_NE(text.find("deadbeef00000001"), std::string::npos);
  EXPECT_EQ(text.find("page dumped because"), std::string::npos);
  page->lru = ListNode{};
  mem.free_page(*page);
}

TEST_F(DumpTest, FramesOfACmaAreaSaySo) {
  PhysConfig config = small_machine(128);
  config.cmdline = "cma=16M@64M";
  const TestMachine other(config);
  const std::string text = other.mem->dump_page(other.mem->pfn_to_page(Pfn(0x4000)), "");
  EXPECT_NE(text.find(") CMA\n"), std::string::npos) << text;
}

using DumpDeathTest = DumpTest;

TEST_F(DumpDeathTest, BadFreesAreNamed) {
  const Gfp gfp = Gfp::kKernel & ~Gfp::kDirectReclaim;
  Page* block = mem.alloc_pages(gfp, Order(4));
  mem.free_pages(*block, Order(4));
  EXPECT_DEATH(mem.free_pages(*block, Order(4)), "Bad page state in process boot  pfn:[0-9a-f]+(.|\n)*double free");
  Page* page = mem.alloc_page(gfp);
  page->mapping = 0x1000;
  EXPECT_DEATH(mem.free_page(*page), "mapping:0000000000001000(.|\n)*page dumped because: non-NULL mapping");
  page->mapping = 0;
  page->refcount = 1;
  page->memcg_data = 7;
  EXPECT_DEATH(mem.free_page(*page), "page dumped because: page still charged to cgroup");
  page->memcg_data = 0;
  page->refcount = 1;
  page->set(PageFlag::kLocked);
  EXPECT_DEATH(mem.free_page(*page), "\\(locked.node=0.zone=1\\)(.|\n)*PAGE_FLAGS_CHECK_AT_FREE");
  page->clear(PageFlag::kLocked);
  page->refcount = 1;
  mem.free_page(*page);
}

}  // namespace
}  // namespace quire::phys
