// Recorded calls on files.
#include <linux/close_range.h>
#include <linux/falloc.h>

#include "replay_fixture.h"

namespace quire::engine {
namespace {

class FileReplay : public ReplayTest {};

// A descriptor is all that a file without a name has. One thread writes, so that another that is to truncate waits for it; a
// third closes the descriptor.
TEST_F(FileReplay, AFileMayBeClosedWhileACallWorksOnIt) {
  constexpr std::uint64_t kThread = CLONE_THREAD | CLONE_VM | CLONE_FILES | CLONE_SIGHAND;
  constexpr std::uint32_t kTruncatesAt = 200'000;  // instructions
  constexpr std::uint32_t kClosesAt = 500'000;
  config_.cpus = 3;
  config_.slab_debug = "FZP";  // what is gone does not look as if it were there
  config_.ram = 128 * kMiB;
  file(3, 77, 0, "/gone");
  syscall(SYS_unlink, 0, {}, 0, "/gone");
  fork(1, 2, kThread);
  fork(1, 3, kThread);
  write(3, 16 * kMiB, 0);
  trace_.exit();
  trace_.task(1, 2).touch(0, trace::AccessKind::kWrite, kTruncatesAt);
  syscall(SYS_ftruncate, 0, {3, kPageSize});
  trace_.exit();
  trace_.task(1, 3).touch(0, trace::AccessKind::kWrite, kClosesAt);
  syscall(SYS_close, 0, {3});
  trace_.exit();
  load();
  int met = 0;  // moments when no number names the file, and a call has it
  const kernel::Process& process = *replay_->outcomes().front().process;
  const file::File* opened = nullptr;
  const sim::Nanos begin = machine_->scheduler().now();
  for (sim::Nanos moment = 1; process.state == kernel::ProcessState::kRunning && moment < 10'000; ++moment) {
    replay_->run_until(begin + moment * 20 * sim::kMicrosecond);
    const file::File* const named = process.files == nullptr ? nullptr : process.files->find(3);
    if (named != nullptr) opened = named;
    if (opened != nullptr && named == nullptr && machine_->vfs().open_files() != 0 && opened->f_count == 1) ++met;
  }
  run();
  EXPECT_GT(met, 0);
  EXPECT_EQ(stats().diverged_calls, 0u);
  EXPECT_EQ(machine_->vfs().find_mount(kDevice)->nr_inodes(), 0u);
}

// dup2 of its number, and /proc/self/fd, name it again; its bytes are in one place, and go with the last number.
TEST_F(FileReplay, AFileThatIsUnlinkedAndOpenMayBeNamedAgain) {
  constexpr std::string_view kGone = "/gone (deleted)";
  file(3, 77, 0, "/gone");
  syscall(SYS_unlink, 0, {}, 0, "/gone");
  write(3, kPageSize, 0);
  syscall(SYS_dup2, 9, {3, 9});
  file(9, 77, kPageSize, kGone, kPageSize);
  syscall(SYS_open, 4, {0, O_RDWR}, 0, "/proc/self/fd/9");
  file(4, 77, kPageSize, kGone);
  syscall(SYS_sendfile, kPageSize, {9, 4, 0, kPageSize});  // to where the file of 9, and of 3, stands
  syscall(SYS_close, 0, {3});
  syscall(SYS_close, 0, {9});
  write(4, 4 * kPageSize, 2 * kPageSize);
  syscall(SYS_fsync, 0, {4});
  fork(2, 2, 0);
  trace_.exit();
  trace_.task(2, 2);
  syscall(SYS_unlink, 0, {}, 0, kGone);  // another's name
  write(4, kPageSize, 6 * kPageSize);
  syscall(SYS_fsync, 0, {4});
  trace_.exit();
  replay();
  EXPECT_EQ(stats().diverged_calls, 0u);
  EXPECT_EQ(machine_->phys().vmstat()[phys::VmEvent::kPgpgout], 7 * kPageSize / kKiB);
  EXPECT_EQ(machine_->vfs().find_mount(kDevice)->nr_inodes(), 0u);
}

// What was not written yet goes, too.
TEST_F(FileReplay, OpeningWithTruncEmptiesAFile) {
  constexpr std::uint64_t kFile = 77;
  constexpr std::uint64_t kFlags = O_RDWR | O_CREAT;
  const struct {
    std::uint32_t number;
    std::array<std::uint64_t, 6> args;
    bool empties;
  } opens[] = {{SYS_creat, {0, 0600}, true},
               {SYS_open, {0, kFlags | O_TRUNC, 0600}, true},
               {SYS_openat, {static_cast<std::uint64_t>(AT_FDCWD), 0, kFlags | O_TRUNC, 0600}, true},
               {SYS_open, {0, kFlags, O_TRUNC}, false},
               {SYS_openat, {static_cast<std::uint64_t>(AT_FDCWD), O_TRUNC, kFlags, O_TRUNC}, false}};
  std::uint64_t ino = kFile;
  for (const auto& open : opens) {
    const std::string path = "/" + std::to_string(ino);
    file(3, ino, 0, path);
    write(3, kMiB, 0);
    syscall(SYS_close, 0, {3});
    syscall(open.number, 3, open.args, 0, path);
    file(3, ino, open.empties ? 0 : kMiB, path);
    write(3, kPageSize, 0);
    syscall(SYS_close, 0, {3});
    ++ino;
  }
  trace_.exit();
  replay();
  EXPECT_EQ(stats().diverged_calls, 0u);
  ino = kFile;
  for (const auto& open : opens) {
    EXPECT_EQ(inode(ino)->i_size, open.empties ? kPageSize : kMiB) << ino;
    EXPECT_EQ(inode(ino)->mapping.nrpages(), open.empties ? 1 : kMiB / kPageSize) << ino;
    ++ino;
  }
}

// Another thread may close what a call gave before the recorder can look at it: what the call said is nothing to the next one.
TEST_F(FileReplay, WhatACallSaysOfAFileIsForTheNextRecordOnly) {
  file(3, 77, 0, "/a");
  write(3, kMiB, 0);
  syscall(SYS_open, 4, {0, O_RDWR | O_TRUNC});
  syscall(SYS_open, 4, {0, O_RDWR});
  file(4, 77, 0, "/a");  // looked at before 3 was written
  file(6, 78, 0, "/b");
  syscall(SYS_dup2, 7, {6, 7});
  syscall(SYS_open, 7, {0, O_RDWR});
  file(7, 78, 0, "/b");
  write(7, 5000, 0);
  syscall(SYS_sendfile, 100, {6, 3, 0, 100});  // to where 6 stands: at its start
  syscall(SYS_pipe, 0, {});
  syscall(SYS_pipe, 0, {});
  trace_.exit();
  replay();
  EXPECT_EQ(stats().diverged_calls, 0u);
  EXPECT_EQ(inode(77)->i_size, kMiB);
  EXPECT_EQ(inode(78)->i_size, 5000u);
}

TEST_F(FileReplay, CloseRangeClosesAtOnceOrAtTheNextExec) {
  constexpr std::uint64_t kNoLimit = 0xffff'ffff;
  constexpr std::uint64_t kFar = 70'000;  // more files than close_range is wont to meet
  constexpr std::uint64_t kAll[] = {2, 3, 4, 5, kFar};
  const auto write_all = [&](std::uint64_t offset) {
    for (const std::uint64_t fd : kAll) write(fd, 100, offset);
  };
  for (const std::uint64_t fd : kAll) file(static_cast<int>(fd), fd, 0, "/" + std::to_string(fd));
  syscall(SYS_close_range, 0, {4, kNoLimit, CLOSE_RANGE_CLOEXEC});
  syscall(SYS_close_range, 0, {2, 2, CLOSE_RANGE_CLOEXEC});
  write_all(0);
  syscall(SYS_close_range, 0, {4, 4, 0});
  write_all(100);
  syscall(SYS_close_range, 0, {5, kNoLimit, 0});
  write_all(200);
  trace::Record exec;
  exec.kind = trace::RecordKind::kExec;
  trace_.record(exec, "/program");
  file(3, 3, 300, "/3", 300);
  write_all(300);
  trace_.exit();
  replay();
  EXPECT_EQ(inode(2)->i_size, 300u);
  EXPECT_EQ(inode(3)->i_size, 400u);
  EXPECT_EQ(inode(4)->i_size, 100u);
  EXPECT_EQ(inode(5)->i_size, 200u);
  EXPECT_EQ(inode(kFar)->i_size, 200u);
}

// Whatever becomes of its name: the old image is gone.
TEST_F(FileReplay, AProgramWhoseNameIsTooLongIsStarted) {
  trace::Record exec;
  exec.kind = trace::RecordKind::kExec;
  trace_.write(0).record(exec, "/" + std::string(file::PathBuffer::kPathMax, 'p')).write(0).exit();
  replay();
  EXPECT_EQ(stats().stray_accesses, 1u);
  EXPECT_EQ(stats().diverged, (std::map<std::string, std::uint64_t>{{"execve: ENAMETOOLONG", 1}}));
}

// The target of a copy has a place of its own, whether the call names it (copy_file_range, splice) or not (sendfile).
TEST_F(FileReplay, CopiesGoWhereTheTargetStands) {
  constexpr std::uint64_t kBytes = 64 * kKiB;
  constexpr auto kCopied = static_cast<std::int64_t>(kBytes);
  file(3, 100, 2 * kMiB, "/source");
  file(4, 101, 0, "/by copy_file_range");
  syscall(SYS_copy_file_range, kCopied, {3, kMiB, 4, 0, kBytes}, kMiB);
  syscall(SYS_copy_file_range, kCopied, {3, kMiB, 4, kBytes, kBytes}, kMiB);
  file(5, 102, 0, "/by sendfile");
  syscall(SYS_sendfile, kCopied, {5, 3, kMiB, kBytes}, kMiB);
  syscall(SYS_dup, 6, {5});  // the same open file, so the same position
  file(6, 102, kBytes, "/by sendfile", kBytes);
  syscall(SYS_sendfile, kCopied, {6, 3, kMiB, kBytes}, kMiB);
  syscall(SYS_sendfile, kCopied, {5, 3, kMiB, kBytes}, kMiB);
  file(7, 103, 0, "/by lseek");
  syscall(SYS_lseek, kPageSize, {7, kPageSize, SEEK_SET});
  syscall(SYS_sendfile, kCopied, {7, 3, kMiB, kBytes}, kMiB);
  file(8, 104, 0, "/by write");
  write(8, 100, 0);
  syscall(SYS_pwrite64, 100, {8, 0, 100, 1000}, 1000);
  syscall(SYS_sendfile, kCopied, {8, 3, kMiB, kBytes}, kMiB);
  trace_.exit();
  replay();
  EXPECT_EQ(stats().diverged_calls, 0u);
  EXPECT_EQ(inode(101)->i_size, 2 * kBytes);
  EXPECT_EQ(inode(102)->i_size, 3 * kBytes);
  EXPECT_EQ(inode(103)->i_size, kPageSize + kBytes);
  EXPECT_EQ(inode(104)->i_size, 100 + kBytes);
}

// A call that says where leaves the positions alone, even when they are there.
TEST_F(FileReplay, CopiesThatSayWhereMoveNoPosition) {
  constexpr std::uint64_t kBytes = 64 * kKiB;
  constexpr auto kCopied = static_cast<std::int64_t>(kBytes);
  constexpr std::uint64_t kBoth = trace::kSaysWhereFrom | trace::kSaysWhereTo;
  file(3, 100, 2 * kMiB, "/source");
  std::uint64_t fd = 4;
  for (const std::uint64_t said : {std::uint64_t{0}, kBoth, trace::kSaysWhereFrom, trace::kSaysWhereTo}) {
    file(static_cast<int>(fd), fd, 0, "/" + std::to_string(fd));
    syscall(SYS_copy_file_range, kCopied, {3, 0, fd, 0, kBytes, said});
    syscall(SYS_sendfile, kCopied, {fd, 3, 0, kBytes, 0, trace::kSaysWhereFrom});  // to where it stands
    syscall(SYS_lseek, 0, {3, 0, SEEK_SET});
    ++fd;
  }
  file(9, 9, 0, "/9");
  syscall(SYS_sendfile, kCopied, {4, 9, 0, kBytes, 0, trace::kSaysWhereFrom});
  syscall(SYS_sendfile, kCopied, {9, 3, 0, kBytes, 0, trace::kSaysWhereFrom});
  trace_.exit();
  replay();
  EXPECT_EQ(inode(4)->i_size, 3 * kBytes);
  EXPECT_EQ(inode(5)->i_size, kBytes);
  EXPECT_EQ(inode(6)->i_size, 2 * kBytes);
  EXPECT_EQ(inode(7)->i_size, kBytes);
  EXPECT_EQ(inode(9)->i_size, kBytes);  // nothing had moved its place when it was the source
}

// Pages of the file `ino` that are to be written.
std::uint64_t dirty_pages(file::DiskInode& inode) {
  std::uint64_t dirty = 0;
  inode.mapping.i_pages().for_each([&](std::uint64_t, XaEntry entry) {
    if (entry.is_pointer() && phys::folio_test_dirty(*entry.pointer<phys::Folio>())) ++dirty;
  });
  return dirty;
}

TEST_F(FileReplay, FallocateDoesWhatItsModeSays) {
  constexpr std::uint64_t kPages = 16;
  const struct {
    std::uint64_t mode;
    std::uint64_t size, cached, charged;  // pages afterwards
  } rows[] = {{0, 24, 16, 24},
              {FALLOC_FL_KEEP_SIZE, 16, 16, 24},
              {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 16, 8, 16},
              {FALLOC_FL_ZERO_RANGE, 24, 8, 24},
              {FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 16, 8, 24},
              {FALLOC_FL_COLLAPSE_RANGE, 16, 16, 16},  // bytes that move are not there, but told of
              {FALLOC_FL_INSERT_RANGE, 16, 16, 16}};
  std::uint64_t fd = 3;
  for (const auto& row : rows) {
    file(static_cast<int>(fd), fd, 0, "/" + std::to_string(fd));
    write(fd, kPages * kPageSize, 0);
    syscall(SYS_fallocate, 0, {fd, row.mode, 8 * kPageSize, 16 * kPageSize});
    ++fd;
  }
  trace_.exit();
  replay();
  fd = 3;
  for (const auto& row : rows) {
    EXPECT_EQ(inode(fd)->i_size, row.size * kPageSize) << row.mode;
    EXPECT_EQ(inode(fd)->mapping.nrpages(), row.cached) << row.mode;
    EXPECT_EQ(inode(fd)->charged, row.charged * kPageSize) << row.mode;
    ++fd;
  }
  EXPECT_EQ(stats().diverged_calls, 2u);
  EXPECT_TRUE(stats().diverged.contains("fallocate (collapse or insert): EOPNOTSUPP"));
}

TEST_F(FileReplay, SyncFileRangeWritesTheRange) {
  constexpr std::uint64_t kSize = 16 * kPageSize;
  file(3, 100, 0, "/a");
  write(3, kSize, 0);
  syscall(SYS_sync_file_range, 0, {3, 4 * kPageSize, 8 * kPageSize, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER});
  trace_.exit();
  replay();
  EXPECT_EQ(dirty_pages(*inode(100)), 8u);
  EXPECT_EQ(stats().diverged_calls, 0u);
}

TEST_F(FileReplay, SyncfsWritesThatFileSystem) {
  constexpr std::uint64_t kOther = 0x802;
  file(3, 100, 0, "/a");
  file(4, 101, 0, "/b");
  file(5, 100, 0, "/elsewhere", 0, kOther);
  write(3, 16 * kPageSize, 0);
  write(5, 16 * kPageSize, 0);
  syscall(SYS_syncfs, 0, {4});
  trace_.exit();
  replay();
  EXPECT_EQ(dirty_pages(*inode(100)), 0u);
  EXPECT_EQ(dirty_pages(*machine_->vfs().find_mount(kOther)->lookup_ino(100)), 16u);
}

// Whatever a call has in hand goes with the machine, the last reference to a file included.
TEST_F(FileReplay, AMachineMayBeDroppedWhileACallWorksOnAFile) {
  constexpr sim::Nanos kMoments = 60;
  config_.cpus = 2;
  file(3, 77, 0, "/gone");
  syscall(SYS_unlink, 0, {}, 0, "/gone");
  fork(1, 2, CLONE_THREAD | CLONE_VM | CLONE_FILES | CLONE_SIGHAND);
  write(3, 4 * kMiB, 0);
  syscall(SYS_fsync, 0, {3});
  trace_.exit();
  trace_.task(1, 2).touch(0, trace::AccessKind::kWrite, 100'000);
  syscall(SYS_close, 0, {3});
  trace_.exit().finish();
  sim::Nanos end = 0;
  for (sim::Nanos moment = 0; moment <= kMoments; ++moment) {
    SCOPED_TRACE(moment);
    const auto machine = std::move(*kernel::Machine::boot(config_));
    const sim::Nanos begin = machine->scheduler().now();
    Replay replay(*machine);
    ASSERT_TRUE(replay.add(trace_.open()));
    if (moment == 0) {
      ASSERT_TRUE(replay.run());
      end = machine->scheduler().now();
    } else {
      replay.run_until(begin + (end - begin) * (moment - 1) / kMoments);
    }
  }
}

}  // namespace
}  // namespace quire::engine
