// The tracepoints of the scheduler and the locks, with ftrace's names and fields. The CPU and the time of an event are
// the scheduler's cpu() and now() while it is told.
#pragma once

#include <string_view>

#include "quire/base/tracepoint.h"

namespace quire::sim {

struct SchedSwitch {
  static constexpr std::string_view kName = "sched_switch";
  std::string_view prev_comm;
  unsigned prev_pid;            // 0: the CPU was idle
  std::string_view prev_state;  // Task::state_letter
  std::string_view next_comm;
  unsigned next_pid;  // 0: the CPU becomes idle
  unsigned cpu;
  void fields(auto&& f) const {
    f("prev_comm", prev_comm);
    f("prev_pid", prev_pid);
    f("prev_state", prev_state);
    f("next_comm", next_comm);
    f("next_pid", next_pid);
    f("cpu", cpu);
  }
};

struct SchedWakeup {
  static constexpr std::string_view kName = "sched_wakeup";
  std::string_view comm;
  unsigned pid;
  unsigned target_cpu;
  void fields(auto&& f) const {
    f("comm", comm);
    f("pid", pid);
    f("target_cpu", target_cpu);
  }
};

// Bits of contention_begin's `flags` (Linux's LCB_F_*).
inline constexpr unsigned kContentionSpin = 1u << 0;
inline constexpr unsigned kContentionRead = 1u << 1;
inline constexpr unsigned kContentionWrite = 1u << 2;
inline constexpr unsigned kContentionMutex = 1u << 5;

// `lock` is the class; Linux has an address, which would not repeat from run to run.
struct ContentionBegin {
  static constexpr std::string_view kName = "contention_begin";
  std::string_view lock;
  unsigned flags;
  void fields(auto&& f) const {
    f("lock", lock);
    f("flags", flags);
  }
};

struct ContentionEnd {
  static constexpr std::string_view kName = "contention_end";
  std::string_view lock;
  int ret;
  void fields(auto&& f) const {
    f("lock", lock);
    f("ret", ret);
  }
};

// Bits of lock_acquire's `flags`.
inline constexpr unsigned kLockTry = 1u << 0;
inline constexpr unsigned kLockRead = 1u << 1;

// A lock is wanted (with kLockTry: it is had). Told only while lock checks are on, as Linux needs lockdep for it.
struct LockAcquire {
  static constexpr std::string_view kName = "lock_acquire";
  unsigned flags;
  std::string_view name;
  void fields(auto&& f) const {
    f("flags", flags);
    f("name", name);
  }
};

struct LockRelease {
  static constexpr std::string_view kName = "lock_release";
  std::string_view name;
  void fields(auto&& f) const { f("name", name); }
};

}  // namespace quire::sim
