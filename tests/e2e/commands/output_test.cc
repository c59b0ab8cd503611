// Where results go: into pipes and files, and onto disks that are full.
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <string>

#include "commands.h"

namespace quire {
namespace {

using testing::HasSubstr;

TEST_F(Commands, ImportsIntoAPipe) {
  write("t.lackey", "I  00400000,4\n S 00601000,8\n");
  const Output piped =
      shell("mkfifo p && { timeout 20 cat p > copy & } && timeout 20 $QUIRE import t.lackey -o p; s=$?; wait; exit $s");
  EXPECT_EQ(piped.status, 0) << piped.err;
  EXPECT_TRUE(std::filesystem::is_fifo(path("p"))) << "the pipe was replaced";
  ASSERT_EQ(quire("import t.lackey -o t.qtr").status, 0);
  EXPECT_EQ(read(path("copy")), read(path("t.qtr")));
}

TEST_F(Commands, AFullStandardOutputIsSaid) {
  const Output full = quire("boot --ram 64M >/dev/full");
  EXPECT_EQ(full.status, 1);
  EXPECT_THAT(full.err, HasSubstr("standard output"));
}

// As lackey text, and so irregular that its trace cannot be made small.
void write_scattered_stores(const std::string& name) {
  std::ofstream out(name);
  std::minstd_rand random(1);
  for (int i = 0; i < 200'000; ++i) out << " S " << random() % 900'000 + 100'000 << "000,8\n";
}

// Into a file system of 64K, or where we may not mount one, files that may not grow beyond that.
TEST_F(Commands, AFullDiskLeavesNothingThatLooksWhole) {
  std::filesystem::create_directory(path("disk"));
  const bool mounted = geteuid() == 0 && mount("tmpfs", path("disk").c_str(), "tmpfs", 0, "size=64k") == 0;
  make_words(60'000);
  const std::string limit = mounted ? "" : "ulimit -f 64; trap '' XFSZ; ";
  const Output recorded = shell(limit + "$QUIRE record --unfiltered -o disk/t.qtr -- sort --parallel=1 -o /dev/null words");
  const bool left_over = !std::filesystem::is_empty(path("disk"));
  write_scattered_stores(path("t.lackey"));
  const Output imported = shell(limit + "$QUIRE import t.lackey -o disk/i.qtr");
  const bool import_left_over = !std::filesystem::is_empty(path("disk"));
  if (mounted) umount(path("disk").c_str());
  EXPECT_EQ(recorded.status, 125) << recorded.err;
  EXPECT_THAT(recorded.err, HasSubstr("disk/t.qtr"));
  EXPECT_THAT(recorded.err, HasSubstr(mounted ? "No space left" : "File too large"));
  EXPECT_FALSE(left_over);
  EXPECT_EQ(imported.status, 1) << imported.err;
  EXPECT_THAT(imported.err, HasSubstr("disk/i.qtr"));
  EXPECT_FALSE(import_left_over);
}

TEST_F(Commands, AFolderThatIsNotThereIsSaid) { expect_sentence(quire("record -o absent/t.qtr -- true"), "absent/t.qtr", 125); }

}  // namespace
}  // namespace quire
