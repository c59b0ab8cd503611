// Lock classes. All locks of one purpose (every mm's mmap_lock) form a class; order is checked and waiting is counted by
// class, as lockdep and lock_stat do.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "quire/sim/time.h"

namespace quire::sim {

// Virtual times. A lock that is held while another CPU wants it counts as contended even if no code ran meanwhile.
struct LockStats {
  std::uint64_t acquisitions = 0;  // counted when the lock is taken
  std::uint64_t contended = 0;
  Nanos wait_total = 0;
  Nanos wait_max = 0;
  Nanos hold_total = 0;  // a RwSemaphore held by readers: from the first that comes to the last that goes
  Nanos hold_max = 0;

  void record_hold(Nanos held) {
    hold_total += held;
    if (held > hold_max) hold_max = held;
  }
  void record_wait(Nanos waited) {
    ++contended;
    wait_total += waited;
    if (waited > wait_max) wait_max = waited;
  }
};

class LockClass {
 public:
  LockClass(std::string name, unsigned index) : name_(std::move(name)), index_(index) {}
  LockClass(const LockClass&) = delete;
  LockClass& operator=(const LockClass&) = delete;

  [[nodiscard]] std::string_view name() const { return name_; }
  [[nodiscard]] unsigned index() const { return index_; }  // in the registry, in order of first mention
  [[nodiscard]] const LockStats& stats() const { return stats_; }
  [[nodiscard]] LockStats& stats() { return stats_; }  // for the locks themselves

 private:
  LockStats stats_;
  std::string name_;
  unsigned index_;
};

// The classes of one machine. Boot only: lock_class allocates.
class LockRegistry {
 public:
  // The class of that name, made at its first mention. References stay valid.
  LockClass& lock_class(std::string_view name) {
    for (LockClass& c : classes_) {
      if (c.name() == name) return c;
    }
    return classes_.emplace_back(std::string(name), static_cast<unsigned>(classes_.size()));
  }
  [[nodiscard]] const std::deque<LockClass>& classes() const { return classes_; }

 private:
  std::deque<LockClass> classes_;
};

}  // namespace quire::sim
