// Names are objects of the machine: where they lie, that they come and go, and what is left when there is no memory for one.
#include <map>
#include <string>

#include "file_machine.h"

namespace quire::file {
namespace {

// Objects in use of every cache.
std::map<std::string, std::uint64_t> objects(slab::SlabSystem& slab) {
  std::map<std::string, std::uint64_t> in_use;
  for (const slab::SlabInfo& row : slab.slabinfo()) {
    if (row.objects_in_use != 0) in_use[std::string(row.name)] = row.objects_in_use;
  }
  return in_use;
}

const std::string kLong(100, 'x');

TEST(Names, ShortOnesLieInTheDentryLongOnesBesideIt) {
  FileMachine m;
  const auto before = objects(m.slab);
  m.run([&] {
    ASSERT_TRUE(m.fs.create("short"));
    ASSERT_TRUE(m.fs.create(kLong));
    ASSERT_TRUE(m.fs.link("short", std::string(31, 'y')));
    ASSERT_TRUE(m.fs.link("short", std::string(32, 'z')));
    auto now = objects(m.slab);
    EXPECT_EQ(now["dentry"], 4u);
    EXPECT_EQ(now["ext4_inode_cache"], 2u);
    std::uint64_t beside = 0;
    for (const auto& [name, count] : now) {
      const auto was = before.find(name);
      if (name.starts_with("kmalloc")) beside += count - (was == before.end() ? 0 : was->second);
    }
    EXPECT_EQ(beside, 2u);
    m.vfs->validate();
    ASSERT_TRUE(m.fs.rename(kLong, "b"));
    EXPECT_EQ(m.fs.rename("b", "b", FileSystem::Replace::kNo).error(), Errno::kExist);
    EXPECT_EQ(m.fs.rename("nobody", "c", FileSystem::Replace::kNo).error(), Errno::kNoEnt);
    EXPECT_EQ(m.fs.lookup(kLong), nullptr);
    for (const std::string& name : {std::string("short"), std::string("b"), std::string(31, 'y'), std::string(32, 'z')}) {
      EXPECT_TRUE(m.fs.unlink(name)) << name;
    }
  });
  EXPECT_EQ(objects(m.slab), before);
  EXPECT_EQ(m.fs.nr_inodes(), 0u);
}

// Every allocation of each call fails once, in turn.
TEST(Names, WithoutMemoryNothingChanges) {
  FileMachine m;
  m.slab.set_fault_injection(&m.faults);
  m.run([&] {
    ASSERT_TRUE(m.fs.create("a"));
    ASSERT_TRUE(m.fs.create("target"));
    const auto before = objects(m.slab);
    const auto fails_until_done = [&](auto&& call, unsigned allocations) {
      unsigned failed = 0;
      for (std::uint64_t nth = 1; nth <= 16; ++nth) {
        m.faults.set(sim::FaultPoint::kSlabAlloc, {.nth = nth});
        const auto done = call();
        m.faults.set(sim::FaultPoint::kSlabAlloc, {});
        if (done) break;
        ++failed;
        EXPECT_EQ(done.error(), Errno::kNoMem);
        EXPECT_EQ(objects(m.slab), before);
        EXPECT_NE(m.fs.lookup("a"), nullptr);
        EXPECT_NE(m.fs.lookup("target"), nullptr);
        EXPECT_EQ(m.fs.lookup(kLong), nullptr);
        m.vfs->validate();
      }
      EXPECT_EQ(failed, allocations);
    };
    fails_until_done([&] { return m.fs.create(kLong); }, 3);
    ASSERT_TRUE(m.fs.unlink(kLong));
    fails_until_done([&] { return m.fs.link("a", kLong); }, 2);
    ASSERT_TRUE(m.fs.unlink(kLong));
    File* memory = nullptr;
    fails_until_done(
        [&]() -> Status {
          const auto file = m.vfs->shmem_file_setup(kPageSize);
          if (!file) return fail(file.error());
          memory = *file;
          return {};
        },
        3);
    m.vfs->fput(*memory);
    EXPECT_EQ(objects(m.slab), before);
    fails_until_done([&] { return m.fs.rename("a", "target"); }, 1);
    EXPECT_EQ(m.fs.lookup("a"), nullptr);
    EXPECT_EQ(m.fs.nr_inodes(), 1u);
  });
}

// Who looks while a file is renamed finds it under one of its names, and under no other.
TEST(Names, ARenamedFileHasOneNameAtEveryMoment) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    FileMachine m({.cpus = 2, .seed = seed, .preempt_permille = 500});
    const std::string other = kLong + "y";
    bool over = false;
    m.run([&] { ASSERT_TRUE(m.fs.create(kLong)); });
    m.scheduler.spawn("renames", [&] {
      for (int i = 0; i < 50; ++i) EXPECT_TRUE(i % 2 == 0 ? m.fs.rename(kLong, other) : m.fs.rename(other, kLong));
      over = true;
    });
    m.scheduler.spawn("looks", [&] {
      while (!over) {
        EXPECT_NE(m.fs.lookup(kLong) == nullptr, m.fs.lookup(other) == nullptr);
        m.scheduler.charge(100);
        m.scheduler.sync_point();
      }
    });
    m.scheduler.run();
    m.vfs->validate();
  }
}

// One task renames onto a name that others take away and make anew.
TEST(Names, RenameUnlinkAndCreateOfOneNameKeepTheTreeWhole) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    FileMachine m({.cpus = 3, .seed = seed, .preempt_permille = 500});
    const auto before = objects(m.slab);
    const std::string source = kLong + "source";
    m.scheduler.spawn("renames", [&] {
      for (int i = 0; i < 40; ++i) {
        EXPECT_TRUE(m.fs.create(source));
        EXPECT_TRUE(m.fs.rename(source, kLong));
      }
    });
    m.scheduler.spawn("unlinks", [&] {
      for (int i = 0; i < 60; ++i) static_cast<void>(m.fs.unlink(kLong));
    });
    m.scheduler.spawn("creates", [&] {
      for (int i = 0; i < 60; ++i) {
        static_cast<void>(m.fs.create(kLong));
        m.vfs->validate();
      }
    });
    m.scheduler.run();
    m.run([&] { static_cast<void>(m.fs.unlink(kLong)); });
    EXPECT_EQ(m.fs.nr_inodes(), 0u) << seed;
    EXPECT_EQ(objects(m.slab), before) << seed;
    m.vfs->validate();
  }
}

// Finding memory for an open file lets others run, and one of them may take the file's last name.
TEST(Names, AFileThatIsBeingOpenedStaysWhenItsNameGoes) {
  unsigned gone = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    FileMachine m({.cpus = 2, .seed = seed});
    ASSERT_TRUE(m.fs.create("/file", std::make_unique<GeneratedBacking>(kPageSize, 1)));
    m.run([&] {
      m.scheduler.spawn("unlinker", [&] { EXPECT_TRUE(m.fs.unlink("/file")); });
      Inode* inode = m.fs.lookup("/file");
      if (inode == nullptr) return;
      File& file = *m.vfs->open(*inode, FileMode::kRead).value();
      m.scheduler.sleep_for(sim::kSecond);
      ASSERT_EQ(file.inode().i_nlink, 0u);
      ++gone;
      std::byte byte{};
      KernelBuffer to({&byte, 1});
      EXPECT_EQ(m.vfs->pread(file, 0, 1, to).value(), 1u);
      m.vfs->fput(file);
      EXPECT_EQ(m.fs.nr_inodes(), 0u);
    });
  }
  EXPECT_GT(gone, 0u);
}

TEST(Names, FilesOfSharedMemoryMadeAtOnceHaveNumbersOfTheirOwn) {
  FileMachine m({.cpus = 2});
  m.run([&] {
    std::array<File*, 2> files{};
    for (File*& file : files) {
      m.scheduler.spawn("maker", [&m, &file] { file = m.vfs->memfd_create("one", MemfdFlags::kNone).value(); });
    }
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_NE(files[0]->inode().ino, files[1]->inode().ino);
    for (File* file : files) m.vfs->fput(*file);
  });
}

}  // namespace
}  // namespace quire::file
