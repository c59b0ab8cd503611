// Reading through the page cache, and readahead.
#include "file_machine.h"

namespace quire::file {
namespace {

using phys::NodeStat;
using phys::VmEvent;

std::unique_ptr<BackingSource> generated(std::uint64_t size) { return std::make_unique<GeneratedBacking>(size, 3); }

TEST(FilemapRead, GivesTheFilesBytesAndStopsAtItsEnd) {
  FileMachine m;
  const std::uint64_t size = 100 * kKiB + 123;
  File& file = m.create("a", generated(size));
  m.run([&] {
    const auto expected = FileMachine::pattern(size, 3);
    EXPECT_EQ(m.read(file, 0, size + 5000), expected);
    const auto middle = m.read(file, 5000, 9000);
    EXPECT_TRUE(std::equal(middle.begin(), middle.end(), expected.begin() + 5000));
    EXPECT_TRUE(m.read(file, size, 10).empty());
    EXPECT_TRUE(m.read(file, size + kMiB, 10).empty());
  });
  EXPECT_EQ(m.node_stat(NodeStat::kNrFilePages), 26);
  EXPECT_EQ(m.event(VmEvent::kPgpgin), 26 * 4);
  EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
  m.validate();
}

TEST(FilemapRead, TakesTheTimeOfTheDiskOnce) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    const sim::Nanos start = m.scheduler.now();
    m.read(file, 0, kPageSize);
    const sim::Nanos cold = m.scheduler.now() - start;
    EXPECT_GE(cold, m.scheduler.costs().disk_read_latency);
    m.read(file, 0, kPageSize);
    EXPECT_LT(m.scheduler.now() - start - cold, 5'000u);
  });
}

TEST(FilemapRead, NeedsTheRightMode) {
  FileMachine m;
  File& file = m.create("a", generated(100), FileMode::kWrite);
  NullIter nowhere;
  m.run([&] { EXPECT_EQ(m.vfs->pread(file, 0, 1, nowhere).error(), Errno::kBadF); });
}

TEST(FilemapRead, MovesThePosition) {
  FileMachine m;
  File& file = m.create("a", generated(10));
  NullIter nowhere;
  m.run([&] {
    EXPECT_EQ(m.vfs->read(file, 7, nowhere).value(), 7u);
    EXPECT_EQ(m.vfs->read(file, 7, nowhere).value(), 3u);
    EXPECT_EQ(m.vfs->read(file, 7, nowhere).value(), 0u);
  });
}

TEST(FilemapRead, ASecondReaderWaitsForTheFirstOnesIo) {
  FileMachine m({.cpus = 2});
  File& one = m.create("a", generated(kPageSize));
  File& two = m.open(one.inode());
  for (File* file : {&one, &two}) {
    m.scheduler.spawn("reader", [&m, file] { EXPECT_EQ(m.read(*file, 0, 4096), FileMachine::pattern(4096, 3)); });
  }
  m.scheduler.run();
  EXPECT_EQ(m.fs.disk().stats().reads, 1u);
}

TEST(MarkAccessed, TwoReadsOfAPageActivateIt) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize));
  m.run([&] {
    m.read(file, 0, 100);
    m.read(file, 100, 100);  // the same page right after: one access
    phys::Folio* folio = m.vfs->filemap().filemap_get_folio(file.mapping(), Pgoff(0));
    ASSERT_NE(folio, nullptr);
    EXPECT_TRUE(phys::folio_test_referenced(*folio));
    m.lru.lru_add_drain_all();
    EXPECT_FALSE(phys::folio_test_active(*folio));
    file.f_ra.prev_pos = -1;
    m.read(file, 0, 100);
    m.lru.lru_add_drain_all();
    EXPECT_TRUE(phys::folio_test_active(*folio));
    m.vfs->filemap().folio_put(*folio);
  });
}

// The windows of a sequential reader of 4 KiB pieces: 4, 8, 16, 32 pages, each started at the marker of the one before.
TEST(Readahead, RampsUpForASequentialReader) {
  FileMachine m;
  File& file = m.create("a", generated(kMiB));
  m.run([&] {
    m.read(file, 0, kPageSize);
    EXPECT_EQ(m.cache_map(file, 8), "xxxx....");
    EXPECT_EQ(m.marker(file), 1u);
    m.read(file, kPageSize, kPageSize);
    EXPECT_EQ(m.cache_map(file, 14), "xxxxxxxxxxxx..");
    EXPECT_EQ(m.marker(file), 4u);
    m.read(file, 2 * kPageSize, 2 * kPageSize);
    EXPECT_EQ(file.mapping().nrpages(), 12u);
    m.read(file, 4 * kPageSize, kPageSize);
    EXPECT_EQ(file.mapping().nrpages(), 28u);
    EXPECT_EQ(m.marker(file), 12u);
    for (std::uint64_t i = 5; i <= 12; ++i) m.read(file, i * kPageSize, kPageSize);
    EXPECT_EQ(file.mapping().nrpages(), 60u);
    EXPECT_EQ(m.marker(file), 28u);
  });
}

TEST(Readahead, LeavesARandomReaderAlone) {
  FileMachine m;
  File& file = m.create("a", generated(kMiB));
  m.run([&] {
    m.read(file, 50 * kPageSize, kPageSize);
    m.read(file, 20 * kPageSize, kPageSize);
    m.read(file, 90 * kPageSize, 2 * kPageSize);
    EXPECT_EQ(file.mapping().nrpages(), 4u);
  });
}

TEST(Readahead, KeepsTwoInterleavedStreamsGoing) {
  FileMachine m;
  File& file = m.create("a", generated(4 * kMiB));
  m.run([&] {
    for (std::uint64_t i = 0; i < 64; ++i) {
      m.read(file, i * kPageSize, kPageSize);
      m.read(file, (512 + i) * kPageSize, kPageSize);
    }
  });
  // Far fewer requests than pages.
  EXPECT_LT(m.fs.disk().stats().reads, 30u);
}

TEST(Readahead, AdviceChangesIt) {
  FileMachine m;
  File& file = m.create("a", generated(kMiB));
  m.run([&] {
    ASSERT_TRUE(m.vfs->fadvise(file, 0, 0, Fadvice::kRandom));
    m.read(file, 0, kPageSize);
    m.read(file, kPageSize, kPageSize);
    EXPECT_EQ(file.mapping().nrpages(), 2u);
    ASSERT_TRUE(m.vfs->fadvise(file, 0, 0, Fadvice::kSequential));
    EXPECT_EQ(file.f_ra.ra_pages, 64u);
    ASSERT_TRUE(m.vfs->fadvise(file, 100 * kPageSize, 10 * kPageSize, Fadvice::kWillNeed));
    EXPECT_TRUE(m.cached(file, 100));
    EXPECT_TRUE(m.cached(file, 109));
    EXPECT_FALSE(m.cached(file, 110));
  });
  m.validate();
}

TEST(Readahead, StopsAtTheEndOfTheFile) {
  FileMachine m;
  File& file = m.create("a", generated(3 * kPageSize + 1));
  m.run([&] { m.read(file, 0, kPageSize); });
  EXPECT_EQ(file.mapping().nrpages(), 4u);
}

TEST(Dataless, TakesTheSameTimeAndCountsTheSame) {
  sim::Nanos time[2];
  std::int64_t pgpgin[2];
  for (int dataless = 0; dataless < 2; ++dataless) {
    FileMachine m({.data_mode = dataless ? phys::DataMode::kDataless : phys::DataMode::kData});
    File& file = m.create("a", generated(kMiB + 77));
    m.run([&] {
      NullIter nowhere;
      EXPECT_EQ(m.vfs->pread(file, 0, 2 * kMiB, nowhere).value(), kMiB + 77);
      EXPECT_EQ(m.vfs->pwrite(file, 3 * kMiB + 1, 9999, nowhere).value(), 9999u);
      EXPECT_TRUE(m.vfs->fsync(file, SyncKind::kFsync));
    });
    time[dataless] = m.scheduler.now();
    pgpgin[dataless] = m.event(VmEvent::kPgpgin);
  }
  EXPECT_EQ(time[0], time[1]);
  EXPECT_EQ(pgpgin[0], pgpgin[1]);
}

}  // namespace
}  // namespace quire::file
