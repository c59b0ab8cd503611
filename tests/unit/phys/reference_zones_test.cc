// Zones of booted Debian 12 kernels (6.1.0-56-cloud-amd64 under QEMU 7.2), figure by figure: spanned, present, managed,
// watermarks, protection and per-CPU list sizes. The figures are those of zoneinfo.txt, sysctl_vm.txt and dmesg.txt of the
// reference machines named in each row. What the kernel itself reserved is given to boot as the pages each zone managed
// when watermarks were computed (its final figure less the initrd and init sections that were freed later).
#include "machine.h"

#include <algorithm>
#include <array>

namespace quire::phys {
namespace {

struct ZoneFigures {
  int node;
  ZoneType zone;
  std::uint64_t start_pfn, spanned, present, managed, managed_at_watermarks;
  std::uint64_t min, low, high;
  std::array<std::int64_t, 5> protection;  // as the kernel prints them
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
  const char* cmdline = "";
  std::vector<std::uint64_t> node_mib = {};  // empty: dealt evenly
  const char* movable_start = nullptr;       // the boot log's line
};

const std::vector<Reference> kReferences = {
    {"k6.1-128M",
     128,
     1,
     1,
     1157,
     31968,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 52, 65, 78, {0, 66, 66, 66, 66}, 65, 1, 2},
         {0, ZoneType::kDma32, 4096, 28640, 28640, 19607, 17103, 236, 295, 354, {0, 0, 0, 0, 0}, 295, 3, 2},
     }},
    {"k6.1-128M-memblock",
     128,
     1,
     1,
     1022,
     31968,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 59, 73, 87, {0, 48, 48, 48, 48}, 73, 1, 2},
         {0, ZoneType::kDma32, 4096, 28640, 28640, 14999, 12495, 195, 243, 291, {0, 0, 0, 0, 0}, 243, 3, 2},
     }},
    {"k6.1-256M",
     256,
     1,
     1,
     1844,
     64224,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 33, 41, 49, {0, 192, 192, 192, 192}, 41, 1, 2},
         {0, ZoneType::kDma32, 4096, 61408, 61408, 51815, 49311, 427, 533, 639, {0, 0, 0, 0, 0}, 533, 15, 4},
     }},
    {"k6.1-512M",
     512,
     1,
     1,
     2743,
     128736,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 22, 27, 32, {0, 444, 444, 444, 444}, 27, 1, 2},
         {0, ZoneType::kDma32, 4096, 126944, 126944, 116231, 113727, 662, 827, 992, {0, 0, 0, 0, 0}, 827, 31, 6},
     }},
    {"k6.1-512M-memblock",
     512,
     1,
     1,
     2688,
     128736,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 22, 27, 32, {0, 426, 426, 426, 426}, 27, 1, 2},
         {0, ZoneType::kDma32, 4096, 126944, 126944, 111623, 109119, 649, 811, 973, {0, 0, 0, 0, 0}, 811, 31, 6},
     }},
    {"k6.1-4G",
     4096,
     1,
     1,
     67584,
     1031904,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 64, 80, 96, {0, 2950, 3902, 3902, 3902}, 80, 1, 2},
         {0,
          ZoneType::kDma32,
          4096,
          1044480,
          782304,
          757817,
          755313,
          12725,
          15906,
          19087,
          {0, 0, 951, 951, 951},
          15906,
          63,
          12},
         {0, ZoneType::kNormal, 1048576, 262144, 262144, 243660, 243660, 4105, 5131, 6157, {0, 0, 0, 0, 0}, 5131, 63, 8},
     }},
    {"k6.1-4G-memblock",
     4096,
     1,
     1,
     67584,
     1031904,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 64, 80, 96, {0, 2950, 3884, 3884, 3884}, 80, 1, 2},
         {0,
          ZoneType::kDma32,
          4096,
          1044480,
          782304,
          757817,
          755313,
          12784,
          15980,
          19176,
          {0, 0, 933, 933, 933},
          15980,
          63,
          12},
         {0, ZoneType::kNormal, 1048576, 262144, 262144, 239052, 239052, 4046, 5057, 6068, {0, 0, 0, 0, 0}, 5057, 63, 8},
     }},
    {"k6.1-512M-numa2",
     512,
     2,
     2,
     2730,
     128736,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 22, 27, 32, {0, 195, 195, 195, 195}, 27, 1, 4},
         {0, ZoneType::kDma32, 4096, 61440, 61440, 52204, 50059, 293, 366, 439, {0, 0, 0, 0, 0}, 366, 15, 8},
         {1, ZoneType::kDma32, 65536, 65504, 65504, 62962, 62603, 366, 457, 548, {0, 0, 0, 0, 0}, 457, 15, 8},
     }},
    // Booted for this test, same kernel and QEMU, an initrd of 252 pages; `-m 1G -append movablecore=256M` and so on.
    {"movablecore",
     1024,
     1,
     1,
     37016,
     257760,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 144, 180, 216, {0, 711, 711, 947, 947}, 180, 1, 2},
         {0, ZoneType::kDma32, 4096, 192512, 192512, 184409, 182264, 6842, 8552, 10262, {0, 0, 0, 235, 235}, 8552, 63, 8},
         {0, ZoneType::kMovable, 196608, 65504, 65504, 60654, 60402, 2267, 2833, 3399, {0, 0, 0, 0, 0}, 2833, 15, 4},
     },
     "movablecore=256M",
     {},
     "  Node 0: 0x0000000030000000"},
    {"kernelcore",
     1024,
     1,
     1,
     13612,
     257760,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 53, 66, 79, {0, 251, 251, 947, 947}, 66, 1, 2},
         {0, ZoneType::kDma32, 4096, 74752, 74752, 66649, 64504, 890, 1112, 1334, {0, 0, 0, 695, 695}, 1112, 15, 4},
         {0, ZoneType::kMovable, 78848, 183264, 183264, 178414, 178162, 2459, 3073, 3687, {0, 0, 0, 0, 0}, 3073, 63, 8},
     },
     "kernelcore=30%",
     {},
     "  Node 0: 0x0000000013400000"},
    {"movablecore_numa",
     1024,
     2,
     2,
     34552,
     257760,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 134, 167, 200, {0, 195, 195, 195, 195}, 167, 1, 4},
         {0, ZoneType::kDma32, 4096, 61440, 61440, 52204, 50059, 1752, 2190, 2628, {0, 0, 0, 0, 0}, 2190, 15, 8},
         {1, ZoneType::kDma32, 65536, 119808, 119808, 119808, 119808, 4193, 5241, 6289, {0, 0, 0, 285, 285}, 5241, 31, 12},
         {1, ZoneType::kMovable, 185344, 76768, 76768, 73330, 73078, 2557, 3196, 3835, {0, 0, 0, 0, 0}, 3196, 15, 12},
     },
     "movablecore=300M",
     {256, 768},
     "  Node 1: 0x000000002d400000"},
    {"kernelcore_pmem",
     5120,
     1,
     1,
     45056,
     1257696,
     {
         {0, ZoneType::kDma, 1, 4095, 3998, 3840, 3840, 35, 43, 51, {0, 2822, 2822, 4778, 4778}, 43, 1, 2},
         {0, ZoneType::kDma32, 4096, 1044480, 749536, 725049, 722652, 6633, 8291, 9949, {0, 0, 0, 1955, 1955}, 8291, 63, 12},
         {0, ZoneType::kMovable, 1048576, 524288, 524288, 500686, 500686, 4595, 5743, 6891, {0, 0, 0, 0, 0}, 5743, 63, 10},
     },
     "kernelcore=1G memmap=128M!1G mem=6G",
     {},
     "  Node 0: 0x0000000100000000"},
};

class ReferenceZones : public ::testing::TestWithParam<Reference> {};

TEST_P(ReferenceZones, EveryFigureIsEqual) {
  const Reference& reference = GetParam();
  PhysConfig config;
  config.ram_bytes = reference.ram_mib * kMiB;
  config.cpus = reference.cpus;
  config.kernel_reserved = 16 * kMiB;
  config.cmdline = reference.cmdline;
  if (reference.nodes > 1) config.nodes.resize(reference.nodes);
  for (std::size_t i = 0; i < reference.node_mib.size(); ++i) config.nodes[i].bytes = reference.node_mib[i] * kMiB;
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
    for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32, ZoneType::kNormal, ZoneType::kMovable, ZoneType::kDevice}) {
      const auto i = static_cast<std::size_t>(zone_index(Arch::kX86_64, type));
      EXPECT_EQ(zone.lowmem_reserve(type), expected.protection[i]) << "protection " << i;
    }
    for (unsigned cpu = 0; cpu < reference.cpus; ++cpu) {
      EXPECT_EQ(zone.pcp(cpu).high, expected.pcp_high);
      EXPECT_EQ(zone.pcp(cpu).batch, expected.pcp_batch);
    }
    EXPECT_EQ(zone.stat_threshold(), expected.stat_threshold);
  }
  const auto logged = [&](std::string_view line) { return std::ranges::count(machine.mem->boot_log(), line) == 1; };
  if (reference.movable_start != nullptr) {
    EXPECT_TRUE(logged(reference.movable_start)) << reference.movable_start;
  }
  const std::string built = "Built " + std::to_string(reference.nodes) +
                            " zonelists, mobility grouping on.  Total pages: " + std::to_string(reference.total_pages);
  EXPECT_TRUE(logged(built)) << built;
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
