// User memory that the kernel itself reads or writes for a system call: which arguments point to it, and how much.
//
// Written when the call has returned, after its record. A call that failed with EFAULT is left out; of a call that failed
// otherwise only what it read counts.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

enum class Size : std::uint8_t {
  kNone,
  kFixed,      // `value` bytes
  kString,     // to the zero byte
  kArgument,   // as many bytes as argument `value` says
  kTimes8,     // 8 × argument `value`
  kTimes16,    // 16 × argument `value`
  kResult,     // as many as the result says
  kIovec,      // an array of argument `value` iovecs, and what they point to up to the result
  kMessage,    // a msghdr: its iovecs, name and control
  kByPointer,  // as many bytes as the 32-bit number at argument `value` says
  kFdSet,      // (argument 0 + 63) / 64 words
};
enum class Direction : std::uint8_t { kIn, kOut };

struct Buffer {
  std::uint8_t argument;
  Direction direction;
  Size size;
  std::uint16_t value;
};

struct Row {
  std::uint16_t number;
  Buffer buffers[4];
};

constexpr Direction I = Direction::kIn;
constexpr Direction O = Direction::kOut;
constexpr Buffer string(std::uint8_t argument) { return {argument, I, Size::kString, 0}; }
constexpr Buffer fixed(std::uint8_t argument, Direction d, std::uint16_t bytes) { return {argument, d, Size::kFixed, bytes}; }
constexpr Buffer result(std::uint8_t argument, Direction d) { return {argument, d, Size::kResult, 0}; }
constexpr Buffer by(std::uint8_t argument, Direction d, Size size, std::uint16_t value) { return {argument, d, size, value}; }

constexpr std::uint16_t kStat = 144, kStatx = 256, kTimespec = 16, kRusage = 144, kSiginfo = 128, kSigaction = 32;

// Ordered by number.
constexpr Row kRows[] = {
    {SYS_read, {result(1, O)}},
    {SYS_write, {result(1, I)}},
    {SYS_open, {string(0)}},
    {SYS_stat, {string(0), fixed(1, O, kStat)}},
    {SYS_fstat, {fixed(1, O, kStat)}},
    {SYS_lstat, {string(0), fixed(1, O, kStat)}},
    {SYS_poll, {by(0, I, Size::kTimes8, 1), by(0, O, Size::kTimes8, 1)}},
    {SYS_rt_sigaction, {fixed(1, I, kSigaction), fixed(2, O, kSigaction)}},
    {SYS_rt_sigprocmask, {fixed(1, I, 8), fixed(2, O, 8)}},
    {SYS_pread64, {result(1, O)}},
    {SYS_pwrite64, {result(1, I)}},
    {SYS_readv, {by(1, O, Size::kIovec, 2)}},
    {SYS_writev, {by(1, I, Size::kIovec, 2)}},
    {SYS_access, {string(0)}},
    {SYS_pipe, {fixed(0, O, 8)}},
    {SYS_select, {by(1, O, Size::kFdSet, 0), by(2, O, Size::kFdSet, 0), by(3, O, Size::kFdSet, 0), fixed(4, I, 16)}},
    {SYS_mincore, {}},
    {SYS_nanosleep, {fixed(0, I, kTimespec)}},
    {SYS_getitimer, {fixed(1, O, 32)}},
    {SYS_setitimer, {fixed(1, I, 32), fixed(2, O, 32)}},
    {SYS_sendfile, {fixed(2, O, 8)}},
    {SYS_connect, {by(1, I, Size::kArgument, 2)}},
    {SYS_accept, {by(1, O, Size::kByPointer, 2), fixed(2, O, 4)}},
    {SYS_sendto, {result(1, I), by(4, I, Size::kArgument, 5)}},
    {SYS_recvfrom, {result(1, O), by(4, O, Size::kByPointer, 5)}},
    {SYS_sendmsg, {by(1, I, Size::kMessage, 0)}},
    {SYS_recvmsg, {by(1, O, Size::kMessage, 0)}},
    {SYS_bind, {by(1, I, Size::kArgument, 2)}},
    {SYS_getsockname, {by(1, O, Size::kByPointer, 2), fixed(2, O, 4)}},
    {SYS_getpeername, {by(1, O, Size::kByPointer, 2), fixed(2, O, 4)}},
    {SYS_socketpair, {fixed(3, O, 8)}},
    {SYS_setsockopt, {by(3, I, Size::kArgument, 4)}},
    {SYS_getsockopt, {by(3, O, Size::kByPointer, 4), fixed(4, O, 4)}},
    {SYS_wait4, {fixed(1, O, 4), fixed(3, O, kRusage)}},
    {SYS_uname, {fixed(0, O, 390)}},
    {SYS_truncate, {string(0)}},
    {SYS_getdents, {result(1, O)}},
    {SYS_getcwd, {result(0, O)}},
    {SYS_chdir, {string(0)}},
    {SYS_rename, {string(0), string(1)}},
    {SYS_mkdir, {string(0)}},
    {SYS_rmdir, {string(0)}},
    {SYS_creat, {string(0)}},
    {SYS_link, {string(0), string(1)}},
    {SYS_unlink, {string(0)}},
    {SYS_symlink, {string(0), string(1)}},
    {SYS_readlink, {string(0), result(1, O)}},
    {SYS_chmod, {string(0)}},
    {SYS_chown, {string(0)}},
    {SYS_lchown, {string(0)}},
    {SYS_gettimeofday, {fixed(0, O, 16), fixed(1, O, 8)}},
    {SYS_getrlimit, {fixed(1, O, 16)}},
    {SYS_getrusage, {fixed(1, O, kRusage)}},
    {SYS_sysinfo, {fixed(0, O, 112)}},
    {SYS_times, {fixed(0, O, 32)}},
    {SYS_rt_sigpending, {fixed(0, O, 8)}},
    {SYS_rt_sigtimedwait, {fixed(0, I, 8), fixed(1, O, kSiginfo), fixed(2, I, kTimespec)}},
    {SYS_rt_sigsuspend, {fixed(0, I, 8)}},
    {SYS_sigaltstack, {fixed(0, I, 24), fixed(1, O, 24)}},
    {SYS_utime, {string(0), fixed(1, I, 16)}},
    {SYS_mknod, {string(0)}},
    {SYS_statfs, {string(0), fixed(1, O, 120)}},
    {SYS_fstatfs, {fixed(1, O, 120)}},
    {SYS_setrlimit, {fixed(1, I, 16)}},
    {SYS_setxattr, {string(0), string(1), by(2, I, Size::kArgument, 3)}},
    {SYS_getxattr, {string(0), string(1), result(2, O)}},
    {SYS_lgetxattr, {string(0), string(1), result(2, O)}},
    {SYS_fgetxattr, {string(1), result(2, O)}},
    {SYS_listxattr, {string(0), result(1, O)}},
    {SYS_llistxattr, {string(0), result(1, O)}},
    {SYS_flistxattr, {result(1, O)}},
    {SYS_time, {fixed(0, O, 8)}},
    {SYS_sched_setaffinity, {by(2, I, Size::kArgument, 1)}},
    {SYS_sched_getaffinity, {result(2, O)}},
    {SYS_getdents64, {result(1, O)}},
    {SYS_clock_gettime, {fixed(1, O, kTimespec)}},
    {SYS_clock_getres, {fixed(1, O, kTimespec)}},
    {SYS_clock_nanosleep, {fixed(2, I, kTimespec)}},
    {SYS_epoll_wait, {fixed(1, O, 12)}},
    {SYS_epoll_ctl, {fixed(3, I, 12)}},
    {SYS_utimes, {string(0), fixed(1, I, 32)}},
    {SYS_waitid, {fixed(2, O, kSiginfo), fixed(4, O, kRusage)}},
    {SYS_openat, {string(1)}},
    {SYS_mkdirat, {string(1)}},
    {SYS_mknodat, {string(1)}},
    {SYS_fchownat, {string(1)}},
    {SYS_newfstatat, {string(1), fixed(2, O, kStat)}},
    {SYS_unlinkat, {string(1)}},
    {SYS_renameat, {string(1), string(3)}},
    {SYS_linkat, {string(1), string(3)}},
    {SYS_symlinkat, {string(0), string(2)}},
    {SYS_readlinkat, {string(1), result(2, O)}},
    {SYS_fchmodat, {string(1)}},
    {SYS_faccessat, {string(1)}},
    {SYS_pselect6, {by(1, O, Size::kFdSet, 0), by(2, O, Size::kFdSet, 0), by(3, O, Size::kFdSet, 0), fixed(4, I, kTimespec)}},
    {SYS_ppoll, {by(0, I, Size::kTimes8, 1), by(0, O, Size::kTimes8, 1), fixed(2, I, kTimespec), fixed(3, I, 8)}},
    {SYS_utimensat, {string(1), fixed(2, I, 32)}},
    {SYS_epoll_pwait, {fixed(1, O, 12)}},
    {SYS_accept4, {by(1, O, Size::kByPointer, 2), fixed(2, O, 4)}},
    {SYS_pipe2, {fixed(0, O, 8)}},
    {SYS_preadv, {by(1, O, Size::kIovec, 2)}},
    {SYS_pwritev, {by(1, I, Size::kIovec, 2)}},
    {SYS_prlimit64, {fixed(2, I, 16), fixed(3, O, 16)}},
    {SYS_renameat2, {string(1), string(3)}},
    {SYS_getrandom, {result(0, O)}},
    {SYS_memfd_create, {string(0)}},
    {SYS_copy_file_range, {fixed(1, O, 8), fixed(3, O, 8)}},
    {SYS_preadv2, {by(1, O, Size::kIovec, 2)}},
    {SYS_pwritev2, {by(1, I, Size::kIovec, 2)}},
    {SYS_statx, {string(1), fixed(4, O, kStatx)}},
    {SYS_openat2, {string(1), by(2, I, Size::kArgument, 3)}},
    {SYS_faccessat2, {string(1)}},
};

constexpr std::uint64_t kIovMax = 1024;

// The iovecs themselves are read; what they point to is touched from the first on, up to `total` bytes.
void touch_iovecs(Vcpu& v, std::uint64_t address, std::uint64_t count, std::uint64_t total, AccessKind kind) {
  if (count > kIovMax) return;
  touch(v, address, count * sizeof(iovec), AccessKind::kRead);
  for (std::uint64_t i = 0; i < count && total != 0; ++i) {
    iovec piece{};
    if (!read_guest(address + i * sizeof piece, &piece, sizeof piece)) return;
    const std::uint64_t bytes = piece.iov_len < total ? piece.iov_len : total;
    touch(v, reinterpret_cast<std::uint64_t>(piece.iov_base), bytes, kind);
    total -= bytes;
  }
}

void touch_message(Vcpu& v, std::uint64_t address, std::uint64_t total, AccessKind kind) {
  msghdr message{};
  if (!read_guest(address, &message, sizeof message)) return;
  touch(v, address, sizeof message, AccessKind::kRead);
  touch(v, reinterpret_cast<std::uint64_t>(message.msg_name), message.msg_namelen, kind);
  touch(v, reinterpret_cast<std::uint64_t>(message.msg_control), message.msg_controllen, kind);
  touch_iovecs(v, reinterpret_cast<std::uint64_t>(message.msg_iov), message.msg_iovlen, total, kind);
}

void touch_buffer(Vcpu& v, const PendingSyscall& call, const Buffer& buffer, std::int64_t outcome) {
  if (buffer.direction == Direction::kOut && outcome < 0) return;
  const std::uint64_t address = call.args[buffer.argument];
  if (address == 0) return;
  const AccessKind kind = buffer.direction == Direction::kIn ? AccessKind::kRead : AccessKind::kWrite;
  const std::uint64_t done = outcome > 0 ? static_cast<std::uint64_t>(outcome) : 0;
  constexpr std::uint64_t kMost = std::uint64_t{1} << 31;
  const auto argument = [&](std::uint64_t unit) {
    const std::uint64_t n = call.args[buffer.value % 6];
    return n < kMost / unit ? n * unit : 0;
  };
  switch (buffer.size) {
    case Size::kNone: break;
    case Size::kFixed: touch(v, address, buffer.value, kind); break;
    case Size::kString: touch(v, address, read_guest_string(address).size() + 1, kind); break;
    case Size::kArgument: touch(v, address, argument(1), kind); break;
    case Size::kTimes8: touch(v, address, argument(8), kind); break;
    case Size::kTimes16: touch(v, address, argument(16), kind); break;
    case Size::kResult: touch(v, address, done < kMost ? done : 0, kind); break;
    case Size::kIovec: touch_iovecs(v, address, call.args[buffer.value], done, kind); break;
    case Size::kMessage: touch_message(v, address, done, kind); break;
    case Size::kByPointer: {
      std::uint32_t bytes = 0;
      if (read_guest(call.args[buffer.value], &bytes, sizeof bytes) && bytes < kMost) touch(v, address, bytes, kind);
      break;
    }
    case Size::kFdSet: touch(v, address, (call.args[0] % 65536 + 63) / 64 * 8, kind); break;
  }
}

const Row* find_row(std::int64_t number) {
  std::size_t low = 0, high = sizeof kRows / sizeof kRows[0];
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (kRows[middle].number < number)
      low = middle + 1;
    else
      high = middle;
  }
  return low < sizeof kRows / sizeof kRows[0] && kRows[low].number == number ? &kRows[low] : nullptr;
}

constexpr bool rows_are_ordered() {
  for (std::size_t i = 1; i < sizeof kRows / sizeof kRows[0]; ++i) {
    if (kRows[i - 1].number >= kRows[i].number) return false;
  }
  return true;
}
static_assert(rows_are_ordered());

constexpr std::int64_t kEfault = -14;

}  // namespace

void touch_syscall_buffers(Vcpu& v, const PendingSyscall& call, std::int64_t outcome) {
  if (outcome == kEfault) return;
  if (call.number == SYS_mincore && outcome == 0) {
    touch(v, call.args[2], (call.args[1] + 4095) / 4096, AccessKind::kWrite);
    return;
  }
  const Row* const row = find_row(call.number);
  if (row == nullptr) return;
  for (const Buffer& buffer : row->buffers) {
    if (buffer.size != Size::kNone) touch_buffer(v, call, buffer, outcome);
  }
}

}  // namespace quire::recorder
