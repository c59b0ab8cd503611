// A queue of tasks that wait for something to become true (wait_queue_head_t). First come, first woken.
//
//   waiter:  queue.wait_until([&] { return folio.uptodate(); });
//   waker:   make it true, then queue.wake_all();
//
// Nothing runs between the test of a condition and the wait, so no wake-up is lost without any lock. A wait may return
// early (Scheduler::wake, for a signal): wait_until asks again, wait() leaves that to its caller.
// Tasks only; a wait in boot context or in an interrupt is a BUG.
#pragma once

#include <string_view>

#include "quire/base/intrusive_list.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

class WaitQueue {
 public:
  // `name` must live as long as the queue (a literal).
  WaitQueue(Scheduler& scheduler, std::string_view name, Sleep sleep = Sleep::kUninterruptible)
      : scheduler_(scheduler), name_(name), sleep_(sleep) {}
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;

  // Until woken. The caller tests its condition first, with no sync point between.
  void wait();
  // Until woken or for `timeout`.
  WaitOutcome wait_timeout(Nanos timeout);

  // Until pred() is true (wait_event).
  template <class Pred>
  void wait_until(Pred&& pred) {
    while (!pred()) wait();
  }
  // The same for at most `timeout`; kTimeout when pred() was still false then (wait_event_timeout).
  template <class Pred>
  WaitOutcome wait_until_timeout(Nanos timeout, Pred&& pred) {
    const Nanos deadline = scheduler_.deadline(timeout);
    while (!pred()) {
      if (scheduler_.now() >= deadline) return WaitOutcome::kTimeout;
      wait_timeout(deadline - scheduler_.now());
    }
    return WaitOutcome::kWoken;
  }

  // Wakes the task that has waited longest; false when none waits. From any context.
  bool wake_one();
  // Returns how many were woken.
  unsigned wake_all();

  [[nodiscard]] bool empty() const { return waiters_.empty(); }
  [[nodiscard]] std::string_view name() const { return name_; }

 private:
  [[nodiscard]] WaitReason reason() const { return WaitReason{.kind = "wait queue", .name = name_, .sleep = sleep_}; }

  Scheduler& scheduler_;
  std::string_view name_;
  Sleep sleep_;
  List<Task, &Task::wait_node> waiters_;
};

}  // namespace quire::sim
