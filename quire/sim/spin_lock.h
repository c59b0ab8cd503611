// A spinlock (spinlock_t). Its holder keeps its CPU and may not sleep; who wants it burns its own CPU until the holder's
// clock says it is free, first come, first served (qspinlock).
//
// Contention is real in virtual time even though one host thread runs everything: a section that ran undisturbed from
// time 100 to 700 leaves `released_at_` = 700, and a CPU that asks at 200 waits until 700.
//
// Interrupt-safe by construction (scheduler.h): there is no irqsave variant.
#pragma once

#include "quire/base/intrusive_list.h"
#include "quire/base/thread_annotations.h"
#include "quire/sim/lock_class.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

class QUIRE_CAPABILITY("spinlock") SpinLock {
 public:
  SpinLock(Scheduler& scheduler, LockClass& lock_class) : scheduler_(scheduler), class_(lock_class) {}
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

  void lock() QUIRE_ACQUIRE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    Scheduler& s = scheduler_;
    s.sync_point();
    if (owner_ != nullptr || s.now() < released_at_ || s.lock_checks()) [[unlikely]]
      return lock_slow(0);
    take();
  }
  // A lock of a class of which one is held already, where the order within the class is known to be safe.
  void lock_nested(unsigned subclass) QUIRE_ACQUIRE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    scheduler_.sync_point();
    lock_slow(subclass);
  }
  [[nodiscard]] bool try_lock() QUIRE_TRY_ACQUIRE(true) {
    scheduler_.sync_point();
    return try_lock_here();
  }
  // The same without a sync point: for who has chosen what to lock since his last one, and must not lose it now.
  [[nodiscard]] bool try_lock_here() QUIRE_TRY_ACQUIRE(true);
  void unlock() QUIRE_RELEASE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    Scheduler& s = scheduler_;
    if (!waiters_.empty() || s.lock_checks()) [[unlikely]]
      return unlock_slow();
    give_back();
  }

  [[nodiscard]] bool is_locked() const { return owner_ != nullptr; }
  [[nodiscard]] bool held_by_current() const { return owner_ == &scheduler_.context(); }
  void assert_held() const QUIRE_ASSERT_HELD(this) { QUIRE_DCHECK(held_by_current()); }
  [[nodiscard]] const LockClass& lock_class() const { return class_; }

 private:
  void take() {
    scheduler_.preempt_disable();
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
    scheduler_.preempt_enable();
  }
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
