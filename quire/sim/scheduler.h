// The machine's processors in virtual time: a discrete-event scheduler of tasks (fibers) on simulated CPUs.
//
//   event queue ─┐                         ┌─ CPU 0  clock 1200  running: sort     queue: kswapd0
//                ├─ dispatch: earliest ────┤
//   run queues ──┘                         └─ CPU 1  clock 1350  running: gzip     queue: –
//
// Each CPU has a clock. Code runs on the CPU whose clock is earliest, charges what it does to that clock, and at each sync
// point (kernel entry, taking a lock, waiting) gives way if another CPU or an event is now earlier: so a task touches
// shared state only at the earliest time of the machine, and effects never reach the past. Between two sync points a
// task runs undisturbed. `horizon_` is the time up to which the running task may go on without asking: a sync point is
// one comparison.
//
// Three kinds of context: a task; an interrupt (the callback of an event: may wake, may take spinlocks, may not sleep);
// and boot (outside run(): nothing else runs). A daemon may hold a sleeping lock when run() stops, and a user task too after
// a time limit; if boot wants that lock, it lets the machine run on until the lock is given to it.
//
// Rules that hold always:
//  - clocks never go back; events run in order of time; equal times are ordered by the seed;
//  - a task that holds a spinlock (preempt_count > 0) keeps its CPU; other CPUs run on, and spin if they want the lock;
//  - interrupts run only when no task is inside a spinlock section (as if interrupts were off there), so a callback
//    never finds a spinlock taken;
//  - same seed, same program → same order of everything.
//
// Differs from Linux: round robin by time slice instead of fair queueing (a woken task waits at most wakeup_granularity
// for the running one, then its turn); an interrupt's own time delays what it wakes but is not stolen from a CPU; a CPU
// that falls idle pulls a waiting task, there is no periodic balancing.
//
// Confined to one host thread at a time. A spawn allocates; running does not, apart from growing run-time tables.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "quire/base/bug.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/rng.h"
#include "quire/base/tracepoint.h"
#include "quire/sim/callback.h"
#include "quire/sim/cost_model.h"
#include "quire/sim/event_queue.h"
#include "quire/sim/lock_class.h"
#include "quire/sim/lock_order.h"
#include "quire/sim/run_outcome.h"
#include "quire/sim/task.h"
#include "quire/sim/time.h"
#include "quire/sim/trace_events.h"

namespace quire::sim {

class Context;
class ContextPool;

struct SchedulerConfig {
  unsigned cpus = 1;
  std::uint64_t seed = 0;
  Nanos time_slice = 3 * kMillisecond;
  Nanos wakeup_granularity = 1 * kMillisecond;  // a woken task lets the running one have this much of its slice
  Nanos wakeup_jitter = 0;                      // each wake-up is late by a seeded amount up to this
  unsigned preempt_permille = 0;                // chance of an extra preemption at a sync point, to hunt for races
  Nanos hung_task_timeout = 120 * kSecond;      // a deadlock too: no user task has run for so long and none sleeps
};

struct CpuStats {
  Nanos busy = 0;
  Nanos idle = 0;
  std::uint64_t switches = 0;
};

struct SchedulerStats {
  std::uint64_t context_switches = 0;  // of the simulated CPUs
  std::uint64_t fiber_switches = 0;    // of the host: the interleaving of CPUs as well
  std::uint64_t wakeups = 0;
  std::uint64_t events = 0;
  std::uint64_t preemptions = 0;
};

enum class WaitOutcome { kWoken, kTimeout };

// Told when a task with kmap_local mappings leaves its CPU and when it comes back to it (kmap_local_sched_out and _in).
class KmapSwitchListener {
 public:
  virtual ~KmapSwitchListener() = default;
  virtual void kmap_local_sched_out(Task& task) = 0;
  virtual void kmap_local_sched_in(Task& task) = 0;
};

class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, const CostModel& costs, TraceRegistry& trace);
  // Tasks that have not ended are dropped without running their destructors (what they refer to may be gone already);
  // call unwind_tasks() before, while it still stands.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Clock of the CPU we run on; in an interrupt its time; in boot context the latest time the machine has reached.
  [[nodiscard]] Nanos now() const { return now_; }
  void charge(Nanos n) { now_ += n; }
  // The end of a wait of at most `timeout` that begins now: kNever when that lies beyond all time.
  [[nodiscard]] Nanos deadline(Nanos timeout) const { return timeout < kNever - now_ ? now_ + timeout : kNever; }
  // The CPU we run on; 0 in boot context and interrupts.
  [[nodiscard]] unsigned cpu() const { return cpu_; }
  [[nodiscard]] unsigned cpus() const { return static_cast<unsigned>(cpus_.size()); }
  // The running task; nullptr in boot context and interrupts.
  [[nodiscard]] Task* current() const { return current_; }
  [[nodiscard]] bool in_interrupt() const { return context_ == interrupt_task_.get(); }

  // Here, and only here, in waits and at lock acquisitions, others may run.
  void sync_point() {
    if (now_ >= horizon_) [[unlikely]]
      sync_slow();
  }

  // How much may be charged until a sync point has something to do.
  [[nodiscard]] Nanos until_horizon() const { return horizon_ > now_ ? horizon_ - now_ : 0; }

  // The task starts at now() at the earliest. From any context.
  Task& spawn(std::string name, std::function<void()> body, TaskOptions options = {});

  // Runs until every user task has ended. Boot context only, like the next two.
  RunOutcome run();
  // Runs what happens before `when`, daemons and events too, and then sets the machine's time to it at least; kDone when
  // no user task is left.
  RunOutcome run_until(Nanos when);
  // Ends every unfinished task by an exception thrown from where it waits or gave way, so that its destructors run. It may
  // come out of any sync point, and what stands on a task's stack must stand that: a destructor neither waits nor asserts
  // that work was finished unless std::uncaught_exceptions() is 0; nor does it reach sync points in ordinary use, for the
  // exception cannot pass it. Afterwards only the destructor may be called.
  void unwind_tasks();

  // Gives the CPU to the next runnable task, if there is one; costs a system call's time otherwise (sched_yield). In boot
  // context nothing happens.
  void yield();
  // As a program's nanosleep, kInterruptible; as the kernel's schedule_timeout_uninterruptible and _killable else.
  void sleep_until(Nanos when, Sleep as = Sleep::kUninterruptible);
  void sleep_for(Nanos duration, Sleep as = Sleep::kUninterruptible) { sleep_until(deadline(duration), as); }
  // Waits until the task has ended.
  void join(Task& task);

  // Runs `callback` as an interrupt at `when` (now, if that has passed).
  EventId at(Nanos when, const Callback& callback);
  EventId after(Nanos delay, const Callback& callback) { return at(deadline(delay), callback); }
  // False when it has run or was cancelled already.
  bool cancel(EventId id) { return events_.cancel(id); }

  // Makes a sleeping task, or one in a WaitQueue or WaitTable, runnable now (its wait returns, conditions are checked
  // again); false when it does neither. Tasks that wait for a lock are not disturbed. (wake_up_process)
  bool wake(Task& task);

  [[nodiscard]] Rng& rng() { return rng_; }
  [[nodiscard]] const CostModel& costs() const { return costs_; }
  [[nodiscard]] LockRegistry& locks() { return locks_; }
  [[nodiscard]] const SchedulerConfig& config() const { return config_; }
  [[nodiscard]] const SchedulerStats& stats() const { return stats_; }
  [[nodiscard]] CpuStats cpu_stats(unsigned cpu) const;
  [[nodiscard]] Nanos cpu_clock(unsigned cpu) const;
  // The task that has the CPU; nullptr: it is idle.
  [[nodiscard]] const Task* running(unsigned cpu) const { return cpus_[cpu].running; }
  [[nodiscard]] unsigned nr_running(unsigned cpu) const;  // running and queued tasks
  // All tasks ever spawned, by id - 1.
  [[nodiscard]] const std::vector<std::unique_ptr<Task>>& tasks() const { return tasks_; }
  // One line for each task that has not ended: state and what it waits on.
  [[nodiscard]] std::string report() const;
  void validate() const;

  // Lock order checking (lock_order.h); on from the start in QUIRE_DEBUG builds.
  [[nodiscard]] bool lock_checks() const { return lock_checks_; }
  void set_lock_checks(bool on);  // NOLINT: a switch
  [[nodiscard]] LockOrder& lock_order() { return lock_order_; }
  // What a lock tells when it is taken and given back while checks are on: the order is checked, lock_acquire and lock_release
  // are traced.
  void lock_acquired(const LockTaken& taken);
  void lock_released(const void* lock, const LockClass& lock_class);

  // --- For wait queues and locks -----------------------------------------------------------------------------------

  // The running context: a task, or the stand-in for boot or interrupts.
  [[nodiscard]] Task& context() const { return *context_; }
  // From here to migrate_enable the running task stays on this CPU, though it may sleep. Nests.
  void migrate_disable() { ++context_->migration_disabled; }
  void migrate_enable() {
    QUIRE_DCHECK(context_->migration_disabled > 0);
    --context_->migration_disabled;
  }
  void set_kmap_switch_listener(KmapSwitchListener* listener) { kmap_switch_listener_ = listener; }
  void preempt_disable() { ++context_->preempt_count; }
  void preempt_enable() {
    QUIRE_DCHECK(context_->preempt_count > 0);
    --context_->preempt_count;
  }
  // BUG unless the context may sleep: a task without spinlocks. (might_sleep)
  void might_sleep(std::string_view what) const;

  // Parks the running task until wake_waiter (or, where interruptible, wake) makes it runnable. The caller has put it
  // into its queue. Boot context may wait for locks only, which is without interruption.
  enum class Interruptible : std::uint8_t { kNo, kYes };
  void block(const WaitReason& reason, Interruptible interruptible);
  // The same with a limit; kTimeout when `when` came first, and then the task is off its queue.
  WaitOutcome block_until(const WaitReason& reason, Nanos when);
  // Makes a task that block()ed runnable; the caller has taken it off its queue.
  void wake_waiter(Task& task);

  // The running context burns its CPU until `when`, then goes on when its time has come. A task that holds no spinlock may
  // be preempted then.
  void spin_until(Nanos when);
  // The running task burns its CPU until stop_spinning(task).
  void spin(const WaitReason& reason);
  // Ends the spinning of a task on another CPU: its clock moves on to now() plus the hand-over.
  void stop_spinning(Task& task);

  Tracepoint<SchedSwitch> sched_switch;
  Tracepoint<SchedWakeup> sched_wakeup;
  Tracepoint<ContentionBegin> contention_begin;
  Tracepoint<ContentionEnd> contention_end;
  Tracepoint<LockAcquire> lock_acquire;
  Tracepoint<LockRelease> lock_release;

 private:
  friend class Context;
  using RunQueue = List<Task, &Task::run_node_>;
  struct Cpu {
    Nanos clock = 0;          // stale for the CPU we run on: that one is now_
    Task* running = nullptr;  // has the CPU, also while another CPU's task runs on the host
    RunQueue queue;           // runnable tasks by ready time
    unsigned queued = 0;
    Nanos resched_at = kNever;          // when `running` gives way to a task that is ready
    Nanos run_start = 0;                // when `running` got the CPU
    Task* prev = nullptr;               // for sched_switch: who had the CPU; null: it has been idle
    std::string_view prev_state = "R";  // and how it left
    CpuStats stats;
  };
  struct Choice {
    Cpu* cpu = nullptr;  // null: nothing can run
    Nanos time = kNever;
  };

  enum class Requeue : std::uint8_t { kWoken, kPreempted };

  // scheduler.cc: what tasks ask for.
  void require_task(std::string_view wanted) const;
  void wait_in_boot(const WaitReason& reason);
  void run_current_task();
  void finish_current();
  void sleep_current(TaskState state, const WaitReason& reason, Nanos until);
  void make_runnable(Task& task);
  unsigned select_task_rq(const Task& task, Nanos ready_at);
  void enqueue(Task& task, unsigned cpu, Nanos ready_at, Requeue how);
  void preempt_current();

  // dispatch.cc: who runs next.
  void sync_slow();
  void dispatch();
  [[nodiscard]] static Nanos candidate_time(const Cpu& cpu);
  [[nodiscard]] Choice choose();
  [[nodiscard]] Choice choose_inside_section();
  [[nodiscard]] bool inside_section() const;
  void pick_next_task(Cpu& cpu, Nanos start);
  void put_prev_task(TaskState state);
  void idle_balance(Cpu& cpu);
  void deliver_event();
  void activate(Cpu& cpu);
  void update_horizon();
  void lower_horizon(Nanos when) {
    if (current_ != nullptr && when < horizon_) horizon_ = when;
  }
  void transfer(Task& to);
  [[nodiscard]] bool boot_waits() const { return boot_task_->state_ == TaskState::kWaiting; }
  void leave(RunEnd end);
  void enter_boot();
  RunOutcome run_loop(Nanos limit);
  [[nodiscard]] Nanos latest_time() const;

  // report.cc
  [[nodiscard]] bool hung(Nanos when) const;
  [[nodiscard]] RunOutcome deadlock() const;
  [[nodiscard]] std::string describe_wait(const Task& task) const;

  // The hot words, in one cache line.
  Nanos now_ = 0;
  Nanos horizon_ = kNever;
  Task* context_ = nullptr;  // never null
  Task* current_ = nullptr;
  unsigned cpu_ = 0;
  bool lock_checks_ = false;

  const SchedulerConfig config_;
  const CostModel costs_;
  Rng rng_;
  EventQueue events_;
  std::vector<Cpu> cpus_;
  std::vector<std::unique_ptr<Task>> tasks_;
  std::unique_ptr<Task> boot_task_;
  std::unique_ptr<Task> interrupt_task_;
  std::unique_ptr<ContextPool> contexts_;
  Context* executing_ = nullptr;  // the host's: whose stack we stand on
  std::unique_ptr<Context> host_context_;
  LockRegistry locks_;
  LockOrder lock_order_;
  List<Task, &Task::wait_node> exit_waiters_;  // in join(); wait_key: the id waited for
  SchedulerStats stats_;
  Nanos limit_ = kNever;       // of run_until
  bool run_for_boot_ = false;  // dispatch runs for boot's sake, until that has its lock
  Nanos boot_time_ = 0;        // when run() began: an event that was due before runs then
  Nanos last_event_ = 0;
  Nanos interrupt_end_ = 0;     // the latest time an interrupt has charged up to
  Nanos last_user_run_ = 0;     // when a user task last got a CPU
  unsigned user_tasks_ = 0;     // unfinished
  RunEnd end_ = RunEnd::kDone;  // why dispatch went back to boot context
  bool unwinding_ = false;
  KmapSwitchListener* kmap_switch_listener_ = nullptr;
};

}  // namespace quire::sim
