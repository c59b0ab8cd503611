#include "quire/sim/rw_semaphore.h"

namespace quire::sim {

// A task that is unwound while it waits may hold the lock already, and no guard gives it back.
template <class Wait>
void RwSemaphore::wait(Wait&& for_it) {
  try {
    for_it();
  } catch (...) {
    Task& me = scheduler_.context();
    if (writer_ == &me) {
      give_back_write();
    } else if (me.wait_key == kGranted) {
      give_back_read();
    }
    throw;
  }
}

void RwSemaphore::down_read_slow(unsigned subclass) {
  Scheduler& s = scheduler_;
  Task& me = s.context();
  s.might_sleep(class_.name());
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .subclass = subclass, .share = LockShare::kRead});
  if (writer_ == nullptr && waiters_.empty() && s.now() >= write_released_at_) return take_read();

  const Nanos begin = s.now();
  if (writer_ == &me) bug("rw_semaphore '" + std::string(class_.name()) + "' read by its writer '" + me.name() + "'");
  s.contention_begin([&] { return ContentionBegin{.lock = class_.name(), .flags = kContentionRead}; });
  if (writer_ == nullptr && waiters_.empty()) {
    const bool first = readers_ == 0;
    take_read();
    me.wait_key = kGranted;
    wait([&] { s.spin_until(write_released_at_ + s.costs().lock_handover); });
    if (first) acquired_at_ = s.now();
  } else {
    me.wait_key = kReader;
    waiters_.push_back(me);
    wait([&] {
      s.block(WaitReason{.kind = "rw_semaphore (to read)", .name = class_.name(), .owner = &writer_},
              Scheduler::Interruptible::kNo);
    });
    QUIRE_BUG_ON(readers_ == 0 || writer_ != nullptr);
    ++class_.stats().acquisitions;
  }
  class_.stats().record_wait(s.now() - begin);
  s.contention_end([&] { return ContentionEnd{.lock = class_.name(), .ret = 0}; });
}

void RwSemaphore::down_write_slow(unsigned subclass) {
  Scheduler& s = scheduler_;
  Task& me = s.context();
  s.might_sleep(class_.name());
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .subclass = subclass});
  if (!is_locked() && s.now() >= free_at()) return take_write();

  const Nanos begin = s.now();
  if (writer_ == &me) bug("rw_semaphore '" + std::string(class_.name()) + "' taken twice by '" + me.name() + "'");
  s.contention_begin([&] { return ContentionBegin{.lock = class_.name(), .flags = kContentionWrite}; });
  if (!is_locked()) {
    const Nanos when = free_at() + s.costs().lock_handover;
    me.wait_key = kWriter;
    take_write();
    wait([&] { s.spin_until(when); });
  } else {
    me.wait_key = kWriter;
    waiters_.push_back(me);
    wait([&] {
      s.block(WaitReason{.kind = "rw_semaphore (to write)", .name = class_.name(), .owner = &writer_},
              Scheduler::Interruptible::kNo);
    });
    QUIRE_BUG_ON(writer_ != &me || readers_ != 0);
    ++class_.stats().acquisitions;
  }
  acquired_at_ = s.now();
  class_.stats().record_wait(acquired_at_ - begin);
  s.contention_end([&] { return ContentionEnd{.lock = class_.name(), .ret = 0}; });
}

bool RwSemaphore::down_read_trylock() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Scheduler& s = scheduler_;
  s.sync_point();
  if (writer_ != nullptr || !waiters_.empty() || s.now() < write_released_at_) return false;
  if (s.lock_checks())
    s.lock_acquired({.lock = this, .lock_class = &class_, .how = AcquireKind::kTry, .share = LockShare::kRead});
  take_read();
  return true;
}

bool RwSemaphore::down_write_trylock() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Scheduler& s = scheduler_;
  s.sync_point();
  if (is_locked() || s.now() < free_at()) return false;
  if (s.lock_checks()) s.lock_acquired({.lock = this, .lock_class = &class_, .how = AcquireKind::kTry});
  take_write();
  return true;
}

void RwSemaphore::up_read_slow() {
  if (scheduler_.lock_checks()) scheduler_.lock_released(this, class_);
  give_back_read();
  if (readers_ == 0) wake_head();
}

void RwSemaphore::up_write_slow() {
  if (scheduler_.lock_checks()) scheduler_.lock_released(this, class_);
  give_back_write();
  wake_head();
}

void RwSemaphore::downgrade_write() {
  give_back_write();
  readers_ = 1;
  acquired_at_ = scheduler_.now();
  wake_readers();
}

void RwSemaphore::wake_readers() {
  for (Task* head = waiters_.front_or_null(); head != nullptr && head->wait_key == kReader; head = waiters_.front_or_null()) {
    waiters_.erase(*head);
    head->wait_key = kGranted;
    if (readers_++ == 0) acquired_at_ = scheduler_.now();
    scheduler_.wake_waiter(*head);
  }
}

// The lock is free: gives it to the writer at the head, or to the readers there.
void RwSemaphore::wake_head() {
  Task* head = waiters_.front_or_null();
  if (head == nullptr) return;
  if (head->wait_key == kReader) return wake_readers();
  waiters_.erase(*head);
  writer_ = head;
  scheduler_.wake_waiter(*head);
}

}  // namespace quire::sim
