// System calls: what has to be done before the kernel sees them, and what of them goes into the trace afterwards.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>

#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

using trace::protocol::MessageType;

__attribute__((tls_model("initial-exec"))) thread_local PendingSyscall pending;

// QEMU's own results, never seen by the guest: the call will be made again, or was sigreturn.
constexpr std::int64_t kRestart = -512;
constexpr std::int64_t kSigreturn = -513;
constexpr std::uint64_t kCloseRangeCloexec = 4;

// --- which calls are recorded

constexpr int kNotRecorded = -1;
constexpr std::int64_t kMseal = 462;  // SYS_mseal, which headers before 6.10 do not have

// clang-format off
// How many arguments of the call count; the registers of the others hold whatever they held.
int recorded_arguments(std::int64_t number) {
  switch (number) {
    case SYS_sync: case SYS_munlockall: case SYS_sched_yield:
      return 0;
    case SYS_brk: case SYS_close: case SYS_dup: case SYS_pipe: case SYS_unlink: case SYS_mlockall: case SYS_shmdt: case SYS_fsync:
    case SYS_fdatasync: case SYS_syncfs: case SYS_eventfd: case SYS_epoll_create: case SYS_epoll_create1:
      return 1;
    case SYS_munmap: case SYS_mlock: case SYS_munlock: case SYS_dup2: case SYS_creat: case SYS_truncate: case SYS_ftruncate:
    case SYS_rename: case SYS_link: case SYS_pipe2: case SYS_memfd_create: case SYS_eventfd2: case SYS_timerfd_create: case SYS_nanosleep:
    case SYS_setrlimit:
      return 2;
    case SYS_mprotect: case SYS_madvise: case SYS_mlock2: case SYS_msync: case SYS_mincore: case SYS_shmget: case SYS_shmat:
    case SYS_shmctl: case SYS_read: case SYS_write: case SYS_readv: case SYS_writev: case SYS_lseek: case SYS_open: case SYS_unlinkat:
    case SYS_dup3: case SYS_close_range: case SYS_readahead: case SYS_socket: case SYS_accept: case SYS_set_mempolicy:
    case SYS_membarrier: case kMseal:
      return 3;
    case SYS_pkey_mprotect: case SYS_pread64: case SYS_pwrite64: case SYS_preadv: case SYS_pwritev: case SYS_sendfile: case SYS_openat:
    case SYS_openat2: case SYS_renameat: case SYS_fallocate: case SYS_fadvise64: case SYS_sync_file_range: case SYS_wait4:
    case SYS_clock_nanosleep: case SYS_prlimit64: case SYS_socketpair: case SYS_accept4:
      return 4;
    case SYS_mremap: case SYS_remap_file_pages: case SYS_renameat2: case SYS_linkat: case SYS_waitid:
      return 5;
    case SYS_mmap: case SYS_mbind: case SYS_preadv2: case SYS_pwritev2: case SYS_copy_file_range: case SYS_splice:
      return 6;
    default: return kNotRecorded;
  }
}

// Filtered accesses would hide the faults that follow these.
bool changes_mappings(const PendingSyscall& call) {
  switch (call.number) {
    case SYS_munmap: case SYS_mremap: case SYS_mprotect: case SYS_pkey_mprotect: case SYS_madvise: case SYS_mlock: case SYS_mlock2:
    case SYS_munlock: case SYS_mlockall: case SYS_munlockall: case SYS_msync: case SYS_remap_file_pages: case SYS_mbind:
    case SYS_shmdt: case SYS_brk: case SYS_ftruncate: case SYS_truncate: case SYS_fallocate: case SYS_fsync: case SYS_fdatasync:
    case SYS_sync:
      return true;
    case SYS_mmap: return (call.args[3] & MAP_FIXED) != 0;
    case SYS_shmat: return true;
    default: return false;
  }
}

// --- order among threads

// Calls that may keep a thread waiting for another one in replay, too: they came after what had completed when they began.
bool may_wait_for_threads(std::int64_t number) {
  switch (number) {
    case SYS_read: case SYS_readv: case SYS_write: case SYS_writev: case SYS_sendfile: case SYS_splice: case SYS_wait4: case SYS_waitid:
      return true;
    default: return false;
  }
}

// Does the call let other threads go on?
bool wakes_threads(const PendingSyscall& call) {
  constexpr std::uint64_t kOperation = 0x7f;  // without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
  if (call.number != SYS_futex) return false;
  switch (call.args[1] & kOperation) {
    case FUTEX_WAKE: case FUTEX_REQUEUE: case FUTEX_CMP_REQUEUE: case FUTEX_WAKE_OP: case FUTEX_UNLOCK_PI: case FUTEX_WAKE_BITSET:
      return true;
    default: return false;
  }
}
// clang-format on

// --- areas the guest mapped itself

void follow_areas(const PendingSyscall& call, std::int64_t result) {
  const auto page_up = [](std::uint64_t v) { return (v + 4095) & ~std::uint64_t{4095}; };
  Process& p = process();
  const auto at = static_cast<std::uint64_t>(result);
  Lock hold(p.lock);
  switch (call.number) {
    case SYS_mmap: p.areas.add(at, at + page_up(call.args[1])); break;
    case SYS_munmap: p.areas.remove(call.args[0], call.args[0] + page_up(call.args[1])); break;
    case SYS_mremap:
      p.areas.remove(call.args[0], call.args[0] + page_up(call.args[1]));
      p.areas.add(at, at + page_up(call.args[2]));
      break;
    case SYS_brk:
      if (at > p.brk_start) p.areas.add(p.brk_start, page_up(at));
      break;
    case SYS_shmat: break;  // its size is found when it is first touched
    default: break;
  }
}

void forget_known_areas() {
  Lock hold(process().lock);
  for (Vcpu* v = process().vcpus; v != nullptr; v = v->next) v->known_end = 0;
}

// --- details of single calls

std::uint64_t position_before(int fd, std::int64_t moved) {
  const off_t at = lseek(fd, 0, SEEK_CUR);
  return at > moved ? static_cast<std::uint64_t>(at - moved) : 0;
}

// A pointer argument to a file position becomes the position before the call; `says_where` is marked when it was one.
void replace_by_position(Record& r, std::size_t argument, std::uint64_t fd, std::uint64_t says_where) {
  std::uint64_t& pointer = r.args[argument];
  std::int64_t after = 0;
  if (pointer == 0) {
    pointer = position_before(static_cast<int>(fd), r.result);
  } else if (read_guest(pointer, &after, sizeof after)) {
    pointer = static_cast<std::uint64_t>(after - r.result);
    r.args[5] |= says_where;
  }
}

// Does pwrite write at the file's end, whatever its offset? (QEMU 7.2 has no pwritev2.)
bool appends(const Record& r) {
  const int flags = fcntl(static_cast<int>(r.args[0]), F_GETFL);
  return (flags >= 0 && (flags & O_APPEND) != 0) || (r.number == SYS_pwritev2 && (r.args[5] & RWF_APPEND) != 0);
}

// Where the file ended before `written` bytes were appended.
std::uint64_t end_before(int fd, std::int64_t written) {
  struct stat file{};
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || file.st_size < written) return 0;
  return static_cast<std::uint64_t>(file.st_size - written);
}

// clang-format off
void add_offset(Record& r) {
  if (r.result < 0) return;
  switch (r.number) {
    case SYS_read: case SYS_write: case SYS_readv: case SYS_writev:
      r.offset = position_before(static_cast<int>(r.args[0]), r.result);
      break;
    case SYS_pwrite64: case SYS_pwritev: case SYS_pwritev2:
      if (appends(r)) {
        r.offset = end_before(static_cast<int>(r.args[0]), r.result);
        break;
      }
      [[fallthrough]];
    case SYS_pread64: case SYS_preadv: case SYS_preadv2:
      r.offset = r.args[3];
      if (r.offset == ~std::uint64_t{0}) r.offset = position_before(static_cast<int>(r.args[0]), r.result);
      break;
    case SYS_sendfile:
      replace_by_position(r, 2, r.args[1], trace::kSaysWhereFrom);
      r.offset = r.args[2];
      break;
    case SYS_copy_file_range: case SYS_splice:
      r.args[5] &= 0xffff'ffff;  // flags
      replace_by_position(r, 1, r.args[0], trace::kSaysWhereFrom);
      replace_by_position(r, 3, r.args[2], trace::kSaysWhereTo);
      r.offset = r.args[1];
      break;
    default: break;
  }
}
// clang-format on

struct Paths {
  std::string first, second;
};

// clang-format off
Paths paths_of(const PendingSyscall& c) {
  const auto at = [](std::uint64_t dirfd, std::uint64_t path) {
    return absolute_path(static_cast<int>(dirfd), read_guest_string(path));
  };
  // What the call changes: the replay looks for it among the names of files.
  const auto name = [](std::uint64_t dirfd, std::uint64_t path, LastLink last = LastLink::kItself) {
    return kernel_path(static_cast<int>(dirfd), read_guest_string(path), last);
  };
  const auto here = static_cast<std::uint64_t>(AT_FDCWD);
  switch (c.number) {
    case SYS_open: case SYS_creat: return {at(here, c.args[0]), {}};
    case SYS_openat: case SYS_openat2: return {at(c.args[0], c.args[1]), {}};
    case SYS_truncate: return {name(here, c.args[0], LastLink::kFollowed), {}};
    case SYS_unlink: return {name(here, c.args[0]), {}};
    case SYS_unlinkat: return {name(c.args[0], c.args[1]), {}};
    case SYS_link: return {name(here, c.args[0]), name(here, c.args[1])};
    case SYS_linkat:
      return {name(c.args[0], c.args[1], (c.args[4] & AT_SYMLINK_FOLLOW) != 0 ? LastLink::kFollowed : LastLink::kItself),
              name(c.args[2], c.args[3])};
    case SYS_rename: return {name(here, c.args[0]), name(here, c.args[1])};
    case SYS_renameat: case SYS_renameat2: return {name(c.args[0], c.args[1]), name(c.args[2], c.args[3])};
    case SYS_memfd_create: return {read_guest_string(c.args[0]), {}};
    default: return {};
  }
}

bool duplicates(const PendingSyscall& c) {
  return c.number == SYS_fcntl && (c.args[1] == F_DUPFD || c.args[1] == F_DUPFD_CLOEXEC);
}

void describe_new_files(Vcpu& v, const PendingSyscall& c, std::int64_t result) {
  std::uint64_t pair_at = 0;
  switch (c.number) {
    case SYS_open: case SYS_creat: case SYS_openat: case SYS_openat2: case SYS_memfd_create: case SYS_dup: case SYS_dup2: case SYS_dup3:
    case SYS_socket: case SYS_accept: case SYS_accept4: case SYS_eventfd: case SYS_eventfd2: case SYS_epoll_create:
    case SYS_epoll_create1: case SYS_timerfd_create: case SYS_fcntl:
      if (c.number == SYS_fcntl && !duplicates(c)) return;
      describe_fd(v, static_cast<int>(result));
      return;
    case SYS_pipe: case SYS_pipe2: pair_at = c.args[0]; break;
    case SYS_socketpair: pair_at = c.args[3]; break;
    default: return;
  }
  std::int32_t pair[2];
  if (!read_guest(pair_at, pair, sizeof pair)) return;
  describe_fd(v, pair[0]);
  describe_fd(v, pair[1]);
}
// clang-format on

bool seals(const PendingSyscall& c) { return c.number == SYS_fcntl && c.args[1] == F_ADD_SEALS; }

void record_call(Vcpu& v, const PendingSyscall& call, std::int64_t result) {
  const int arguments = duplicates(call) || seals(call) ? 3 : recorded_arguments(call.number);
  if (arguments == kNotRecorded) return order_here(v);
  if (call.sequence != 0) {
    order_call(v, call);
  } else if (may_wait_for_threads(call.number)) {
    order_call_after(v, call.completed_before);
  } else {
    order_call(v);
  }
  Record r;
  r.kind = RecordKind::kSyscall;
  r.number = static_cast<std::uint32_t>(call.number);
  for (std::size_t i = 0; i < static_cast<std::size_t>(arguments); ++i) r.args[i] = call.args[i];
  r.result = result;
  add_offset(r);
  add_child(r);
  const Paths paths = paths_of(call);
  write_record(v, r, paths.first, paths.second);
  if (result >= 0) describe_new_files(v, call, result);
}

void pin_random_result(Vcpu& v, const PendingSyscall& call, std::int64_t result) {
  if (result <= 0) return;
  if (call.number == SYS_getrandom) return pin_random(v, call.args[0], result);
  if (call.number != SYS_read) return;
  bool random;
  {
    Lock hold(process().lock);
    random = process().random_fds.contains(static_cast<int>(call.args[0]));
  }
  if (random) pin_random(v, call.args[1], result);
}

// Before the kernel can give the number to another file.
void forget_random_fds(std::uint64_t first, std::uint64_t last) {
  Lock hold(process().lock);
  std::set<int>& fds = process().random_fds;
  std::erase_if(fds, [&](int fd) { return static_cast<std::uint64_t>(fd) >= first && static_cast<std::uint64_t>(fd) <= last; });
}

void close_range_hits_us(const PendingSyscall& call) {
  Process& p = process();
  const auto fd = static_cast<std::uint64_t>(p.fd);
  if (call.args[0] > fd || call.args[1] < fd || (call.args[2] & kCloseRangeCloexec) != 0) return;
  send_note(MessageType::kExecuting, static_cast<std::uint32_t>(p.host_pid), trace::protocol::kSameImage);
  Lock hold(p.lock);
  close(p.fd);
  p.fd = -1;
}

void reconnect_if_closed() {
  Process& p = process();
  if (p.fd >= 0 || p.silent) return;
  connect_collector();
  ask_number(MessageType::kHello, static_cast<std::uint32_t>(p.host_pid), trace::protocol::kSameImage);
}

}  // namespace

void on_syscall(Vcpu& v, std::int64_t number, const std::array<std::uint64_t, 6>& args) {
  pending = {number, args, completed_calls(), number == SYS_munmap || number == SYS_shmdt ? order_entry(v) : 0};
  switch (number) {
    case SYS_fork:
    case SYS_vfork:
    case SYS_clone:
    case SYS_clone3: before_fork(v, pending); break;
    case SYS_execve: on_execve(v, AT_FDCWD, {args[0], args[1], args[2]}, 0); break;
    case SYS_execveat: on_execve(v, static_cast<int>(args[0]), {args[1], args[2], args[3]}, args[4]); break;
    case SYS_exit: thread_exits(v, static_cast<int>(args[0])); break;
    case SYS_exit_group: process_exits(static_cast<int>(args[0])); break;
    case SYS_close:
      move_connection_away_from(static_cast<int>(args[0]));
      forget_random_fds(args[0] & 0xffff'ffff, args[0] & 0xffff'ffff);
      break;
    case SYS_dup2:
    case SYS_dup3: move_connection_away_from(static_cast<int>(args[1])); break;
    case SYS_close_range:
      close_range_hits_us(pending);
      if ((args[2] & kCloseRangeCloexec) == 0) forget_random_fds(args[0], args[1]);
      break;
    case SYS_wait4:
    case SYS_waitid: flush(v); break;
    default: break;
  }
  if (wakes_threads(pending)) order_wake_up(v);
}

void on_syscall_return(Vcpu& v, std::int64_t number, std::int64_t result) {
  const PendingSyscall call = pending;
  if (call.number != number) return;
  if (is_fork(number)) {
    after_fork(v, call, result);  // v is gone in the child
    return;
  }
  reconnect_if_closed();
  if (result == kRestart || result == kSigreturn) return;
  if (result >= 0 || result < -4095) {
    if (changes_mappings(call)) {
      forget_known_areas();
      start_new_epochs();
    }
    follow_areas(call, result);
  }
  record_call(v, call, result);
  pin_random_result(v, call, result);
  touch_syscall_buffers(v, call, result);
}

}  // namespace quire::recorder
