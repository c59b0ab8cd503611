// A sleeping lock with one owner (struct mutex). Handed over in order of arrival.
//
// A section that ran undisturbed from time 100 to 700 leaves `released_at_` = 700; who asks at 200 spins until 700, since
// its owner was on a CPU all that time (Linux's optimistic spinning). If the owner was interrupted while holding it, who
// asks sleeps.
//
// Differs from Linux: the lock goes straight to the longest waiter, nobody may steal it in between.
#pragma once

#include "quire/base/intrusive_list.h"
#include "quire/base/thread_annotations.h"
#include "quire/sim/lock_class.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

class QUIRE_CAPABILITY("mutex") Mutex {
 public:
  Mutex(Scheduler& scheduler, LockClass& lock_class) : scheduler_(scheduler), class_(lock_class) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() QUIRE_ACQUIRE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    Scheduler& s = scheduler_;
    s.sync_point();
    if (owner_ != nullptr || s.now() < released_at_ || s.lock_checks()) [[unlikely]]
      return lock_slow(0);
    take();
  }
  void lock_nested(unsigned subclass) QUIRE_ACQUIRE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    scheduler_.sync_point();
    lock_slow(subclass);
  }
  [[nodiscard]] bool try_lock() QUIRE_TRY_ACQUIRE(true);
  void unlock() QUIRE_RELEASE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    if (!waiters_.empty() || scheduler_.lock_checks()) [[unlikely]]
      return unlock_slow();
    give_back();
  }

  [[nodiscard]] bool is_locked() const { return owner_ != nullptr; }
  [[nodiscard]] bool held_by_current() const { return owner_ == &scheduler_.context(); }
  void assert_held() const QUIRE_ASSERT_HELD(this) { QUIRE_DCHECK(held_by_current()); }
  [[nodiscard]] const LockClass& lock_class() const { return class_; }

 private:
  void take() {
    owner_ = &scheduler_.context();
    acquired_at_ = scheduler_.now();
    ++class_.stats().acquisitions;
  }
  void give_back() {
    QUIRE_DCHECK(held_by_current());
    const Nanos now = scheduler_.now();
    class_.stats().record_hold(now - acquired_at_);
    released_at_ = now;
    owner_ = nullptr;
  }
  template <class Wait>
  void wait(Wait&& for_it);
  void lock_slow(unsigned subclass) QUIRE_NO_THREAD_SAFETY_ANALYSIS;
  void unlock_slow() QUIRE_NO_THREAD_SAFETY_ANALYSIS;

  Scheduler& scheduler_;
  LockClass& class_;
  Task* owner_ = nullptr;
  Nanos acquired_at_ = 0;
  Nanos released_at_ = 0;
  List<Task, &Task::wait_node> waiters_;
};

}  // namespace quire::sim
