// Scoped ownership of the simulated locks. SpinGuard and MutexGuard and WriteGuard exclude everyone, the others writers.
#pragma once

#include "quire/base/bug.h"
#include "quire/base/thread_annotations.h"
#include "quire/sim/mutex.h"
#include "quire/sim/rw_semaphore.h"
#include "quire/sim/spin_lock.h"

namespace quire::sim {

class QUIRE_SCOPED_CAPABILITY SpinGuard {
 public:
  explicit SpinGuard(SpinLock& lock) QUIRE_ACQUIRE(lock) : lock_(lock) { lock_.lock(); }
  SpinGuard(SpinLock& lock, unsigned subclass) QUIRE_ACQUIRE(lock) : lock_(lock) { lock_.lock_nested(subclass); }
  ~SpinGuard() QUIRE_RELEASE() { lock_.unlock(); }
  SpinGuard(const SpinGuard&) = delete;
  SpinGuard& operator=(const SpinGuard&) = delete;

 private:
  SpinLock& lock_;
};

class QUIRE_SCOPED_CAPABILITY MutexGuard {
 public:
  explicit MutexGuard(Mutex& lock) QUIRE_ACQUIRE(lock) : lock_(lock) { lock_.lock(); }
  MutexGuard(Mutex& lock, unsigned subclass) QUIRE_ACQUIRE(lock) : lock_(lock) { lock_.lock_nested(subclass); }
  ~MutexGuard() QUIRE_RELEASE() { lock_.unlock(); }
  MutexGuard(const MutexGuard&) = delete;
  MutexGuard& operator=(const MutexGuard&) = delete;

 private:
  Mutex& lock_;
};

class QUIRE_SCOPED_CAPABILITY ReadGuard {
 public:
  explicit ReadGuard(RwSemaphore& lock) QUIRE_ACQUIRE_SHARED(lock) : lock_(lock) { lock_.down_read(); }
  ReadGuard(RwSemaphore& lock, unsigned subclass) QUIRE_ACQUIRE_SHARED(lock) : lock_(lock) { lock_.down_read_nested(subclass); }
  ~ReadGuard() QUIRE_RELEASE() { lock_.up_read(); }
  ReadGuard(const ReadGuard&) = delete;
  ReadGuard& operator=(const ReadGuard&) = delete;

 private:
  RwSemaphore& lock_;
};

// A ReadGuard that may give the lock back early.
class QUIRE_SCOPED_CAPABILITY ReleasableReadGuard {
 public:
  explicit ReleasableReadGuard(RwSemaphore& lock) QUIRE_ACQUIRE_SHARED(lock) : lock_(lock) { lock_.down_read(); }
  ~ReleasableReadGuard() QUIRE_RELEASE() {
    if (held_) lock_.up_read();
  }
  ReleasableReadGuard(const ReleasableReadGuard&) = delete;
  ReleasableReadGuard& operator=(const ReleasableReadGuard&) = delete;

  [[nodiscard]] bool held() const { return held_; }
  void release() QUIRE_RELEASE() {
    QUIRE_BUG_ON(!held_);
    held_ = false;
    lock_.up_read();
  }

 private:
  RwSemaphore& lock_;
  bool held_ = true;
};

class QUIRE_SCOPED_CAPABILITY WriteGuard {
 public:
  explicit WriteGuard(RwSemaphore& lock) QUIRE_ACQUIRE(lock) : lock_(lock) { lock_.down_write(); }
  WriteGuard(RwSemaphore& lock, unsigned subclass) QUIRE_ACQUIRE(lock) : lock_(lock) { lock_.down_write_nested(subclass); }
  ~WriteGuard() QUIRE_RELEASE() { lock_.up_write(); }
  WriteGuard(const WriteGuard&) = delete;
  WriteGuard& operator=(const WriteGuard&) = delete;

 private:
  RwSemaphore& lock_;
};

}  // namespace quire::sim
