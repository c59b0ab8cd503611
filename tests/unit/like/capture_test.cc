// Capturing from a made-up root, so that what can be read is known.
#include "quire/like/capture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "quire/like/boot_log.h"
#include "quire/like/folder.h"

namespace quire::like {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

class CaptureTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "quire-capture-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    put("proc/version", "Linux version 6.1.0\n");
    put("proc/cmdline", "quiet\n");
    put("proc/zoneinfo", "Node 0, zone      DMA\n");
    put("proc/iomem", "00000000-00000000 : System RAM\n");
    put("proc/sys/vm/swappiness", "60\n");
    put("proc/sys/vm/lowmem_reserve_ratio", "256\t256\n");
    put("sys/devices/system/node/online", "0,2\n");
    for (const char* node : {"node0", "node2"}) put(fs::path("sys/devices/system/node") / node / "distance", "10 20\n");
  }
  void TearDown() override { fs::remove_all(folder_); }
  void put(const fs::path& path, const std::string& text) {
    fs::create_directories((root() / path).parent_path());
    std::ofstream(root() / path) << text;
  }
  [[nodiscard]] fs::path root() const { return folder_ / "root"; }
  [[nodiscard]] std::string target() const { return (folder_ / "out").string(); }
  Checked<Captured> run(std::string log = "Linux version 6.1.0\nBIOS-e820: [mem 0x0-0x9fbff] usable\n") {
    return capture(target(), {.root = root().string(), .kernel_log = [log] { return Checked<std::string>(log); }});
  }

  fs::path folder_;
};

TEST_F(CaptureTest, FilesAreAsTheReferenceHasThem) {
  const auto captured = run();
  ASSERT_TRUE(captured) << captured.error().sentence;
  const auto folder = read_folder(target());
  ASSERT_TRUE(folder);
  EXPECT_EQ(folder->text("sysctl_vm.txt"), "/proc/sys/vm/lowmem_reserve_ratio: 256\t256\n/proc/sys/vm/swappiness: 60\n");
  EXPECT_THAT(
      std::string(folder->text("nodes.txt")),
      testing::StartsWith("== /sys/devices/system/node/node0\n-- meminfo\n-- vmstat\n-- distance\n10 20\n-- cpulist\n"));
  EXPECT_THAT(std::string(folder->text("nodes.txt")), HasSubstr("== /sys/devices/system/node/node2\n"));
  EXPECT_EQ(folder->text("cmdline.txt"), "quiet\n");
  EXPECT_THAT(captured->skipped, Contains("slabinfo.txt: No such file or directory"));
  EXPECT_THAT(captured->notes, Contains(HasSubstr("only root may see them")));
  EXPECT_FALSE(folder->has("memmap.txt"));
}

TEST_F(CaptureTest, ALogWithoutTheMapIsReplacedByASavedOne) {
  put("var/log/dmesg", "[    0.000000] Linux version 6.1.0\n[    0.000000] BIOS-e820: [mem 0x0-0x9fbff] usable\n");
  const auto captured = run("[ 9999.0] eth0: link up\n");
  ASSERT_TRUE(captured);
  EXPECT_THAT(captured->notes, Contains(HasSubstr("dmesg.txt is /var/log/dmesg")));
  EXPECT_THAT(std::string(read_folder(target())->text("dmesg.txt")), HasSubstr("BIOS-e820"));
}

TEST_F(CaptureTest, WithoutAnySavedLogTheFirmwaresMapIsReadFromSys) {
  for (const auto& [entry, start, end, type] :
       {std::tuple{"0", "0x0", "0x9fbff", "System RAM"}, std::tuple{"1", "0xfffc0000", "0xffffffff", "Reserved"}}) {
    const fs::path folder = fs::path("sys/firmware/memmap") / entry;
    put(folder / "start", start);
    put(folder / "end", end);
    put(folder / "type", type);
  }
  const auto captured = run("[ 9999.0] eth0: link up\n");
  ASSERT_TRUE(captured);
  EXPECT_THAT(captured->notes, Contains(HasSubstr("/sys/firmware/memmap into memmap.txt")));
  const BootLog map = parse_boot_log(read_folder(target())->text("memmap.txt"));
  ASSERT_EQ(map.firmware_map.size(), 2u);
  EXPECT_EQ(map.firmware_map[0].type, "usable");
  EXPECT_EQ(map.firmware_map[1].range.begin, PhysAddr(0xfffc0000));
}

TEST_F(CaptureTest, AFolderWithSomethingInItIsLeftAlone) {
  fs::create_directory(target());
  ASSERT_TRUE(run());  // an empty one will do
  std::ofstream(fs::path(target()) / "version.txt") << "mine\n";
  const auto again = run();
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().sentence, HasSubstr("is not empty; name another"));
  EXPECT_EQ(read_folder(target())->text("version.txt"), "mine\n");
  const auto onto_file = capture(target() + "/version.txt", {.root = root().string(), .kernel_log = {}});
  EXPECT_THAT(onto_file.error().sentence, HasSubstr("is no folder"));
}

TEST_F(CaptureTest, WhatCannotBeWrittenLeavesNothing) {
  const auto captured = capture((root() / "proc/version/out").string(), {.root = root().string(), .kernel_log = {}});
  ASSERT_FALSE(captured);
  EXPECT_THAT(captured.error().sentence, HasSubstr("cannot make the folder"));
  fs::create_directory(folder_ / "empty");
  const auto nothing = capture(target(), {.root = (folder_ / "empty").string(), .kernel_log = {}});
  EXPECT_THAT(nothing.error().sentence, HasSubstr("nothing can be read"));
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder_)) left.push_back(entry.path().filename().string());
  EXPECT_THAT(left, testing::UnorderedElementsAre("root", "empty"));
  EXPECT_THAT(capture(target(), {.root = "/no/such/root", .kernel_log = {}}).error().sentence,
              HasSubstr("--root /no/such/root"));
}

}  // namespace
}  // namespace quire::like
