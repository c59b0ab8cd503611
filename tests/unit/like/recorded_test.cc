// Folders that are not as they should be: each boots with a note, or is refused with a sentence.
#include "quire/like/recorded.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/like/check.h"

namespace quire::like {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

Folder folder_of(const std::string& name) { return *read_folder(std::string(QUIRE_REFERENCE) + "/" + name); }

std::string sentence(const Folder& folder) {
  const auto machine = describe(folder);
  return machine ? "accepted" : machine.error().sentence;
}

// How many figures differ from the whole folder's.
std::uint64_t differences(const Folder& description, const Folder& truth) {
  const auto machine = describe(description);
  EXPECT_TRUE(machine) << machine.error().sentence;
  if (!machine) return ~std::uint64_t{0};
  const auto booted = kernel::Machine::boot(machine->config);
  EXPECT_TRUE(booted) << booted.error().sentence;
  return booted ? compare(truth, **booted).differences.size() : ~std::uint64_t{0};
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
}

TEST(Recorded, NodesCpusAndDistancesComeFromTheFolder) {
  const auto machine = describe(folder_of("k6.1-3nodes-memblock"));
  ASSERT_TRUE(machine) << machine.error().sentence;
  const auto& nodes = machine->config.node;
  ASSERT_EQ(nodes.size(), 3u);
  EXPECT_THAT(nodes[0].distances, testing::ElementsAre(10u, 16u, 28u));
  EXPECT_THAT(nodes[1].cpus, testing::ElementsAre(2u, 3u));
  EXPECT_THAT(nodes[1].memory, IsEmpty());
  EXPECT_THAT(nodes[2].cpus, IsEmpty());
  EXPECT_EQ(nodes[2].memory.front().begin, PhysAddr(0x20000000));
  EXPECT_EQ(machine->config.cpus, 4u);
}

TEST(Recorded, TheLogMayCarryOtherMarks) {
  const Folder whole = folder_of("k6.1-1G-uneven");
  for (const auto& [from, to] : {std::pair{"\n[", "\nNov 22 16:00:00 host kernel: ["}, std::pair{"\n[", "\n<6>["}}) {
    Folder marked = whole;
    replace_all(marked.files["dmesg.txt"], from, to);
    EXPECT_EQ(differences(marked, whole), 0u) << to;
  }
  Folder bare = whole;
  std::string& text = bare.files["dmesg.txt"];
  for (std::size_t at = 0; at < text.size();
       at = text.find('\n', at) == std::string::npos ? text.size() : text.find('\n', at) + 1) {
    text.erase(at, text.find("] ", at) + 2 - at);
  }
  EXPECT_EQ(differences(bare, whole), 0u);
}

TEST(Recorded, WithoutBootLinesMemmapOrIomemGiveTheMap) {
  const Folder whole = folder_of("k6.1-192M");
  Folder lost = whole;
  std::string& dmesg = lost.files["dmesg.txt"];
  const std::size_t map = dmesg.find("[    0.000000] BIOS-e820");
  const std::size_t end = dmesg.find("Early memory node ranges");
  ASSERT_NE(end, std::string::npos);
  std::string lines;
  for (std::size_t at = map; dmesg.compare(at, 25, "[    0.000000] BIOS-e820:") == 0; at = dmesg.find('\n', at) + 1) {
    lines += dmesg.substr(at + 15, dmesg.find('\n', at) + 1 - at - 15);
  }
  dmesg.erase(0, end);
  const auto by_iomem = describe(lost);
  ASSERT_TRUE(by_iomem) << by_iomem.error().sentence;
  EXPECT_THAT(by_iomem->notes, Contains(HasSubstr("the map is that of iomem.txt")));
  EXPECT_THAT(by_iomem->notes, Contains(HasSubstr("lost the beginning")));
  lost.files["memmap.txt"] = lines;
  const auto by_memmap = describe(lost);
  ASSERT_TRUE(by_memmap) << by_memmap.error().sentence;
  EXPECT_THAT(by_memmap->notes, Contains(HasSubstr("the map is that of memmap.txt")));
  Folder figures = whole;
  figures.files.erase("dmesg.txt");
  EXPECT_LE(differences(lost, figures), 6u);  // the initrd's place is lost, so the watermarks are a little off
  lost.files.erase("memmap.txt");
  lost.files.erase("iomem.txt");
  EXPECT_THAT(sentence(lost), HasSubstr("nothing says where its memory lies"));
}

TEST(Recorded, WithoutZoneinfoTheMemoryLineSaysHowMuchIsReserved) {
  Folder folder = folder_of("k6.1-192M");
  folder.files.erase("zoneinfo.txt");
  const auto machine = describe(folder);
  ASSERT_TRUE(machine) << machine.error().sentence;
  EXPECT_THAT(machine->notes, Contains(HasSubstr("no zoneinfo.txt")));
  const auto booted = kernel::Machine::boot(machine->config);
  ASSERT_TRUE(booted) << booted.error().sentence;
  const std::uint64_t was = *std::optional<std::uint64_t>(std::stoull(folder.files["meminfo.txt"].substr(9)));
  const std::uint64_t is = (*booted)->phys().totalram_pages() * 4;
  EXPECT_NEAR(static_cast<double>(is), static_cast<double>(was), 16 * 1024.0);
}

TEST(Recorded, HiddenAddressesAreSaidAndTheZonesStay) {
  const Folder whole = folder_of("k6.1-6G-memblock");
  Folder hidden = whole;
  std::string& iomem = hidden.files["iomem.txt"];
  for (char& c : iomem) {
    if (std::isxdigit(static_cast<unsigned char>(c)) != 0) c = '0';
  }
  replace_all(iomem, "Sy0t0m", "System");
  const auto machine = describe(hidden);
  ASSERT_TRUE(machine) << machine.error().sentence;
  EXPECT_THAT(machine->notes, Contains(HasSubstr("iomem.txt was read without the right to see addresses")));
  Folder zones = whole;
  zones.files.erase("iomem.txt");
  EXPECT_EQ(differences(hidden, zones), 0u);
}

TEST(Recorded, OtherMachinesAreRefused) {
  Folder arm = folder_of("k6.1-192M");
  arm.files["dmesg.txt"] = "Booting Linux on physical CPU 0x0000000000 [0x410fd083]\nLinux version 6.1.0-arm64\n";
  EXPECT_THAT(sentence(arm), HasSubstr("another architecture"));
  Folder i386 = folder_of("k6.1-192M");
  replace_all(i386.files["zoneinfo.txt"], "   DMA32", " HighMem");
  EXPECT_THAT(sentence(i386), HasSubstr("HighMem"));
  Folder cut = folder_of("k6.1-192M");
  std::string& zones = cut.files["zoneinfo.txt"];
  zones.resize(zones.size() / 2);
  EXPECT_THAT(sentence(cut), HasSubstr("breaks off; copy the whole file"));
  Folder empty = folder_of("k6.1-192M");
  empty.files["zoneinfo.txt"] = "nothing\n";
  EXPECT_THAT(sentence(empty), HasSubstr("no line says 'Node N, zone NAME'"));
  Folder many = folder_of("k6.1-192M");
  many.files["nodes.txt"] = "== /sys/devices/system/node/node4000000000\n-- distance\n10\n";
  EXPECT_THAT(sentence(many), HasSubstr("at most 64"));
}

// Memory that was plugged in later is in zoneinfo, but in no map.
TEST(Recorded, MoreManagedThanTheMapHoldsBootsWhatThereIs) {
  Folder folder = folder_of("k6.1-192M");
  replace_all(folder.files["zoneinfo.txt"], "        managed  3", "        managed  83");
  const auto machine = describe(folder);
  ASSERT_TRUE(machine) << machine.error().sentence;
  EXPECT_TRUE(kernel::Machine::boot(machine->config));
}

TEST(Recorded, AParameterThatOnlyLinuxUnderstandsIsLeftOut) {
  Folder folder = folder_of("k6.1-192M");
  replace_all(folder.files["dmesg.txt"], "Command line: ", "Command line: kernelcore=mirror movablecore=16M ");
  const auto machine = describe(folder);
  ASSERT_TRUE(machine) << machine.error().sentence;
  EXPECT_THAT(machine->notes, Contains("the kernel parameter 'kernelcore=mirror' is left out"));
  EXPECT_THAT(machine->config.cmdline, HasSubstr("movablecore=16M"));
}

TEST(Recorded, AnotherKernelIsANote) {
  Folder folder = folder_of("k6.1-192M");
  replace_all(folder.files["dmesg.txt"], "Linux version 6.1.0-56", "Linux version 5.10.0-30");
  const auto machine = describe(folder);
  ASSERT_TRUE(machine) << machine.error().sentence;
  EXPECT_THAT(machine->notes, Contains(HasSubstr("the kernel was 5.10.0-30-cloud-amd64")));
}

// Whatever is cut off where, there is a machine or a sentence.
TEST(Recorded, AnyCutIsAMachineOrASentence) {
  const Folder whole = folder_of("k6.1-1G-memoryless");
  for (const char* name : {"dmesg.txt", "nodes.txt", "iomem.txt", "sysctl_vm.txt", "zoneinfo.txt"}) {
    const std::size_t size = whole.files.at(name).size();
    for (std::size_t keep = 0; keep < size; keep += size / 12 + 1) {
      Folder cut = whole;
      cut.files[name].resize(keep);
      const auto machine = describe(cut);
      if (!machine) {
        EXPECT_THAT(machine.error().sentence, Not(IsEmpty()));
        continue;
      }
      EXPECT_TRUE(kernel::Machine::boot(machine->config)) << name << " cut at " << keep;
    }
  }
}

TEST(Folders, AreThereAndHoldSomething) {
  EXPECT_THAT(read_folder("/nowhere/at/all").error().sentence, HasSubstr("there is no folder '/nowhere/at/all'"));
  EXPECT_THAT(read_folder(QUIRE_REFERENCE "/CMakeLists.txt").error().sentence, HasSubstr("is no folder"));
  EXPECT_THAT(read_folder(QUIRE_REFERENCE).error().sentence, HasSubstr("holds no dmesg.txt"));
}

}  // namespace
}  // namespace quire::like
