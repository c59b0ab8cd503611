// What a person is told about tasks that do not run, and the check of the scheduler's own structures.
#include <fmt/format.h>

#include <algorithm>

#include "quire/sim/scheduler.h"

namespace quire::sim {

// No user task has run for hung_task_timeout, and none will by itself: each waits without a time limit. Something (the
// flusher's timer) may keep the clock going for ever.
bool Scheduler::hung(Nanos when) const {
  if (when < last_user_run_ || when - last_user_run_ <= config_.hung_task_timeout) return false;
  return std::all_of(tasks_.begin(), tasks_.end(), [](const auto& task) {
    return task->kind_ != TaskKind::kUser || task->finished() || (task->state_ == TaskState::kWaiting && !task->timer_.valid());
  });
}

std::string Scheduler::describe_wait(const Task& task) const {
  if (task.state_ != TaskState::kWaiting && task.state_ != TaskState::kSpinning) {
    return std::string(task_state_name(task.state_));
  }
  const WaitReason& reason = task.wait_reason_;
  std::string text = fmt::format("{} '{}'", reason.kind, reason.name);
  if (reason.owner != nullptr && *reason.owner != nullptr) {
    text += fmt::format(" held by task {} '{}'", (*reason.owner)->id_, (*reason.owner)->name_);
  }
  return text;
}

RunOutcome Scheduler::deadlock() const {
  std::vector<BlockedTask> blocked;
  for (const auto& task : tasks_) {
    if (task->state_ != TaskState::kWaiting && task->state_ != TaskState::kSpinning) continue;
    blocked.push_back(
        BlockedTask{.task = task->name_, .id = task->id_, .waits_on = describe_wait(*task), .since = task->state_since_});
  }
  return RunOutcome(RunEnd::kDeadlock, std::move(blocked));
}

std::string Scheduler::report() const {
  std::string text;
  for (const auto& task : tasks_) {
    if (task->finished()) continue;
    text += fmt::format("task {} '{}' on CPU {}: {}{}\n", task->id_, task->name_, task->cpu_,
                        task->state_ == TaskState::kWaiting ? "waits on " : "", describe_wait(*task));
  }
  return text;
}

void Scheduler::validate() const {
  events_.validate();
  std::size_t runnable = 0;
  for (const Cpu& cpu : cpus_) {
    Nanos previous = 0;
    unsigned queued = 0;
    for (const Task& task : cpu.queue) {
      QUIRE_BUG_ON(task.state_ != TaskState::kRunnable || &cpus_[task.cpu_] != &cpu);
      QUIRE_BUG_ON(task.ready_at_ < previous);
      QUIRE_BUG_ON(task.pinned_ && *task.pinned_ != task.cpu_);
      QUIRE_BUG_ON(task.preempt_count != 0);
      previous = task.ready_at_;
      ++queued;
    }
    QUIRE_BUG_ON(queued != cpu.queued);
    runnable += queued;
    if (cpu.running == nullptr) continue;
    QUIRE_BUG_ON(cpu.running->state_ != TaskState::kRunning && cpu.running->state_ != TaskState::kSpinning);
    QUIRE_BUG_ON(&cpus_[cpu.running->cpu_] != &cpu);
    ++runnable;
  }
  std::size_t expected = 0;
  std::size_t users = 0;
  for (const auto& task : tasks_) {
    if (task->kind_ == TaskKind::kUser && !task->finished()) ++users;
    switch (task->state_) {
      case TaskState::kRunnable:
      case TaskState::kRunning:
      case TaskState::kSpinning: ++expected; break;
      case TaskState::kSleeping:
      case TaskState::kWaiting:
      case TaskState::kFinished: break;
    }
  }
  QUIRE_BUG_ON(runnable != expected);
  QUIRE_BUG_ON(users != user_tasks_);
}

}  // namespace quire::sim
