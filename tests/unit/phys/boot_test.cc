#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>

#include "machine.h"

namespace quire::phys {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

std::uint64_t host_rss_kib() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  statm >> total >> resident;
  return resident * 4;
}

TEST(Boot, SmallMachineHasItsZonesAndItsMemmapIsReallyTaken) {
  TestMachine machine(small_machine(64));
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  const Zone& dma32 = mem.node(Nid(0)).zone(ZoneType::kDma32);
  EXPECT_EQ(mem.node(Nid(0)).zone(ZoneType::kDma).managed_pages(), 3840u);
  EXPECT_EQ(dma32.present_pages(), (48 * kMiB - 128 * kKiB) / kPageSize);
  // Kernel image, one section of memmap (2 MiB), node data, section tables.
  const std::uint64_t taken = dma32.present_pages() - dma32.managed_pages();
  EXPECT_GE(taken, (16 * kMiB + 2 * kMiB) / kPageSize);
  EXPECT_LE(taken, (16 * kMiB + 2 * kMiB + 512 * kKiB) / kPageSize);
  mem.validate();
}

TEST(Boot, TheLogReadsAsTheKernels) {
  TestMachine machine(small_machine(512));
  ASSERT_TRUE(machine.mem) << machine.error;
  const auto& log = machine.mem->boot_log();
  // Lines of k6.1-512M/dmesg.txt.
  for (const char* line :
       {"BIOS-e820: [mem 0x0000000000100000-0x000000001ffdffff] usable",
        "e820: update [mem 0x00000000-0x00000fff] usable ==> reserved", "e820: remove [mem 0x000a0000-0x000fffff] usable",
        "No NUMA configuration found", "Faking a node at [mem 0x0000000000000000-0x000000001ffdffff]",
        "  DMA      [mem 0x0000000000001000-0x0000000000ffffff]", "  DMA32    [mem 0x0000000001000000-0x000000001ffdffff]",
        "  Normal   empty", "  Device   empty", "  node   0: [mem 0x0000000000001000-0x000000000009efff]",
        "  node   0: [mem 0x0000000000100000-0x000000001ffdffff]",
        "Initmem setup node 0 [mem 0x0000000000001000-0x000000001ffdffff]",
        "On node 0, zone DMA: 1 pages in unavailable ranges", "On node 0, zone DMA: 97 pages in unavailable ranges",
        "On node 0, zone DMA32: 32 pages in unavailable ranges", "Fallback order for Node 0: 0 ",
        "Built 1 zonelists, mobility grouping on.  Total pages: 128736", "Policy zone: DMA32"}) {
    EXPECT_THAT(log, Contains(std::string(line)));
  }
}

TEST(Boot, TheHoleBelow4GiBIsNotMemory) {
  PhysConfig config = small_machine(4096);
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  const PhysMem& mem = *machine.mem;
  EXPECT_TRUE(mem.pfn_valid(Pfn(0xbff00)));
  EXPECT_FALSE(mem.pfn_valid(Pfn(0xc0000)));
  EXPECT_FALSE(mem.pfn_valid(Pfn(0xfffff)));
  EXPECT_TRUE(mem.pfn_valid(Pfn(0x100000)));
  EXPECT_FALSE(mem.pfn_valid(Pfn(0x140000)));
  EXPECT_THAT(mem.boot_log(), Contains("On node 0, zone Normal: 32 pages in unavailable ranges"));
}

TEST(Boot, NodesShareRamAsTheReferenceMachine) {
  PhysConfig config = small_machine(512);
  config.cpus = 2;
  config.nodes.resize(2);
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  // k6.1-512M-numa2/dmesg.txt
  for (const char* line :
       {"ACPI: SRAT: Node 1 PXM 1 [mem 0x10000000-0x1fffffff]", "  node   1: [mem 0x0000000010000000-0x000000001ffdffff]",
        "Initmem setup node 1 [mem 0x0000000010000000-0x000000001ffdffff]",
        "On node 1, zone DMA32: 32 pages in unavailable ranges", "Fallback order for Node 0: 0 1 ",
        "Fallback order for Node 1: 1 0 "}) {
    EXPECT_THAT(mem.boot_log(), Contains(std::string(line)));
  }
  EXPECT_EQ(mem.cpu_to_node(1), Nid(1));
  EXPECT_EQ(mem.node(Nid(0)).distance(Nid(1)), 20u);
  const auto& zones = mem.zonelist(Nid(1)).zones();
  ASSERT_EQ(zones.size(), 3u);
  EXPECT_EQ(zones[0].zone, &mem.node(Nid(1)).zone(ZoneType::kDma32));
  EXPECT_EQ(zones[1].zone, &mem.node(Nid(0)).zone(ZoneType::kDma32));
  EXPECT_EQ(zones[2].zone, &mem.node(Nid(0)).zone(ZoneType::kDma));
  Page* page = mem.alloc_pages(Gfp::kKernel, Order(0), Nid(1));
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(page->nid(), Nid(1));
  EXPECT_EQ(&mem.page_zone(*page), zones[0].zone);
  mem.free_page(*page);
}

TEST(Boot, MemorylessNodeFallsBackByDistance) {
  PhysConfig config = small_machine(0);
  config.cpus = 3;
  config.nodes = {{.bytes = 64 * kMiB, .cpus = {0}, .distances = {10, 20, 30}},
                  {.bytes = 64 * kMiB, .cpus = {1}, .distances = {20, 10, 15}},
                  {.bytes = 0, .cpus = {2}, .distances = {30, 15, 10}}};
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_EQ(machine.mem->zonelist(Nid(2)).zones().front().zone->node().nid(), Nid(1));
  EXPECT_THAT(machine.mem->boot_log(), Contains("Initmem setup node 2 as memoryless"));
  Page* page = machine.mem->alloc_pages(Gfp::kKernel, Order(0), Nid(2));
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(page->nid(), Nid(1));
  EXPECT_EQ(machine.mem->alloc_pages(Gfp::kKernel | Gfp::kThisNode, Order(0), Nid(2)), nullptr);
}

TEST(Boot, MistakesAreOneSentenceWithTheMend) {
  PhysConfig config = small_machine(16);
  EXPECT_THAT(TestMachine(config).error, HasSubstr("RAM too small: 16 MiB"));
  EXPECT_THAT(TestMachine(config).error, HasSubstr("boot with --ram"));
  config = small_machine(0);
  EXPECT_THAT(TestMachine(config).error, HasSubstr("RAM too small"));
  config = small_machine(64);
  config.nodes = {{.bytes = 32 * kMiB}, {.bytes = 16 * kMiB}};
  EXPECT_THAT(TestMachine(config).error, HasSubstr("adds up to"));
}

TEST(Boot, WhatTheSentenceAsksForIsEnough) {
  PhysConfig config = small_machine(16);
  const std::string error = TestMachine(config).error;
  const auto at = error.find("--ram ");
  ASSERT_NE(at, std::string::npos);
  config.ram_bytes = std::stoull(error.substr(at + 6)) * kMiB;
  TestMachine machine(config);
  EXPECT_TRUE(machine.mem) << machine.error;
}

TEST(Boot, InitrdComesFreeAfterWatermarks) {
  PhysConfig config = small_machine(64);
  TestMachine without(config);
  config.initrd_bytes = 4 * kMiB;
  TestMachine with(config);
  ASSERT_TRUE(with.mem) << with.error;
  EXPECT_EQ(with.mem->totalram_pages(), without.mem->totalram_pages());
  EXPECT_LT(with.mem->min_free_kbytes(), without.mem->min_free_kbytes());
  EXPECT_THAT(with.mem->boot_log(), Contains("Freeing initrd memory: 4096K"));
  with.mem->validate();
}

// Why the host has no room for a file and twice the address space of that size; empty: it has.
std::string no_room_for(std::uint64_t bytes) {
  const int file = ::memfd_create("room", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(bytes)) != 0) return std::strerror(errno);
  ::close(file);
  void* at = ::mmap(nullptr, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return std::strerror(errno);
  ::munmap(at, 2 * bytes);
  return {};
}

TEST(Boot, ATerabyteMachineTakesLittleOfTheHost) {
  if (const std::string why = no_room_for(kTiB); !why.empty()) {
    GTEST_SKIP() << "the host has no room to name a TiB of memory: " << why;
  }
  PhysConfig config = small_machine(0);
  config.ram_bytes = kTiB;
  config.data_mode = DataMode::kDataless;
  const std::uint64_t before = host_rss_kib();
  const auto start = std::chrono::steady_clock::now();
  TestMachine machine(config);
  const auto took = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_LT(host_rss_kib() - before, 1536u * 1024);
  RecordProperty("milliseconds", static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
  EXPECT_GT(machine.mem->meminfo().freeram, 260'000'000u);
  // Memory not initialised yet is handed out like any other.
  const Zone& normal = machine.mem->node(Nid(0)).zone(ZoneType::kNormal);
  const std::uint64_t deferred = normal.deferred_pages();
  EXPECT_GT(deferred, 250'000'000u);
  std::vector<Page*> pages;
  for (int i = 0; i < 1000; ++i) {
    Page* page = machine.mem->alloc_pages(Gfp::kHighUserMovable | Gfp::kComp, kMaxOrder);
    ASSERT_NE(page, nullptr);
    pages.push_back(page);
  }
  EXPECT_LT(normal.deferred_pages(), deferred);
  // The kernel's own pages come out of a movable block, for which not all of memory has to be initialised.
  std::vector<Page*> kernel_pages;
  for (int i = 0; i < 10'000; ++i) kernel_pages.push_back(machine.mem->alloc_pages(Gfp::kKernel, Order(0)));
  EXPECT_GT(normal.deferred_pages(), deferred - 2'000'000);
  for (Page* page : kernel_pages) machine.mem->free_page(*page);
  for (Page* page : pages) machine.mem->free_pages(*page, kMaxOrder);
  machine.mem->validate();
}

TEST(Boot, DeferredAndWholeInitialisationGiveTheSameMachine) {
  PhysConfig config = small_machine(1024);
  config.deferred_init = DeferredInit::kOff;
  TestMachine whole(config);
  config.deferred_init = DeferredInit::kOn;
  TestMachine deferred(config);
  ASSERT_TRUE(whole.mem && deferred.mem);
  const auto compare = [&] {
    for (unsigned z = 0; z < kZoneTypes; ++z) {
      const Zone& a = whole.mem->node(Nid(0)).zone(static_cast<ZoneType>(z));
      const Zone& b = deferred.mem->node(Nid(0)).zone(static_cast<ZoneType>(z));
      EXPECT_EQ(a.free_pages(), b.free_pages());
      EXPECT_EQ(a.managed_pages(), b.managed_pages());
      for (unsigned o = 0; o < kNrOrders; ++o) EXPECT_EQ(a.nr_free(Order(o)), b.nr_free(Order(o))) << z << " " << o;
    }
  };
  compare();
  // The same requests get the same frames.
  for (int i = 0; i < 2000; ++i) {
    const Order order(static_cast<unsigned>(i) % 7);
    constexpr Gfp kMix[] = {Gfp::kHighUserMovable, Gfp::kKernel, Gfp::kKernel | Gfp::kReclaimable, Gfp::kHighUserMovable};
    Page* a = whole.mem->alloc_pages(kMix[i % 4], order);
    Page* b = deferred.mem->alloc_pages(kMix[i % 4], order);
    ASSERT_TRUE(a != nullptr && b != nullptr);
    ASSERT_EQ(whole.mem->page_to_pfn(*a), deferred.mem->page_to_pfn(*b)) << i;
  }
  compare();
  deferred.mem->validate();
}

TEST(Boot, DirectMapReachesEveryFrameAndHolesAreGone) {
  TestMachine machine(small_machine(64));
  PhysMem& mem = *machine.mem;
  Page* page = mem.alloc_pages(Gfp::kKernel, Order(0));
  std::byte* bytes = mem.page_address(*page);
  bytes[4095] = std::byte{42};
  EXPECT_EQ(&mem.virt_to_page(bytes), page);
  EXPECT_EQ(&mem.pfn_to_page(mem.page_to_pfn(*page)), page);
  EXPECT_EQ(mem.phys_to_virt(mem.page_to_phys(*page)), bytes);
  EXPECT_DEATH(*const_cast<volatile std::byte*>(mem.phys_to_virt(PhysAddr(0xb0000))) = std::byte{1}, "");
}

}  // namespace
}  // namespace quire::phys
