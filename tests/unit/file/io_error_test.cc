// What a failing disk does to readers, faults and writers.
#include "file_machine.h"

namespace quire::file {
namespace {

using sim::FaultPoint;

std::unique_ptr<BackingSource> generated(std::uint64_t size) { return std::make_unique<GeneratedBacking>(size, 3); }

TEST(IoError, AReadFailsAndTheNextOneTriesAgain) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    NullIter nowhere;
    // The readahead and the reader's own attempt.
    m.faults.set(FaultPoint::kIoRead, {.probability = 100, .times = 2});
    EXPECT_EQ(m.vfs->pread(file, 0, 10, nowhere).error(), Errno::kIo);
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 3));
  });
  m.validate();
}

TEST(IoError, AReadIsShortWhenItFailsHalfWay) {
  FileMachine m;
  File& file = m.create("a", generated(2 * kPageSize), FileMode::kRead | FileMode::kRandom);
  m.run([&] {
    NullIter nowhere;
    m.read(file, 0, kPageSize);
    m.faults.set(FaultPoint::kIoRead, {.probability = 100});
    EXPECT_EQ(m.vfs->pread(file, 0, 2 * kPageSize, nowhere).value(), kPageSize);
  });
}

TEST(IoError, AFaultFails) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    m.faults.set(FaultPoint::kIoRead, {.probability = 100, .times = 2});
    EXPECT_EQ(file.sb().fault(file, Pgoff(0), FaultHint::kNormal).error(), Errno::kIo);
    const Result<FilemapFault> again = file.sb().fault(file, Pgoff(0), FaultHint::kNormal);
    ASSERT_TRUE(again.has_value());
    m.vfs->filemap().folio_put(*again->folio);
  });
  m.validate();
}

TEST(IoError, APartialWriteThatCannotReadThePageFails) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    m.faults.set(FaultPoint::kIoRead, {.probability = 100, .times = 1});
    EXPECT_EQ(m.write(file, 5, FileMachine::pattern(5, 1)).error(), Errno::kIo);
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 3));
  });
  m.validate();
}

TEST(IoError, AFailedWriteIsReportedByTheNextSyncOnce) {
  FileMachine m;
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(kPageSize, 5)).has_value());
    m.faults.set(FaultPoint::kIoWrite, {.probability = 100, .times = 1});
    EXPECT_EQ(m.vfs->fsync(file, SyncKind::kFsync).error(), Errno::kIo);
    EXPECT_TRUE(m.vfs->fsync(file, SyncKind::kFsync));
    // The page is clean and still has its bytes, the disk has not.
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 5));
    m.vfs->drop_pagecache();
    EXPECT_EQ(m.read(file, 0, kPageSize), std::vector<std::byte>(kPageSize));
  });
  m.validate();
}

TEST(IoError, OutOfMemoryIsReportedAndLeavesNothingBehind) {
  FileMachine m({.ram = 24 * kMiB});
  File& file = m.create("a", generated(64 * kMiB));
  NullIter nowhere;
  m.run([&] {
    const Result<std::uint64_t> n = m.vfs->pread(file, 0, 64 * kMiB, nowhere);  // nobody reclaims here
    ASSERT_TRUE(n.has_value());
    EXPECT_LT(*n, 64 * kMiB);
    EXPECT_EQ(m.vfs->pread(file, *n, kPageSize, nowhere).error(), Errno::kNoMem);
    m.vfs->drop_pagecache();
    EXPECT_EQ(m.vfs->pread(file, *n, kPageSize, nowhere).value(), kPageSize);
  });
  m.validate();
}

}  // namespace
}  // namespace quire::file
