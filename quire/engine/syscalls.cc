// Dispatch of recorded system calls. Calls that failed when they were recorded changed nothing and are only charged.
#include <sys/syscall.h>

#include "quire/engine/thread_replay.h"

namespace quire::engine {

void ThreadReplay::syscall(const trace::Record& r) {
  scheduler_.charge(scheduler_.costs().syscall_entry);
  ++replay_.stats_.syscalls;
  if (r.number == SYS_sched_yield) return scheduler_.yield();
  if (r.result < 0) return;
  if (memory_call(r) == Handled::kYes) return;
  if (file_call(r) == Handled::kYes) return;
  if (r.number == SYS_wait4 || r.number == SYS_waitid) wait(r);
}

}  // namespace quire::engine
