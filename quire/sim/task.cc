#include "quire/sim/task.h"

#include <utility>

#include "quire/base/bug.h"

namespace quire::sim {

std::string_view task_state_name(TaskState state) {
  switch (state) {
    case TaskState::kRunnable: return "runnable";
    case TaskState::kRunning: return "running";
    case TaskState::kSpinning: return "spinning";
    case TaskState::kSleeping: return "sleeping";
    case TaskState::kWaiting: return "waiting";
    case TaskState::kFinished: return "finished";
  }
  bug("no such task state");
}

Task::Task(Scheduler& scheduler, unsigned id, std::string name, const TaskOptions& options)
    : local(options.local), scheduler_(scheduler), id_(id), name_(std::move(name)), kind_(options.kind), pinned_(options.cpu) {}

std::string_view Task::state_letter() const {
  if (state_ == TaskState::kFinished) return "X";
  if (state_ != TaskState::kSleeping && state_ != TaskState::kWaiting) return "R";
  switch (wait_reason_.sleep) {
    case Sleep::kUninterruptible: return "D";
    case Sleep::kInterruptible: return "S";
    case Sleep::kIdle: return "I";
  }
  bug("no such sleep");
}

}  // namespace quire::sim
