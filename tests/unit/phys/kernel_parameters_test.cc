#include "quire/phys/kernel_parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire::phys {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> lines_with(std::string_view cmdline, std::uint64_t ram = 512 * kMiB) {
  FirmwareMap map = FirmwareMap::pc(ram);
  const auto parsed = KernelParameters::parse(cmdline, map);
  EXPECT_TRUE(parsed.has_value()) << parsed.error().message;
  std::vector<std::string> lines;
  for (const std::string& line : map.lines("user")) {
    if (line.find("usable") != std::string::npos || line.find("persistent") != std::string::npos ||
        line.find("ACPI") != std::string::npos) {
      lines.push_back(line.substr(6));
    }
  }
  return lines;
}

std::string error_of(std::string_view cmdline) {
  FirmwareMap map = FirmwareMap::pc(512 * kMiB);
  const auto parsed = KernelParameters::parse(cmdline, map);
  return parsed ? "" : parsed.error().message;
}

TEST(Memparse, NumbersAsTheKernelReadsThem) {
  const auto parse = [](std::string_view text) {
    const std::uint64_t value = memparse(text);
    return std::pair(value, std::string(text));
  };
  EXPECT_EQ(parse("64M"), std::pair(64 * kMiB, std::string()));
  EXPECT_EQ(parse("64m!"), std::pair(64 * kMiB, std::string("!")));
  EXPECT_EQ(parse("0x10K"), std::pair(16 * kKiB, std::string()));
  EXPECT_EQ(parse("010"), std::pair(std::uint64_t{8}, std::string()));
  EXPECT_EQ(parse("3T@1G"), std::pair(3 * kTiB, std::string("@1G")));
  EXPECT_EQ(parse("M"), std::pair(std::uint64_t{0}, std::string("M")));
  EXPECT_EQ(parse(""), std::pair(std::uint64_t{0}, std::string()));
}

// The map that a booted 6.1 printed with memmap=64M!128M.
TEST(KernelParameters, PersistentMemoryIsCutOutOfRam) {
  EXPECT_THAT(
      lines_with("console=ttyS0 memmap=64M!128M log_buf_len=1M"),
      ElementsAre("[mem 0x0000000000000000-0x000000000009fbff] usable", "[mem 0x0000000000100000-0x0000000007ffffff] usable",
                  "[mem 0x0000000008000000-0x000000000bffffff] persistent (type 12)",
                  "[mem 0x000000000c000000-0x000000001ffdffff] usable"));
}

TEST(KernelParameters, MemCutsWhatLiesAbove) {
  const auto cut =
      ElementsAre("[mem 0x0000000000000000-0x000000000009fbff] usable", "[mem 0x0000000000100000-0x0000000007ffffff] usable");
  EXPECT_THAT(lines_with("mem=128M"), cut);
  EXPECT_THAT(lines_with("memmap=128M"), cut);
  EXPECT_THAT(lines_with("mem=1G mem=128M"), cut);
}

TEST(KernelParameters, TheHigherTypeWinsWhereRangesOverlap) {
  // RAM over what is reserved stays reserved; what is reserved over RAM goes.
  EXPECT_THAT(lines_with("memmap=1M@0xf0000"), ElementsAre("[mem 0x0000000000000000-0x000000000009fbff] usable",
                                                           "[mem 0x0000000000100000-0x000000001ffdffff] usable"));
  EXPECT_THAT(
      lines_with("memmap=1M$16M,1M#32M"),
      ElementsAre("[mem 0x0000000000000000-0x000000000009fbff] usable", "[mem 0x0000000000100000-0x0000000000ffffff] usable",
                  "[mem 0x0000000001100000-0x0000000001ffffff] usable", "[mem 0x0000000002000000-0x00000000020fffff] ACPI data",
                  "[mem 0x0000000002100000-0x000000001ffdffff] usable"));
}

TEST(KernelParameters, ExactMapForgetsTheFirmwares) {
  EXPECT_THAT(
      lines_with("memmap=exactmap memmap=640K@0 memmap=63M@1M"),
      ElementsAre("[mem 0x0000000000000000-0x000000000009ffff] usable", "[mem 0x0000000000100000-0x0000000003ffffff] usable"));
}

TEST(KernelParameters, TypesAreConverted) {
  EXPECT_THAT(
      lines_with("memmap=64M%128M-1+12"),
      ElementsAre("[mem 0x0000000000000000-0x000000000009fbff] usable", "[mem 0x0000000000100000-0x0000000007ffffff] usable",
                  "[mem 0x0000000008000000-0x000000000bffffff] persistent (type 12)",
                  "[mem 0x000000000c000000-0x000000001ffdffff] usable"));
  EXPECT_THAT(lines_with("memmap=64M%128M-1"), ElementsAre("[mem 0x0000000000000000-0x000000000009fbff] usable",
                                                           "[mem 0x0000000000100000-0x0000000007ffffff] usable",
                                                           "[mem 0x000000000c000000-0x000000001ffdffff] usable"));
}

TEST(KernelParameters, CoreSizesAndWhatIsNotKnown) {
  FirmwareMap map = FirmwareMap::pc(512 * kMiB);
  const FirmwareMap before = map;
  const auto parsed = KernelParameters::parse("  quiet kernelcore=30% movablecore=256M root=/dev/vda1 ", map);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->kernelcore.percent, 30u);
  EXPECT_EQ(parsed->movablecore.pages, 256 * kMiB / kPageSize);
  EXPECT_THAT(parsed->unknown, ElementsAre("quiet", "root=/dev/vda1"));
  EXPECT_EQ(parsed->map, KernelParameters::Map::kAsGiven);
  EXPECT_EQ(map.entries(), before.entries());
}

TEST(KernelParameters, MistakesNameTheWord) {
  for (const std::string_view word : {"mem=", "mem=x", "mem=64Q", "memmap=M", "memmap=64M?1G", "memmap=64M!", "memmap=64M!1Gx",
                                      "memmap=64M%1G-1x", "kernelcore=101%", "kernelcore=x", "movablecore="}) {
    EXPECT_THAT(error_of(word), HasSubstr(std::string(word)));
  }
}

TEST(KernelParameters, RangesThatNoMachineHasAreNamed) {
  for (const std::string_view word : {"memmap=1E!4G", "memmap=100T!8G", "memmap=2T@63T", "memmap=4K$64T", "memmap=2T%63T-1"}) {
    EXPECT_THAT(error_of(word), AllOf(HasSubstr(std::string(word)), HasSubstr("46 bits")));
  }
  for (const std::string_view word : {"memmap=16E!0", "memmap=16E", "mem=17E", "memmap=99999999999999999999!4G",
                                      "memmap=64M!18E", "cma=16E", "cma=64M@16E", "movablecore=20E"}) {
    EXPECT_THAT(error_of(word), AllOf(HasSubstr(std::string(word)), HasSubstr("16 EiB")));
  }
  for (const std::string_view word : {"memmap=1!1", "memmap=64M!2K", "memmap=6K!64M", "memmap=1%64M-1+12"}) {
    EXPECT_THAT(error_of(word), AllOf(HasSubstr(std::string(word)), HasSubstr("whole pages")));
  }
  EXPECT_THAT(error_of("memmap=0!64M"), HasSubstr("size of 0"));
  // Right up to the end, and RAM of odd bytes as a crash kernel gets it, is fine.
  for (const std::string_view word : {"memmap=1T!63T", "memmap=639K@0", "mem=100T", "memmap=100T"})
    EXPECT_EQ(error_of(word), "");
}

TEST(FirmwareMapText, ALogOrBareLinesGiveTheMapBack) {
  const FirmwareMap pc = FirmwareMap::pc(6 * kGiB);
  std::string log = "[    0.000000] Linux version 6.1\n";
  for (const std::string& line : pc.lines("BIOS-e820")) log += "[    0.000000] " + line + "\r\n";
  log += "[    0.000000] user: [mem 0x0000000000000000-0x0000000000000fff] usable\n";
  const auto parsed = FirmwareMap::parse(log);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_EQ(parsed->entries(), pc.entries());
  std::string bare;
  for (const std::string& line : pc.lines("x")) bare += line.substr(3) + "\n";
  EXPECT_EQ(FirmwareMap::parse(bare)->entries(), pc.entries());
}

TEST(FirmwareMapText, MistakesNameTheLine) {
  const auto error = [](std::string_view text) { return FirmwareMap::parse(text).error().message; };
  EXPECT_THAT(error(""), HasSubstr("no line"));
  EXPECT_THAT(error("\n[mem 0x0-0xfff] usable\n[mem 0x1000-0x1fff] useable\n"), HasSubstr("line 3: unknown type"));
  EXPECT_THAT(error("[mem 0x2000-0xfff] usable"), HasSubstr("line 1"));
  EXPECT_THAT(error("[mem 0x2000 0xfff] usable"), HasSubstr("line 1"));
  EXPECT_THAT(error("[mem 0x0-0xfff] reserved"), HasSubstr("usable RAM"));
  EXPECT_THAT(error("[mem 0x0-0xfffff] usable\n[mem 0x400000000000-0x400000000fff] usable"),
              HasSubstr("line 2: memory beyond"));
}

}  // namespace
}  // namespace quire::phys
