// Booted Linux machines (6.1.0-56-cloud-amd64 under QEMU 7.2; each folder's qemu.txt is the command, its dmesg.txt the lines of the
// boot log that speak of memory), and ours of the same description: every figure is the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "quire/like/check.h"
#include "quire/like/recorded.h"

namespace quire::like {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> folders() {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(QUIRE_REFERENCE)) {
    if (entry.is_directory() && std::filesystem::exists(entry.path() / "dmesg.txt")) out.push_back(entry.path().string());
  }
  std::ranges::sort(out);
  return out;
}

Folder folder_of(const std::string& name) { return *read_folder(std::string(QUIRE_REFERENCE) + "/" + name); }

struct Outcome {
  std::vector<std::string> notes;
  Comparison comparison;
  std::string error;
};

Outcome boot_and_compare(const Folder& description, const Folder& truth) {
  Outcome out;
  const auto described = describe(description);
  if (!described) return out.error = described.error().sentence, out;
  out.notes = described->notes;
  const auto machine = kernel::Machine::boot(described->config);
  if (!machine) return out.error = machine.error().sentence, out;
  out.comparison = compare(truth, **machine);
  (*machine)->validate();
  return out;
}

class LikeFolder : public testing::TestWithParam<std::string> {};

TEST_P(LikeFolder, EveryFigureIsEqual) {
  const auto folder = read_folder(GetParam());
  ASSERT_TRUE(folder) << folder.error().sentence;
  const Outcome out = boot_and_compare(*folder, *folder);
  EXPECT_THAT(out.error, IsEmpty());
  EXPECT_GT(out.comparison.equal, 80u);
  EXPECT_THAT(out.comparison.not_compared, IsEmpty());
  for (const Difference& d : out.comparison.differences) ADD_FAILURE() << d.figure << ": " << d.recorded << ", here " << d.here;
}

// What a folder lacks is made up for by what it has: the zones stay what they were.
TEST_P(LikeFolder, ZonesAreEqualWithoutNodesIomemAndTunables) {
  const auto whole = read_folder(GetParam());
  ASSERT_TRUE(whole) << whole.error().sentence;
  Folder part = *whole;
  for (const char* file : {"iomem.txt", "meminfo.txt"}) part.files.erase(file);
  Folder zones = *whole;
  for (const char* file : {"iomem.txt", "nodes.txt", "sysctl_vm.txt", "dmesg.txt"}) zones.files.erase(file);
  const Outcome out = boot_and_compare(part, zones);
  EXPECT_THAT(out.error, IsEmpty());
  for (const Difference& d : out.comparison.differences) ADD_FAILURE() << d.figure << ": " << d.recorded << ", here " << d.here;
}

INSTANTIATE_TEST_SUITE_P(Boot, LikeFolder, testing::ValuesIn(folders()), [](const auto& parameter) {
  std::string name = std::filesystem::path(parameter.param).filename().string();
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
});

TEST(Like, AMemblockLogSaysWhatWasReserved) {
  const auto described = describe(folder_of("k6.1-4G-memblock"));
  ASSERT_TRUE(described);
  EXPECT_THAT(described->notes, IsEmpty());
  EXPECT_FALSE(described->config.recorded->reserved.empty());
  EXPECT_TRUE(described->config.recorded->zone_managed.empty());
  EXPECT_EQ(described->config.recorded->freed_late.size(), 5u);
}

TEST(Like, WithoutAMemblockLogTheZonesSayIt) {
  const auto described = describe(folder_of("k6.1-192M"));
  ASSERT_TRUE(described);
  EXPECT_TRUE(described->config.recorded->reserved.empty());
  ASSERT_EQ(described->config.recorded->zone_managed.size(), 2u);
  const phys::ZoneManaged& dma32 = described->config.recorded->zone_managed[1];
  EXPECT_GT(dma32.at_end, dma32.at_watermarks);
}

TEST(Like, TunablesThatWereWrittenAreSaidAndTaken) {
  const auto described = describe(folder_of("k6.1-1G-tuned"));
  ASSERT_TRUE(described);
  EXPECT_THAT(described->notes, testing::Contains(HasSubstr("vm.min_free_kbytes was set to 20000")));
  EXPECT_THAT(described->notes, testing::Contains(HasSubstr("vm.lowmem_reserve_ratio was set to 128 64 32 0 0")));
  EXPECT_EQ(described->config.sysctl.at("vm.swappiness"), 10);
}

// A newer kernel's per-CPU lists tune themselves, its empty ZONE_MOVABLE has watermarks, its log counts pages otherwise.
TEST(Like, AnotherKernelDiffersWhereItIsKnownTo) {
  const Folder folder = folder_of("other/k6.12-1G");
  const Outcome out = boot_and_compare(folder, folder);
  EXPECT_THAT(out.error, IsEmpty());
  EXPECT_THAT(out.notes, testing::Contains(HasSubstr("the kernel was 6.12.")));
  EXPECT_GT(out.comparison.equal, 80u);
  for (const Difference& d : out.comparison.differences) {
    EXPECT_THAT(d.figure, testing::AnyOf(HasSubstr("zone DMA cpu"), HasSubstr("zone Movable"), HasSubstr("Total pages")));
  }
}

// A log that has lost lines is no account of what was reserved.
TEST(Like, ABrokenMemblockLogIsNotUsed) {
  Folder folder = folder_of("k6.1-4G-memblock");
  const Folder whole = folder;
  std::string& dmesg = folder.files["dmesg.txt"];
  const std::size_t at = dmesg.find("memblock_reserve: [0x000000013a600000");
  ASSERT_NE(at, std::string::npos);
  dmesg.erase(at, dmesg.find('\n', at) - at);
  const Outcome out = boot_and_compare(folder, whole);
  EXPECT_THAT(out.error, IsEmpty());
  EXPECT_THAT(out.notes, testing::Contains(HasSubstr("memblock lines are not used: they leave zone Normal of node 0")));
  EXPECT_THAT(out.comparison.differences, IsEmpty());
}

}  // namespace
}  // namespace quire::like
