#include "quire/like/proc_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire::like {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::string_view kZone = R"(Node 1, zone    DMA32
  per-node stats
      nr_inactive_anon 214
  pages free     47899
        boost    0
        min      293
        low      366
        high     439
        promo    500
        spanned  61440
        present  61440
        managed  52204
        cma      0
        protection: (0, 0, 12, 12, 12)
      nr_free_pages 47899
  pagesets
    cpu: 0
              count: 199
              high:  366
              batch: 15
  vm stats threshold: 8
    cpu: 3
              count: 363
              high:  367
              batch: 16
  vm stats threshold: 9
  node_unreclaimable:  0
  start_pfn:           4096
Node 1, zone   Normal
  pages free     0
        boost    0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        cma      0
        protection: (0, 0, 0, 0, 0)
)";

TEST(Zoneinfo, EveryFigureOfAZone) {
  const auto zones = parse_zoneinfo(kZone);
  ASSERT_THAT(zones, SizeIs(2));
  const ZoneFigures& z = zones[0];
  EXPECT_EQ(z.nid, 1u);
  EXPECT_EQ(z.name, "DMA32");
  EXPECT_EQ(std::tuple(z.min, z.low, z.high), std::tuple(293u, 366u, 439u));
  EXPECT_EQ(std::tuple(z.spanned, z.present, z.managed, z.start_pfn), std::tuple(61440u, 61440u, 52204u, 4096u));
  EXPECT_THAT(z.protection, ElementsAre(0u, 0u, 12u, 12u, 12u));
  ASSERT_THAT(z.pagesets, SizeIs(2));
  EXPECT_EQ(z.pagesets[1].cpu, 3u);
  EXPECT_EQ(z.pagesets[1].high, 367u);
  EXPECT_EQ(z.pagesets[1].batch, 16u);
  EXPECT_EQ(z.pagesets[1].threshold, 9u);
  EXPECT_TRUE(z.whole);
  EXPECT_TRUE(zones[1].whole);
  EXPECT_FALSE(zones[1].populated());
}

// The kernel prints watermarks with the boost that a fragmenting allocation left behind: a matter of the moment.
TEST(Zoneinfo, TheBoostIsTakenOffTheWatermarks) {
  std::string text(kZone);
  text.replace(text.find("boost    0"), 10, "boost    9");
  const auto zones = parse_zoneinfo(text);
  EXPECT_EQ(std::tuple(zones[0].min, zones[0].low, zones[0].high), std::tuple(284u, 357u, 430u));
  EXPECT_EQ(zones[0].pagesets[0].high, 366u);
}

TEST(Zoneinfo, AZoneThatBreaksOffIsNotWhole) {
  for (const char* end : {"        managed", "  pagesets", "  start_pfn"}) {
    const auto zones = parse_zoneinfo(kZone.substr(0, kZone.find(end)));
    ASSERT_THAT(zones, SizeIs(1));
    EXPECT_FALSE(zones[0].whole) << end;
  }
  EXPECT_THAT(parse_zoneinfo("no zones\n"), IsEmpty());
}

TEST(NodesFile, DistancesCpusAndTotals) {
  const auto nodes = parse_nodes(
      "== /sys/devices/system/node/node0\n-- meminfo\nNode 0 MemTotal:  224176 kB\n-- distance\n10 17\n-- cpulist\n0-2,5\n"
      "== /sys/devices/system/node/node4\n-- distance\n17 10\n-- cpulist\n\n-- numastat\nnuma_hit 0\n");
  ASSERT_THAT(nodes, SizeIs(2));
  EXPECT_THAT(nodes[0].distances, ElementsAre(10u, 17u));
  EXPECT_THAT(*nodes[0].cpus, ElementsAre(0u, 1u, 2u, 5u));
  EXPECT_EQ(nodes[0].total_kib, 224176u);
  EXPECT_EQ(nodes[1].nid, 4u);
  EXPECT_THAT(*nodes[1].cpus, IsEmpty());
}

TEST(SysctlFile, NamesAndValues) {
  const auto values = parse_sysctl("/proc/sys/vm/lowmem_reserve_ratio: 256\t256\t32\t0\t0\n/proc/sys/vm/drop_caches: \nx: 1\n");
  EXPECT_EQ(values.at("lowmem_reserve_ratio"), "256 256 32 0 0");
  EXPECT_EQ(values.at("drop_caches"), "");
  EXPECT_THAT(values, SizeIs(2));
}

TEST(IomemFile, AddressesThatAreAllZeroAreHidden) {
  const Iomem seen =
      parse_iomem("00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n  01000000-01e01ef1 : Kernel code\n");
  EXPECT_FALSE(seen.hidden);
  ASSERT_THAT(seen.lines, SizeIs(3));
  EXPECT_TRUE(from_memory_map(seen.lines[1]));
  EXPECT_FALSE(from_memory_map(seen.lines[2]));
  EXPECT_TRUE(parse_iomem("00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n").hidden);
  EXPECT_FALSE(parse_iomem("").hidden);
}

}  // namespace
}  // namespace quire::like
