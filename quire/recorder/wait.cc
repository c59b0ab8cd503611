// Which child wait4 and waitid found, and what they say of it. A program may not ask for that; the replay has to know whom to
// wait for, and whether for its end.
#include <sys/syscall.h>

#include "quire/recorder/process.h"
#include "quire/trace/wait_status.h"

namespace quire::recorder {
namespace {

enum class Child : std::uint8_t { kWaitedFor, kEnded, kLives };

Child state_of(pid_t child) {
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0) return Child::kWaitedFor;
  return info.si_pid != 0 ? Child::kEnded : Child::kLives;
}

// Of a child that nobody asked the status of: 0 when the call was told of its end.
std::int32_t untold_status(pid_t child, std::uint64_t options) {
  if ((options & (WSTOPPED | WCONTINUED)) == 0) return 0;
  const Child state = state_of(child);
  if (state == Child::kWaitedFor || (state == Child::kEnded && (options & WNOWAIT) != 0)) return 0;
  return (options & WSTOPPED) != 0 ? trace::wait_stopped(SIGSTOP) : trace::kWaitContinued;
}

pid_t found_by_wait4(Record& r) {
  if (r.result <= 0) return 0;
  const auto child = static_cast<pid_t>(r.result);
  if (r.args[1] == 0 || !read_guest(r.args[1], &r.status, sizeof r.status)) r.status = untold_status(child, r.args[2]);
  return child;
}

// Without a siginfo the child is known when the call names it: and with WNOHANG, when it is gone.
pid_t found_by_waitid(Record& r) {
  if (r.result != 0) return 0;
  if (r.args[2] != 0) {
    std::int32_t info[7] = {};  // siginfo: signo, errno, code, -, pid, uid, status
    read_guest(r.args[2], info, sizeof info);
    r.status = trace::wait_status(info[2], info[6]);
    return info[4];
  }
  const auto child = static_cast<pid_t>(r.args[1]);
  if (r.args[0] != P_PID || ((r.args[3] & WNOHANG) != 0 && state_of(child) != Child::kWaitedFor)) return 0;
  r.status = untold_status(child, r.args[3]);
  return child;
}

}  // namespace

void add_child(Record& r) {
  const pid_t host = r.number == SYS_wait4 ? found_by_wait4(r) : r.number == SYS_waitid ? found_by_waitid(r) : 0;
  if (host == 0) return;
  std::uint32_t number = 0;
  {
    Lock hold(process().lock);
    if (const auto found = process().numbers.find(host); found != process().numbers.end()) number = found->second;
  }
  if (number == 0) {
    number =
        ask_number(trace::protocol::MessageType::kNumber, static_cast<std::uint32_t>(host), trace::protocol::kAskedByWaiter);
  }
  r.child = {number, number};
  if (r.number == SYS_wait4) r.result = number;
}

}  // namespace quire::recorder
