#include "quire/sim/wait_queue.h"

namespace quire::sim {

void WaitQueue::wait() {
  scheduler_.might_sleep(name_);
  waiters_.push_back(scheduler_.context());
  scheduler_.block(reason(), Scheduler::Interruptible::kYes);
}

WaitOutcome WaitQueue::wait_timeout(Nanos timeout) {
  scheduler_.might_sleep(name_);
  waiters_.push_back(scheduler_.context());
  return scheduler_.block_until(reason(), scheduler_.deadline(timeout));
}

bool WaitQueue::wake_one() {
  Task* task = waiters_.pop_front();
  if (task == nullptr) return false;
  scheduler_.wake_waiter(*task);
  return true;
}

unsigned WaitQueue::wake_all() {
  unsigned woken = 0;
  while (wake_one()) ++woken;
  return woken;
}

}  // namespace quire::sim
