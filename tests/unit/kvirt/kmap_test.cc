#include <gmock/gmock.h>

#include <cstring>

#include "kvirt_machine.h"
#include "quire/kvirt/kmap.h"

namespace quire::kvirt {
namespace {

using phys::Gfp;
using phys::Page;
using ::testing::HasSubstr;

MachineSpec highmem(phys::Arch arch, unsigned cpus = 1) { return {.ram = kGiB, .cpus = cpus, .arch = arch}; }

struct KmapTest : ::testing::TestWithParam<phys::Arch> {
  KmapTest() : m(highmem(GetParam(), 2)), kmap(m.space->kmap()) {}

  Page& high_page() {
    Page* page = m.phys->alloc_page(Gfp::kHighUser);
    EXPECT_EQ(page->zone_type(), phys::ZoneType::kHighMem);
    return *page;
  }
  Pfn mapped(VirtAddr va) {
    const auto found = m.space->init_mm().translate(va);
    return found ? phys_to_pfn(found->pa) : Pfn(0);
  }

  KvirtMachine m;
  Kmap& kmap;
};
INSTANTIATE_TEST_SUITE_P(I386, KmapTest, ::testing::Values(phys::Arch::kI386, phys::Arch::kI386Pae),
                         [](const auto& p) { return p.param == phys::Arch::kI386 ? "TwoLevels" : "Pae"; });

TEST(KmapOn64Bit, IsTheDirectMap) {
  KvirtMachine m;
  Page* page = m.phys->alloc_page(Gfp::kHighUser);
  const std::uint64_t tables = m.space->init_mm().mapped_pages();
  const KmapAddress at = m.space->kmap().kmap(*page);
  EXPECT_EQ(at.native, m.phys->page_address(*page));
  EXPECT_EQ(at.kva, VirtAddr(0xffff'8880'0000'0000) + m.phys->page_to_phys(*page).value());
  EXPECT_EQ(at.kva, m.space->kva(at.native));
  EXPECT_EQ(m.space->kmap().kmap_to_page(at.kva), page);
  const KmapAddress local = m.space->kmap().kmap_local_page(*page);
  EXPECT_EQ(local.kva, at.kva);
  m.space->kmap().kunmap_local(local);
  m.space->kmap().kunmap(*page);
  EXPECT_EQ(m.space->init_mm().mapped_pages(), tables);
  m.phys->free_page(*page);
}

TEST_P(KmapTest, LowmemKeepsItsAddressAndHighMemGetsOne) {
  EXPECT_EQ(kmap.last_pkmap(), GetParam() == phys::Arch::kI386 ? 1024u : 512u);
  Page* low = m.phys->alloc_page(Gfp::kKernel);
  EXPECT_EQ(kmap.kmap(*low).kva, VirtAddr(0xc000'0000) + m.phys->page_to_phys(*low).value());
  kmap.kunmap(*low);

  Page& high = high_page();
  EXPECT_EQ(kmap.page_address(high), std::nullopt);
  const KmapAddress at = kmap.kmap(high);
  EXPECT_TRUE(m.space->layout().pkmap.contains(at.kva));
  EXPECT_EQ(mapped(at.kva), m.phys->page_to_pfn(high));
  EXPECT_EQ(kmap.kmap_to_page(at.kva), &high);
  EXPECT_EQ(kmap.page_address(high), at.kva);
  std::memset(at.native, 0x5a, kPageSize);
  const auto walk =
      m.space->init_mm().tables().walk(m.space->init_mm().pgd(), at.kva + 77, arch::Access::kWrite, arch::Privilege::kKernel);
  ASSERT_TRUE(walk);
  EXPECT_EQ(*m.phys->phys_to_virt(walk.pa), std::byte(0x5a));
  EXPECT_EQ(kmap.kmap(high).kva, at.kva) << "a second user of the same place";
  kmap.kunmap(high);
  kmap.kunmap(high);
  EXPECT_EQ(mapped(at.kva), m.phys->page_to_pfn(high)) << "unused places are kept until somebody needs them";
  EXPECT_EQ(kmap.kmap(high).kva, at.kva);
  kmap.kunmap(high);
  m.validate();
  kmap.kmap_flush_unused();
  EXPECT_EQ(kmap.page_address(high), std::nullopt);
  EXPECT_EQ(kmap.flushes(), 1u);
  m.validate();
}

TEST_P(KmapTest, OneFlushFreesAllUnusedPlacesWhenTheSearchComesAround) {
  std::vector<Page*> pages;
  for (unsigned i = 0; i < 3 * kmap.last_pkmap(); ++i) {
    pages.push_back(&high_page());
    static_cast<void>(kmap.kmap(*pages.back()));
    kmap.kunmap(*pages.back());
  }
  EXPECT_EQ(kmap.flushes(), 3u);
  m.validate();
}

TEST_P(KmapTest, WhoFindsAllPlacesTakenSleepsUntilOneIsGivenBack) {
  std::vector<Page*> held;
  for (unsigned i = 0; i < kmap.last_pkmap(); ++i) {
    held.push_back(&high_page());
    static_cast<void>(kmap.kmap(*held.back()));
  }
  std::vector<int> order;
  m.scheduler.spawn("waits", [&] {
    Page& page = high_page();
    const KmapAddress at = kmap.kmap(page);
    order.push_back(2);
    EXPECT_EQ(mapped(at.kva), m.phys->page_to_pfn(page));
    kmap.kunmap(page);
  });
  m.scheduler.spawn("gives", [&] {
    m.scheduler.sleep_for(sim::kMillisecond);
    order.push_back(1);
    kmap.kunmap(*held[7]);
  });
  m.scheduler.run();
  EXPECT_THAT(order, ::testing::ElementsAre(1, 2));
  m.validate();
}

TEST_P(KmapTest, LocalMappingsNestAndGoInReverseOrder) {
  Page& a = high_page();
  Page& b = high_page();
  const KmapAddress first = kmap.kmap_local_page(a);
  const KmapAddress second = kmap.kmap_atomic(b);
  EXPECT_EQ(second.kva, first.kva - kPageSize) << "higher fixmap numbers lie lower";
  EXPECT_TRUE(m.space->layout().fixmap.contains(first.kva));
  EXPECT_EQ(mapped(first.kva), m.phys->page_to_pfn(a));
  EXPECT_EQ(mapped(second.kva), m.phys->page_to_pfn(b));
  EXPECT_EQ(kmap.kmap_to_page(second.kva), &b);
  kmap.kunmap_local(first);
  EXPECT_THAT(m.space->log().last(), HasSubstr("out of order"));
  EXPECT_EQ(mapped(first.kva), m.phys->page_to_pfn(a)) << "nothing is done";
  kmap.kunmap_atomic(second);
  kmap.kunmap_local(first);
  EXPECT_EQ(mapped(first.kva), Pfn(0));
  kmap.kunmap_local(first);
  EXPECT_EQ(m.space->log().warnings(), 2u);
  m.validate();
}

TEST_P(KmapTest, LocalMappingsSurviveASwitchAndStayOnTheirCpu) {
  std::vector<VirtAddr> seen;
  const auto body = [&] {
    Page& mine = high_page();
    const unsigned cpu = m.scheduler.cpu();
    const KmapAddress at = kmap.kmap_local_page(mine);
    for (unsigned i = 0; i < 20; ++i) {
      m.scheduler.sleep_for(10'000 + 1'000 * i);
      EXPECT_EQ(m.scheduler.cpu(), cpu);
      EXPECT_EQ(mapped(at.kva), m.phys->page_to_pfn(mine));
      m.scheduler.yield();
      EXPECT_EQ(mapped(at.kva), m.phys->page_to_pfn(mine));
    }
    seen.push_back(at.kva);
    kmap.kunmap_local(at);
  };
  for (unsigned i = 0; i < 5; ++i) m.scheduler.spawn("task", body);
  m.scheduler.run();
  EXPECT_EQ(seen.size(), 5u);
  std::ranges::sort(seen);
  EXPECT_EQ(std::ranges::unique(seen).begin() - seen.begin(), 2) << "one slot of each CPU, over and over";
  EXPECT_EQ(m.space->init_mm().mapped_pages(), 0u);
  m.validate();
}

using KmapDeathTest = KmapTest;
INSTANTIATE_TEST_SUITE_P(I386, KmapDeathTest, ::testing::Values(phys::Arch::kI386));

TEST_P(KmapDeathTest, TooManyAtOnceAndForeignPagesAreBugs) {
  Page& page = high_page();
  EXPECT_DEATH(kmap.kunmap(page), "kunmap of page .*, which no kmap holds");
  for (unsigned i = 0; i < kKmMaxIdx; ++i) static_cast<void>(kmap.kmap_local_page(page));
  EXPECT_DEATH(static_cast<void>(kmap.kmap_local_page(page)), "holds 16 mappings already");
}

TEST_P(KmapDeathTest, AnInterruptHasNoSlots) {
  Page& page = high_page();
  m.scheduler.at(sim::kMillisecond, [&] { static_cast<void>(kmap.kmap_local_page(page)); });
  EXPECT_DEATH(static_cast<void>(m.scheduler.run_until(2 * sim::kMillisecond)), "kmap_local of a HighMem page in an interrupt");
}

TEST_P(KmapTest, FixedAddresses) {
  const VirtAddr apic = m.space->layout().fix_to_virt(Fixmap::kApicBase);
  kmap.set_fixmap(Fixmap::kApicBase, PhysAddr(0xfee0'0000), {arch::kPageKernel.bits | arch::PteBits::kPcd});
  ASSERT_TRUE(m.space->init_mm().translate(apic));
  EXPECT_EQ(m.space->init_mm().translate(apic)->pa, PhysAddr(0xfee0'0000));
  EXPECT_TRUE(any(m.space->init_mm().translate(apic)->bits, arch::PteBits::kPcd));
  kmap.clear_fixmap(Fixmap::kApicBase);
  EXPECT_FALSE(m.space->init_mm().translate(apic));
}

}  // namespace
}  // namespace quire::kvirt
