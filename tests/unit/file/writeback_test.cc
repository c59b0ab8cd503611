// The flusher, its thresholds, and writers who have to wait.
#include "file_machine.h"
#include "quire/phys/task_flags.h"

namespace quire::file {
namespace {

using phys::NodeStat;

TEST(Flusher, WritesOldDataAfterItsTime) {
  FileMachine m;
  m.vfs->writeback().start_flusher();
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(4 * kPageSize, 5)).has_value());
    m.scheduler.sleep_for(29 * sim::kSecond);
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 4);
    m.scheduler.sleep_for(7 * sim::kSecond);
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
    EXPECT_EQ(m.node_stat(NodeStat::kNrWritten), 4);
    EXPECT_FALSE(m.vfs->writeback().has_dirty_io());
  });
  m.validate();
}

TEST(Flusher, IsSwitchedOffByAnIntervalOfZero) {
  FileMachine m;
  m.vfs->writeback().tunables().dirty_writeback_centisecs = 0;
  m.vfs->writeback().start_flusher();
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(kPageSize, 5)).has_value());
    m.scheduler.sleep_for(100 * sim::kSecond);
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 1);
    m.vfs->writeback().wakeup_flusher_threads(WbReason::kVmscan);
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
  });
}

// As every worker without work (TASK_IDLE).
TEST(Flusher, IsIdleWhileNothingIsToBeWritten) {
  FileMachine m;
  m.vfs->writeback().start_flusher();
  File& file = m.create("a");
  const sim::Task& flusher = *m.scheduler.tasks().front();
  m.run([&] {
    m.scheduler.sleep_for(sim::kMillisecond);
    EXPECT_EQ(flusher.state_letter(), "I");
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(kPageSize, 5)).has_value());
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_EQ(flusher.state_letter(), "I");  // nothing is old enough
  });
}

TEST(DirtyLimits, FollowTheTunables) {
  FileMachine m;
  Writeback& writeback = m.vfs->writeback();
  const std::uint64_t available = writeback.global_dirtyable_memory();
  EXPECT_EQ(writeback.global_dirty_limits().background, available / 10);
  EXPECT_EQ(writeback.global_dirty_limits().dirty, available / 5);
  writeback.tunables().dirty_bytes = kMiB;
  EXPECT_EQ(writeback.global_dirty_limits().dirty, 256u);
  EXPECT_EQ(writeback.global_dirty_limits().background, 128u);  // half, when it is not below
}

TEST(BalanceDirtyPages, HoldsAWriterNearTheLimit) {
  FileMachine m({.ram = 64 * kMiB, .data_mode = phys::DataMode::kDataless});
  m.vfs->writeback().start_flusher();
  // A slow disk: 20 MiB a second.
  FileSystem& slow = m.vfs->mount({.dev = 9, .disk = sim::DiskConfig{.name = "slow", .bandwidth = 20 * kMiB}});
  File& file = m.open(**slow.create("b"));
  std::uint64_t most = 0;
  m.run([&] {
    NullIter nowhere;
    for (int i = 0; i < 320; ++i) {
      ASSERT_EQ(m.vfs->pwrite(file, static_cast<std::uint64_t>(i) * 128 * kKiB, 128 * kKiB, nowhere).value(), 128 * kKiB);
      most = std::max(most, m.vfs->writeback().nr_dirty() + m.vfs->writeback().nr_writeback());
    }
  });
  // 40 MiB went through; about a fifth of the memory may be dirty; the rest had to wait for the disk.
  EXPECT_LT(most, m.vfs->writeback().global_dirty_limits().dirty * 12 / 10 + 64);
  EXPECT_GT(m.scheduler.now(), sim::kSecond);
  EXPECT_LT(m.scheduler.now(), 4 * sim::kSecond);
  m.validate();
}

TEST(BalanceDirtyPages, CountsPagesThatBecameDirtyNotCalls) {
  FileMachine m;
  Writeback& writeback = m.vfs->writeback();
  writeback.start_flusher();
  writeback.tunables().dirty_bytes = 4 * kPageSize;
  File& file = m.create("f");
  unsigned held = 0;
  writeback.balance_dirty_pages_event.listen([&](const EventView&) { ++held; });
  m.run([&] {
    for (std::uint64_t i = 0; i < 8; ++i) {
      ASSERT_TRUE(m.write(file, i * kPageSize, FileMachine::pattern(kPageSize, i)));
    }
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(m.write(file, 10, FileMachine::pattern(4, 1)));
  });
  EXPECT_EQ(held, 0u);
}

TEST(BalanceDirtyPages, LetsGoOfAKilledWriter) {
  FileMachine m({.cpus = 2, .data_mode = phys::DataMode::kDataless});
  m.vfs->writeback().start_flusher();
  m.vfs->writeback().tunables().dirty_bytes = kMiB;
  FileSystem& slow = m.vfs->mount({.dev = 9, .disk = sim::DiskConfig{.name = "slow", .bandwidth = kMiB}});
  File& file = m.open(**slow.create("b"));
  Result<std::uint64_t> written = 0;
  sim::Nanos ended = 0;
  sim::Task& writer = m.scheduler.spawn("writer", [&] {
    NullIter nowhere;
    written = m.vfs->pwrite(file, 0, 32 * kMiB, nowhere);
    EXPECT_EQ(m.vfs->pwrite(file, 0, kPageSize, nowhere).error(), Errno::kIntr);
    ended = m.scheduler.now();
  });
  m.run([&] {
    m.scheduler.sleep_for(3 * sim::kSecond);
    writer.pf_flags |= bits(phys::TaskFlag::kOomVictim);
    m.scheduler.wake(writer);
  });
  ASSERT_TRUE(written.has_value());
  EXPECT_LT(*written, 16 * kMiB);
  EXPECT_LT(ended, 3100 * sim::kMillisecond);
}

TEST(Sync, WritesEveryFile) {
  FileMachine m;
  m.vfs->writeback().start_flusher();
  std::vector<File*> files;
  for (const char* name : {"a", "b", "c"}) files.push_back(&m.create(name));
  m.run([&] {
    for (File* file : files) EXPECT_TRUE(m.write(*file, 100, FileMachine::pattern(9000, 5)).has_value());
    m.vfs->sync();
    EXPECT_EQ(m.node_stat(NodeStat::kNrDirty), 0);
    EXPECT_EQ(m.node_stat(NodeStat::kNrWriteback), 0);
    EXPECT_EQ(m.node_stat(NodeStat::kNrWritten), 9);
  });
  m.validate();
}

TEST(Sync, AFileMayGoWhileItIsWritten) {
  FileMachine m({.cpus = 2});
  m.vfs->writeback().start_flusher();
  File& file = m.create("a");
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(100 * kPageSize, 5)).has_value());
    m.vfs->writeback().wakeup_flusher_threads(WbReason::kSync);
    m.scheduler.sleep_for(10'000);
    ASSERT_TRUE(m.fs.unlink("a"));
    m.vfs->fput(file);
    EXPECT_EQ(m.fs.nr_inodes(), 0u);
  });
  EXPECT_EQ(m.node_stat(NodeStat::kNrFilePages), 0);
  m.validate();
}

}  // namespace
}  // namespace quire::file
