// Zones of i386 against what Debian 12's 6.1 (686-pae) shows under QEMU, given the pages that its boot left.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "machine.h"

namespace quire::phys {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

struct ZoneFigures {
  ZoneType zone;
  std::uint64_t start_pfn, spanned, present;
  std::uint64_t managed_at_watermarks, managed;
  std::uint64_t min, low, high;
  std::array<std::int64_t, 4> protection;  // DMA, Normal, HighMem, Movable
  std::int32_t pcp_high, pcp_batch;
  unsigned stat_threshold;
};
struct Reference {
  const char* name;
  std::uint64_t ram_mib;
  std::string cmdline;
  std::uint64_t min_free_kbytes, total_pages;
  std::vector<ZoneFigures> zones;
};

// What was free when the watermarks were computed is the guest's own "Memory: ...K available" less HighMem and DMA, and
// the 32 KiB of "SMP alternatives" that it frees before; the rest
// came free with initrd and init sections. highmem= gives the border that its vmalloc area leaves (880 MiB, not 896).
const Reference kReferences[] = {
    {"m128",
     128,
     "",
     1337,
     32318,
     {{ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 45, 56, 67, {0, 94, 94, 94}, 56, 1, 2},
      {ZoneType::kNormal, 4096, 28640, 28640, 24130, 24623, 288, 360, 432, {0, 0, 0, 0}, 360, 3, 2}}},
    {"m512",
     512,
     "",
     2831,
     129662,
     {{ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 21, 26, 31, {0, 474, 474, 474}, 26, 1, 2},
      {ZoneType::kNormal, 4096, 126944, 126944, 121402, 121895, 685, 856, 1027, {0, 0, 0, 0}, 856, 31, 6}}},
    {"g2",
     2048,
     "highmem=1195912K",
     42828,
     521958,
     {{ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 190, 237, 284, {0, 826, 1994, 1994}, 237, 1, 2},
      {ZoneType::kNormal, 4096, 221182, 221182, 211704, 212197, 10516, 13145, 15774, {0, 0, 9343, 9343}, 13145, 63, 8},
      {ZoneType::kHighMem, 225278, 298978, 298978, 298978, 298978, 128, 3840, 7552, {0, 0, 0, 0}, 3840, 63, 10}}},
};

class I386Zones : public ::testing::TestWithParam<Reference> {};
INSTANTIATE_TEST_SUITE_P(Boot, I386Zones, ::testing::ValuesIn(kReferences), [](const auto& p) { return p.param.name; });

TEST_P(I386Zones, EveryFigureIsEqual) {
  const Reference& reference = GetParam();
  PhysConfig config = small_machine(reference.ram_mib);
  config.arch = Arch::kI386Pae;
  config.kernel_reserved = 2 * kMiB;  // struct page has 64 bytes here, 40 there: the rest of what boot took is given
  config.cmdline = reference.cmdline;
  config.data_mode = DataMode::kDataless;
  for (const ZoneFigures& z : reference.zones) {
    config.zone_managed.push_back({Nid(0), static_cast<unsigned>(z.zone), z.managed_at_watermarks, z.managed});
  }
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  EXPECT_EQ(mem.min_free_kbytes(), reference.min_free_kbytes);
  EXPECT_THAT(mem.boot_log(), Contains(HasSubstr(fmt::format("Total pages: {}", reference.total_pages))));
  for (const ZoneFigures& expected : reference.zones) {
    const Zone& zone = mem.node(Nid(0)).zone(expected.zone);
    SCOPED_TRACE(std::string(zone.name()));
    EXPECT_EQ(zone.start_pfn().value(), expected.start_pfn);
    EXPECT_EQ(zone.spanned_pages(), expected.spanned);
    EXPECT_EQ(zone.present_pages(), expected.present);
    EXPECT_EQ(zone.managed_pages(), expected.managed);
    EXPECT_EQ(zone.watermark(Watermark::kMin), expected.min);
    EXPECT_EQ(zone.watermark(Watermark::kLow), expected.low);
    EXPECT_EQ(zone.watermark(Watermark::kHigh), expected.high);
    std::vector<std::int64_t> protection;
    mem.for_each_zone_type([&](ZoneType type) { protection.push_back(zone.lowmem_reserve(type)); });
    EXPECT_THAT(protection, ::testing::ElementsAreArray(expected.protection));
    EXPECT_EQ(zone.pcp(0).high, expected.pcp_high);
    EXPECT_EQ(zone.pcp(0).batch, expected.pcp_batch);
    EXPECT_EQ(zone.stat_threshold(), expected.stat_threshold);
  }
  mem.validate();
}

TEST(I386, EmptyHighMemKeepsItsLeastMarks) {
  PhysConfig config = small_machine(512);
  config.arch = Arch::kI386;
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  Node& node = machine.mem->node(Nid(0));
  EXPECT_EQ(node.zone(ZoneType::kHighMem).watermark(Watermark::kMin), 32u);
  EXPECT_EQ(node.zone(ZoneType::kMovable).watermark(Watermark::kMin), 0u);
}

TEST(I386, LowmemEndsAt896MiB) {
  PhysConfig config = small_machine(2048);
  config.arch = Arch::kI386;
  config.data_mode = DataMode::kDataless;
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  EXPECT_EQ(pfn_to_phys(mem.node(Nid(0)).zone(ZoneType::kNormal).end_pfn()), PhysAddr(896 * kMiB));
  EXPECT_EQ(pfn_to_phys(mem.node(Nid(0)).zone(ZoneType::kHighMem).start_pfn()), PhysAddr(896 * kMiB));
  EXPECT_THAT(mem.boot_log(), Contains("896MB LOWMEM available."));
  // The kernel and its memory map lie below.
  for (const MemblockRegion& r : mem.memblock().reserved()) EXPECT_LE(r.range.end, PhysAddr(896 * kMiB));
  mem.validate();
}

TEST(I386, WithoutPaeFourGiBCount) {
  PhysConfig config = small_machine(6 * 1024);
  config.data_mode = DataMode::kDataless;
  config.arch = Arch::kI386;
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_LE(pfn_to_phys(machine.mem->max_pfn()), PhysAddr(4 * kGiB));
  EXPECT_THAT(machine.mem->boot_log(), Contains("Use a HIGHMEM64G enabled kernel."));
  config.arch = Arch::kI386Pae;
  TestMachine pae(config);
  ASSERT_TRUE(pae.mem) << pae.error;
  EXPECT_GT(pfn_to_phys(pae.mem->max_pfn()), PhysAddr(6 * kGiB));
  EXPECT_EQ(pae.mem->node(Nid(0)).zone(ZoneType::kHighMem).end_pfn(), pae.mem->max_pfn());
}

TEST(I386, SixtyFourGiBBootWithPae) {
  PhysConfig config = small_machine(80 * 1024);
  config.data_mode = DataMode::kDataless;
  config.arch = Arch::kI386Pae;
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_EQ(pfn_to_phys(machine.mem->max_pfn()), PhysAddr(64 * kGiB));
}

TEST(I386, FlagsChooseItsZones) {
  PhysConfig config = small_machine(2048);
  config.arch = Arch::kI386Pae;
  config.data_mode = DataMode::kDataless;
  TestMachine machine(config);
  PhysMem& mem = *machine.mem;
  const auto zone_of = [&](Gfp gfp) {
    Page* page = mem.alloc_page(gfp);
    const ZoneType type = page->zone_type();
    mem.free_page(*page);
    return type;
  };
  EXPECT_EQ(zone_of(Gfp::kKernel), ZoneType::kNormal);
  EXPECT_EQ(zone_of(Gfp::kHighUser), ZoneType::kHighMem);
  EXPECT_EQ(zone_of(Gfp::kHighUserMovable), ZoneType::kHighMem);
  EXPECT_EQ(zone_of(Gfp::kDma32), ZoneType::kNormal);
  EXPECT_EQ(zone_of(Gfp::kDma), ZoneType::kDma);
  EXPECT_EQ(mem.vmstat()[VmEvent::kPgallocHigh], 2);
  // A full HighMem falls back to Normal, which keeps its protection.
  while (Page* page = mem.alloc_page((Gfp::kHighUser | Gfp::kNoWarn) & ~Gfp::kReclaim)) {
    if (page->zone_type() == ZoneType::kDma) break;
  }
  const Zone& normal = mem.node(Nid(0)).zone(ZoneType::kNormal);
  EXPECT_GT(normal.free_pages(), static_cast<std::uint64_t>(normal.lowmem_reserve(ZoneType::kHighMem)));
  mem.validate();
}

TEST(I386, NumbersOfZonesAndCountersAreItsOwn) {
  EXPECT_EQ(zone_index(Arch::kX86_64, ZoneType::kMovable), 3);
  EXPECT_EQ(zone_index(Arch::kX86_64, ZoneType::kDevice), 4);
  EXPECT_EQ(zone_index(Arch::kI386, ZoneType::kNormal), 1);
  EXPECT_EQ(zone_index(Arch::kI386, ZoneType::kMovable), 3);
  EXPECT_TRUE(counted(Arch::kI386, VmEvent::kPgallocHigh));
  EXPECT_FALSE(counted(Arch::kX86_64, VmEvent::kPgallocHigh));
  EXPECT_FALSE(counted(Arch::kI386, VmEvent::kPgskipDma32));
  EXPECT_TRUE(counted(Arch::kX86_64, VmEvent::kPgfault));
}

TEST(I386, NodesAndBadParametersAreRefused) {
  PhysConfig config = small_machine(512);
  config.arch = Arch::kI386;
  config.nodes.resize(2);
  EXPECT_THAT(TestMachine(config).error, HasSubstr("one node"));
  config.nodes.clear();
  config.cmdline = "highmem=lots";
  EXPECT_THAT(TestMachine(config).error, HasSubstr("highmem=512M"));
  config.arch = Arch::kX86_64;  // where the parameter means nothing
  EXPECT_TRUE(TestMachine(config).mem);
}

}  // namespace
}  // namespace quire::phys
