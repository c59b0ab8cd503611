// Recorded calls on files. Which file a number names is told by file records; here are the transfers and the changes.
//
// The user's buffers are touched by the access records that accompany each call, so the page cache is read and written with
// an iterator that has no memory of its own.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/syscall.h>

#include <algorithm>
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

bool writes(const file::File& file) { return any(file.f_mode, file::FileMode::kWrite); }

}  // namespace

FileHold ThreadReplay::file_of(int fd) const {
  const auto found = process().files->file(fd);
  return {machine_.vfs(), found ? *found : nullptr};
}

void ThreadReplay::move_position(file::File& file, std::uint64_t offset, std::uint64_t bytes, Position position) {
  if (position == Position::kStays || (position == Position::kMovesFrom && file.f_pos != offset)) return;
  file.f_pos = offset + bytes;
}

void ThreadReplay::transfer_in(int fd, std::uint64_t offset, std::uint64_t bytes, Position position) {
  const FileHold file = hold(fd);
  if (!file || bytes == 0) return;
  if (file->inode().i_type == file::InodeType::kRegular) {
    file->f_mode |= file::FileMode::kRead;
    move_position(*file, offset, bytes, position);
    file::NullIter nowhere;
    expect("read", machine_.vfs().pread(*file, offset, bytes, nowhere));
  } else if (kernel::Pipe* pipe = kernel::PseudoFs::pipe_of(*file); pipe != nullptr && !writes(*file)) {
    for (std::uint64_t done = 0; done < bytes && !killed();) {
      const auto got = pipe->read(bytes - done);
      if (!got || *got == 0) break;  // the other end is no part of this trace
      done += *got;
    }
  }
}

void ThreadReplay::transfer_out(int fd, std::uint64_t offset, std::uint64_t bytes, Position position) {
  const FileHold file = hold(fd);
  if (!file || bytes == 0) return;
  if (file->inode().i_type == file::InodeType::kRegular) {
    file->f_mode |= file::FileMode::kWrite;
    move_position(*file, offset, bytes, position);
    file::NullIter nowhere;
    expect("write", machine_.vfs().pwrite(*file, offset, bytes, nowhere));
  } else if (kernel::Pipe* pipe = kernel::PseudoFs::pipe_of(*file); pipe != nullptr && writes(*file)) {
    // A pipe whose reader is no part of this trace swallows everything.
    if (auto put = pipe->write(bytes); !put && put.error() != Errno::kPipe) diverged("write", put.error());
  }
}

// Calls that move bytes: r.result of them.
ThreadReplay::Handled ThreadReplay::transfer_call(const trace::Record& r) {
  constexpr std::uint64_t kMaxRwCount = 0x7fff'f000;  // no call of Linux moves more
  const int fd = static_cast<int>(r.args[0]);
  const std::uint64_t bytes = std::min(static_cast<std::uint64_t>(r.result), kMaxRwCount);
  const auto said = r.args[3] == ~std::uint64_t{0} ? Position::kMoves : Position::kStays;  // preadv2 and pwritev2 at -1
  switch (r.number) {
    case SYS_read:
    case SYS_readv: transfer_in(fd, r.offset, bytes, Position::kMoves); break;
    case SYS_pread64:
    case SYS_preadv:
    case SYS_preadv2: transfer_in(fd, r.offset, bytes, said); break;
    case SYS_write:
    case SYS_writev: transfer_out(fd, r.offset, bytes, Position::kMoves); break;
    case SYS_pwrite64:
    case SYS_pwritev:
    case SYS_pwritev2: transfer_out(fd, r.offset, bytes, said); break;
    case SYS_sendfile: {  // out, in, offset; it writes where the file stands
      const FileHold out = hold(fd);
      const std::uint64_t to = out ? out->f_pos : 0;
      transfer_in(static_cast<int>(r.args[1]), r.offset, bytes, Position::kMovesFrom);
      transfer_out(fd, to, bytes, Position::kMoves);
      break;
    }
    case SYS_copy_file_range:
    case SYS_splice:  // in, offset, out, offset
      transfer_in(fd, r.offset, bytes, Position::kMovesFrom);
      transfer_out(static_cast<int>(r.args[2]), r.args[3], bytes, Position::kMovesFrom);
      break;
    case SYS_lseek:
      if (const FileHold file = file_of(fd)) file->f_pos = static_cast<std::uint64_t>(r.result);
      break;
    default: return Handled::kNo;
  }
  return Handled::kYes;
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

ThreadReplay::Handled ThreadReplay::file_call(const trace::Record& r) {
  if (transfer_call(r) == Handled::kYes) return Handled::kYes;
  const int fd = static_cast<int>(r.args[0]);
  file::Vfs& vfs = machine_.vfs();
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
    case SYS_ftruncate:
      if (const FileHold file = file_of(fd)) expect("ftruncate", vfs.ftruncate(*file, r.args[1]));
      break;
    case SYS_truncate:
      with_name("truncate", r.path, [&](std::string_view path) {
        if (const auto inode = replay_.files_.find(path)) {
          expect("truncate", (*inode)->sb.truncate(**inode, r.args[1]));
        }
      });
      break;
    case SYS_fallocate:
      if (const FileHold file = file_of(fd)) fallocate(*file, r);
      break;
    case SYS_fsync:
    case SYS_fdatasync:
      if (const FileHold file = file_of(fd)) {
        expect("fsync", vfs.fsync(*file, r.number == SYS_fsync ? file::SyncKind::kFsync : file::SyncKind::kFdatasync));
      }
      break;
    case SYS_sync: vfs.sync(); break;
    case SYS_syncfs:
      if (const FileHold file = file_of(fd)) vfs.syncfs(*file);
      break;
    case SYS_sync_file_range:
      if (const FileHold file = file_of(fd)) {
        expect("sync_file_range", vfs.sync_file_range(*file, r.args[1], r.args[2],
                                                      static_cast<file::SyncFileRange>(r.args[3] & kSyncFileRangeFlags)));
      }
      break;
    case SYS_fadvise64:
      if (const FileHold file = file_of(fd)) {
        expect("fadvise", vfs.fadvise(*file, r.args[1], r.args[2], static_cast<file::Fadvice>(r.args[3])));
      }
      break;
    case SYS_readahead:
      if (const FileHold file = file_of(fd)) expect("readahead", vfs.readahead(*file, r.args[1], r.args[2]));
      break;
    case SYS_link:
    case SYS_linkat:
      with_name("link", r.path, [&](std::string_view existing) {
        with_name("link", r.path2, [&](std::string_view path) { expect("link", replay_.files_.link(existing, path)); });
      });
      break;
    case SYS_unlink:
    case SYS_unlinkat:
      with_name("unlink", r.path, [&](std::string_view path) { expect("unlink", replay_.files_.unlink(path)); });
      break;
    case SYS_rename:
    case SYS_renameat:
    case SYS_renameat2:
      with_name("rename", r.path, [&](std::string_view from) {
        with_name("rename", r.path2, [&](std::string_view to) {
          const bool exchange = r.number == SYS_renameat2 && (r.args[4] & RENAME_EXCHANGE) != 0;
          expect("rename", exchange ? replay_.files_.exchange(from, to) : replay_.files_.rename(from, to));
        });
      });
      break;
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

}  // namespace quire::engine
