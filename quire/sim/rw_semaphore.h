// A sleeping lock for many readers or one writer (struct rw_semaphore), with Linux's verbs.
//
// Fair to writers: a reader that finds anyone waiting queues behind. Giving back wakes either the writer at the head or
// all the readers up to the next writer, and the lock is theirs at once.
//
// Differs from Linux: no stealing and no optimistic spinning, except that a section that ran undisturbed is waited for by
// spinning until its virtual end (mutex.h).
#pragma once

#include <cstdint>

#include "quire/base/intrusive_list.h"
#include "quire/base/thread_annotations.h"
#include "quire/sim/lock_class.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

class QUIRE_CAPABILITY("rw_semaphore") RwSemaphore {
 public:
  RwSemaphore(Scheduler& scheduler, LockClass& lock_class) : scheduler_(scheduler), class_(lock_class) {}
  RwSemaphore(const RwSemaphore&) = delete;
  RwSemaphore& operator=(const RwSemaphore&) = delete;

  void down_read() QUIRE_ACQUIRE_SHARED() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    Scheduler& s = scheduler_;
    s.sync_point();
    if (writer_ != nullptr || !waiters_.empty() || s.now() < write_released_at_ || s.lock_checks()) [[unlikely]] {
      return down_read_slow(0);
    }
    take_read();
  }
  void down_read_nested(unsigned subclass) QUIRE_ACQUIRE_SHARED() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    scheduler_.sync_point();
    down_read_slow(subclass);
  }
  [[nodiscard]] bool down_read_trylock() QUIRE_TRY_ACQUIRE_SHARED(true);
  void up_read() QUIRE_RELEASE_SHARED() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    if (!waiters_.empty() || scheduler_.lock_checks()) [[unlikely]]
      return up_read_slow();
    give_back_read();
  }

  void down_write() QUIRE_ACQUIRE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    Scheduler& s = scheduler_;
    s.sync_point();
    if (writer_ != nullptr || readers_ != 0 || s.now() < free_at() || s.lock_checks()) [[unlikely]] {
      return down_write_slow(0);
    }
    take_write();
  }
  void down_write_nested(unsigned subclass) QUIRE_ACQUIRE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    scheduler_.sync_point();
    down_write_slow(subclass);
  }
  [[nodiscard]] bool down_write_trylock() QUIRE_TRY_ACQUIRE(true);
  void up_write() QUIRE_RELEASE() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    if (!waiters_.empty() || scheduler_.lock_checks()) [[unlikely]]
      return up_write_slow();
    give_back_write();
  }
  // The writer becomes a reader without letting go; waiting readers join it. The static analysis cannot express it:
  // callers release with up_read in a function of their own or without analysis.
  void downgrade_write() QUIRE_NO_THREAD_SAFETY_ANALYSIS;

  [[nodiscard]] bool is_locked() const { return writer_ != nullptr || readers_ != 0; }
  [[nodiscard]] bool is_write_locked() const { return writer_ != nullptr; }
  [[nodiscard]] unsigned readers() const { return readers_; }
  // Whether somebody who came to read now would wait: there is a writer, or a queue.
  [[nodiscard]] bool reader_would_wait() const { return writer_ != nullptr || !waiters_.empty(); }
  // Readers are counted, not known: "some reader or the writer holds it".
  void assert_held() const QUIRE_ASSERT_HELD_SHARED(this) { QUIRE_DCHECK(is_locked()); }
  void assert_held_write() const QUIRE_ASSERT_HELD(this) { QUIRE_DCHECK(writer_ == &scheduler_.context()); }
  [[nodiscard]] const LockClass& lock_class() const { return class_; }

 private:
  enum WaitKey : std::uint64_t { kReader, kWriter, kGranted /* to read */ };

  [[nodiscard]] Nanos free_at() const {
    return write_released_at_ > read_released_at_ ? write_released_at_ : read_released_at_;
  }
  void take_read() {
    if (readers_++ == 0) acquired_at_ = scheduler_.now();
    ++class_.stats().acquisitions;
  }
  void give_back_read() {
    QUIRE_DCHECK(readers_ > 0 && writer_ == nullptr);
    const Nanos now = scheduler_.now();
    if (now > read_released_at_) read_released_at_ = now;
    if (--readers_ == 0 && now > acquired_at_) class_.stats().record_hold(now - acquired_at_);
  }
  void take_write() {
    writer_ = &scheduler_.context();
    acquired_at_ = scheduler_.now();
    ++class_.stats().acquisitions;
  }
  void give_back_write() {
    QUIRE_DCHECK(writer_ == &scheduler_.context());
    const Nanos now = scheduler_.now();
    class_.stats().record_hold(now - acquired_at_);
    write_released_at_ = now;
    writer_ = nullptr;
  }
  template <class Wait>
  void wait(Wait&& for_it);
  void down_read_slow(unsigned subclass) QUIRE_NO_THREAD_SAFETY_ANALYSIS;
  void down_write_slow(unsigned subclass) QUIRE_NO_THREAD_SAFETY_ANALYSIS;
  void up_read_slow() QUIRE_NO_THREAD_SAFETY_ANALYSIS;
  void up_write_slow() QUIRE_NO_THREAD_SAFETY_ANALYSIS;
  void wake_readers();
  void wake_head();

  Scheduler& scheduler_;
  LockClass& class_;
  Task* writer_ = nullptr;
  unsigned readers_ = 0;
  Nanos acquired_at_ = 0;  // by the writer or the first of the readers
  Nanos write_released_at_ = 0;
  Nanos read_released_at_ = 0;
  List<Task, &Task::wait_node> waiters_;
};

}  // namespace quire::sim
