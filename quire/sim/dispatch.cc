// Who runs next: the CPU or the event with the earliest time.
#include <algorithm>

#include "quire/sim/scheduler.h"

namespace quire::sim {

// When the CPU could do something; kNever for an idle one and for one that spins.
Nanos Scheduler::candidate_time(const Cpu& cpu) {
  if (cpu.running != nullptr) return cpu.running->state_ == TaskState::kSpinning ? kNever : cpu.clock;
  if (cpu.queued == 0) return kNever;
  return std::max(cpu.clock, const_cast<Cpu&>(cpu).queue.front().ready_at_);
}

Scheduler::Choice Scheduler::choose() {
  Choice best;
  std::uint64_t ties = 0;
  for (Cpu& cpu : cpus_) {
    const Nanos time = candidate_time(cpu);
    if (time == kNever || time > best.time) continue;
    ties = time < best.time ? 1 : ties + 1;
    if (ties == 1 || rng_.below(ties) == 0) best = Choice{.cpu = &cpu, .time = time};
  }
  return best;
}

bool Scheduler::inside_section() const {
  return std::any_of(cpus_.begin(), cpus_.end(),
                     [](const Cpu& cpu) { return cpu.running != nullptr && cpu.running->preempt_count != 0; });
}

// The earliest of the CPUs inside a spinlock section; there is one unless they all spin for each other.
Scheduler::Choice Scheduler::choose_inside_section() {
  Choice best;
  for (Cpu& cpu : cpus_) {
    if (cpu.running == nullptr || cpu.running->preempt_count == 0) continue;
    const Nanos time = candidate_time(cpu);
    if (time < best.time) best = Choice{.cpu = &cpu, .time = time};
  }
  return best;
}

// Switches to whoever is next; returns when the context that called it is. Events run here, on the caller's stack, and so
// does the way back to boot context; both only when no CPU is inside a spinlock section, and until then only those run.
void Scheduler::dispatch() {
  for (;;) {
    Choice next = choose();
    const Nanos event_time = events_.next_time();
    const Nanos earliest = std::min(next.time, event_time);
    const bool stop = run_for_boot_ ? !boot_waits() : limit_ == kNever ? user_tasks_ == 0 : earliest >= limit_;
    if (stop || event_time <= next.time) {
      if (inside_section()) {
        next = choose_inside_section();
        if (next.cpu == nullptr) return leave(RunEnd::kDeadlock);
      } else if (stop) {
        return leave(user_tasks_ == 0 ? RunEnd::kDone : RunEnd::kTimeLimit);
      } else if (event_time == kNever || hung(event_time)) {
        return leave(RunEnd::kDeadlock);
      } else {
        deliver_event();
        continue;
      }
    }
    if (next.cpu->running != nullptr) {
      activate(*next.cpu);
      return transfer(*current_);
    }
    pick_next_task(*next.cpu, next.time);  // costs time: another CPU may be earlier now
  }
}

void Scheduler::deliver_event() {
  const Nanos when = events_.next_time();
  QUIRE_DCHECK(when >= last_event_);
  last_event_ = when;
  now_ = std::max(when, boot_time_);
  horizon_ = kNever;
  context_ = interrupt_task_.get();
  current_ = nullptr;
  cpu_ = 0;
  ++stats_.events;
  Callback callback = events_.pop();
  callback();
  interrupt_end_ = std::max(interrupt_end_, now_);
  QUIRE_BUG_ON(interrupt_task_->preempt_count != 0);
}

void Scheduler::pick_next_task(Cpu& cpu, Nanos start) {
  Task& next = *cpu.queue.pop_front();
  --cpu.queued;
  if (start > cpu.clock) cpu.stats.idle += start - cpu.clock;
  ++cpu.stats.switches;
  ++stats_.context_switches;
  next.stats_.run_delay += start - next.ready_at_;
  next.state_ = TaskState::kRunning;
  next.state_since_ = start;
  now_ = start;
  cpu_ = next.cpu_;
  current_ = nullptr;
  sched_switch([&] {
    return SchedSwitch{.prev_comm = cpu.prev == nullptr ? "swapper" : std::string_view(cpu.prev->name_),
                       .prev_pid = cpu.prev == nullptr ? 0 : cpu.prev->id_,
                       .prev_state = cpu.prev == nullptr ? "R" : cpu.prev_state,
                       .next_comm = next.name_,
                       .next_pid = next.id_,
                       .cpu = next.cpu_};
  });
  if (next.kmap_ctrl.idx != 0 && kmap_switch_listener_ != nullptr) kmap_switch_listener_->kmap_local_sched_in(next);
  cpu.running = &next;
  cpu.prev = &next;
  cpu.run_start = start;
  cpu.clock = start + costs_.context_switch;
  cpu.resched_at = cpu.clock + config_.time_slice;
  if (next.kind_ == TaskKind::kUser) last_user_run_ = std::max(last_user_run_, start);
}

// The running task leaves its CPU in `state`; its clock is now().
void Scheduler::put_prev_task(TaskState state) {
  Task& task = *current_;
  if (task.kmap_ctrl.idx != 0 && kmap_switch_listener_ != nullptr) kmap_switch_listener_->kmap_local_sched_out(task);
  Cpu& cpu = cpus_[cpu_];
  cpu.clock = now_;
  cpu.running = nullptr;
  cpu.stats.busy += now_ - cpu.run_start;
  task.stats_.run_time += now_ - cpu.run_start;
  ++(state == TaskState::kRunnable ? task.stats_.involuntary_switches : task.stats_.voluntary_switches);
  task.state_ = state;
  task.state_since_ = now_;
  cpu.prev_state = task.state_letter();
  if (task.kind_ == TaskKind::kUser) last_user_run_ = std::max(last_user_run_, now_);
  if (state == TaskState::kRunnable) return;
  if (cpu.queued == 0) idle_balance(cpu);
  if (cpu.queued != 0 && cpu.queue.front().ready_at_ <= now_) return;
  cpu.prev = nullptr;
  sched_switch([&] {
    return SchedSwitch{.prev_comm = task.name_,
                       .prev_pid = task.id_,
                       .prev_state = cpu.prev_state,
                       .next_comm = "swapper",
                       .next_pid = 0,
                       .cpu = cpu_};
  });
}

// A CPU that would fall idle takes over a task that is ready and waits elsewhere. (newidle_balance)
void Scheduler::idle_balance(Cpu& cpu) {
  Cpu* busiest = nullptr;
  Task* pulled = nullptr;
  for (Cpu& other : cpus_) {
    if (&other == &cpu || other.running == nullptr || (busiest != nullptr && other.queued <= busiest->queued)) continue;
    for (Task& task : other.queue) {
      if (task.pinned_ || task.migration_disabled != 0 || task.ready_at_ > cpu.clock) continue;
      busiest = &other;
      pulled = &task;
      break;
    }
  }
  if (pulled == nullptr) return;
  busiest->queue.erase(*pulled);
  --busiest->queued;
  enqueue(*pulled, static_cast<unsigned>(&cpu - cpus_.data()), pulled->ready_at_, Requeue::kPreempted);
}

void Scheduler::activate(Cpu& cpu) {
  cpu_ = static_cast<unsigned>(&cpu - cpus_.data());
  now_ = cpu.clock;
  context_ = current_ = cpu.running;
  update_horizon();
}

// The running task may go on, unasked, until another CPU, an event or its own slice's end is due.
void Scheduler::update_horizon() {
  Nanos horizon = config_.preempt_permille != 0 ? 0 : std::min(events_.next_time(), limit_);
  for (Cpu& cpu : cpus_) {
    if (&cpu != &cpus_[cpu_]) {
      horizon = std::min(horizon, candidate_time(cpu));
    } else if (cpu.queued != 0) {
      horizon = std::min(horizon, std::max(cpu.resched_at, cpu.queue.front().ready_at_));
    }
  }
  horizon_ = horizon;
}

void Scheduler::enter_boot() {
  context_ = boot_task_.get();
  current_ = nullptr;
  cpu_ = 0;
  horizon_ = kNever;
}

void Scheduler::leave(RunEnd end) {
  end_ = end;
  enter_boot();
  transfer(*boot_task_);
}

RunOutcome Scheduler::run_loop(Nanos limit) {
  QUIRE_BUG_ON(context_ != boot_task_.get() || unwinding_);
  limit_ = limit;
  boot_time_ = now_;
  last_user_run_ = std::max(last_user_run_, now_);
  if (user_tasks_ != 0 || limit != kNever) dispatch();
  now_ = std::max(boot_time_, latest_time());
  return end_ == RunEnd::kDeadlock ? deadlock() : RunOutcome(end_);
}

void Scheduler::wait_in_boot(const WaitReason& reason) {
  if (unwinding_) bug("boot context would wait on " + std::string(reason.name) + " while tasks are unwound");
  boot_task_->wait_reason_ = reason;
  boot_task_->state_ = TaskState::kWaiting;
  limit_ = kNever;
  boot_time_ = now_;
  last_user_run_ = std::max(last_user_run_, now_);
  run_for_boot_ = true;
  dispatch();
  run_for_boot_ = false;
  now_ = std::max(boot_time_, latest_time());
  if (boot_waits()) bug("boot context waits for ever on " + describe_wait(*boot_task_) + "\n" + report());
}

RunOutcome Scheduler::run() {
  end_ = RunEnd::kDone;
  return run_loop(kNever);
}

RunOutcome Scheduler::run_until(Nanos when) {
  end_ = RunEnd::kTimeLimit;
  RunOutcome outcome = run_loop(when);
  now_ = std::max(now_, when);
  return outcome;
}

Nanos Scheduler::latest_time() const {
  Nanos latest = interrupt_end_;
  for (const Cpu& cpu : cpus_) latest = std::max(latest, cpu.clock);
  return latest;
}

}  // namespace quire::sim
