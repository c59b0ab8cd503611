// fork, vfork, clone and clone3: children that share memory are threads of this process, others become processes of their
// own in the trace. (QEMU turns a vfork into a fork.)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

using trace::protocol::MessageType;

std::uint64_t clone_flags(const PendingSyscall& call) {
  switch (call.number) {
    case SYS_clone: return call.args[0] & ~std::uint64_t{0xff};
    case SYS_vfork: return CLONE_VM | CLONE_VFORK;
    case SYS_clone3: {
      std::uint64_t flags = 0;
      read_guest(call.args[0], &flags, sizeof flags);
      return flags;
    }
    default: return 0;
  }
}

}  // namespace

bool is_fork(std::int64_t number) {
  return number == SYS_fork || number == SYS_vfork || number == SYS_clone || number == SYS_clone3;
}

void guard_forks() {
  pthread_atfork([] { pthread_mutex_lock(&process().lock); }, [] { pthread_mutex_unlock(&process().lock); },
                 [] { pthread_mutex_init(&process().lock, nullptr); });
}

void before_fork(Vcpu& v, const PendingSyscall& call) {
  if ((clone_flags(call) & CLONE_THREAD) != 0) process().threaded = true;
  flush(v);
}

void after_fork(Vcpu& v, const PendingSyscall& call, std::int64_t result) {
  Process& p = process();
  if (result == 0) {
    forget_parent();
    current();  // connects and makes this thread's new Vcpu
    return;
  }
  if (result < 0) return;
  Record fork;
  fork.kind = RecordKind::kFork;
  fork.number = static_cast<std::uint32_t>(call.number);
  fork.flags = clone_flags(call);
  fork.child.tid = ask_number(MessageType::kNumber, static_cast<std::uint32_t>(result), trace::protocol::kAskedByParent);
  const bool thread = (fork.flags & CLONE_THREAD) != 0;
  fork.child.pid = thread ? v.id.pid : fork.child.tid;
  if (!thread) {
    Lock hold(p.lock);
    p.numbers[static_cast<pid_t>(result)] = fork.child.tid;
  }
  start_new_epochs();  // a fork write-protects every private page
  order_call(v);
  write_record(v, fork);
  flush(v);
}

}  // namespace quire::recorder
