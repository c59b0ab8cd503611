#include "quire/kernel/machine_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/kernel/machine.h"
#include "quire/kernel/slab_options.h"
#include "quire/kernel/sysctl.h"
#include "quire/kernel/tlb_options.h"

namespace quire::kernel {
namespace {

using testing::HasSubstr;

TEST(SwapSpec, TakesKindSizeAndOptions) {
  const auto zram = parse_swap_spec("zram:128M,ratio=2.5,limit=32M,priority=7");
  ASSERT_TRUE(zram.has_value());
  EXPECT_EQ(zram->kind, SwapKind::kZram);
  EXPECT_EQ(zram->bytes, 128u << 20);
  EXPECT_DOUBLE_EQ(*zram->ratio, 2.5);
  EXPECT_EQ(*zram->limit, 32u << 20);
  EXPECT_EQ(*zram->priority, 7);
  EXPECT_EQ(parse_swap_spec("disk:1G")->kind, SwapKind::kDisk);
}

TEST(SwapSpec, SaysWhatIsWrong) {
  const auto sentence = [](std::string_view text) { return parse_swap_spec(text).error().sentence; };
  EXPECT_THAT(sentence("128M"), HasSubstr("KIND:SIZE"));
  EXPECT_THAT(sentence("zram"), HasSubstr("zram"));
  EXPECT_THAT(sentence("zram:12Q"), HasSubstr("12Q"));
  EXPECT_THAT(sentence("zram:0"), HasSubstr("between"));
  EXPECT_THAT(sentence("disk:1G,ratio=2"), HasSubstr("unknown option 'ratio'"));
  EXPECT_THAT(sentence("zram:1G,ratio=0.5"), HasSubstr("from 1"));
  EXPECT_THAT(sentence("zram:1G,priority=x"), HasSubstr("priority"));
}

TEST(MachineToml, ReadsEveryKeyAndKeepsTheRest) {
  MachineConfig config;
  config.cpus = 3;
  const auto ok = read_machine_toml(R"(
ram = "64M"
nodes = 2
swap = ["zram:128M", "disk:1G,priority=1"]
seed = 7
kernel_reserved = "8M"
vm.swappiness = 10
[cost]
clear_page = 99
)",
                                    "m.toml", config);
  ASSERT_TRUE(ok.has_value()) << ok.error().sentence;
  EXPECT_EQ(config.ram, 64u << 20);
  EXPECT_EQ(config.cpus, 3u);
  EXPECT_EQ(config.nodes, 2u);
  ASSERT_EQ(config.swap.size(), 2u);
  EXPECT_EQ(config.swap[1].kind, SwapKind::kDisk);
  EXPECT_EQ(config.seed, 7u);
  EXPECT_EQ(config.kernel_reserved, 8u << 20);
  EXPECT_EQ(config.sysctl.at("vm.swappiness"), 10);
  EXPECT_EQ(config.cost.at("clear_page"), 99);
}

TEST(MachineToml, ErrorsNameFileLineAndMendAndChangeNothing) {
  MachineConfig config;
  const auto sentence = [&config](std::string_view text) {
    const auto result = read_machine_toml(text, "m.toml", config);
    return result ? std::string("accepted") : result.error().sentence;
  };
  EXPECT_THAT(sentence("ram = \"64M\"\ncpu = 2\n"), HasSubstr("m.toml:2: unknown key 'cpu'; did you mean 'cpus'?"));
  EXPECT_THAT(sentence("ram = \"64Q\"\n"), HasSubstr("m.toml:1"));
  EXPECT_THAT(sentence("cpus = \"two\"\n"), HasSubstr("whole number"));
  EXPECT_THAT(sentence("cpus = -1\n"), HasSubstr("whole number"));
  EXPECT_THAT(sentence("cpus = 99999999999\n"), HasSubstr("cpus must be a whole number from 1 to 256"));
  EXPECT_THAT(sentence("preempt = 1001\n"), HasSubstr("from 0 to 1000"));
  EXPECT_THAT(sentence("cpus = \n"), HasSubstr("m.toml:1: not TOML"));
  EXPECT_THAT(sentence("swap = [\"floppy:1M\"]\n"), HasSubstr("zram or disk"));
  EXPECT_EQ(config.ram, MachineConfig{}.ram);
}

TEST(MachineToml, AFolderIsNoMachineFile) {
  MachineConfig config;
  const auto result = read_machine_file(testing::TempDir(), config);
  ASSERT_FALSE(result.has_value());
  EXPECT_THAT(result.error().sentence, HasSubstr("is a folder"));
}

TEST(TlbOption, GivesTheArraysItNamesAndLeavesTheRest) {
  EXPECT_EQ(*parse_tlb(""), arch::TlbConfig());
  const auto tlb = parse_tlb("l2=1024x8,l1_4k=16x16");
  ASSERT_TRUE(tlb.has_value());
  EXPECT_EQ(tlb->l2, (arch::TlbConfig::Array{1024, 8}));
  EXPECT_EQ(tlb->l1_4k, (arch::TlbConfig::Array{16, 16}));
  EXPECT_EQ(tlb->l1_2m, arch::TlbConfig().l1_2m);
  arch::Tlb(*tlb).validate();
}

TEST(TlbOption, SaysWhatIsWrong) {
  const auto sentence = [](std::string_view text) { return parse_tlb(text).error().sentence; };
  EXPECT_EQ(sentence("l2=1024x8,l2=512x8"), "tlb: 'l2' is given twice");
  EXPECT_FALSE(parse_tlb("l2=1024x8,").has_value());
  EXPECT_FALSE(parse_tlb(",").has_value());
  EXPECT_THAT(sentence("l3=64x4"), HasSubstr("there is no array 'l3'"));
  EXPECT_THAT(sentence("l2"), HasSubstr("ENTRIESxWAYS"));
  EXPECT_THAT(sentence("l2=64"), HasSubstr("ENTRIESxWAYS"));
  EXPECT_THAT(sentence("l2=-64x4"), HasSubstr("ENTRIESxWAYS"));
  EXPECT_THAT(sentence("l2=99999999999x4"), HasSubstr("ENTRIESxWAYS"));
  EXPECT_THAT(sentence("l2=64x0"), HasSubstr("1 to 16 ways"));
  EXPECT_THAT(sentence("l2=68x17"), HasSubstr("1 to 16 ways"));
  EXPECT_THAT(sentence("l2=60x4"), HasSubstr("power of two"));
  EXPECT_THAT(sentence("l2=0x4"), HasSubstr("power of two"));
  EXPECT_THAT(sentence("l1_4k=256x4"), HasSubstr("first level has 292 entries"));
  MachineConfig config;
  config.tlb = "l2=1048576x1";
  EXPECT_TRUE(check(config).has_value());
  config.cpus = 256;
  EXPECT_THAT(check(config).error().sentence, testing::HasSubstr("on each of 256 CPUs"));
  config.cpus = 1;
  config.tlb = "l2=7x3";
  EXPECT_THAT(Machine::boot(config).error().sentence, HasSubstr("l2=7x3"));
}

// A value that the machine's own field could not hold would become another one.
TEST(Sysctl, TakesNoMoreThanLinuxDoes) {
  EXPECT_TRUE(check_sysctl("vm.dirty_expire_centisecs", 2147483647));
  for (const char* name : {"vm.dirty_expire_centisecs", "vm.dirty_writeback_centisecs", "vm.min_free_kbytes",
                           "vm.max_map_count", "vm.overcommit_ratio", "vm.watermark_boost_factor"}) {
    EXPECT_THAT(check_sysctl(name, 4294967296).error().sentence, HasSubstr("out of range")) << name;
  }
}

TEST(MachineToml, RoundTrip) {
  MachineConfig config;
  config.ram = 96u << 20;
  config.cpus = 4;
  config.nodes = 2;
  config.node_ram = {32u << 20, 64u << 20};
  config.swap.push_back(*parse_swap_spec("zram:128M,ratio=2.5,priority=3"));
  config.seed = 42;
  config.tlb = "l2=1024x8";
  config.arch = "x86-64-la57";
  config.sysctl["vm.swappiness"] = 1;
  config.cost["clear_page"] = 5;
  MachineConfig back;
  const auto ok = read_machine_toml(to_toml(config), "back", back);
  ASSERT_TRUE(ok.has_value()) << ok.error().sentence;
  EXPECT_EQ(to_toml(back), to_toml(config));
  EXPECT_EQ(back.node_ram, config.node_ram);
  EXPECT_EQ(back.swap.front().bytes, 128u << 20);
}

TEST(SlabOptions, ComeFromTheMachineAndFromTheCommandLine) {
  MachineConfig config;
  ASSERT_TRUE(
      read_machine_toml("slab = \"slub\"\ncmdline = \"slub_debug=P slab_merge slub_min_objects=8 slub_min_order=2 "
                        "slub_max_order=1 quiet\"\n",
                        "m.toml", config));
  const auto slub = slab_config(config);
  ASSERT_TRUE(slub) << slub.error().sentence;
  EXPECT_EQ(slub->layout, slab::SlabLayoutKind::kSlub);
  EXPECT_EQ(slub->merge, slab::SlabMerge::kYes);
  EXPECT_EQ(slub->slub.min_objects, 8u);
  EXPECT_EQ(slub->slub.max_order, 1u);
  EXPECT_EQ(slub->slub.min_order, 1u);  // no more than the largest
  EXPECT_EQ(slub->debug.all, slab::SlabFlags::kPoison);
  ASSERT_TRUE(read_machine_toml("slab_debug = \"Z,filp\"", "m.toml", config));
  EXPECT_EQ(slab_config(config)->debug.all, slab::SlabFlags::kNone);
  EXPECT_EQ(slab::debug_flags(slab_config(config)->debug, "filp"), slab::SlabFlags::kRedZone);
  MachineConfig back;
  ASSERT_TRUE(read_machine_toml(to_toml(config), "back", back));
  EXPECT_EQ(to_toml(back), to_toml(config));
  EXPECT_EQ(slab_config(MachineConfig{})->layout, slab::SlabLayoutKind::kSlab);
}

TEST(SlabOptions, MistakesNameTheWord) {
  const auto sentence = [](auto&& change) {
    MachineConfig config;
    change(config);
    const auto result = check(config);
    return result ? std::string("accepted") : result.error().sentence;
  };
  EXPECT_THAT(sentence([](MachineConfig& c) { c.slab = "slup"; }), HasSubstr("allocator 'slup'; did you mean"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.slab = "jemalloc"; }), HasSubstr("write slab or slub"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.slab_debug = "FX"; }), HasSubstr("debugging 'FX': 'X' is no slab"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.cmdline = "quiet slub_debug=Q,filp"; }),
              HasSubstr("parameter 'slub_debug=Q,filp': 'Q' is no slab"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.cmdline = "slub_max_order=11"; }), HasSubstr("from 0 to 10"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.cmdline = "slub_min_objects=many"; }), HasSubstr("from 0 to 32767"));
  EXPECT_EQ(sentence([](MachineConfig& c) { c.cmdline = "slab_nomerge slub_debug"; }), "accepted");
}

TEST(MachineToml, NodesRoundTrip) {
  MachineConfig config;
  set_nodes({*parse_node_spec("ram=256M,cpus=0-2:5,distance=10:17"), *parse_node_spec("ram=0,cpus=3-4,distance=17:10")},
            CpusGiven::kNo, config);
  EXPECT_EQ(config.ram, 256u << 20);
  EXPECT_EQ(config.cpus, 6u);
  MachineConfig back;
  const auto ok = read_machine_toml(to_toml(config), "back", back);
  ASSERT_TRUE(ok.has_value()) << ok.error().sentence;
  EXPECT_EQ(to_toml(back), to_toml(config));
  ASSERT_EQ(back.node.size(), 2u);
  EXPECT_EQ(back.node[0].cpus, (std::vector<unsigned>{0, 1, 2, 5}));
  EXPECT_EQ(back.node[1].distances, (std::vector<unsigned>{17, 10}));
  EXPECT_TRUE(check(back));

  // By address, as a recorded machine has them.
  config.node[0].memory = {{PhysAddr(0x1000), PhysAddr(0x9f000)}, {PhysAddr(0x100000), PhysAddr(0x10000000)}};
  ASSERT_TRUE(read_machine_toml(to_toml(config), "back", back));
  EXPECT_EQ(back.node[0].memory, config.node[0].memory);
}

TEST(MachineToml, NodeMistakesNameTheirLine) {
  const auto sentence = [](std::string_view text) {
    MachineConfig config;
    const auto result = read_machine_toml(text, "m.toml", config);
    return result ? std::string("accepted") : result.error().sentence;
  };
  EXPECT_EQ(sentence("[[node]]\nram = \"64M\"\n"), "accepted");
  EXPECT_THAT(sentence("[[node]]\ncpus = \"0\"\n"), HasSubstr("given its memory"));
  EXPECT_THAT(sentence("[[node]]\nram = \"64M\"\ncpus = 0\n"), HasSubstr("m.toml:3: node.cpus must be a list of CPUs"));
  EXPECT_THAT(sentence("[[node]]\nram = \"64M\"\ndistance = 10\n"), HasSubstr("[10, 20]"));
  EXPECT_THAT(sentence("[[node]]\nram = \"64M\"\nsize = 1\n"), HasSubstr("known are: ram, cpus, distance, memory"));
  EXPECT_THAT(sentence("[[node]]\nmemory = [\"0x100000\"]\n"), HasSubstr("0x100000-0x1fffffff"));
  EXPECT_THAT(sentence("nodes = 3\n[[node]]\nram = \"64M\"\n"), HasSubstr("m.toml:1: nodes must be 1"));
  EXPECT_THAT(sentence("ram = \"1G\"\n[[node]]\nram = \"64M\"\n"), HasSubstr("ram must be \"64M\""));
  EXPECT_THAT(sentence("node = 1\n"), HasSubstr("write [[node]]"));
}

TEST(MachineNodes, MemoryByAddressIsWholePagesAndTheRestIsNone) {
  MachineConfig config;
  config.cpus = 2;
  set_nodes({{.bytes = 0, .cpus = {0}, .distances = {}, .memory = {{PhysAddr(0x1001), PhysAddr(0x2000'0001)}}},
             {.bytes = 0, .cpus = {1}, .distances = {}, .memory = {{PhysAddr(0x3000'0000), PhysAddr(0x3800'0000)}}}},
            CpusGiven::kYes, config);
  config.ram = 1ull << 30;
  config.firmware_map = phys::FirmwareMap::pc(config.ram);
  const auto machine = Machine::boot(config);
  ASSERT_TRUE(machine) << machine.error().sentence;
  phys::PhysMem& phys = (*machine)->phys();
  EXPECT_EQ(phys.node(Nid(0)).start_pfn(), Pfn(2));
  EXPECT_EQ(phys.node(Nid(1)).present_pages(), 0x800'0000u >> kPageShift);
  EXPECT_EQ(phys.max_pfn(), Pfn(0x38000));
  (*machine)->validate();

  for (phys::NodeConfig& node : config.node) node.memory = {{PhysAddr(0x8000'0000), PhysAddr(0x9000'0000)}};
  const auto nothing = Machine::boot(config);
  ASSERT_FALSE(nothing);
  EXPECT_THAT(nothing.error().sentence, HasSubstr("hold no usable memory"));
}

// Nodes without memory serve their CPUs from the nearest that has some; nodes without CPUs serve others.
TEST(MachineNodes, ACpuOnANodeWithoutMemoryAllocatesFromTheNearest) {
  MachineConfig config;
  set_nodes({*parse_node_spec("ram=64M,distance=10:40:40"), *parse_node_spec("ram=0,cpus=0,distance=40:10:20"),
             *parse_node_spec("ram=64M,distance=40:20:10")},
            CpusGiven::kNo, config);
  const auto machine = Machine::boot(config);
  ASSERT_TRUE(machine) << machine.error().sentence;
  phys::PhysMem& phys = (*machine)->phys();
  EXPECT_EQ(phys.numa_node_id(), Nid(1));
  phys::Page* page = phys.alloc_page(phys::Gfp::kKernel);
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(page->nid(), Nid(2));
  phys.free_page(*page);
  (*machine)->validate();
}

TEST(MachineCheck, NamesTheFigureThatDoesNotFit) {
  const auto sentence = [](auto&& change) {
    MachineConfig config;
    change(config);
    const auto result = check(config);
    return result ? std::string("accepted") : result.error().sentence;
  };
  EXPECT_EQ(sentence([](MachineConfig&) {}), "accepted");
  EXPECT_THAT(sentence([](MachineConfig& c) { c.cpus = 0; }), HasSubstr("--cpus 0"));
  EXPECT_EQ(sentence([](MachineConfig& c) { c.cpus = 256; }), "accepted");
  EXPECT_THAT(sentence([](MachineConfig& c) { c.cpus = 257; }), HasSubstr("1 to 256 CPUs"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.ram = 64; }), HasSubstr("64 bytes holds no kernel: write the unit"));
  EXPECT_THAT(sentence([](MachineConfig& c) {
                c.ram = 64u << 20;
                c.nodes = 64;
              }),
              HasSubstr("give --ram 145M or more"));
  EXPECT_EQ(sentence([](MachineConfig& c) {
              c.ram = 145u << 20;
              c.nodes = 64;
            }),
            "accepted");
  EXPECT_THAT(sentence([](MachineConfig& c) { c.nodes = 65; }), HasSubstr("--nodes 65"));
  EXPECT_THAT(sentence([](MachineConfig& c) {
                c.nodes = 2;
                c.node_ram = {1u << 20};
              }),
              HasSubstr("--node-ram"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.profile = "linux-5"; }), HasSubstr("did you mean"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.profile = "linux-2.4"; }), HasSubstr("not built yet"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.sysctl["vm.swapiness"] = 1; }), HasSubstr("did you mean 'vm.swappiness'"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.sysctl["vm.swappiness"] = 201; }), HasSubstr("from 0 to 200"));
  EXPECT_THAT(sentence([](MachineConfig& c) { c.cost["clear_pages"] = 1; }), HasSubstr("did you mean 'clear_page'"));
}

// The most that is let through boots, whatever the machine; more used to end in an allocation that no one checks.
TEST(MachineCheck, MinFreeLeavesMemoryToBootWith) {
  for (const unsigned megabytes : {22u, 24u, 40u, 64u, 300u}) {
    for (const unsigned nodes : {1u, 2u, 8u, 16u}) {
      MachineConfig config;
      config.ram = std::uint64_t{megabytes} << 20;
      config.nodes = nodes;
      if (!Machine::boot(config)) continue;
      config.sysctl["vm.min_free_kbytes"] = 100'000'000;
      const auto refused = check(config);
      ASSERT_FALSE(refused.has_value());
      const std::string& sentence = refused.error().sentence;
      const auto at = sentence.find("the most is ");
      ASSERT_NE(at, std::string::npos) << sentence;
      config.sysctl["vm.min_free_kbytes"] = std::stoll(sentence.substr(at + 12));
      const auto machine = Machine::boot(config);
      EXPECT_TRUE(machine.has_value()) << sentence << ' ' << machine.error().sentence;
    }
  }
}

}  // namespace
}  // namespace quire::kernel
