// quire boot: maps, kernel parameters and the kernel's own views.
#include <algorithm>
#include <cstdio>
#include <set>
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

// The version, the head and the rows as slabtop reads them, and the columns as wide as the kernel's.
TEST_F(Commands, SlabinfoReadsAsTheKernels) {
  const Output out = quire("boot --ram 64M --show slabinfo");
  ASSERT_EQ(out.status, 0) << out.err;
  EXPECT_THAT(out.out, StartsWith("slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> <objperslab> "
                                  "<pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> "
                                  "<num_slabs> <sharedavail>\n"));
  std::istringstream lines(out.out);
  std::string line;
  std::getline(lines, line);
  std::getline(lines, line);
  std::set<std::string> names;
  while (std::getline(lines, line)) {
    char name[129] = {};
    unsigned long active = 0, objects = 0;
    unsigned size = 0, per_slab = 0, active_slabs = 0, slabs = 0;
    int pages = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%128s %lu %lu %u %u %d : tunables %*d %*d %*d : slabdata %u %u %*d", name, &active,
                          &objects, &size, &per_slab, &pages, &active_slabs, &slabs),
              8)
        << line;
    EXPECT_EQ(line.size(), std::max<std::size_t>(std::string(name).size(), 17) + 89) << line;
    EXPECT_LE(active, objects) << line;
    EXPECT_EQ(objects, 1ul * slabs * per_slab) << line;
    EXPECT_LE(active_slabs, slabs) << line;
    EXPECT_LE(1ul * size * per_slab, pages * 4096ul) << line;
    EXPECT_TRUE(names.insert(name).second) << line;
  }
  for (const char* cache :
       {"kmem_cache", "kmalloc-64", "vm_area_struct", "mm_struct", "task_struct", "filp", "radix_tree_node"}) {
    EXPECT_TRUE(names.contains(cache)) << cache;
  }
}

// Which allocator there is shows in its table; the machine that a report tells of says it, too.
TEST_F(Commands, TheSlabAllocatorIsChosenAndDebugged) {
  const auto row = [this](const std::string& options, const std::string& cache) {
    const std::string table = quire("boot --ram 64M --show slabinfo " + options).out;
    const auto at = table.find("\n" + cache + " ");
    return at == std::string::npos ? std::string() : table.substr(at + 1, table.find('\n', at + 1) - at - 1);
  };
  EXPECT_THAT(row("", "task_struct"), HasSubstr(" : tunables    8    4    "));
  EXPECT_THAT(row("--slab slub", "task_struct"), HasSubstr(" : tunables    0    0    0 : "));
  write("m.toml", "slab = \"slub\"\n");
  EXPECT_EQ(row("--machine m.toml", "dentry"), row("--slab slub", "dentry"));
  // Red zones and owners take room around an object, of the caches that were named.
  EXPECT_NE(row("--slab slub --slab-debug ZU,dentry", "dentry"), row("--slab slub", "dentry"));
  EXPECT_EQ(row("--slab slub --slab-debug ZU,dentry", "filp"), row("--slab slub", "filp"));
  EXPECT_EQ(row("--slab slub --cmdline slub_debug=ZU,dentry", "dentry"), row("--slab slub --slab-debug ZU,dentry", "dentry"));
  EXPECT_NE(row("--slab slub --cmdline slub_max_order=0", "signal_cache"), row("--slab slub", "signal_cache"));

  expect_sentence(quire("boot --slab slup"), "unknown slab allocator 'slup'; did you mean", 2);
  expect_sentence(quire("boot --slab-debug FQ"), "slab debugging 'FQ': 'Q' is no slab debugging option", 2);
  expect_sentence(quire("boot --cmdline slub_max_order=12"), "kernel parameter 'slub_max_order=12': write a number from 0", 2);
  EXPECT_THAT(quire("boot --ram 64M --cmdline 'slub_debug=P slab_nomerge'").out, Not(HasSubstr("Unknown kernel command line")));

  const Output vmallocinfo = quire("boot --ram 64M --show vmallocinfo");
  EXPECT_EQ(vmallocinfo.status, 0);
  EXPECT_THAT(quire("boot --ram 64M --show meminfo").out, HasSubstr("\nVmallocTotal:   34359738367 kB\nVmallocUsed:    "));
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
  EXPECT_THAT(cut, HasSubstr("10000000-13ffffff : Persistent Memory (legacy)\n"
                             "  10000000-13ffffff : namespace0.0\n14000000-3fffffff : System RAM\n"));
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

TEST_F(Commands, WhatStandsWhereTheKernelGoesIsNamed) {
  const std::string boot = "boot --ram 512M --cmdline 'memmap=";
  expect_sentence(quire(boot + "64M!16M'"), "[mem 0x01000000-0x04ffffff] is persistent (type 12)", 1);
  expect_sentence(quire(boot + "64M$16M'"), "[mem 0x01000000-0x04ffffff] is reserved", 1);
  expect_sentence(quire(boot + "512M!0'"), "leaves 0 KiB of 512 MiB", 1);
  expect_sentence(quire(boot + "1M'"), "RAM too small: the kernel parameters leave 635 KiB", 1);
  expect_sentence(quire(boot + "1!1'"), "whole pages", 1);
  expect_sentence(quire(boot + "100T!8G'"), "'memmap=100T!8G': the range reaches beyond", 1);
  EXPECT_EQ(quire(boot + "64M!16M' --kernel-reserved 8M").status, 0);
}

TEST_F(Commands, TheLogSaysWhyAPersistentRegionStaysRaw) {
  const std::string raw = quire("boot --ram 512M --cmdline 'memmap=3M!129M'").out;
  EXPECT_THAT(raw,
              HasSubstr("namespace0.0: [mem 0x0008100000-0x00083fffff] stays raw: begin and end must be multiples of 2 MiB"));
  EXPECT_THAT(quire("boot --ram 512M --cmdline 'memmap=4M!128M'").out, Not(HasSubstr("stays raw")));
}

TEST_F(Commands, AModuleIsPluggedIn) {
  const Output movable = quire("boot --ram 512M --nodes 2 --plug 512M,node=1 --show iomem,zoneinfo,nodes");
  ASSERT_EQ(movable.status, 0) << movable.err;
  EXPECT_THAT(movable.out, HasSubstr("100000000-11fffffff : System RAM\n"));
  EXPECT_THAT(movable.out, HasSubstr("Node 1, zone  Movable\n  pages free     131072\n"));

  const std::string kernel = quire("boot --ram 512M --plug 256M,at=4608M,online=kernel --show iomem,zoneinfo").out;
  EXPECT_THAT(kernel, HasSubstr("120000000-12fffffff : System RAM\n"));
  EXPECT_THAT(kernel, HasSubstr("Node 0, zone   Normal\n  pages free     65536\n"));

  const std::string offline = quire("boot --ram 512M --plug 256M,online=no --show iomem,meminfo").out;
  EXPECT_THAT(offline, HasSubstr("100000000-10fffffff : System RAM\n"));
  const std::string without = quire("boot --ram 512M --show meminfo").out;
  EXPECT_THAT(offline, HasSubstr(without.substr(0, without.find('\n'))));  // MemTotal

  write("m.toml", "ram = \"512M\"\nnodes = 2\nplug = [\"512M,node=1\"]\n");
  EXPECT_EQ(quire("boot --machine m.toml --show zoneinfo,iomem").out,
            quire("boot --ram 512M --nodes 2 --plug 512M,node=1 --show zoneinfo,iomem").out);
}

TEST_F(Commands, APersistentRegionIsRamOfANodeOfItsOwn) {
  for (const std::string start : {"512M", "4G"}) {
    const Output output =
        quire("boot --node ram=1G --node ram=0 --cmdline 'memmap=512M!" + start + "' --plug pmem0,node=1 --show iomem,nodes");
    ASSERT_EQ(output.status, 0) << output.err;
    // The first block holds the label, and stays what it is.
    EXPECT_THAT(output.out,
                HasSubstr(start == "4G" ? "108000000-11fffffff : System RAM (kmem)" : "28000000-3fffffff : System RAM (kmem)"));
    EXPECT_THAT(output.out, HasSubstr("namespace0.0\n"));
    EXPECT_THAT(output.out, HasSubstr("Node 1 MemTotal:         393216 kB\nNode 1 MemFree:          393216 kB\n"));
  }
}

TEST_F(Commands, PlugMistakesAreSentences) {
  const std::string plug = "boot --ram 512M --plug ";
  expect_sentence(quire(plug + "100M"), "make the size and at= multiples of 128M", 1);
  expect_sentence(quire(plug + "512M,at=4097M"), "multiples of 128M", 1);
  expect_sentence(quire(plug + "512M,at=0"), "0x0-0x1fffffff: something is there already", 1);
  expect_sentence(quire(plug + "512M --plug 512M,at=4G"), "choose another at=", 1);
  expect_sentence(quire(plug + "512M,at=60T"), "beyond the room for memory that comes later", 1);
  expect_sentence(quire(plug + "512M,node=1"), "there is no node 1, the machine has 1 node;", 1);
  expect_sentence(quire(plug + "pmem3"), "the machine has no persistent region; --cmdline memmap=SIZE!START makes one", 1);
  expect_sentence(quire(plug + "pmem1 --cmdline 'memmap=256M!256M'"), "the machine has 1 persistent region;", 1);
  expect_sentence(quire(plug + "pmem0 --cmdline 'memmap=64M!256M'"), "holds no whole memory block of 128M", 1);
  expect_sentence(quire(plug + "512M,nod=1"), "unknown option 'nod'", 2);
  expect_sentence(quire(plug + "512M,node=x"), "a node's number, from 0 to 63", 2);
  expect_sentence(quire(plug + "512M,online=yes"), "write movable, kernel or no", 2);
  expect_sentence(quire(plug + "pmem0,at=4G"), "unknown option 'at'", 2);
  expect_sentence(quire(plug + "pmem"), "pmemN", 2);
  expect_sentence(quire(plug + "0"), "from 128M to 16T", 2);
  write("bad.toml", "plug = [\"512M,nod=1\"]\n");
  expect_sentence(quire("boot --machine bad.toml"), "unknown option 'nod'", 2);
}

}  // namespace
}  // namespace quire
