// Recorded calls that move bytes between files and memory, or between files.
//
// The user's buffers are touched by the access records that accompany each call, so the page cache is read and written with
// an iterator that has no memory of its own.
#include <sys/syscall.h>

#include <algorithm>

#include "quire/engine/thread_replay.h"

namespace quire::engine {

namespace {

bool writes(const file::File& file) { return any(file.f_mode, file::FileMode::kWrite); }

}  // namespace

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

// Of the calls that say where, but for preadv2 and pwritev2 at -1.
ThreadReplay::Position ThreadReplay::position_said(const trace::Record& r) {
  return r.args[3] == ~std::uint64_t{0} ? Position::kMoves : Position::kStays;
}

// Of those that may say where.
ThreadReplay::Position ThreadReplay::position_unless(const trace::Record& r, std::uint64_t says_where) {
  return (r.args[5] & says_where) != 0 ? Position::kStays : Position::kMovesFrom;
}

// Calls that move bytes: r.result of them.
ThreadReplay::Handled ThreadReplay::transfer_call(const trace::Record& r) {
  constexpr std::uint64_t kMaxRwCount = 0x7fff'f000;  // no call of Linux moves more
  const int fd = static_cast<int>(r.args[0]);
  const std::uint64_t bytes = std::min(static_cast<std::uint64_t>(r.result), kMaxRwCount);
  switch (r.number) {
    case SYS_read:
    case SYS_readv: transfer_in(fd, r.offset, bytes, Position::kMoves); break;
    case SYS_pread64:
    case SYS_preadv:
    case SYS_preadv2: transfer_in(fd, r.offset, bytes, position_said(r)); break;
    case SYS_write:
    case SYS_writev: transfer_out(fd, r.offset, bytes, Position::kMoves); break;
    case SYS_pwrite64:
    case SYS_pwritev:
    case SYS_pwritev2: transfer_out(fd, r.offset, bytes, position_said(r)); break;
    case SYS_sendfile: {  // out, in, offset; it writes where the file stands
      const FileHold out = hold(fd);
      const std::uint64_t to = out ? out->f_pos : 0;
      transfer_in(static_cast<int>(r.args[1]), r.offset, bytes, position_unless(r, trace::kSaysWhereFrom));
      transfer_out(fd, to, bytes, Position::kMoves);
      break;
    }
    case SYS_copy_file_range:
    case SYS_splice:  // in, offset, out, offset
      transfer_in(fd, r.offset, bytes, position_unless(r, trace::kSaysWhereFrom));
      transfer_out(static_cast<int>(r.args[2]), r.args[3], bytes, position_unless(r, trace::kSaysWhereTo));
      break;
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

}  // namespace quire::engine
