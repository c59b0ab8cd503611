// Zones of booted Debian 12 kernels (6.1.0-56-cloud-amd64 under QEMU 7.2), figure by figure: spanned, present, managed,
// watermarks, protection and per-CPU list sizes. The figures are those of zoneinfo.txt, sysctl_vm.txt and dmesg.txt of the
// reference machines named in each row. What the kernel itself reserved is given to boot as the pages each zone managed
// when watermarks were computed (its final figure less the initrd and init sections that were freed later).
#include "machine.h"

#include <array>

namespace quire::phys {
namespace {

struct ZoneFigures {
  int node;
  ZoneType zone;
  std::uint64_t start_pfn, spanned, present, managed, managed_at_watermarks;
  std::uint64_t min, low, high;
  std::array<std::int64_t, kZoneTypes> protection;
  int pcp_high, pcp_batch;
  unsigned stat_threshold;
};

struct Reference {
  const char* name;
  std::uint64_t ram_mib;
  unsigned cpus;
  unsigned nodes;
  std::uint64_t min_free_kbytes;
  std::uint64_t total_pages;  // "Built … zonelists … Total pages"; 0: not compared
  std::vector<ZoneFigures> zones;
};

const std::vector<Reference> kReferences = {
    {"k6.1-128M", 128, 1, 1, 1157, 31968, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 52, 65, 78, {0, 66, 66, 66, 66}, 65, 1, 2},
         {0, ZoneType::kDma32, 4096, 28640, 28640, 19607, 17103, 236, 295, 354, {0, 0, 0, 0, 0}, 295, 3, 2},
     }},
    {"k6.1-128M-memblock", 128, 1, 1, 1022, 31968, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 59, 73, 87, {0, 48, 48, 48, 48}, 73, 1, 2},
         {0, ZoneType::kDma32, 4096, 28640, 28640, 14999, 12495, 195, 243, 291, {0, 0, 0, 0, 0}, 243, 3, 2},
     }},
    {"k6.1-256M", 256, 1, 1, 1844, 64224, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 33, 41, 49, {0, 192, 192, 192, 192}, 41, 1, 2},
         {0, ZoneType::kDma32, 4096, 61408, 61408, 51815, 49311, 427, 533, 639, {0, 0, 0, 0, 0}, 533, 15, 4},
     }},
    {"k6.1-512M", 512, 1, 1, 2743, 128736, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 22, 27, 32, {0, 444, 444, 444, 444}, 27, 1, 2},
         {0, ZoneType::kDma32, 4096, 126944, 126944, 116231, 113727, 662, 827, 992, {0, 0, 0, 0, 0}, 827, 31, 6},
     }},
    {"k6.1-512M-memblock", 512, 1, 1, 2688, 128736, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 22, 27, 32, {0, 426, 426, 426, 426}, 27, 1, 2},
         {0, ZoneType::kDma32, 4096, 126944, 126944, 111623, 109119, 649, 811, 973, {0, 0, 0, 0, 0}, 811, 31, 6},
     }},
    {"k6.1-4G", 4096, 1, 1, 67584, 1031904, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 64, 80, 96, {0, 2950, 3902, 3902, 3902}, 80, 1, 2},
         {0, ZoneType::kDma32, 4096, 1044480, 782304, 757817, 755313, 12725, 15906, 19087, {0, 0, 951, 951, 951}, 15906, 63, 12},
         {0, ZoneType::kNormal, 1048576, 262144, 262144, 243660, 243660, 4105, 5131, 6157, {0, 0, 0, 0, 0}, 5131, 63, 8},
     }},
    {"k6.1-4G-memblock", 4096, 1, 1, 67584, 1031904, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 64, 80, 96, {0, 2950, 3884, 3884, 3884}, 80, 1, 2},
         {0, ZoneType::kDma32, 4096, 1044480, 782304, 757817, 755313, 12784, 15980, 19176, {0, 0, 933, 933, 933}, 15980, 63, 12},
         {0, ZoneType::kNormal, 1048576, 262144, 262144, 239052, 239052, 4046, 5057, 6068, {0, 0, 0, 0, 0}, 5057, 63, 8},
     }},
    {"k6.1-512M-numa2", 512, 2, 2, 2730, 128736, {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 22, 27, 32, {0, 195, 195, 195, 195}, 27, 1, 4},
         {0, ZoneType::kDma32, 4096, 61440, 61440, 52204, 50059, 293, 366, 439, {0, 0, 0, 0, 0}, 366, 15, 8},
         {1, ZoneType::kDma32, 65536, 65504, 65504, 62962, 62603, 366, 457, 548, {0, 0, 0, 0, 0}, 457, 15, 8},
     }},
};

class ReferenceZones : public ::testing::TestWithParam<Reference> {};

TEST_P(ReferenceZones, EveryFigureIsEqual) {
  const Reference& reference = GetParam();
  PhysConfig config;
  config.ram_bytes = reference.ram_mib * kMiB;
  config.cpus = reference.cpus;
  config.kernel_reserved = 16 * kMiB;
  if (reference.nodes > 1) config.nodes.resize(reference.nodes);
  for (const ZoneFigures& z : reference.zones) {
    config.zone_managed.push_back({Nid(z.node), static_cast<unsigned>(z.zone), z.managed_at_watermarks, z.managed});
  }
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_EQ(machine.mem->min_free_kbytes(), reference.min_free_kbytes);
  std::size_t populated = 0;
  machine.mem->for_each_populated_zone([&](Zone&) { ++populated; });
  EXPECT_EQ(populated, reference.zones.size());
  for (const ZoneFigures& expected : reference.zones) {
    const Zone& zone = machine.mem->node(Nid(expected.node)).zone(expected.zone);
    SCOPED_TRACE(std::string(zone.name()) + " of node " + std::to_string(expected.node));
    EXPECT_EQ(zone.start_pfn().value(), expected.start_pfn);
    EXPECT_EQ(zone.spanned_pages(), expected.spanned);
    EXPECT_EQ(zone.present_pages(), expected.present);
    EXPECT_EQ(zone.managed_pages(), expected.managed);
    EXPECT_EQ(zone.watermark(Watermark::kMin), expected.min);
    EXPECT_EQ(zone.watermark(Watermark::kLow), expected.low);
    EXPECT_EQ(zone.watermark(Watermark::kHigh), expected.high);
    for (unsigned i = 0; i < kZoneTypes; ++i) {
      EXPECT_EQ(zone.lowmem_reserve(static_cast<ZoneType>(i)), expected.protection[i]) << "protection " << i;
    }
    for (unsigned cpu = 0; cpu < reference.cpus; ++cpu) {
      EXPECT_EQ(zone.pcp(cpu).high, expected.pcp_high);
      EXPECT_EQ(zone.pcp(cpu).batch, expected.pcp_batch);
    }
    EXPECT_EQ(zone.stat_threshold(), expected.stat_threshold);
  }
  const std::string built = "Built " + std::to_string(reference.nodes) +
                            " zonelists, mobility grouping on.  Total pages: " + std::to_string(reference.total_pages);
  EXPECT_NE(std::find(machine.mem->boot_log().begin(), machine.mem->boot_log().end(), built),
            machine.mem->boot_log().end())
      << built;
  machine.mem->validate();
}

INSTANTIATE_TEST_SUITE_P(Boot, ReferenceZones, ::testing::ValuesIn(kReferences), [](const auto& reference) {
  std::string name = reference.param.name;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
});

}  // namespace
}  // namespace quire::phys
