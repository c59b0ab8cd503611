#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "kvirt_machine.h"
#include "quire/base/rng.h"

namespace quire::kvirt {
namespace {

using phys::Gfp;
using phys::Page;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::HasSubstr;

std::byte* bytes(void* p) { return static_cast<std::byte*>(p); }

TEST(Vmalloc, GivesBytesThatTheFramesBehindThePageTablesHold) {
  KvirtMachine m;
  const std::uint64_t free = m.free_pages();
  void* p = m.vmalloc().vmalloc(5 * kPageSize + 1);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(m.space->kva(p), VirtAddr(0xffff'c900'0000'0000));
  for (unsigned i = 0; i < 6; ++i) std::memset(bytes(p) + i * kPageSize, static_cast<int>('a' + i), kPageSize);
  for (unsigned i = 0; i < 6; ++i) {
    const VirtAddr va = m.space->kva(p) + i * kPageSize;
    const auto walk =
        m.space->init_mm().tables().walk(m.space->init_mm().pgd(), va, arch::Access::kWrite, arch::Privilege::kKernel);
    ASSERT_TRUE(walk);
    EXPECT_EQ(*m.phys->phys_to_virt(walk.pa), std::byte('a' + i));
    EXPECT_EQ(m.phys->page_to_phys(*m.vmalloc().vmalloc_to_page(va)), walk.pa);
    // The kernel's memory is not a program's, and holds no code.
    const auto& tables = m.space->init_mm().tables();
    EXPECT_FALSE(tables.walk(m.space->init_mm().pgd(), va, arch::Access::kRead, arch::Privilege::kUser));
    EXPECT_FALSE(tables.walk(m.space->init_mm().pgd(), va, arch::Access::kExec, arch::Privilege::kKernel));
  }
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 6u);
  m.validate();
  m.vmalloc().vfree(p);
  m.validate();
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  // What stays are tables and slabs: bounded, and used again.
  EXPECT_GE(m.free_pages() + 6, free);
  const std::uint64_t warm = m.free_pages();
  m.vmalloc().vfree(m.vmalloc().vmalloc(6 * kPageSize));
  EXPECT_EQ(m.free_pages(), warm);
}

TEST(VmallocDeathTest, GuardPagesAndFreedMemoryFaultOnTheHost) {
  KvirtMachine m;
  void* a = m.vmalloc().vmalloc(2 * kPageSize);
  void* b = m.vmalloc().vmalloc(kPageSize);
  ASSERT_EQ(bytes(b) - bytes(a), static_cast<std::ptrdiff_t>(3 * kPageSize)) << "a guard page between";
  bytes(a)[2 * kPageSize - 1] = std::byte(1);
  EXPECT_DEATH(const_cast<volatile std::byte*>(bytes(a))[2 * kPageSize] = std::byte(1), "");
  m.vmalloc().vfree(a);
  EXPECT_DEATH(const_cast<volatile std::byte*>(bytes(a))[0] = std::byte(1), "");
  bytes(b)[0] = std::byte(1);
  m.vmalloc().vfree(b);
}

TEST(Vmalloc, ZeroedMemoryIsZeroOnADatalessMachineToo) {
  for (const phys::DataMode mode : {phys::DataMode::kData, phys::DataMode::kDataless}) {
    KvirtMachine m({.data_mode = mode});
    void* dirty = m.vmalloc().vmalloc(64 * kPageSize);
    std::memset(dirty, 0xa5, 64 * kPageSize);
    m.vmalloc().vfree(dirty);
    for (void* p : {m.vmalloc().vzalloc(64 * kPageSize), m.vmalloc().vmalloc_user(64 * kPageSize)}) {
      ASSERT_NE(p, nullptr);
      EXPECT_TRUE(std::all_of(bytes(p), bytes(p) + 64 * kPageSize, [](std::byte b) { return b == std::byte(0); }));
      m.vmalloc().vfree(p);
    }
  }
}

TEST(Vmalloc, AreasLieLowestFirstWithTheirGuard) {
  KvirtMachine m;
  std::vector<void*> p;
  for (unsigned i = 0; i < 8; ++i) p.push_back(m.vmalloc().vmalloc((i + 1) * kPageSize));
  const VirtAddr third = m.space->kva(p[2]);
  m.vmalloc().vfree(p[2]);
  void* other = m.vmalloc().vmalloc(kPageSize);
  EXPECT_GT(m.space->kva(other), m.space->kva(p[7])) << "freed addresses wait for the flush";
  EXPECT_EQ(m.space->tlb_flushes(), 0u);
  EXPECT_TRUE(m.vmalloc().areas().purge_vmap_area_lazy());
  EXPECT_FALSE(m.vmalloc().areas().purge_vmap_area_lazy());
  EXPECT_EQ(m.space->tlb_flushes(), 1u);
  void* again = m.vmalloc().vmalloc(3 * kPageSize);
  EXPECT_EQ(m.space->kva(again), third);
  m.validate();
}

TEST(Vmalloc, OneFlushServesManyFreedAreas) {
  KvirtMachine m({.ram = 128 * kMiB, .cpus = 4});
  EXPECT_EQ(m.vmalloc().areas().lazy_max_pages(), 3 * 32 * kMiB / kPageSize);  // fls(4) is 3
  const std::uint64_t each = 9;                                                // guard page included
  const std::uint64_t rounds = m.vmalloc().areas().lazy_max_pages() / each + 1;
  for (std::uint64_t i = 0; i < rounds; ++i) {
    ASSERT_EQ(m.space->tlb_flushes(), 0u) << i;
    m.vmalloc().vfree(m.vmalloc().vmalloc((each - 1) * kPageSize));
  }
  EXPECT_EQ(m.space->tlb_flushes(), 1u);
  EXPECT_EQ(m.vmalloc().areas().lazy_pages(), 0u);
  m.validate();
}

TEST(Vmalloc, OutOfRoomPurgesAndThenFails) {
  KvirtMachine m({.ram = 512 * kMiB, .arch = phys::Arch::kI386});
  // i386 with 512 MiB has some 500 MiB of vmalloc space; areas of 100 MiB of frames that lie in a row.
  std::vector<Page*> many;
  for (Pfn pfn(0x4000); pfn < Pfn(0x4000 + 25600); ++pfn) many.push_back(&m.phys->pfn_to_page(pfn));
  std::vector<void*> got;
  while (void* p = m.vmalloc().vmap(many)) got.push_back(p);
  EXPECT_GE(got.size(), 3u);
  m.vmalloc().areas().set_lazy_max_pages(1 << 20);
  EXPECT_THAT(m.log.back(), HasSubstr("vmap allocation for size 104861696 failed: no gap of the vmalloc area is as large"));
  m.vmalloc().vunmap(got.front());
  const std::uint64_t flushes = m.space->tlb_flushes();
  void* again = m.vmalloc().vmap(many);
  EXPECT_EQ(again, got.front()) << "what waited was purged for it";
  EXPECT_EQ(m.space->tlb_flushes(), flushes + 1);
  m.validate();
  got[0] = again;
  for (void* p : got) m.vmalloc().vunmap(p);
  m.validate();
}

TEST(Vmalloc, AHostWithoutMoreMappingsIsToldAndNothingChanges) {
  std::uint64_t most = 65530;
  if (std::ifstream limit("/proc/sys/vm/max_map_count"); limit) limit >> most;
  if (most > 200000) GTEST_SKIP() << "the host allows " << most << " mappings, too many to use up here";
  KvirtMachine m({.ram = kGiB});
  // The same frame again and again: a mapping of the host for each page.
  Page* page = m.phys->alloc_page(Gfp::kKernel);
  const std::vector<Page*> many(most / 4, page);
  std::vector<void*> got;
  while (void* p = m.vmalloc().vmap(many)) got.push_back(p);
  EXPECT_LE(got.size(), 4u);
  EXPECT_THAT(m.log.back(), HasSubstr("raise its vm.max_map_count"));
  m.validate();
  for (void* p : got) m.vmalloc().vunmap(p);
  void* p = m.vmalloc().vmap(many);
  EXPECT_NE(p, nullptr) << "what was given back can be had again";
  m.vmalloc().vunmap(p);
  m.phys->free_page(*page);
  m.validate();
}

TEST(Vmalloc, SizesThatCannotBe) {
  KvirtMachine m;
  EXPECT_EQ(m.vmalloc().vmalloc(0), nullptr);
  EXPECT_EQ(m.vmalloc().vmalloc(64 * kMiB + 1), nullptr);
  EXPECT_THAT(m.space->log().last(), HasSubstr("vmalloc error: size 67108865, exceeds total pages"));
  EXPECT_EQ(m.vmalloc().vmalloc(~std::size_t{0}), nullptr);
  EXPECT_EQ(m.vmalloc().vmap({}), nullptr);
  m.validate();
}

TEST(Vmalloc, MoreThanThereIsGivesAllOfItBack) {
  KvirtMachine m;
  m.vmalloc().vfree(m.vmalloc().vmalloc(kMiB));
  const std::uint64_t free = m.free_pages();
  EXPECT_EQ(m.vmalloc().vmalloc(50 * kMiB), nullptr);
  EXPECT_THAT(m.space->log().last(), HasSubstr("page order 0, failed to allocate pages"));
  EXPECT_THAT(m.log, Contains(HasSubstr("vmalloc error: size ")));
  EXPECT_NEAR(static_cast<double>(m.free_pages()), static_cast<double>(free), 40) << "page tables may stay";
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  m.validate();
}

TEST(Vmalloc, ForeignPointersAreToldAndLeftAlone) {
  KvirtMachine m;
  void* p = m.vmalloc().vmalloc(4 * kPageSize);
  m.vmalloc().vfree(nullptr);
  m.vmalloc().vfree(bytes(p) + 8);
  EXPECT_THAT(m.space->log().last(), HasSubstr("Trying to vfree() bad address"));
  m.vmalloc().vfree(bytes(p) + kPageSize);
  EXPECT_THAT(m.space->log().last(), HasSubstr("Trying to vfree() nonexistent vm area"));
  void* k = m.slab->kmalloc(64, Gfp::kKernel);
  m.vmalloc().vfree(k);
  EXPECT_EQ(m.space->log().warnings(), 3u);
  m.slab->kfree(k);
  m.vmalloc().vfree(p);
  m.vmalloc().vfree(p);
  EXPECT_EQ(m.space->log().warnings(), 4u) << "a second vfree";
  m.validate();
}

TEST(Vmalloc, NodesAndZonesAreThoseAskedFor) {
  KvirtMachine m({.ram = 256 * kMiB, .cpus = 2, .nodes = 2});
  void* p = m.vmalloc().vmalloc_node(10 * kPageSize, Nid(1));
  for (unsigned i = 0; i < 10; ++i) EXPECT_EQ(m.vmalloc().vmalloc_to_page(bytes(p) + i * kPageSize)->nid(), Nid(1));
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr("pages=10 vmalloc N1=10\n"));
  void* low = m.vmalloc().vmalloc_32(kPageSize);
  EXPECT_LT(m.phys->page_to_phys(*m.vmalloc().vmalloc_to_page(low)), PhysAddr(4 * kGiB));
  m.vmalloc().vfree(p);
  m.vmalloc().vfree(low);
}

TEST(Vmalloc, HighMemIsTakenFirstOnI386) {
  KvirtMachine m({.ram = 1536 * kMiB, .arch = phys::Arch::kI386Pae});
  void* p = m.vmalloc().vmalloc(16 * kPageSize);
  EXPECT_EQ(m.vmalloc().vmalloc_to_page(p)->zone_type(), phys::ZoneType::kHighMem);
  std::memset(p, 7, 16 * kPageSize);
  const auto walk = m.space->init_mm().tables().walk(m.space->init_mm().pgd(), m.space->kva(p), arch::Access::kRead,
                                                     arch::Privilege::kKernel);
  ASSERT_TRUE(walk);
  EXPECT_EQ(*m.phys->phys_to_virt(walk.pa), std::byte(7));
  m.vmalloc().vfree(p);
  m.validate();
}

TEST(Vmalloc, HugeLeavesWhereTheSizeIsOneAtLeast) {
  KvirtMachine m({.ram = 128 * kMiB});
  void* p = m.vmalloc().vmalloc_huge(3 * kMiB);
  ASSERT_NE(p, nullptr);
  const VirtAddr va = m.space->kva(p);
  EXPECT_EQ(va.value() % (2 * kMiB), 0u);
  EXPECT_EQ(m.space->init_mm().translate(va)->level, arch::kPmdLevel);
  EXPECT_EQ(m.vmalloc().find_vm_area(p)->nr_pages, 1024u) << "rounded up to huge pages";
  std::memset(p, 1, 4 * kMiB);
  void* small = m.vmalloc().vmalloc_huge(kMiB);
  EXPECT_EQ(m.space->init_mm().translate(m.space->kva(small))->level, arch::kPteLevel);
  m.validate();
  m.vmalloc().vfree(p);
  m.vmalloc().vfree(small);
  m.validate();

  KvirtMachine off({.ram = 128 * kMiB, .cmdline = "quiet nohugevmalloc"});
  p = off.vmalloc().vmalloc_huge(3 * kMiB);
  EXPECT_EQ(off.space->init_mm().translate(off.space->kva(p))->level, arch::kPteLevel);
  EXPECT_EQ(off.vmalloc().find_vm_area(p)->nr_pages, 768u);
}

TEST(Vmalloc, AHugeLeafTakesThePlaceOfAnEmptyTable) {
  KvirtMachine m({.ram = 128 * kMiB});
  void* p = m.vmalloc().vmalloc(8 * kMiB);  // tables of PTEs all over the first 8 MiB
  m.vmalloc().vfree(p);
  m.vmalloc().areas().purge_vmap_area_lazy();
  const std::uint64_t tables = m.space->init_mm().buddy_tables();
  p = m.vmalloc().vmalloc_huge(4 * kMiB);
  EXPECT_EQ(m.space->init_mm().translate(m.space->kva(p))->level, arch::kPmdLevel);
  EXPECT_EQ(m.space->init_mm().buddy_tables(), tables - 2);
  m.validate();
}

TEST(Vmalloc, VmapShowsPagesInTheOrderGiven) {
  KvirtMachine m;
  std::vector<Page*> pages = m.pages(5);
  std::reverse(pages.begin(), pages.end());
  for (unsigned i = 0; i < 5; ++i) std::memset(m.phys->page_address(*pages[i]), static_cast<int>(i + 1), kPageSize);
  void* p = m.vmalloc().vmap(pages);
  for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(bytes(p)[i * kPageSize + 99], std::byte(i + 1));
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr("   24576 TestBody vmap\n"));
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u) << "the pages are not its own";
  m.validate();
  m.vmalloc().vunmap(p);
  EXPECT_EQ(pages[0]->refcount, 1);
  m.free(pages);
  m.validate();
}

TEST(Vmalloc, VmapWithPutPagesOwnsThemAndTheirArray) {
  KvirtMachine m;
  m.vmalloc().vunmap(m.vmalloc().vmap(std::vector<Page*>{m.pages(1)}));
  auto** array = static_cast<Page**>(m.space->kv().kvmalloc(3 * sizeof(Page*), Gfp::kKernel));
  const std::vector<Page*> pages = m.pages(3);
  std::copy(pages.begin(), pages.end(), array);
  void* p = m.vmalloc().vmap({array, 3}, VmArea::kMap | VmArea::kMapPutPages);
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr("pages=3 vmap N0=3\n"));
  m.vmalloc().vfree(p);
  for (const Page* page : pages) EXPECT_EQ(page->refcount, 0);
  m.validate();
}

TEST(VmallocDeathTest, AReadOnlyMappingCannotBeWritten) {
  KvirtMachine m;
  const std::vector<Page*> pages = m.pages(1);
  void* p = m.vmalloc().vmap(pages, VmArea::kMap, arch::kPageKernelRo);
  EXPECT_EQ(bytes(p)[0], bytes(m.phys->page_address(*pages[0]))[0]);
  EXPECT_DEATH(const_cast<volatile std::byte*>(bytes(p))[0] = std::byte(1), "");
  m.vmalloc().vunmap(p);
  m.free(pages);
}

TEST(Vmalloc, LargeAreasKeepTheirPageArrayInVmalloc) {
  KvirtMachine m;
  void* p = m.vmalloc().vmalloc(4 * kMiB, Gfp::kKernel, "big");
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr(" 4198400 big pages=1024 vmalloc vpages N0=1024\n"));
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr("   12288 big pages=2 vmalloc N0=2\n"));
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 1026u);
  m.vmalloc().vfree(p);
  EXPECT_THAT(m.space->vmallocinfo(), EndsWith(" unpurged vm_area\n"));
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  m.validate();
}

TEST(Vmalloc, FreeingFromAnInterruptIsPutOff) {
  KvirtMachine m;
  void* p = m.vmalloc().vmalloc(kPageSize);
  void* q = m.vmalloc().vmalloc(kPageSize);
  unsigned interrupts = 0;
  m.scheduler.at(sim::kMillisecond, [&] {
    EXPECT_TRUE(m.scheduler.in_interrupt());
    m.vmalloc().vfree_atomic(p);
    m.vmalloc().vfree_atomic(q);
    ++interrupts;
  });
  m.scheduler.spawn("sleeps", [&] {
    m.scheduler.sleep_for(2 * sim::kMillisecond);
    EXPECT_EQ(interrupts, 1u);
    EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 2u);
    m.vmalloc().vfree(nullptr);
    EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  });
  m.scheduler.run();
  EXPECT_EQ(m.space->log().warnings(), 0u);
  m.validate();
}

TEST(Vmalloc, TheSecondFreeingOfOnePointerIsRefused) {
  KvirtMachine m;
  void* p = m.vmalloc().vmalloc(kPageSize);
  void* q = m.vmalloc().vmalloc(kPageSize);
  for (void* each : {p, q, p, q}) m.vmalloc().vfree_atomic(each);
  EXPECT_EQ(m.space->log().warnings(), 2u);
  EXPECT_THAT(m.space->log().last(), HasSubstr("Trying to vfree() nonexistent vm area"));
  m.vmalloc().vfree(p);
  EXPECT_EQ(m.space->log().warnings(), 3u);
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  m.validate();
}

TEST(Vmalloc, VunmapLeavesAloneWhatOwnsItsPages) {
  KvirtMachine m;
  void* p = m.vmalloc().vmalloc(3 * kPageSize);
  m.vmalloc().vunmap(p);
  EXPECT_THAT(m.space->log().last(), HasSubstr("Trying to vunmap() an area that owns its pages"));
  std::memset(p, 1, 3 * kPageSize);
  auto** array = static_cast<Page**>(m.space->kv().kvmalloc(sizeof(Page*), Gfp::kKernel));
  array[0] = m.phys->alloc_page(Gfp::kKernel);
  void* put = m.vmalloc().vmap({array, 1}, VmArea::kMap | VmArea::kMapPutPages);
  m.vmalloc().vunmap(put);
  EXPECT_EQ(m.space->log().warnings(), 2u);
  m.validate();
  m.vmalloc().vfree(p);
  m.vmalloc().vfree(put);
  EXPECT_EQ(m.space->log().warnings(), 2u);
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  EXPECT_EQ(m.space->init_mm().mapped_pages(), 0u);
  m.validate();
}

TEST(Vmalloc, VmapKeepsItsGuardPage) {
  KvirtMachine m;
  const std::vector<Page*> pages = m.pages(2);
  void* p = m.vmalloc().vmap(pages, VmArea::kMap | VmArea::kNoGuard);
  EXPECT_EQ(m.vmalloc().find_vm_area(p)->size, 3 * kPageSize);
  EXPECT_THAT(m.space->log().last(), HasSubstr("without a guard page"));
  m.vmalloc().vunmap(p);
  m.free(pages);
}

TEST(Vmalloc, WhoMustNotFailTriesAgainUntilThereIsRoom) {
  KvirtMachine m({.ram = 512 * kMiB, .arch = phys::Arch::kI386});
  std::vector<Page*> many;
  for (Pfn pfn(0x4000); pfn < Pfn(0x4000 + 256); ++pfn) many.push_back(&m.phys->pfn_to_page(pfn));
  std::vector<void*> got;
  while (void* p = m.vmalloc().vmap(many)) got.push_back(p);
  void* p = nullptr;
  m.scheduler.spawn("wants", [&] {
    p = m.vmalloc().vmalloc(kMiB, Gfp::kKernel | Gfp::kNoWarn | Gfp::kNoFail);
    EXPECT_GE(m.scheduler.now(), 40 * sim::kMillisecond);
  });
  m.scheduler.spawn("gives", [&] {
    m.scheduler.sleep_for(40 * sim::kMillisecond);
    m.vmalloc().vunmap(got.back());
  });
  m.scheduler.run();
  ASSERT_NE(p, nullptr);
  m.vmalloc().vfree(p);
  got.pop_back();
  for (void* each : got) m.vmalloc().vunmap(each);
  m.validate();
}

// Tasks that give way wherever they may: what one looks at, another has not freed, and bytes stay their owner's.
TEST(Vmalloc, TasksAllocateFreeAndLookAtTheSameTime) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    KvirtMachine m({.cpus = 2, .seed = seed, .preempt_permille = 400});
    m.vmalloc().areas().set_lazy_max_pages(16);
    const auto body = [&](unsigned me) {
      Rng rng(seed * 100 + me);
      std::vector<std::pair<std::byte*, std::size_t>> mine;
      std::vector<IoMem> devices;
      for (unsigned i = 0; i < 60; ++i) {
        const std::size_t size = (1 + rng.below(6)) * kPageSize;
        if (mine.size() < 4) {
          if (auto* p = bytes(m.vmalloc().vmalloc(size)); p != nullptr) {
            std::memset(p, static_cast<int>(me + i), size);
            p[0] = std::byte(me);
            p[size - 1] = std::byte(me);
            mine.emplace_back(p, size);
          }
        } else {
          const auto [p, bytes_there] = mine[rng.below(4)];
          EXPECT_EQ(p[0], std::byte(me)) << seed;
          EXPECT_EQ(p[bytes_there - 1], std::byte(me)) << seed;
          std::erase_if(mine, [gone = p](const auto& each) { return each.first == gone; });
          m.vmalloc().vfree(p);
        }
        if (rng.below(3) == 0) devices.push_back(m.space->io().ioremap(PhysAddr(3 * kGiB + me * kMiB), size));
        if (rng.below(3) == 0 && !devices.empty()) {
          m.space->io().iounmap(devices.back());
          devices.pop_back();
        }
        // Each line of an area that was freed under the reader would name no caller of ours.
        std::istringstream lines(m.space->vmallocinfo());
        for (std::string line; std::getline(lines, line);) {
          EXPECT_TRUE(line.contains("unpurged") || line.contains("operator()") || line.contains("vm_map_ram")) << line;
        }
      }
      for (const auto& each : mine) m.vmalloc().vfree(each.first);
      for (const IoMem at : devices) m.space->io().iounmap(at);
    };
    for (unsigned me = 1; me <= 4; ++me) m.scheduler.spawn("task", [&body, me] { body(me); });
    m.scheduler.run();
    m.validate();
    EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
    EXPECT_EQ(m.space->init_mm().mapped_pages(), 0u);
    EXPECT_EQ(m.space->log().warnings(), 0u) << m.space->log().last();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
  }
}

TEST(Vmalloc, MachinesLiveSideBySide) {
  std::vector<std::unique_ptr<KvirtMachine>> machines;
  for (unsigned i = 0; i < 40; ++i) {
    machines.push_back(std::make_unique<KvirtMachine>(MachineSpec{.ram = 32 * kMiB}));
    void* p = machines.back()->vmalloc().vmalloc(3 * kPageSize);
    ASSERT_NE(p, nullptr);
    std::memset(p, static_cast<int>(i), 3 * kPageSize);
  }
  for (auto& m : machines) m->validate();
}

TEST(Vmalloc, ATerabyteMachineWithoutDataHasItToo) {
  KvirtMachine m({.ram = kTiB, .data_mode = phys::DataMode::kDataless});
  void* p = m.vmalloc().vzalloc(16 * kMiB);
  ASSERT_NE(p, nullptr);
  bytes(p)[16 * kMiB - 1] = std::byte(1);
  m.vmalloc().vfree(p);
}

// Each page and each object in turn cannot be had once: the caller gets nothing, nothing leaks, all structures hold.
TEST(Vmalloc, EveryAllocationFailingOnceIsSurvived) {
  constexpr std::uint64_t kBytes = kMiB + 600 * kPageSize;
  for (const phys::Arch arch : {phys::Arch::kX86_64, phys::Arch::kI386Pae}) {
    for (const sim::FaultPoint point : {sim::FaultPoint::kPageAlloc, sim::FaultPoint::kSlabAlloc}) {
      KvirtMachine m({.arch = arch});
      m.phys->set_fault_injection(&m.faults);
      m.slab->set_fault_injection(&m.faults);
      const KvirtMachine::Footprint before = m.footprint();
      bool finished = false;
      for (unsigned nth = 1; !finished; ++nth) {
        ASSERT_LT(nth, 3000u);
        const std::uint64_t failures = m.faults.failures(point);
        m.faults.set(point, {.nth = nth});
        void* p = m.vmalloc().vmalloc(kBytes, Gfp::kKernel | Gfp::kNoWarn);
        finished = m.faults.failures(point) == failures;
        m.faults.set(point, {});
        ASSERT_TRUE(!finished || p != nullptr);
        m.space->validate();
        m.vmalloc().vfree(p);
        m.validate();
        ASSERT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
        const KvirtMachine::Footprint after = m.footprint();
        ASSERT_EQ(after.pages, before.pages) << "failure " << nth;
        ASSERT_EQ(after.objects, before.objects) << "failure " << nth;
      }
      m.phys->set_fault_injection(nullptr);
      m.slab->set_fault_injection(nullptr);
    }
  }
}

}  // namespace
}  // namespace quire::kvirt
