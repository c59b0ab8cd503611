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

}  // namespace
}  // namespace quire::file
