// quire boot: maps, kernel parameters and the kernel's own views.
#include <sstream>
#include <string>

#include "commands.h"

namespace quire {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST_F(Commands, BootShowsWhatTheKernelShows) {
  const Output zoneinfo = quire("boot --ram 1G --cmdline movablecore=256M --show zoneinfo");
  ASSERT_EQ(zoneinfo.status, 0) << zoneinfo.err;
  EXPECT_THAT(zoneinfo.out, StartsWith("Node 0, zone      DMA\n  per-node stats\n      nr_inactive_anon 0\n"));
  EXPECT_THAT(zoneinfo.out, HasSubstr("Node 0, zone  Movable\n  pages free     "));
  EXPECT_THAT(zoneinfo.out, HasSubstr("        spanned  65504\n        present  65504\n"));

  const Output two = quire("boot --ram 64M --show buddyinfo,meminfo");
  EXPECT_THAT(two.out, StartsWith("==> buddyinfo <==\nNode 0, zone      DMA "));
  EXPECT_THAT(two.out, HasSubstr("==> meminfo <==\nMemTotal:"));

  const Output extfrag = quire("boot --ram 64M --show extfrag_index,unusable_index");
  EXPECT_THAT(extfrag.out, HasSubstr("Node 0, zone    DMA32 -1.000 -1.000 "));
  EXPECT_THAT(extfrag.out, HasSubstr("==> unusable_index <==\nNode 0, zone      DMA 0.000 "));

  const json views = json::parse(quire("boot --ram 64M --show iomem,memblock,nodes,pagetypeinfo --json").out);
  EXPECT_THAT(views["iomem"], HasSubstr("00100000-03fdffff : System RAM\n"));
  EXPECT_THAT(views["memblock"], StartsWith("MEMBLOCK configuration:"));
  EXPECT_THAT(views["nodes"], HasSubstr("-- distance\n10\n-- cpulist\n0\n"));
  EXPECT_THAT(views["pagetypeinfo"], StartsWith("Page block order: 9\n"));
}

// A map out of another machine's boot log makes the same zones; the devices behind it are not known.
TEST_F(Commands, ABootLogIsAFirmwareMap) {
  write("dmesg", quire("boot --ram 5G").out);
  for (const std::string view : {"buddyinfo", "zoneinfo"}) {
    EXPECT_EQ(quire("boot --e820 dmesg --show " + view).out, quire("boot --ram 5G --show " + view).out) << view;
  }
  const std::string iomem = quire("boot --e820 dmesg --show iomem").out;
  EXPECT_THAT(iomem, HasSubstr("100000000-17fffffff : System RAM\n"));
  EXPECT_THAT(iomem, Not(HasSubstr("PCI")));
  write("m.toml", "e820 = \"dmesg\"\ncmdline = \"mem=1G memmap=64M!256M\"\n");
  const std::string cut = quire("boot --machine m.toml --show iomem").out;
  EXPECT_THAT(cut, HasSubstr("10000000-13ffffff : Persistent Memory (legacy)\n14000000-3fffffff : System RAM\n"));
  EXPECT_THAT(cut, Not(HasSubstr("100000000-")));
}

TEST_F(Commands, BootMistakesAreSentences) {
  expect_sentence(quire("boot --show zonefino"), "--show zonefino: did you mean 'zoneinfo'?", 2);
  expect_sentence(quire("boot --show xyzzy"), "known are zoneinfo, buddyinfo", 2);
  expect_sentence(quire("boot --e820 absent"), "cannot read the firmware map 'absent'", 2);
  expect_sentence(quire("boot --e820 /"), "is a folder", 2);
  write("map", "[mem 0x0-0x9fbff] usable\n[mem 0x100000-0x3ffffff] used\n");
  expect_sentence(quire("boot --e820 map"), "map: line 2: unknown type", 2);
  expect_sentence(quire("boot --e820 map --ram 64M"), "leave --ram and --node-ram out", 2);
  expect_sentence(quire("boot --ram 64M --cmdline memmap=8M?16M"), "kernel parameter 'memmap=8M?16M'", 1);
  expect_sentence(quire("boot --ram 64M --cmdline mem=1M"), "RAM too small", 1);
}

}  // namespace
}  // namespace quire
