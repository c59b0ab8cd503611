#include "quire/like/boot_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/like/lines.h"

namespace quire::like {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

Range<PhysAddr> bytes(std::uint64_t first, std::uint64_t last) { return {PhysAddr(first), PhysAddr(last + 1)}; }

TEST(LogMessage, LosesWhateverMarkStandsBeforeIt) {
  constexpr std::string_view kMessage = "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable";
  const std::string message(kMessage);
  for (const char* mark : {"", "[    0.000000] ", "<6>[    0.000000] ", "[Sun Nov 22 16:00:00 2026] ",
                           "Nov 22 16:00:00 host kernel: ", "Nov 22 16:00:00 host kernel: [    0.000000] ",
                           "2026-11-22T16:00:00.123456+00:00 host kernel: ", "[    0.000000] host kernel: ",
                           "kern  :info  : [    0.000000] ", "[    0.000000][    T0] "}) {
    EXPECT_EQ(log_message(mark + message), kMessage) << mark;
  }
  EXPECT_EQ(log_message("[mem 0x08000000-0xfffbffff] available for PCI devices"),
            "[mem 0x08000000-0xfffbffff] available for PCI devices");
}

constexpr std::string_view kLog = R"([    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian)
[    0.000000] Command line: console=ttyS0 mem=1G
[    0.000000] BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x000000003ffdffff] usable
[    0.000000] BIOS-e820: [mem 0x000000003ffe0000-0x000000003fffffff] reserved
[    0.000000] e820: update [mem 0x00000000-0x00000fff] usable ==> reserved
[    0.000000] e820: remove [mem 0x000a0000-0x000fffff] usable
[    0.000000] RAMDISK: [mem 0x3fe79000-0x3ffdffff]
[    0.025461] SRAT: PXM 0 -> APIC 0x00 -> Node 0
[    0.025501] SRAT: PXM 1 -> APIC 0x01 -> Node 1
[    0.000000] ACPI: SRAT: Node 1 PXM 1 [mem 0x20000000-0x3fffffff]
[    0.032963] Zone ranges:
[    0.032989]   DMA      [mem 0x0000000000001000-0x0000000000ffffff]
[    0.033125] Early memory node ranges
[    0.033151]   node   0: [mem 0x0000000000001000-0x000000000009efff]
[    0.033311]   node   1: [mem 0x0000000020000000-0x000000003ffdffff]
[    0.060606] Memory: 260916K/523768K available (14343K kernel code, 2327K rwdata, 8348K rodata, 2612K init, 5436K bss, 53536K reserved, 0K cma-reserved)
[    0.444179] Freeing SMP alternatives memory: 36K
[    0.411479] smp: Brought up 2 nodes, 4 CPUs
[    1.075269] efi: Freeing EFI boot services memory: 45000K
[    1.766360] HugeTLB: registered 1.00 GiB page size, pre-allocated 2 pages
[    1.766783] HugeTLB: registered 2.00 MiB page size, pre-allocated 7 pages
[    1.650150] Freeing unused kernel image (initmem) memory: 2612K
)";

TEST(BootLog, TellsMapNodesCpusAndWhatCameFree) {
  const BootLog log = parse_boot_log(kLog);
  EXPECT_TRUE(log.from_the_start);
  EXPECT_EQ(log.boots, 1u);
  EXPECT_EQ(log.version, "6.1.0-56-cloud-amd64 (debian)");
  EXPECT_EQ(log.cmdline, "console=ttyS0 mem=1G");
  ASSERT_THAT(log.firmware_map, SizeIs(3));
  EXPECT_EQ(log.firmware_map[2].range, bytes(0x3ffe0000, 0x3fffffff));
  EXPECT_EQ(log.firmware_map[2].type, "reserved");
  EXPECT_THAT(log.reserved_ram, ElementsAre(bytes(0, 0xfff)));
  EXPECT_THAT(log.removed_ram, ElementsAre(bytes(0xa0000, 0xfffff)));
  ASSERT_THAT(log.node_ranges, SizeIs(2));
  EXPECT_EQ(log.node_ranges[1].nid, 1u);
  EXPECT_EQ(log.node_ranges[1].range, bytes(0x20000000, 0x3ffdffff));
  EXPECT_THAT(log.srat, SizeIs(1));
  EXPECT_THAT(log.srat_cpus, ElementsAre(0u, 1u));
  EXPECT_EQ(log.cpus, 4u);
  EXPECT_EQ(log.ramdisk, bytes(0x3fe79000, 0x3ffdffff));
  ASSERT_TRUE(log.memory);
  EXPECT_EQ(log.memory->total_kib, 523768u);
  EXPECT_EQ(log.memory->code_kib, 14343u);
  EXPECT_EQ(log.memory->reserved_kib, 53536u);
  ASSERT_THAT(log.freed, SizeIs(3));
  EXPECT_EQ(log.freed[1].what, "EFI boot services");
  EXPECT_EQ(log.freed[2].what, "unused kernel image (initmem)");
  EXPECT_EQ(log.freed[2].kib, 2612u);
  EXPECT_EQ(log.gigantic_bytes, 2 * kGiB);
  EXPECT_FALSE(log.reserved);
}

TEST(BootLog, TheLastBootCounts) {
  const BootLog log = parse_boot_log("Linux version 5.10\nBIOS-e820: [mem 0x0-0xfff] usable\n" + std::string(kLog));
  EXPECT_EQ(log.boots, 2u);
  EXPECT_THAT(log.firmware_map, SizeIs(3));
}

TEST(BootLog, MemblockLinesAddUpFromTheFirstKnownState) {
  const std::string log = R"(Linux version 6.1
memblock_reserve: [0x0000000003800000-0x0000000003810fff] setup_arch+0x792/0xd40
MEMBLOCK configuration:
 memory size = 0x000000001ff7ec00 reserved size = 0x00000000029e9000
 memory[0x0]	[0x0000000000001000-0x000000000009efff], 0x000000000009e000 bytes flags: 0x0
 reserved.cnt  = 0x1
 reserved[0x0]	[0x0000000001000000-0x0000000003810fff], 0x0000000002811000 bytes flags: 0x0
memblock_reserve: [0x0000000000900000-0x00000000009fffff] efi_reserve_boot_services+0x7d/0xcf
memblock_reserve: [0x000000001fc00000-0x000000001fdfffff] memblock_alloc_range_nid+0xb0/0x13d
memblock_phys_free: [0x000000001fd00000-0x000000001fdfffff] init_mem_mapping+0x22e/0x30e
memblock_alloc_try_nid_raw: 1073741824 bytes align=0x40000000 nid=0 from=0x0 max_addr=0x0 __alloc_bootmem_huge_page+0x2b/0x100
memblock_reserve: [0x0000000040000000-0x000000007fffffff] memblock_alloc_range_nid+0xb0/0x13d
Memory: 1K/2K available (1K kernel code, 1K reserved)
memblock_reserve: [0x0000000080000000-0x0000000080000fff] not any more
)";
  const BootLog parsed = parse_boot_log(log);
  ASSERT_TRUE(parsed.reserved);
  EXPECT_THAT(*parsed.reserved, ElementsAre(bytes(0x900000, 0x9fffff), bytes(0x1000000, 0x3810fff),
                                            bytes(0x1fc00000, 0x1fcfffff), bytes(0x40000000, 0x7fffffff)));
  EXPECT_THAT(parsed.efi_boot_services, ElementsAre(bytes(0x900000, 0x9fffff)));
  EXPECT_THAT(parsed.gigantic_pages, ElementsAre(bytes(0x40000000, 0x7fffffff)));

  std::string gap = log;
  gap.insert(gap.find("memblock_phys_free"), "** 12 printk messages dropped **\n");
  EXPECT_FALSE(parse_boot_log(gap).reserved);
}

TEST(BootLog, NonsenseIsNoFact) {
  for (const char* text : {"", "\n\n", "[", "[mem 0x", "BIOS-e820: [mem 0x5-0x1] usable\n", "BIOS-e820: [mem zzz] usable",
                           "  node   x: [mem 0x0-0xfff]\n", "Freeing  memory: K\n", "Memory: K/K available\n",
                           "reserved[0x0]\t[0x0-0xfff]\n", "ACPI: SRAT: Node  PXM\n", "smp: Brought up\n"}) {
    const BootLog log = parse_boot_log(text);
    EXPECT_THAT(log.firmware_map, IsEmpty()) << text;
    EXPECT_THAT(log.node_ranges, IsEmpty()) << text;
    EXPECT_FALSE(log.cpus) << text;
    EXPECT_FALSE(log.reserved) << text;
  }
}

TEST(Lines, RangesAndNumbersOrNothing) {
  EXPECT_EQ(address_range("0x1000-0x1fff"), bytes(0x1000, 0x1fff));
  EXPECT_EQ(address_range("fffc0000-ffffffff"), bytes(0xfffc0000, 0xffffffff));
  for (const char* text : {"", "-", "0x10", "0x20-0x10", "0-ffffffffffffffff", "0-1ffffffffffffffff", "x-y"}) {
    EXPECT_FALSE(address_range(text)) << text;
  }
  EXPECT_EQ(number_after("node 12, zone", "node "), 12u);
  EXPECT_FALSE(number_after("node x", "node "));
  EXPECT_THAT(words_of("  a\tbc  d "), ElementsAre("a", "bc", "d"));
  EXPECT_THAT(lines_of("a\r\nb\n\nc"), ElementsAre("a", "b", "", "c"));
}

}  // namespace
}  // namespace quire::like
