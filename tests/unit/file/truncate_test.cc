// Pages that leave: truncation, holes, invalidation, reclaim, and the end of a file.
#include "file_machine.h"

namespace quire::file {
namespace {

using phys::NodeStat;

std::unique_ptr<BackingSource> generated(std::uint64_t size) { return std::make_unique<GeneratedBacking>(size, 3); }

TEST(Truncate, WhatWasCutOffReadsAsZeroesAfterwards) {
  FileMachine m;
  const std::uint64_t size = 6 * kPageSize;
  File& file = m.create("a", generated(size));
  auto expected = FileMachine::pattern(size, 3);
  std::fill(expected.begin() + 5000, expected.end(), std::byte{0});
  for (const bool warm : {true, false}) {
    m.run([&] {
      if (warm) m.read(file, 0, size);
      ASSERT_TRUE(m.vfs->ftruncate(file, 5000));
      EXPECT_EQ(m.read(file, 0, size).size(), 5000u);
      ASSERT_TRUE(m.vfs->ftruncate(file, size));
      EXPECT_EQ(m.read(file, 0, size), expected);
      m.vfs->drop_pagecache();
      EXPECT_EQ(m.read(file, 0, size), expected);
    });
    m.validate();
  }
}

TEST(Truncate, DropsDirtyPagesWithTheirCount) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(10 * kPageSize, 9)).has_value());
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 10);
    ASSERT_TRUE(m.vfs->ftruncate(file, 3 * kPageSize + 1));
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 4);
    EXPECT_EQ(file.mapping().nrpages(), 4u);
  });
  m.validate();
}

TEST(Truncate, WaitsForPagesUnderWriteback) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(10 * kPageSize, 9)).has_value());
    ASSERT_TRUE(m.vfs->sync_file_range(file, 0, 0, SyncFileRange::kWrite));
    EXPECT_EQ(m.node_stat(NodeStat::kNrWriteback), 10);
    ASSERT_TRUE(m.vfs->ftruncate(file, 0));
    EXPECT_EQ(m.node_stat(NodeStat::kNrWriteback), 0);
    EXPECT_EQ(file.mapping().nrpages(), 0u);
  });
  m.validate();
}

TEST(PunchHole, ZeroesPartsOfPagesAndDropsWholeOnes) {
  FileMachine m;
  const std::uint64_t size = 8 * kPageSize;
  File& file = m.create("a", generated(size));
  auto expected = FileMachine::pattern(size, 3);
  const std::uint64_t from = kPageSize + 100;
  const std::uint64_t to = 5 * kPageSize + 50;
  std::fill(expected.begin() + from, expected.begin() + to, std::byte{0});
  m.run([&] {
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kPunchHole | FallocateMode::kKeepSize, from, to - from));
    EXPECT_EQ(m.read(file, 0, size), expected);
    std::fill(expected.begin() + 6 * kPageSize + 10, expected.begin() + 6 * kPageSize + 20, std::byte{0});
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kPunchHole | FallocateMode::kKeepSize, 6 * kPageSize + 10, 10));
    ASSERT_TRUE(m.vfs->fsync(file, SyncKind::kFsync));
    m.vfs->drop_pagecache();
    EXPECT_EQ(m.read(file, 0, size), expected);
  });
  m.validate();
}

TEST(Fallocate, ExtendsUnlessTheSizeIsToBeKept) {
  FileMachine m;
  File& file = m.create("a", generated(100));
  m.run([&] {
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kKeepSize, 0, 9000));
    EXPECT_EQ(file.inode().i_size_read(), 100u);
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kNone, 0, 9000));
    EXPECT_EQ(file.inode().i_size_read(), 9000u);
    EXPECT_EQ(m.vfs->fallocate(file, FallocateMode::kNone, 0, 0).error(), Errno::kInval);
    EXPECT_EQ(m.vfs->fallocate(file, FallocateMode::kPunchHole, 0, 1).error(), Errno::kOpNotSupp);
    EXPECT_EQ(m.vfs->fallocate(file, FallocateMode::kNone, kMaxLfsFilesize, 2).error(), Errno::kFBig);
  });
}

TEST(Unlink, AnOpenFileLivesOnAndGoesWithItsLastUse) {
  FileMachine m;
  m.run([&] {
    File& warm = m.create("warm", generated(kPageSize));
    m.read(warm, 0, kPageSize);
    m.vfs->fput(warm);
    ASSERT_TRUE(m.fs.unlink("warm"));
  });
  const std::uint64_t free_before = m.free_pages();
  m.run([&] {
    File& file = m.create("a", generated(50 * kPageSize));
    m.read(file, 0, 50 * kPageSize);
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(kPageSize, 5)).has_value());
    ASSERT_TRUE(m.fs.unlink("a"));
    EXPECT_EQ(m.fs.lookup("a"), nullptr);
    EXPECT_EQ(m.fs.nr_inodes(), 1u);
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 5));
    m.vfs->fput(file);
    EXPECT_EQ(m.fs.nr_inodes(), 0u);
    EXPECT_EQ(m.fs.unlink("a").error(), Errno::kNoEnt);
  });
  EXPECT_EQ(m.node_stat(NodeStat::kNrFilePages), 0);
  EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
  EXPECT_EQ(m.free_pages(), free_before);
  m.validate();
}

TEST(Names, LinkAndRename) {
  FileMachine m;
  DiskInode* a = *m.fs.create("a", generated(100));
  DiskInode* b = *m.fs.create("b", nullptr, 777);
  EXPECT_EQ(m.fs.create("a").error(), Errno::kExist);
  EXPECT_EQ(m.fs.create("c", nullptr, 777).error(), Errno::kExist);
  EXPECT_EQ(m.fs.lookup_ino(777), b);
  ASSERT_TRUE(m.fs.link("a", "a2"));
  ASSERT_TRUE(m.fs.rename("a", "b"));  // b is gone
  EXPECT_EQ(m.fs.lookup("b"), a);
  EXPECT_EQ(m.fs.lookup_ino(777), nullptr);
  ASSERT_TRUE(m.fs.unlink("b"));
  EXPECT_EQ(m.fs.lookup("a2"), a);
  EXPECT_EQ(m.fs.nr_inodes(), 1u);
  m.validate();
}

TEST(Invalidate, TakesCleanPagesOnly) {
  FileMachine m;
  File& file = m.create("a", generated(8 * kPageSize));
  m.run([&] {
    m.read(file, 0, 8 * kPageSize);
    EXPECT_TRUE(m.write(file, 2 * kPageSize, FileMachine::pattern(10, 5)).has_value());
    m.vfs->drop_pagecache();
    EXPECT_EQ(m.cache_map(file, 8), "..x.....");
    m.read(file, 0, 8 * kPageSize);
    ASSERT_TRUE(m.vfs->fsync(file, SyncKind::kFsync));
    ASSERT_TRUE(m.vfs->fadvise(file, kPageSize + 1, 3 * kPageSize, Fadvice::kDontNeed));
    EXPECT_EQ(m.cache_map(file, 8), "xx..xxxx");
  });
  m.validate();
}

TEST(Reclaim, LeavesAShadowAndTheRefaultIsCounted) {
  FileMachine m;
  File& file = m.create("a", generated(4 * kPageSize));
  m.run([&] {
    m.read(file, 0, 4 * kPageSize);
    EXPECT_TRUE(m.reclaim(file.mapping(), 1));
    EXPECT_TRUE(file.mapping().i_pages().load(1).is_value());
    EXPECT_EQ(file.mapping().nrpages(), 3u);
    const auto whole = FileMachine::pattern(2 * kPageSize, 3);
    EXPECT_EQ(m.read(file, kPageSize, kPageSize), std::vector<std::byte>(whole.begin() + kPageSize, whole.end()));
    EXPECT_EQ(m.node_stat(NodeStat::kWorkingsetRefaultFile), 1);
    EXPECT_TRUE(m.reclaim(file.mapping(), 2));
    ASSERT_TRUE(m.vfs->ftruncate(file, 0));  // shadows go too
    EXPECT_TRUE(file.mapping().i_pages().empty());
  });
  m.validate();
}

TEST(Reclaim, WritesADirtyPageFirst) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(kPageSize, 5)).has_value());
    EXPECT_FALSE(m.reclaim(file.mapping(), 0));  // on its way
    EXPECT_EQ(m.node_stat(NodeStat::kNrWriteback), 1);
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_EQ(m.node_stat(NodeStat::kNrWriteback), 0);
    EXPECT_TRUE(m.reclaim(file.mapping(), 0));
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 5));
  });
  m.validate();
}

TEST(MigrateMapping, AnotherFrameTakesThePlaceUnlessSomebodyHoldsTheOld) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    m.read(file, 0, kPageSize);
    Filemap& filemap = m.vfs->filemap();
    m.write(file, 0, FileMachine::pattern(10, 3));  // dirty
    m.lru.lru_add_drain_all();
    phys::Folio* old = filemap.filemap_lock_folio(file.mapping(), Pgoff(0));
    phys::Folio* fresh = filemap.filemap_alloc_folio(phys::Gfp::kHighUserMovable);
    ASSERT_NE(fresh, nullptr);
    phys::folio_set_locked(*fresh);
    phys::folio_get(*old);
    EXPECT_FALSE(filemap.folio_migrate_mapping(*old, *fresh));
    EXPECT_EQ(AddressSpace::of(*old), &file.mapping());
    filemap.folio_put(*old);
    EXPECT_TRUE(filemap.folio_migrate_mapping(*old, *fresh));
    EXPECT_EQ(AddressSpace::of(*old), nullptr);
    EXPECT_TRUE(phys::folio_test_dirty(*fresh) && !phys::folio_test_dirty(*old));
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 1);
    m.phys->copy_page(*fresh, *old);
    phys::folio_set_uptodate(*fresh);
    phys::folio_unlock(*m.phys, *old);
    phys::folio_unlock(*m.phys, *fresh);
    m.lru.folio_add_lru(*fresh);
    filemap.folio_put(*old);
    filemap.folio_put(*fresh);
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 3));
    EXPECT_EQ(m.node_stat(NodeStat::kNrFilePages), 1);
  });
  m.validate();
}

}  // namespace
}  // namespace quire::file
