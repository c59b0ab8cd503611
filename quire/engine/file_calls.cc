// Recorded calls on files that move no bytes (those: transfer_calls.cc). Which file a number names is told by file records.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/syscall.h>

#include <cstdio>

#include "quire/engine/thread_replay.h"

namespace quire::engine {

namespace {

constexpr std::uint64_t kCloseRangeCloexec = 4;  // CLOSE_RANGE_CLOEXEC

constexpr std::uint64_t kSyncFileRangeFlags = 7;
constexpr std::uint64_t kMovesBytes = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;

// FALLOC_FL_UNSHARE_RANGE is left out: no two files here share their blocks.
file::FallocateMode fallocate_mode(std::uint64_t mode) {
  auto result = file::FallocateMode::kNone;
  if ((mode & FALLOC_FL_KEEP_SIZE) != 0) result |= file::FallocateMode::kKeepSize;
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) result |= file::FallocateMode::kPunchHole;
  if ((mode & FALLOC_FL_ZERO_RANGE) != 0) result |= file::FallocateMode::kZeroRange;
  return result;
}

}  // namespace

FileHold ThreadReplay::file_of(int fd) const {
  const auto found = process().files->file(fd);
  return {machine_.vfs(), found ? *found : nullptr};
}

// What is only marked to be closed at the next exec is not among the files which that is recorded to have left open.
void ThreadReplay::close_range(const trace::Record& r) {
  if ((r.args[2] & kCloseRangeCloexec) != 0) return;
  const auto first = static_cast<std::uint32_t>(r.args[0]);
  const auto last = static_cast<std::uint32_t>(r.args[1]);
  for (const int fd : process().files->numbers()) {
    const auto number = static_cast<std::uint32_t>(fd);
    if (number >= first && number <= last) (void)process().files->close(fd);
  }
}

void ThreadReplay::dup(int from, int to) {
  if (process().files->find(from) == nullptr) return;
  const Status done = process().files->dup(from, to);
  expect("dup", done);
  if (done) next_file_.duplicated = to;
}

void ThreadReplay::fallocate(file::File& file, const trace::Record& r) {
  if ((r.args[1] & kMovesBytes) != 0) return diverged("fallocate (collapse or insert)", Errno::kOpNotSupp);
  expect("fallocate", machine_.vfs().fallocate(file, fallocate_mode(r.args[1]), r.args[2], r.args[3]));
}

ThreadReplay::Handled ThreadReplay::fcntl_call(const trace::Record& r) {
  const int fd = static_cast<int>(r.args[0]);
  switch (static_cast<int>(r.args[1])) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: dup(fd, static_cast<int>(r.result)); break;
    case F_ADD_SEALS:
      if (const FileHold file = file_of(fd)) {
        expect("fcntl (F_ADD_SEALS)", file::memfd_add_seals(*file, static_cast<file::Seals>(r.args[2])));
      }
      break;
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

// Calls that make descriptors, and close them. Which file a number names then, the next record tells.
ThreadReplay::Handled ThreadReplay::descriptor_call(const trace::Record& r) {
  const int fd = static_cast<int>(r.args[0]);
  switch (r.number) {
    case SYS_pipe:
    case SYS_pipe2:
      if (const auto pipe = machine_.processes().pseudo_fs().create_pipe_files()) {
        next_file_.pipe = *pipe;
      } else {
        diverged("pipe", pipe.error());
      }
      break;
    case SYS_memfd_create:
      next_file_.memfd = static_cast<file::MemfdFlags>(r.args[1]) &
                         (file::MemfdFlags::kAllowSealing | file::MemfdFlags::kNoexecSeal | file::MemfdFlags::kExec);
      break;
    case SYS_creat: next_file_.truncated = static_cast<int>(r.result); break;
    case SYS_open:
    case SYS_openat:
      if (((r.number == SYS_open ? r.args[1] : r.args[2]) & O_TRUNC) != 0) next_file_.truncated = static_cast<int>(r.result);
      break;
    case SYS_close: (void)process().files->close(fd); break;
    case SYS_close_range: close_range(r); break;
    case SYS_dup:
    case SYS_dup2:
    case SYS_dup3: dup(fd, static_cast<int>(r.result)); break;
    case SYS_fcntl: return fcntl_call(r);
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

// Calls on names of files.
ThreadReplay::Handled ThreadReplay::name_call(const trace::Record& r) {
  FileSet& files = replay_.files_;
  switch (r.number) {
    case SYS_truncate:
      with_name("truncate", r.path, [&](std::string_view path) {
        if (const auto inode = files.find(path)) expect("truncate", (*inode)->sb.truncate(**inode, r.args[1]));
      });
      break;
    case SYS_link:
    case SYS_linkat:
      with_names("link", r, [&](std::string_view existing, std::string_view path) { return files.link(existing, path); });
      break;
    case SYS_unlink:
    case SYS_unlinkat: with_name("unlink", r.path, [&](std::string_view path) { expect("unlink", files.unlink(path)); }); break;
    case SYS_rename:
    case SYS_renameat:
    case SYS_renameat2: {
      const bool exchange = r.number == SYS_renameat2 && (r.args[4] & RENAME_EXCHANGE) != 0;
      with_names("rename", r, [&](std::string_view from, std::string_view to) {
        return exchange ? files.exchange(from, to) : files.rename(from, to);
      });
      break;
    }
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

// Calls on an open file with pages that move no bytes: its position and size, what is written back of it and read ahead.
ThreadReplay::Handled ThreadReplay::open_file_call(const trace::Record& r) {
  file::Vfs& vfs = machine_.vfs();
  const auto on = [&](auto&& call) {
    if (const FileHold file = file_of(static_cast<int>(r.args[0]))) call(*file);
  };
  switch (r.number) {
    case SYS_lseek: on([&](file::File& file) { file.f_pos = static_cast<std::uint64_t>(r.result); }); break;
    case SYS_ftruncate: on([&](file::File& file) { expect("ftruncate", vfs.ftruncate(file, r.args[1])); }); break;
    case SYS_fallocate: on([&](file::File& file) { fallocate(file, r); }); break;
    case SYS_fsync: on([&](file::File& file) { expect("fsync", vfs.fsync(file, file::SyncKind::kFsync)); }); break;
    case SYS_fdatasync: on([&](file::File& file) { expect("fsync", vfs.fsync(file, file::SyncKind::kFdatasync)); }); break;
    case SYS_syncfs: on([&](file::File& file) { vfs.syncfs(file); }); break;
    case SYS_sync_file_range:
      on([&](file::File& file) {
        const auto flags = static_cast<file::SyncFileRange>(r.args[3] & kSyncFileRangeFlags);
        expect("sync_file_range", vfs.sync_file_range(file, r.args[1], r.args[2], flags));
      });
      break;
    case SYS_fadvise64:
      on([&](file::File& file) {
        expect("fadvise", vfs.fadvise(file, r.args[1], r.args[2], static_cast<file::Fadvice>(r.args[3])));
      });
      break;
    case SYS_readahead: on([&](file::File& file) { expect("readahead", vfs.readahead(file, r.args[1], r.args[2])); }); break;
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

ThreadReplay::Handled ThreadReplay::file_call(const trace::Record& r) {
  if (transfer_call(r) == Handled::kYes || open_file_call(r) == Handled::kYes || descriptor_call(r) == Handled::kYes ||
      name_call(r) == Handled::kYes) {
    return Handled::kYes;
  }
  if (r.number != SYS_sync) return Handled::kNo;
  machine_.vfs().sync();
  return Handled::kYes;
}

}  // namespace quire::engine
