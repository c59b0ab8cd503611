// Files by identity and by path, which tasks rename and remove while others do.
#include "quire/engine/file_set.h"

#include <gtest/gtest.h>

#include <functional>

#include "quire/kernel/machine.h"

namespace quire::engine {
namespace {

constexpr std::uint64_t kDevice = 0x801;

class FileSetTest : public ::testing::Test {
 protected:
  FileSetTest() {
    kernel::MachineConfig config;
    config.ram = 16 * kMiB;
    config.kernel_reserved = kMiB;
    config.cpus = 2;
    config.preempt_permille = 300;
    machine_ = std::move(*kernel::Machine::boot(config));
    files_ = std::make_unique<FileSet>(machine_->vfs(), machine_->scheduler());
  }
  void start(std::function<void()> body) {
    ASSERT_TRUE(machine_->processes().create("task", [this, body = std::move(body)](kernel::Thread& thread) {
      body();
      machine_->processes().exit_thread(thread, {});
    }));
  }
  // With one page in the cache.
  void make(std::uint64_t ino, std::string_view path) {
    const auto inode = files_->inode({kDevice, ino, kPageSize, path});
    ASSERT_TRUE(inode);
    fill(**inode);
  }
  void fill(file::DiskInode& inode) {
    const auto file = machine_->vfs().open(inode, file::FileMode::kRead | file::FileMode::kWrite);
    ASSERT_TRUE(file);
    file::NullIter nowhere;
    EXPECT_TRUE(machine_->vfs().pwrite(**file, 0, kPageSize, nowhere));
    machine_->vfs().fput(**file);
  }
  // The number of the file of that path; 0: none.
  [[nodiscard]] std::uint64_t number(std::string_view path) const {
    const auto found = files_->find(path);
    return found ? (*found)->ino : 0;
  }

  std::unique_ptr<kernel::Machine> machine_;
  std::unique_ptr<FileSet> files_;
};

TEST_F(FileSetTest, AFileIsFoundByTheNamesThatItGets) {
  start([&] {
    make(11, "/a");
    make(12, "/b");
    make(11, "/link");
    EXPECT_TRUE(files_->rename("/a", "/b"));
    EXPECT_EQ(number("/a"), 0u);
    EXPECT_EQ(number("/b"), 11u);
    EXPECT_EQ(number("/link"), 11u);
    EXPECT_TRUE(files_->rename("/nobody", "/b"));
    EXPECT_EQ(number("/b"), 11u);
    EXPECT_TRUE(files_->unlink("/b"));
    EXPECT_EQ(number("/link"), 11u);
    EXPECT_TRUE(files_->unlink("/link"));
    EXPECT_EQ(number("/link"), 0u);
    EXPECT_TRUE(files_->unlink("/link"));
  });
  ASSERT_TRUE(machine_->run().done());
  EXPECT_EQ(machine_->vfs().find_mount(kDevice)->nr_inodes(), 0u);
}

TEST_F(FileSetTest, AFileGoesWithTheLastOfItsNames) {
  start([&] {
    make(11, "/a");
    EXPECT_TRUE(files_->link("/a", "/b"));
    EXPECT_TRUE(files_->link("/nobody", "/c"));
    EXPECT_EQ(number("/c"), 0u);
    EXPECT_TRUE(files_->unlink("/a"));
    EXPECT_EQ(number("/b"), 11u);
    EXPECT_NE(machine_->vfs().find_mount(kDevice)->lookup("/b"), nullptr);
    EXPECT_TRUE(files_->unlink("/b"));
    make(12, "/#12 (deleted)");  // O_TMPFILE, which gets a name
    EXPECT_TRUE(files_->link("/#12 (deleted)", "/d"));
    EXPECT_TRUE(files_->unlink("/d"));
  });
  ASSERT_TRUE(machine_->run().done());
  EXPECT_EQ(machine_->vfs().find_mount(kDevice)->nr_inodes(), 0u);
}

TEST_F(FileSetTest, AFolderTakesItsFilesAlong) {
  start([&] {
    make(11, "/folder/a");
    make(12, "/folder/below/b");
    make(13, "/folder-c");
    make(14, "/new/a");  // gone meanwhile, unseen: a folder replaces an empty one only
    EXPECT_TRUE(files_->rename("/folder", "/new"));
    EXPECT_EQ(number("/folder/a"), 0u);
    EXPECT_EQ(number("/new/a"), 11u);
    EXPECT_EQ(number("/new/below/b"), 12u);
    EXPECT_EQ(number("/folder-c"), 13u);
    EXPECT_NE(machine_->vfs().find_mount(kDevice)->lookup("/new/below/b"), nullptr);
    EXPECT_TRUE(files_->rename("/new", "/new/below"));  // what Linux does not do
    EXPECT_TRUE(files_->rename("", "/x"));              // names that nobody knows
    EXPECT_TRUE(files_->rename("/new/a", ""));
    EXPECT_EQ(number("/new/a"), 11u);
  });
  ASSERT_TRUE(machine_->run().done());
  EXPECT_EQ(machine_->vfs().find_mount(kDevice)->nr_inodes(), 3u);
}

TEST_F(FileSetTest, NamesAreExchanged) {
  start([&] {
    const auto name = [&](std::uint64_t ino) {
      const file::FileSystem& fs = *machine_->vfs().find_mount(kDevice);
      return fs.path_of(*fs.lookup_ino(ino));
    };
    make(11, "/a");
    make(12, "/folder/b");
    EXPECT_TRUE(files_->exchange("/a", "/folder/b"));
    EXPECT_EQ(number("/a"), 12u);
    EXPECT_EQ(number("/folder/b"), 11u);
    EXPECT_EQ(name(11), "/folder/b");
    EXPECT_EQ(name(12), "/a");
    EXPECT_TRUE(files_->exchange("/folder", "/a"));
    EXPECT_EQ(number("/folder"), 12u);
    EXPECT_EQ(number("/a/b"), 11u);
    EXPECT_EQ(name(11), "/a/b");
    EXPECT_EQ(name(12), "/folder");
    EXPECT_TRUE(files_->exchange("/folder", "/somebody's"));
    EXPECT_EQ(number("/folder"), 0u);
    EXPECT_EQ(number("/somebody's"), 12u);
    EXPECT_TRUE(files_->exchange("", "/a"));
    EXPECT_TRUE(files_->exchange("/a", ""));
    EXPECT_EQ(number("/a/b"), 11u);
  });
  ASSERT_TRUE(machine_->run().done());
}

// Which Linux leaves alone.
TEST_F(FileSetTest, ARenameOfOneLinkToAnotherDoesNothing) {
  start([&] {
    make(11, "/a");
    EXPECT_TRUE(files_->link("/a", "/b"));
    EXPECT_TRUE(files_->rename("/a", "/b"));
    EXPECT_EQ(number("/a"), 11u);
    EXPECT_EQ(number("/b"), 11u);
  });
  ASSERT_TRUE(machine_->run().done());
}

// The target has pages, and takes a while to go. Meanwhile the source goes, or the target's name comes back.
TEST_F(FileSetTest, ARenameLooksAgainWhenItsTargetHasGone) {
  constexpr std::uint64_t kRounds = 40;
  int met[2] = {};  // rounds of either kind that came between
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    SCOPED_TRACE(round);
    bool ready = false;
    start([&] {
      make(11, "/a");
      make(12, "/b");
      ready = true;
      EXPECT_TRUE(files_->rename("/a", "/b"));
    });
    start([&] {
      while (!ready) machine_->scheduler().yield();
      machine_->scheduler().charge(round * 100);
      machine_->scheduler().sync_point();
      const bool between = number("/b") == 0;
      if (between) ++met[round % 2];
      if (round % 2 == 0) {
        EXPECT_TRUE(files_->unlink("/a"));
      } else if (between) {
        make(13, "/b");
      }
    });
    ASSERT_TRUE(machine_->run().done());
    for (const char* path : {"/a", "/b"}) {  // each name that is left leads to a file
      start([&, path] { EXPECT_TRUE(files_->unlink(path)); });
      ASSERT_TRUE(machine_->run().done());
      EXPECT_EQ(number(path), 0u);
    }
    EXPECT_EQ(machine_->vfs().find_mount(kDevice)->nr_inodes(), 0u);
  }
  EXPECT_GT(met[0], 0);
  EXPECT_GT(met[1], 0);
  machine_->settle();
  machine_->validate();
}

}  // namespace
}  // namespace quire::engine
