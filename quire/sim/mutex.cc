#include "quire/sim/mutex.h"

namespace quire::sim {

// A task that is unwound while it waits may own the lock already, and no guard gives it back.
template <class Wait>
void Mutex::wait(Wait&& for_it) {
  try {
    for_it();
  } catch (...) {
    if (held_by_current()) give_back();
    throw;
  }
}

void Mutex::lock_slow(unsigned subclass) {
  Scheduler& s = scheduler_;
  Task& me = s.context();
  s.might_sleep(class_.name());
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .subclass = subclass});
  if (owner_ == nullptr && s.now() >= released_at_) return take();

  const Nanos begin = s.now();
  if (owner_ == &me) bug("mutex '" + std::string(class_.name()) + "' taken twice by '" + me.name() + "'");
  s.contention_begin([&] { return ContentionBegin{.lock = class_.name(), .flags = kContentionMutex}; });
  if (owner_ == nullptr) {
    const Nanos free_at = released_at_ + s.costs().lock_handover;
    take();
    wait([&] { s.spin_until(free_at); });
  } else {
    waiters_.push_back(me);
    wait([&] { s.block(WaitReason{.kind = "mutex", .name = class_.name(), .owner = &owner_}, Scheduler::Interruptible::kNo); });
    QUIRE_BUG_ON(owner_ != &me);
    ++class_.stats().acquisitions;
  }
  acquired_at_ = s.now();
  class_.stats().record_wait(acquired_at_ - begin);
  s.contention_end([&] { return ContentionEnd{.lock = class_.name(), .ret = 0}; });
}

bool Mutex::try_lock() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Scheduler& s = scheduler_;
  s.sync_point();
  if (owner_ != nullptr || s.now() < released_at_) return false;
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .how = AcquireKind::kTry});
  take();
  return true;
}

void Mutex::unlock_slow() {
  Scheduler& s = scheduler_;
  if (s.lock_checks()) s.lock_released(this, class_);
  if (waiters_.empty()) return give_back();
  QUIRE_BUG_ON(!held_by_current());
  class_.stats().record_hold(s.now() - acquired_at_);
  released_at_ = s.now();
  owner_ = waiters_.pop_front();
  s.wake_waiter(*owner_);
}

}  // namespace quire::sim
