// Persistent memory as booted Debian 12 guests show it: 2 GiB with memmap=512M!1G, 1 GiB with two regions, 128 GiB with
// memmap=48G!80G, 66 GiB with memmap=129M!65G; libnvdimm, nd_e820 and nd_pmem loaded, then dax_pmem and kmem.
#include "quire/phys/device_memory.h"

#include "fake_mover.h"
#include "machine.h"
#include "snapshot.h"

namespace quire::phys {
namespace {

Range<PhysAddr> at(std::uint64_t begin, std::uint64_t end) { return {PhysAddr(begin), PhysAddr(end)}; }

PhysConfig pmem_config(std::uint64_t mib, const char* cmdline) {
  PhysConfig config = small_machine(mib);
  config.cmdline = cmdline;
  config.data_mode = DataMode::kDataless;
  return config;
}

// From the first line with `from` on to the last with `to`.
std::string lines(const std::string& text, std::string_view from, std::string_view to) {
  const std::size_t begin = text.find(from);
  const std::size_t end = text.rfind(to);
  if (begin == std::string::npos || end == std::string::npos) return text;
  return text.substr(begin, text.find('\n', end) + 1 - begin);
}

TEST(DeviceMemory, TheHugeMachineShowsWhatLinuxShows) {
  PhysConfig config = pmem_config(128 * 1024, "memmap=48G!80G");
  const TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  EXPECT_EQ(mem.iomem().text(),
            "00000000-00000fff : Reserved\n"
            "00001000-0009fbff : System RAM\n"
            "0009fc00-0009ffff : Reserved\n"
            "000a0000-000bffff : PCI Bus 0000:00\n"
            "000c0000-000c05ff : Video ROM\n"
            "000f0000-000fffff : Reserved\n"
            "  000f0000-000fffff : System ROM\n"
            "00100000-bffdefff : System RAM\n"
            "  01000000-01ffffff : Kernel code\n"
            "bffdf000-bfffffff : Reserved\n"
            "c0000000-febfffff : PCI Bus 0000:00\n"
            "fec00000-fec003ff : IOAPIC 0\n"
            "fed00000-fed003ff : HPET 0\n"
            "  fed00000-fed003ff : PNP0103:00\n"
            "fee00000-fee00fff : Local APIC\n"
            "fffc0000-ffffffff : Reserved\n"
            "100000000-13ffffffff : System RAM\n"
            "1400000000-1fffffffff : Persistent Memory (legacy)\n"
            "  1400000000-1fffffffff : namespace0.0\n"
            "2000000000-203fffffff : System RAM\n"
            "2040000000-20bfffffff : PCI Bus 0000:00\n"
            "fd00000000-ffffffffff : Reserved\n");
  EXPECT_EQ(mem.hotplug().memory_block_size(), kGiB);
  const Zone& device = mem.node(Nid(0)).zone(ZoneType::kDevice);
  EXPECT_EQ(device.start_pfn(), phys_to_pfn(PhysAddr(80 * kGiB)));
  EXPECT_EQ(device.spanned_pages(), 12582912u);
  EXPECT_EQ(device.present_pages(), 0u);
  EXPECT_EQ(device.managed_pages(), 0u);
  const Zone& normal = mem.node(Nid(0)).zone(ZoneType::kNormal);
  EXPECT_EQ(normal.spanned_pages(), 32768000u);
  EXPECT_EQ(normal.present_pages(), 20185088u);
  // 48 GiB need 768 MiB of struct Pages.
  EXPECT_GE(mem.meminfo().totalram - mem.meminfo().freeram, 768 * kMiB / kPageSize);
  const Page& page = mem.device_memory().page(phys_to_pfn(PhysAddr(100 * kGiB)));
  EXPECT_EQ(page.zone_type(), ZoneType::kDevice);
  EXPECT_TRUE(page.test(PageFlag::kReserved));
  EXPECT_EQ(page.refcount, 1);
  EXPECT_EQ(mem.pfn_to_online_page(phys_to_pfn(PhysAddr(100 * kGiB))), nullptr);
}

TEST(DeviceMemory, RegionsBesideRamUseTheStructPagesOfBoot) {
  const TestMachine machine(pmem_config(1024, "memmap=96M!128M memmap=64M!512M"));
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  EXPECT_EQ(lines(mem.iomem().text(), "08000000-0dffffff", "24000000-3ffdffff"),
            "08000000-0dffffff : Persistent Memory (legacy)\n"
            "  08000000-0dffffff : namespace0.0\n"
            "0e000000-1fffffff : System RAM\n"
            "20000000-23ffffff : Persistent Memory (legacy)\n"
            "  20000000-23ffffff : namespace1.0\n"
            "24000000-3ffdffff : System RAM\n");
  EXPECT_EQ(mem.node(Nid(0)).zone(ZoneType::kDevice).spanned_pages(), 114688u);
  const std::uint64_t free = mem.meminfo().freeram;
  const std::string attached = snapshot(mem);
  ASSERT_TRUE(mem.device_memory().detach(0));
  EXPECT_EQ(mem.meminfo().freeram, free) << "nothing was taken for them";
  EXPECT_EQ(mem.pfn_to_page(Pfn(0x8000)).zone_type(), ZoneType::kDma32);
  mem.validate();
  ASSERT_TRUE(mem.device_memory().attach(0));
  EXPECT_EQ(snapshot(mem), attached);
  EXPECT_EQ(mem.device_memory().attach(0).error(), Errno::kBusy);
  EXPECT_EQ(mem.device_memory().attach(7).error(), Errno::kNoEnt);
}

TEST(DeviceMemory, ARegionThatIsNotWholeHugePagesStaysRaw) {
  const TestMachine machine(pmem_config(66 * 1024, "memmap=129M!65G"));
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_EQ(lines(machine.mem->iomem().text(), "100000000-", "10c0000000-"),
            "100000000-103fffffff : System RAM\n"
            "1040000000-10480fffff : Persistent Memory (legacy)\n"
            "1048100000-10bfffffff : System RAM\n"
            "10c0000000-113fffffff : PCI Bus 0000:00\n");
  EXPECT_EQ(machine.mem->node(Nid(0)).zone(ZoneType::kDevice).spanned_pages(), 0u);
  EXPECT_EQ(machine.mem->device_memory().attach(0).error(), Errno::kOpNotSupp);
}

struct KmemTest : ::testing::Test {
  KmemTest() : machine(config()), mem(*machine.mem), pmem(mem.device_memory()), hotplug(mem.hotplug()) {}
  static PhysConfig config() {
    PhysConfig config = small_machine(2048);
    config.cmdline = "memmap=512M!1G";
    config.zone_managed = {{Nid(0), 0, 3840, 3840}, {Nid(0), 1, 371237, 373703}};
    return config;
  }
  void expect_watermarks(ZoneType type, std::uint64_t min, std::uint64_t low, std::uint64_t high, std::int64_t movable) {
    const Zone& zone = mem.node(Nid(0)).zone(type);
    EXPECT_EQ(zone.watermark(Watermark::kMin), min) << zone.name();
    EXPECT_EQ(zone.watermark(Watermark::kLow), low) << zone.name();
    EXPECT_EQ(zone.watermark(Watermark::kHigh), high) << zone.name();
    EXPECT_EQ(zone.lowmem_reserve(ZoneType::kMovable), movable) << zone.name();
  }

  static constexpr Range<PhysAddr> kRegion{PhysAddr(0x4000'0000), PhysAddr(0x6000'0000)};
  static constexpr PhysAddr kStart{0x4800'0000};
  static constexpr std::uint64_t kSize = 0x1800'0000;
  TestMachine machine;
  PhysMem& mem;
  DeviceMemory& pmem;
  MemoryHotplug& hotplug;
};

TEST_F(KmemTest, ARegionBecomesRamAsInAGuest) {
  EXPECT_EQ(lines(mem.iomem().text(), "40000000-", "60000000-"),
            "40000000-5fffffff : Persistent Memory (legacy)\n"
            "  40000000-5fffffff : namespace0.0\n"
            "60000000-7ffdffff : System RAM\n");
  mem.drain_all_pages();
  EXPECT_EQ(mem.totalram_pages() - mem.meminfo().freeram, 2048u + 1) << "8 MiB of struct Pages, and pageblock flags";
  expect_watermarks(ZoneType::kDma, 115, 143, 171, 1450);
  expect_watermarks(ZoneType::kDma32, 11148, 13935, 16722, 0);

  ASSERT_TRUE(pmem.dax_kmem_add(kRegion, Nid(0)));
  EXPECT_EQ(lines(mem.iomem().text(), "40000000-", "60000000-"),
            "40000000-5fffffff : Persistent Memory (legacy)\n"
            "  40000000-401fffff : namespace0.0\n"
            "  48000000-5fffffff : dax0.0\n"
            "    48000000-5fffffff : System RAM (kmem)\n"
            "60000000-7ffdffff : System RAM\n");
  for (std::uint64_t id = 9; id <= 11; ++id) EXPECT_EQ(hotplug.valid_zones(id), "DMA32 Movable");
  expect_watermarks(ZoneType::kDma32, 11148, 13935, 16722, 0);

  ASSERT_TRUE(hotplug.online(kStart, kSize, OnlineType::kMovable));
  expect_watermarks(ZoneType::kDma, 90, 112, 134, 1843);
  expect_watermarks(ZoneType::kDma32, 8846, 11057, 13268, 384);
  expect_watermarks(ZoneType::kMovable, 2327, 2908, 3489, 0);
  EXPECT_EQ(mem.node(Nid(0)).zone(ZoneType::kMovable).start_pfn(), Pfn(294912));
  EXPECT_EQ(mem.node(Nid(0)).zone(ZoneType::kMovable).managed_pages(), 98304u);
  EXPECT_EQ(pmem.dax_kmem_remove(kRegion).error(), Errno::kBusy);

  ASSERT_TRUE(hotplug.offline(kStart, kSize));
  ASSERT_TRUE(pmem.dax_kmem_remove(kRegion));
  expect_watermarks(ZoneType::kDma, 114, 142, 170, 1459);
  expect_watermarks(ZoneType::kDma32, 11149, 13936, 16723, 0);
  EXPECT_EQ(mem.node(Nid(0)).zone(ZoneType::kDevice).spanned_pages(), 131072u) << "it never shrinks";
  EXPECT_EQ(lines(mem.iomem().text(), "40000000-", "60000000-"),
            "40000000-5fffffff : Persistent Memory (legacy)\n"
            "60000000-7ffdffff : System RAM\n");
  ASSERT_TRUE(pmem.attach(0));
  mem.validate();
}

TEST_F(KmemTest, TheBytesOfTheDeviceOutlastTheRam) {
  std::byte* bytes = mem.phys_to_virt(PhysAddr(0x5000'0000));
  *bytes = std::byte{42};
  ASSERT_TRUE(pmem.dax_kmem_add(kRegion, Nid(0)));
  ASSERT_TRUE(pmem.dax_kmem_remove(kRegion));
  EXPECT_EQ(*bytes, std::byte{42});
}

TEST_F(KmemTest, MistakesAndFailuresChangeNothing) {
  const std::string before = snapshot(mem);
  EXPECT_EQ(pmem.dax_kmem_add(at(0x1000'0000, 0x2000'0000), Nid(0)).error(), Errno::kInval) << "no region";
  EXPECT_EQ(pmem.dax_kmem_add(at(0x4000'0000, 0x4800'0000), Nid(0)).error(), Errno::kInval) << "no whole block";
  EXPECT_EQ(pmem.dax_kmem_add(kRegion, Nid(3)).error(), Errno::kInval) << "no such node";
  EXPECT_EQ(pmem.dax_kmem_remove(kRegion).error(), Errno::kNoEnt);
  EXPECT_EQ(snapshot(mem), before);
  sim::FaultInjection faults(1);
  mem.set_fault_injection(&faults);
  for (std::uint64_t nth = 1; nth <= 2; ++nth) {
    faults.set(sim::FaultPoint::kHotplug, {.nth = nth});
    EXPECT_EQ(pmem.dax_kmem_add(kRegion, Nid(0)).error(), Errno::kNoMem);
    EXPECT_EQ(lines(snapshot(mem), "max_pfn", "zone DMA32"), lines(before, "max_pfn", "zone DMA32"));
    EXPECT_EQ(pmem.regions()[0].mode, PmemMode::kFsdax);
    mem.validate();
  }
  mem.set_fault_injection(nullptr);
  ASSERT_TRUE(pmem.dax_kmem_add(kRegion, Nid(0)));
  EXPECT_EQ(pmem.dax_kmem_add(kRegion, Nid(0)).error(), Errno::kBusy);
  EXPECT_EQ(pmem.attach(0).error(), Errno::kBusy);
}

// A node whose only memory is the device's: what the kmem driver gives a system that keeps slow memory apart.
TEST(DeviceMemory, RamOfANodeOfItsOwn) {
  PhysConfig config = small_machine(2048);
  config.cmdline = "memmap=512M!1G";
  config.nodes = {{.bytes = 2 * kGiB, .cpus = {0}}, {.bytes = 0, .distances = {20, 10}}};
  const TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  ASSERT_TRUE(mem.device_memory().dax_kmem_add(at(0x4000'0000, 0x6000'0000), Nid(1)));
  ASSERT_TRUE(mem.hotplug().online(PhysAddr(0x4800'0000), 0x1800'0000, OnlineType::kMovable));
  EXPECT_EQ(mem.node(Nid(1)).zone(ZoneType::kMovable).managed_pages(), 98304u);
  Page* page = mem.alloc_pages(Gfp::kHighUserMovable & ~Gfp::kDirectReclaim, Order(0), Nid(1));
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(page->nid(), Nid(1));
  EXPECT_GE(mem.page_to_phys(*page), PhysAddr(0x4800'0000));
  mem.free_page(*page);
  ASSERT_TRUE(mem.hotplug().offline(PhysAddr(0x4800'0000), 0x1800'0000));
  ASSERT_TRUE(mem.device_memory().dax_kmem_remove(at(0x4000'0000, 0x6000'0000)));
  mem.validate();
}

TEST(DeviceMemory, TooLittleRamForTheStructPagesLeavesTheRegionRaw) {
  PhysConfig config = pmem_config(128, "memmap=16G!4G");
  const TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_EQ(machine.mem->device_memory().regions()[0].mode, PmemMode::kRaw);
  EXPECT_EQ(machine.mem->iomem().text().find("namespace"), std::string::npos);
  EXPECT_EQ(machine.mem->node(Nid(0)).zone(ZoneType::kDevice).spanned_pages(), 0u);
  machine.mem->validate();
}

}  // namespace
}  // namespace quire::phys
