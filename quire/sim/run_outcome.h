// How Scheduler::run ended. A deadlock that the caller never looks at is a bug of the machine: the destructor prints the
// report and aborts, so `scheduler.run();` on its own is safe to write.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quire/base/bug.h"
#include "quire/sim/time.h"

namespace quire::sim {

enum class RunEnd {
  kDone,       // every user task has ended
  kTimeLimit,  // run_until's time has come
  kDeadlock,   // user tasks wait and nothing can ever run again (or none has run for hung_task_timeout)
};

// A task that has not ended, and why it does not run.
struct BlockedTask {
  std::string task;
  unsigned id = 0;
  std::string waits_on;  // "mutex 'mmap_lock' held by task 3 'kswapd0'"
  Nanos since = 0;
};

class RunOutcome {
 public:
  explicit RunOutcome(RunEnd end, std::vector<BlockedTask> blocked = {}) : end_(end), blocked_(std::move(blocked)) {}
  RunOutcome(const RunOutcome&) = delete;
  RunOutcome& operator=(const RunOutcome&) = delete;
  RunOutcome(RunOutcome&& other) noexcept
      : end_(other.end_), seen_(std::exchange(other.seen_, true)), blocked_(std::move(other.blocked_)) {}
  RunOutcome& operator=(RunOutcome&&) = delete;
  ~RunOutcome() {
    if (end_ == RunEnd::kDeadlock && !seen_) [[unlikely]]
      bug(report());
  }

  [[nodiscard]] RunEnd end() const {
    seen_ = true;
    return end_;
  }
  [[nodiscard]] bool done() const { return end() == RunEnd::kDone; }
  // The tasks that wait, in the order of their ids; empty unless kDeadlock.
  [[nodiscard]] const std::vector<BlockedTask>& blocked() const { return blocked_; }
  // One line for each of them.
  [[nodiscard]] std::string report() const;

 private:
  RunEnd end_;
  mutable bool seen_ = false;
  std::vector<BlockedTask> blocked_;
};

}  // namespace quire::sim
