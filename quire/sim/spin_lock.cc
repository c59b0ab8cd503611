#include "quire/sim/spin_lock.h"

namespace quire::sim {

void SpinLock::lock_slow(unsigned subclass) {
  Scheduler& s = scheduler_;
  Task& me = s.context();
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .subclass = subclass});
  if (owner_ == nullptr && s.now() >= released_at_) return take();

  const Nanos begin = s.now();
  if (owner_ == &me) bug("spinlock '" + std::string(class_.name()) + "' taken twice by '" + me.name() + "'");
  s.contention_begin([&] { return ContentionBegin{.lock = class_.name(), .flags = kContentionSpin}; });
  if (owner_ == nullptr) {
    const Nanos free_at = released_at_ + s.costs().lock_handover;
    take();
    s.spin_until(free_at);
  } else {
    s.preempt_disable();
    waiters_.push_back(me);
    s.spin(WaitReason{.kind = "spinlock", .name = class_.name(), .owner = &owner_});
    QUIRE_BUG_ON(owner_ != &me);
    ++class_.stats().acquisitions;
  }
  acquired_at_ = s.now();
  class_.stats().record_wait(acquired_at_ - begin);
  s.contention_end([&] { return ContentionEnd{.lock = class_.name(), .ret = 0}; });
}

bool SpinLock::try_lock_here() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Scheduler& s = scheduler_;
  if (owner_ != nullptr || s.now() < released_at_) return false;
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .how = AcquireKind::kTry});
  take();
  return true;
}

void SpinLock::unlock_slow() {
  Scheduler& s = scheduler_;
  if (s.lock_checks()) s.lock_released(this, class_);
  if (waiters_.empty()) return give_back();
  QUIRE_BUG_ON(!held_by_current());
  class_.stats().record_hold(s.now() - acquired_at_);
  released_at_ = s.now();
  owner_ = waiters_.pop_front();
  s.stop_spinning(*owner_);
  s.preempt_enable();
}

}  // namespace quire::sim
