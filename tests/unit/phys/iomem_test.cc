#include "quire/phys/iomem.h"

#include "machine.h"

namespace quire::phys {
namespace {

Range<PhysAddr> at(std::uint64_t begin, std::uint64_t end) { return {PhysAddr(begin), PhysAddr(end)}; }

TEST(Iomem, InsertFindsItsPlaceInsideAndAround) {
  IomemTree tree;
  ASSERT_TRUE(tree.insert(at(0x2000, 0x3000), "b"));
  ASSERT_TRUE(tree.insert(at(0x1000, 0x1800), "a"));
  ASSERT_TRUE(tree.insert(at(0x2400, 0x2800), "inside b"));
  ASSERT_TRUE(tree.insert(at(0x1000, 0x4000), "around both"));
  EXPECT_EQ(tree.insert(at(0x1400, 0x2400), "across").error(), Errno::kBusy);
  EXPECT_EQ(tree.insert(at(0x1400, 0x1400), "empty").error(), Errno::kInval);
  tree.validate();
  EXPECT_EQ(tree.text(),
            "00001000-00003fff : around both\n"
            "  00001000-000017ff : a\n"
            "  00002000-00002fff : b\n"
            "    00002400-000027ff : inside b\n");
  EXPECT_EQ(tree.find(at(0x2500, 0x2600))->name, "inside b");
  EXPECT_EQ(tree.find(at(0x2500, 0x2900))->name, "b");
  EXPECT_EQ(tree.find(at(0x5000, 0x5001)), nullptr);
}

TEST(Iomem, AClaimIsExclusive) {
  IomemTree tree;
  ASSERT_TRUE(tree.insert(at(0x1000, 0x4000), "bus"));
  ASSERT_TRUE(tree.request(at(0x3000, 0x4000), "other card"));
  EXPECT_EQ(tree.request(at(0x3000, 0x4000), "other card").error(), Errno::kBusy);
  EXPECT_EQ(tree.request(at(0x3400, 0x3800), "part of it").error(), Errno::kBusy);
  ASSERT_TRUE(tree.release(at(0x3000, 0x4000), "other card"));
  ASSERT_TRUE(tree.request(at(0x2000, 0x3000), "card", ResourceUse::kFree));
  EXPECT_EQ(tree.request(at(0x1800, 0x2800), "other").error(), Errno::kBusy);
  ASSERT_TRUE(tree.request(at(0x2400, 0x2800), "part of card"));
  EXPECT_EQ(tree.release(at(0x2000, 0x3000), "card").error(), Errno::kNoEnt) << "it has a child";
  ASSERT_TRUE(tree.release(at(0x2400, 0x2800), "part of card"));
  ASSERT_TRUE(tree.release(at(0x2000, 0x3000), "card"));
  EXPECT_EQ(tree.release(at(0x2000, 0x3000), "card").error(), Errno::kNoEnt);
  EXPECT_EQ(tree.text(), "00001000-00003fff : bus\n");
  tree.validate();
}

TEST(Iomem, PartsOfRamAreGivenBack) {
  IomemTree tree;
  ASSERT_TRUE(tree.insert(at(0x1000, 0x9000), "bus"));
  ASSERT_TRUE(tree.request(at(0x2000, 0x8000), "System RAM"));
  EXPECT_EQ(tree.busy_bytes(at(0x1000, 0x3000), "System RAM"), 0x1000u);
  ASSERT_TRUE(tree.release_adjustable(at(0x4000, 0x5000)));
  ASSERT_TRUE(tree.release_adjustable(at(0x2000, 0x3000)));
  ASSERT_TRUE(tree.release_adjustable(at(0x7000, 0x8000)));
  EXPECT_EQ(tree.release_adjustable(at(0x4000, 0x5000)).error(), Errno::kInval);
  EXPECT_EQ(tree.text(),
            "00001000-00008fff : bus\n"
            "  00003000-00003fff : System RAM\n"
            "  00005000-00006fff : System RAM\n");
  ASSERT_TRUE(tree.release_adjustable(at(0x3000, 0x4000)));
  ASSERT_TRUE(tree.release_adjustable(at(0x5000, 0x7000)));
  EXPECT_EQ(tree.text(), "00001000-00008fff : bus\n");
  tree.validate();
}

// The reference's /proc/iomem, but for the kernel's sections: here its image is one.
TEST(Iomem, AMachineWithPersistentMemory) {
  PhysConfig config = small_machine(512);
  config.cmdline = "memmap=64M!128M";
  const TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  EXPECT_EQ(machine.mem->iomem().text(),
            "00000000-00000fff : Reserved\n"
            "00001000-0009fbff : System RAM\n"
            "0009fc00-0009ffff : Reserved\n"
            "000a0000-000bffff : PCI Bus 0000:00\n"
            "000c0000-000c05ff : Video ROM\n"
            "000f0000-000fffff : Reserved\n"
            "  000f0000-000fffff : System ROM\n"
            "00100000-07ffffff : System RAM\n"
            "  01000000-01ffffff : Kernel code\n"
            "08000000-0bffffff : Persistent Memory (legacy)\n"
            "  08000000-0bffffff : namespace0.0\n"
            "0c000000-1ffdffff : System RAM\n"
            "1ffe0000-1fffffff : Reserved\n"
            "20000000-febfffff : PCI Bus 0000:00\n"
            "fec00000-fec003ff : IOAPIC 0\n"
            "fed00000-fed003ff : HPET 0\n"
            "  fed00000-fed003ff : PNP0103:00\n"
            "fee00000-fee00fff : Local APIC\n"
            "fffc0000-ffffffff : Reserved\n"
            "100000000-17fffffff : PCI Bus 0000:00\n"
            "fd00000000-ffffffffff : Reserved\n");
}

// A booted guest of 5 GiB printed these lines.
TEST(Iomem, WindowsLieAboveRam) {
  const TestMachine machine(small_machine(5120));
  ASSERT_TRUE(machine.mem) << machine.error;
  const std::string text = machine.mem->iomem().text();
  for (const char* line :
       {"c0000000-febfffff : PCI Bus 0000:00\n", "100000000-17fffffff : System RAM\n180000000-1ffffffff : PCI Bus 0000:00\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
  const TestMachine four(small_machine(4096));
  EXPECT_NE(four.mem->iomem().text().find("140000000-1bfffffff : PCI Bus 0000:00\n"), std::string::npos);
}

}  // namespace
}  // namespace quire::phys
