// Writing through the page cache.
#include "file_machine.h"

namespace quire::file {
namespace {

using phys::NodeStat;

std::unique_ptr<BackingSource> generated(std::uint64_t size) { return std::make_unique<GeneratedBacking>(size, 3); }

TEST(FilemapWrite, ReadsBackWhatWasWrittenAmongWhatWasThere) {
  FileMachine m;
  const std::uint64_t size = 5 * kPageSize;
  File& file = m.create("a", generated(size));
  auto expected = FileMachine::pattern(size, 3);
  const auto patch = FileMachine::pattern(6000, 9);
  std::copy(patch.begin(), patch.end(), expected.begin() + 3000);
  m.run([&] {
    EXPECT_EQ(m.write(file, 3000, patch).value(), 6000u);
    EXPECT_EQ(m.read(file, 0, size), expected);
  });
  // The two pages at the edges had to be read, the one in the middle not.
  EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 3);
  EXPECT_EQ(m.node_stat(NodeStat::kNrDirtied), 3);
  m.validate();
}

TEST(FilemapWrite, WholePagesAreNotReadFirst) {
  FileMachine m;
  File& file = m.create("a", generated(8 * kPageSize));
  m.run([&] { EXPECT_EQ(m.write(file, kPageSize, FileMachine::pattern(2 * kPageSize, 9)).value(), 2 * kPageSize); });
  EXPECT_EQ(m.fs.disk().stats().reads, 0u);
}

TEST(FilemapWrite, ExtendsAndLeavesZeroesBetween) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    EXPECT_EQ(m.write(file, 10, FileMachine::pattern(5, 1)).value(), 5u);
    EXPECT_EQ(m.write(file, 3 * kPageSize + 1, FileMachine::pattern(7, 2)).value(), 7u);
    EXPECT_EQ(file.inode().i_size_read(), 3 * kPageSize + 8);
    std::vector<std::byte> expected(3 * kPageSize + 8);
    const auto one = FileMachine::pattern(5, 1);
    const auto two = FileMachine::pattern(7, 2);
    std::copy(one.begin(), one.end(), expected.begin() + 10);
    std::copy(two.begin(), two.end(), expected.begin() + 3 * kPageSize + 1);
    EXPECT_EQ(m.read(file, 0, 100000), expected);
  });
}

TEST(FilemapWrite, AppendsAndMovesThePosition) {
  FileMachine m;
  File& file = m.create("a", generated(100), FileMode::kRead | FileMode::kWrite | FileMode::kAppend);
  auto bytes = FileMachine::pattern(5, 1);
  KernelBuffer from(bytes);
  m.run([&] {
    EXPECT_EQ(m.vfs->write(file, 5, from).value(), 5u);
    EXPECT_EQ(file.f_pos, 105u);
    EXPECT_EQ(m.read(file, 100, 10), bytes);
  });
}

TEST(FilemapWrite, RefusesWhatIsTooFarOrTooMuch) {
  FileMachine m;
  FileSystem& small = m.vfs->mount({.dev = 9, .capacity = 4 * kPageSize});
  File& file = m.open(**small.create("b"));
  m.run([&] {
    EXPECT_EQ(m.write(file, kMaxLfsFilesize, FileMachine::pattern(1, 1)).error(), Errno::kFBig);
    EXPECT_EQ(m.write(file, 0, FileMachine::pattern(6 * kPageSize, 1)).value(), 4 * kPageSize);
    EXPECT_EQ(m.write(file, 4 * kPageSize, FileMachine::pattern(1, 1)).error(), Errno::kNoSpc);
    EXPECT_EQ(m.write(file, 0, FileMachine::pattern(4, 2)).value(), 4u);  // no new space needed
    ASSERT_TRUE(m.vfs->ftruncate(file, kPageSize));
    EXPECT_EQ(small.used_bytes(), kPageSize);
    EXPECT_EQ(m.write(file, kPageSize, FileMachine::pattern(1, 1)).value(), 1u);
  });
  EXPECT_EQ(small.create("c", generated(3 * kPageSize)).error(), Errno::kNoSpc);
  m.validate();
}

// A source whose bytes end early: EFAULT from user memory.
struct Broken final : IovIter {
  std::uint64_t fault_in_readable(std::uint64_t offset, std::uint64_t length) override {
    return offset >= limit ? 0 : std::min(length, limit - offset);
  }
  std::uint64_t copy_from_iter(std::uint64_t, std::span<std::byte> to) override {
    std::fill(to.begin(), to.end(), std::byte{5});
    return to.size();
  }
  std::uint64_t copy_to_iter(std::uint64_t offset, std::span<const std::byte> from) override {
    return offset >= limit ? 0 : std::min<std::uint64_t>(from.size(), limit - offset);
  }
  std::uint64_t limit = 5000;
};

TEST(FilemapWrite, AFaultingSourceEndsTheWriteShort) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    Broken from;
    EXPECT_EQ(m.vfs->pwrite(file, 0, 9000, from).value(), 5000u);
    EXPECT_EQ(file.inode().i_size_read(), 5000u);
    EXPECT_EQ(m.vfs->pread(file, 0, 9000, from).value(), 5000u);
    from.limit = 0;
    EXPECT_EQ(m.vfs->pwrite(file, 0, 9000, from).error(), Errno::kFault);
    EXPECT_EQ(m.vfs->pread(file, 0, 9000, from).error(), Errno::kFault);
  });
}

TEST(Fsync, WritesWhatIsDirtyAndItSurvivesEviction) {
  FileMachine m;
  File& file = m.create("a", generated(20 * kPageSize));
  const auto bytes = FileMachine::pattern(10 * kPageSize, 9);
  m.run([&] {
    EXPECT_TRUE(m.write(file, 5 * kPageSize, bytes).has_value());
    ASSERT_TRUE(m.vfs->fsync(file, SyncKind::kFsync));
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
    EXPECT_EQ(m.node_stat(NodeStat::kNrWriteback), 0);
    EXPECT_EQ(m.node_stat(NodeStat::kNrWritten), 10);
    EXPECT_EQ(m.event(phys::VmEvent::kPgpgout), 40);
    EXPECT_EQ(m.fs.disk().stats().writes, 1u);  // ten pages in a row, one request
    m.vfs->drop_pagecache();
    EXPECT_EQ(file.mapping().nrpages(), 0u);
    EXPECT_EQ(m.read(file, 5 * kPageSize, 10 * kPageSize), bytes);
  });
  m.validate();
}

TEST(Fsync, OfACleanFileCostsNothing) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    const sim::Nanos start = m.scheduler.now();
    ASSERT_TRUE(m.vfs->fsync(file, SyncKind::kFdatasync));
    EXPECT_EQ(m.scheduler.now(), start);
  });
}

TEST(SyncFileRange, WritesOnlyItsPages) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(8 * kPageSize, 9)).has_value());
    ASSERT_TRUE(m.vfs->sync_file_range(file, 2 * kPageSize, 3 * kPageSize, SyncFileRange::kWrite | SyncFileRange::kWaitAfter));
    EXPECT_EQ(m.node_stat(NodeStat::kNrWritten), 3);
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 5);
    ASSERT_TRUE(m.vfs->msync_range(file, 0, kPageSize, MsyncMode::kAsync));
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 5);
    ASSERT_TRUE(m.vfs->msync_range(file, 0, kPageSize, MsyncMode::kSync));
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 4);
  });
}

TEST(Dsync, AWriteWaitsForItsPages) {
  FileMachine m;
  File& file = m.create("a", nullptr, FileMode::kRead | FileMode::kWrite | FileMode::kDsync);
  m.run([&] { EXPECT_EQ(m.write(file, 0, FileMachine::pattern(5000, 9)).value(), 5000u); });
  EXPECT_EQ(m.node_stat(NodeStat::kNrWritten), 2);
  EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
}

}  // namespace
}  // namespace quire::file
