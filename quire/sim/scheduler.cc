// What a running context asks of the scheduler: spawn, wait, wake, sleep, spin.
#include "quire/sim/scheduler.h"

#include <algorithm>
#include <utility>

#include "quire/sim/context.h"

namespace quire::sim {
namespace {

// Thrown through the stacks of unfinished tasks by unwind_tasks.
struct TaskUnwind {};

#ifdef QUIRE_DEBUG
constexpr bool kLockChecksByDefault = true;
#else
constexpr bool kLockChecksByDefault = false;
#endif

constexpr Nanos kPreemptDelayMax = 5 * kMicrosecond;

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, const CostModel& costs, TraceRegistry& trace)
    : sched_switch(trace),
      sched_wakeup(trace),
      contention_begin(trace),
      contention_end(trace),
      lock_acquire(trace),
      lock_release(trace),
      lock_checks_(kLockChecksByDefault),
      config_(config),
      costs_(costs),
      rng_(config.seed),
      events_(rng_),
      cpus_(config.cpus),
      boot_task_(new Task(*this, 0, "boot", {})),
      interrupt_task_(new Task(*this, 0, "interrupt", {})),
      contexts_(std::make_unique<ContextPool>(*this)),
      host_context_(std::make_unique<Context>()) {
  QUIRE_BUG_ON(config.cpus == 0);
  boot_task_->fiber_ = host_context_.get();
  executing_ = host_context_.get();
  enter_boot();
}

Scheduler::~Scheduler() { QUIRE_BUG_ON(context_ != boot_task_.get()); }

void Scheduler::set_lock_checks(bool on) { lock_checks_ = on; }

void Scheduler::lock_acquired(const LockTaken& taken) {
  lock_order_.acquire(context(), taken.lock, *taken.lock_class, taken.subclass, taken.how);
  lock_acquire([&] {
    const unsigned flags = (taken.how == AcquireKind::kTry ? kLockTry : 0) | (taken.share == LockShare::kRead ? kLockRead : 0);
    return LockAcquire{.flags = flags, .name = taken.lock_class->name()};
  });
}

void Scheduler::lock_released(const void* lock, const LockClass& lock_class) {
  lock_order_.release(context(), lock);
  lock_release([&] { return LockRelease{.name = lock_class.name()}; });
}

CpuStats Scheduler::cpu_stats(unsigned cpu) const { return cpus_[cpu].stats; }

Nanos Scheduler::cpu_clock(unsigned cpu) const { return current_ != nullptr && cpu == cpu_ ? now_ : cpus_[cpu].clock; }

unsigned Scheduler::nr_running(unsigned cpu) const { return cpus_[cpu].queued + (cpus_[cpu].running != nullptr ? 1 : 0); }

Task& Scheduler::spawn(std::string name, std::function<void()> body, TaskOptions options) {
  QUIRE_BUG_ON(options.cpu && *options.cpu >= cpus());
  const auto id = static_cast<unsigned>(tasks_.size()) + 1;
  tasks_.push_back(std::unique_ptr<Task>(new Task(*this, id, std::move(name), options)));
  Task& task = *tasks_.back();
  task.body_ = std::move(body);
  if (task.kind_ == TaskKind::kUser) ++user_tasks_;
  task.cpu_ = options.cpu.value_or(cpu_);
  task.state_since_ = now_;
  enqueue(task, select_task_rq(task, now_), now_, Requeue::kWoken);
  return task;
}

// Runs on the task's own stack.
void Scheduler::run_current_task() {
  try {
    current_->body_();
  } catch (const TaskUnwind&) {}
  finish_current();
}

void Scheduler::finish_current() {
  Task& task = *current_;
  task.body_ = nullptr;
  if (unwinding_) task.preempt_count = 0;  // it may have been spinning for a lock, or inside a section without a guard
  QUIRE_BUG_ON(task.preempt_count != 0);
  QUIRE_BUG_ON(!unwinding_ && task.held_locks.count != 0);
  contexts_->release(*std::exchange(task.fiber_, nullptr));
  if (task.kind_ == TaskKind::kUser) --user_tasks_;
  if (unwinding_) {
    task.state_ = TaskState::kFinished;
    enter_boot();
    return transfer(*boot_task_);
  }
  Task* next = nullptr;
  for (Task* waiter = exit_waiters_.front_or_null(); waiter != nullptr; waiter = next) {
    next = exit_waiters_.next_or_null(*waiter);
    if (waiter->wait_key != task.id_) continue;
    exit_waiters_.erase(*waiter);
    wake_waiter(*waiter);
  }
  put_prev_task(TaskState::kFinished);
  dispatch();
}

void Scheduler::join(Task& task) {
  while (!task.finished()) {
    might_sleep("join");
    require_task("the exit of task " + task.name_);
    current_->wait_key = task.id_;
    exit_waiters_.push_back(*current_);
    block(WaitReason{.kind = "exit of task", .name = task.name_}, Interruptible::kYes);
  }
}

void Scheduler::yield() {
  might_sleep("yield");
  if (current_ == nullptr) return;
  charge(costs_.syscall_entry + 1);
  if (cpus_[cpu_].queued != 0) {
    preempt_current();
    dispatch();
  } else {
    sync_point();
  }
}

void Scheduler::preempt_current() {
  Task& task = *current_;
  put_prev_task(TaskState::kRunnable);
  enqueue(task, cpu_, now_, Requeue::kPreempted);
}

void Scheduler::sleep_until(Nanos when, Sleep as) {
  might_sleep("sleep");
  if (when <= now_) return sync_point();
  require_task("time");
  sleep_current(TaskState::kSleeping, WaitReason{.kind = "time", .name = "sleep", .sleep = as}, when);
}

void Scheduler::might_sleep(std::string_view what) const {
  if (current_ == nullptr) {
    if (context_ == boot_task_.get()) return;  // found out when it would really wait
    bug("an interrupt would sleep: " + std::string(what));
  }
  if (current_->preempt_count != 0) {
    bug("task '" + current_->name_ + "' would sleep while it holds a spinlock: " + std::string(what));
  }
}

void Scheduler::require_task(std::string_view wanted) const {
  if (current_ == nullptr) bug("boot context would wait on " + std::string(wanted));
}

void Scheduler::block(const WaitReason& reason, Interruptible interruptible) {
  if (current_ == nullptr && interruptible == Interruptible::kNo) return wait_in_boot(reason);
  require_task(reason.name);
  current_->interruptible_ = interruptible == Interruptible::kYes;
  sleep_current(TaskState::kWaiting, reason, kNever);
}

WaitOutcome Scheduler::block_until(const WaitReason& reason, Nanos when) {
  require_task(reason.name);
  current_->interruptible_ = true;
  sleep_current(TaskState::kWaiting, reason, when);
  return current_->timed_out_ ? WaitOutcome::kTimeout : WaitOutcome::kWoken;
}

void Scheduler::sleep_current(TaskState state, const WaitReason& reason, Nanos until) {
  Task& task = *current_;
  if (unwinding_) bug("a destructor of task '" + task.name_ + "' waits while tasks are unwound");
  task.wait_reason_ = reason;
  task.timed_out_ = false;
  if (until != kNever) {
    task.timer_ = events_.add(std::max(until, now_), [this, &task] {
      task.timer_ = EventId();
      task.timed_out_ = true;
      if (task.wait_node.linked()) list_detail::unlink(&task.wait_node);
      make_runnable(task);
    });
  }
  put_prev_task(state);
  dispatch();
}

bool Scheduler::wake(Task& task) {
  const bool may = task.state_ == TaskState::kSleeping || (task.state_ == TaskState::kWaiting && task.interruptible_);
  if (!may) return false;
  if (task.wait_node.linked()) list_detail::unlink(&task.wait_node);
  wake_waiter(task);
  return true;
}

void Scheduler::wake_waiter(Task& task) {
  if (unwinding_) return;
  if (&task == boot_task_.get()) {
    task.state_ = TaskState::kRunning;
    return lower_horizon(now_);
  }
  if (task.timer_.valid()) events_.cancel(std::exchange(task.timer_, EventId()));
  make_runnable(task);
}

void Scheduler::make_runnable(Task& task) {
  QUIRE_BUG_ON(task.state_ != TaskState::kWaiting && task.state_ != TaskState::kSleeping);
  ++stats_.wakeups;
  charge(costs_.wakeup);
  // The CPU it slept on may be ahead of the waker's.
  const Nanos jitter = config_.wakeup_jitter == 0 ? 0 : rng_.below(config_.wakeup_jitter + 1);
  const Nanos ready_at = std::max(now_, task.state_since_) + jitter;
  task.stats_.wait_time += ready_at - task.state_since_;
  const unsigned target = select_task_rq(task, ready_at);
  sched_wakeup([&] { return SchedWakeup{.comm = task.name_, .pid = task.id_, .target_cpu = target}; });
  task.state_since_ = ready_at;
  enqueue(task, target, ready_at, Requeue::kWoken);
}

// The CPU it had if that is idle by then, else an idle one, else the one with the fewest tasks; ties by the seed.
unsigned Scheduler::select_task_rq(const Task& task, Nanos ready_at) {
  if (task.pinned_) return *task.pinned_;
  if (task.migration_disabled != 0) return task.cpu_;
  if (cpus_.size() == 1) return 0;
  const auto load = [&](unsigned i) {
    const Nanos free_at = std::max(cpu_clock(i), ready_at);
    return std::pair(nr_running(i), nr_running(i) == 0 ? free_at : 0);
  };
  unsigned best = task.cpu_;
  auto best_load = load(best);
  unsigned ties = 0;
  for (unsigned i = 0; i < cpus(); ++i) {
    if (i == task.cpu_) continue;
    const auto other = load(i);
    if (other < best_load) {
      best = i;
      best_load = other;
      ties = 1;
    } else if (other == best_load && best != task.cpu_ && rng_.below(++ties) == 0) {
      best = i;
    }
  }
  return best;
}

// Run queues are in order of ready time. A preempted task goes behind its equals, a woken one anywhere among them.
void Scheduler::enqueue(Task& task, unsigned cpu_index, Nanos ready_at, Requeue how) {
  Cpu& cpu = cpus_[cpu_index];
  task.state_ = TaskState::kRunnable;
  task.ready_at_ = ready_at;
  if (task.cpu_ != cpu_index) ++task.stats_.migrations;
  task.cpu_ = cpu_index;
  Task* before = nullptr;
  for (Task* t = cpu.queue.back_or_null(); t != nullptr; t = cpu.queue.prev_or_null(*t)) {
    const bool passes = t->ready_at_ > ready_at || (t->ready_at_ == ready_at && how == Requeue::kWoken && rng_.chance(1, 2));
    if (!passes) break;
    before = t;
  }
  before == nullptr ? cpu.queue.push_back(task) : cpu.queue.insert_before(*before, task);
  ++cpu.queued;
  if (how == Requeue::kWoken && cpu.running != nullptr) {
    cpu.resched_at = std::min(cpu.resched_at, cpu.run_start + config_.wakeup_granularity);
  }
  if (&cpu == &cpus_[cpu_] && cpu.running != nullptr) {
    lower_horizon(std::max(cpu.resched_at, cpu.queue.front().ready_at_));
  } else {
    lower_horizon(candidate_time(cpu));
  }
}

EventId Scheduler::at(Nanos when, const Callback& callback) {
  when = std::max(when, now_);
  lower_horizon(when);
  return events_.add(when, callback);
}

void Scheduler::spin_until(Nanos when) {
  now_ = std::max(now_, when);
  sync_point();
}

void Scheduler::spin(const WaitReason& reason) {
  if (current_ == nullptr) bug("boot context or an interrupt would spin on " + std::string(reason.name));
  if (unwinding_) bug("a destructor of task '" + current_->name_ + "' waits while tasks are unwound");
  current_->wait_reason_ = reason;
  current_->state_ = TaskState::kSpinning;
  current_->state_since_ = now_;
  cpus_[cpu_].clock = now_;
  dispatch();
}

void Scheduler::stop_spinning(Task& task) {
  if (unwinding_) return;
  QUIRE_BUG_ON(task.state_ != TaskState::kSpinning);
  Cpu& cpu = cpus_[task.cpu_];
  QUIRE_BUG_ON(cpu.running != &task);
  task.state_ = TaskState::kRunning;
  cpu.clock = std::max(cpu.clock, now_ + costs_.lock_handover);
  lower_horizon(cpu.clock);
}

// A seeded preemption at a sync point: the next task if one is ready, else the CPU is gone for a while (an interrupt, a
// hypervisor), which shifts it against the others just as well.
void Scheduler::sync_slow() {
  if (current_ == nullptr || unwinding_) return;
  Cpu& cpu = cpus_[cpu_];
  if (current_->preempt_count == 0) {
    const Task* front = cpu.queue.front_or_null();
    const bool ready = front != nullptr && front->ready_at_ <= now_;
    const bool stolen = config_.preempt_permille != 0 && rng_.chance(config_.preempt_permille, 1'000);
    if (stolen && !ready) now_ += rng_.below(kPreemptDelayMax);
    if (ready && (stolen || now_ >= cpu.resched_at)) {
      ++stats_.preemptions;
      preempt_current();
      return dispatch();
    }
  }
  cpu.clock = now_;
  dispatch();
}

void Scheduler::transfer(Task& to) {
  if (to.fiber_ == nullptr) to.fiber_ = &contexts_->acquire();
  Context* from = executing_;
  if (to.fiber_ != from) {
    ++stats_.fiber_switches;
    executing_ = to.fiber_;
    from->switch_to(*to.fiber_);
  }
  if (unwinding_ && current_ != nullptr && current_->state_ != TaskState::kFinished) throw TaskUnwind{};
}

void Scheduler::unwind_tasks() {
  QUIRE_BUG_ON(context_ != boot_task_.get());
  unwinding_ = true;
  lock_checks_ = false;
  for (const auto& task : tasks_) {
    if (task->wait_node.linked()) list_detail::unlink(&task->wait_node);
  }
  for (const auto& task : tasks_) {
    if (task->finished()) continue;
    if (task->fiber_ == nullptr) {  // has never run
      task->body_ = nullptr;
      task->state_ = TaskState::kFinished;
      if (task->kind_ == TaskKind::kUser) --user_tasks_;
      continue;
    }
    context_ = current_ = task.get();
    cpu_ = task->cpu_;
    transfer(*task);
  }
}

}  // namespace quire::sim
