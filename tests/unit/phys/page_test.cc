#include "machine.h"

#include <cstring>

#include "quire/phys/page_wait.h"

namespace quire::phys {
namespace {

TEST(Page, AnUntouchedPageIsAllZero) {
  alignas(Page) std::array<std::byte, sizeof(Page)> zeros{};
  const Page fresh{};
  EXPECT_EQ(std::memcmp(&fresh, zeros.data(), sizeof(Page)), 0);
}

TEST(Page, FlagsZoneAndNodeDoNotDisturbEachOther) {
  Page page;
  set_page_links(page, ZoneType::kMovable, Nid(63));
  page.set(PageFlag::kDirty);
  page.set(PageFlag::kPcp);
  EXPECT_EQ(page.zone_type(), ZoneType::kMovable);
  EXPECT_EQ(page.nid(), Nid(63));
  page.clear(PageFlag::kDirty);
  EXPECT_EQ(page_flag_names(page.flags & kPageFlagsMask), "pcp");
}

TEST(Folio, FlagHelpersSetTestAndClear) {
  Folio folio;
  EXPECT_FALSE(folio_test_swapbacked(folio));
  folio_set_swapbacked(folio);
  EXPECT_TRUE(folio_test_swapbacked(folio));
  EXPECT_FALSE(folio_test_set_dirty(folio));
  EXPECT_TRUE(folio_test_set_dirty(folio));
  EXPECT_TRUE(folio_test_clear_dirty(folio));
  EXPECT_FALSE(folio_test_dirty(folio));
  EXPECT_TRUE(folio.test(PageFlag::kSwapBacked));
}

TEST(Folio, ReferencesFreezeOnlyAtTheExpectedCount) {
  Folio folio;
  EXPECT_FALSE(folio_try_get(folio));
  folio.refcount = 1;
  folio_get(folio);
  EXPECT_FALSE(folio_ref_freeze(folio, 1));
  EXPECT_TRUE(folio_ref_freeze(folio, 2));
  EXPECT_FALSE(folio_try_get(folio));
  folio_ref_unfreeze(folio, 1);
  EXPECT_TRUE(folio_put_testzero(folio));
}

TEST(Gfp, ZoneAndMigrateTypeFollowTheFlags) {
  EXPECT_EQ(gfp_zone(Gfp::kKernel), ZoneType::kNormal);
  EXPECT_EQ(gfp_zone(Gfp::kHighUser), ZoneType::kNormal);
  EXPECT_EQ(gfp_zone(Gfp::kHighUserMovable), ZoneType::kMovable);
  EXPECT_EQ(gfp_zone(Gfp::kKernel | Gfp::kBareDma32), ZoneType::kDma32);
  EXPECT_EQ(gfp_zone(Gfp::kKernel | Gfp::kBareDma), ZoneType::kDma);
  EXPECT_EQ(gfp_migratetype(Gfp::kKernel), MigrateType::kUnmovable);
  EXPECT_EQ(gfp_migratetype(Gfp::kHighUserMovable), MigrateType::kMovable);
  EXPECT_EQ(gfp_migratetype(Gfp::kKernel | Gfp::kReclaimable), MigrateType::kReclaimable);
  EXPECT_EQ(gfp_names(Gfp::kHighUserMovable | Gfp::kZero), "GFP_HIGHUSER_MOVABLE|__GFP_ZERO");
  EXPECT_EQ(gfp_names(Gfp::kAtomic), "GFP_ATOMIC");
}

TEST(VmStat, NamesAreLinuxs) {
  EXPECT_EQ(counter_name(VmEvent::kPgpgin), "pgpgin");
  EXPECT_EQ(counter_name(for_zone(VmEvent::kPgallocDma, ZoneType::kNormal)), "pgalloc_normal");
  EXPECT_EQ(counter_name(for_zone(VmEvent::kAllocstallDma, ZoneType::kMovable)), "allocstall_movable");
  EXPECT_EQ(counter_name(VmEvent::kPgscanKswapd), "pgscan_kswapd");
  EXPECT_EQ(counter_name(NodeStat::kNrInactiveAnon), "nr_inactive_anon");
  EXPECT_EQ(counter_name(NodeStat::kPgpromoteCandidate), "pgpromote_candidate");
  EXPECT_EQ(counter_name(ZoneStat::kNrFreeCma), "nr_free_cma");
}

TEST(PageWait, TheLockIsHandedOverAndWritebackEnds) {
  TestMachine machine(small_machine());
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  Folio& folio = *mem.folio_alloc(Gfp::kHighUserMovable);
  std::string order;
  machine.scheduler.spawn("first", [&] {
    folio_lock(mem, folio);
    folio_start_writeback(mem, folio);
    machine.scheduler.sleep_for(1000);
    order += "1";
    folio_unlock(mem, folio);
    machine.scheduler.sleep_for(1000);
    order += "w";
    folio_end_writeback(mem, folio);
  });
  machine.scheduler.spawn("second", [&] {
    machine.scheduler.sleep_for(10);
    folio_lock(mem, folio);
    order += "2";
    folio_unlock(mem, folio);
  });
  machine.scheduler.spawn("third", [&] {
    machine.scheduler.sleep_for(10);
    folio_wait_writeback(mem, folio);
    order += "3";
  });
  EXPECT_TRUE(machine.scheduler.run().done());
  EXPECT_EQ(order, "12w3");
  mem.free_page(folio);
}

}  // namespace
}  // namespace quire::phys
