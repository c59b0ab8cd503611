// A task: one line of execution of the machine (a user thread, kswapd, the flusher). It is a fiber with a stack of its
// own; what it runs is ordinary code that may wait. Its owner (the kernel's process, a test) hangs what it likes on
// `local`. A task belongs to its Scheduler and lives as long as that does, so statistics survive its end.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "quire/base/intrusive_list.h"
#include "quire/sim/cpu_mask.h"
#include "quire/sim/event_queue.h"
#include "quire/sim/lock_order.h"
#include "quire/sim/time.h"

namespace quire::sim {

class Context;
class Scheduler;
class Task;

enum class TaskKind : std::uint8_t {
  kUser,    // Scheduler::run lasts until each of these has ended
  kDaemon,  // a kernel thread: may sleep for ever
};

enum class TaskState : std::uint8_t {
  kRunnable,  // in a CPU's run queue
  kRunning,   // has a CPU
  kSpinning,  // has a CPU and burns it waiting for a spinlock
  kSleeping,  // until a time
  kWaiting,   // in a wait queue or for a sleeping lock
  kFinished,
};
[[nodiscard]] std::string_view task_state_name(TaskState state);

struct TaskOptions {
  TaskKind kind = TaskKind::kUser;
  std::optional<unsigned> cpu = std::nullopt;  // may run on this CPU only
  void* local = nullptr;
};

// Virtual time of a task, split by what it did.
struct TaskStats {
  Nanos run_time = 0;                      // on a CPU, spinning included
  Nanos run_delay = 0;                     // runnable, without a CPU
  Nanos wait_time = 0;                     // asleep or waiting
  std::uint64_t voluntary_switches = 0;    // nvcsw
  std::uint64_t involuntary_switches = 0;  // nivcsw
  std::uint64_t migrations = 0;
};

// As what a wait shows in /proc/PID/status and sched_switch: D, killable or not; S where in Linux any signal would end it; I for
// a worker without work.
enum class Sleep : std::uint8_t { kUninterruptible, kInterruptible, kIdle };

// What a task that does not run waits on, for reports. The names live as long as the wait.
struct WaitReason {
  std::string_view kind;         // "mutex"
  std::string_view name;         // "mmap_lock"
  Task* const* owner = nullptr;  // where the lock keeps its present owner, if it has one
  Sleep sleep = Sleep::kUninterruptible;
};

// The kmap_local mappings of a task, innermost last (struct kmap_ctrl): kvirt's, which hears of every switch from or to a task
// that has some.
struct KmapCtrl {
  static constexpr unsigned kMost = 16;
  unsigned idx = 0;  // how many
  std::array<std::uint64_t, kMost> pteval{};
};

// Flushes that a task has put off while it unmaps (struct tlbflush_unmap_batch): vm's.
struct UnmapBatch {
  CpuMask cpumask;
  bool flush_required = false;
  bool writable = false;
  std::uint64_t first = 0, last = 0;  // which of all flushes that were put off it took in
  ListNode open;                      // batches that have to be flushed
};

class Task {
 public:
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }  // as execve changes comm
  [[nodiscard]] unsigned id() const { return id_; }
  [[nodiscard]] TaskKind kind() const { return kind_; }
  [[nodiscard]] TaskState state() const { return state_; }
  [[nodiscard]] bool finished() const { return state_ == TaskState::kFinished; }
  [[nodiscard]] unsigned cpu() const { return cpu_; }  // where it runs or ran last
  [[nodiscard]] Scheduler& scheduler() const { return scheduler_; }
  [[nodiscard]] const TaskStats& stats() const { return stats_; }
  // Meaningful while the state is kSleeping, kWaiting or kSpinning.
  [[nodiscard]] const WaitReason& wait_reason() const { return wait_reason_; }
  // The state as Linux's ps shows it: R, S, D, I, or X once it has ended.
  [[nodiscard]] std::string_view state_letter() const;
  [[nodiscard]] Nanos state_since() const { return state_since_; }

  void* local = nullptr;  // the owner's; never touched here
  // Which instruction of its program the task resumes at, counted from 0 since the program began (pt_regs' ip, where programs
  // have no code): after an exception the faulting one, after an interrupt or a system call the next. Whoever runs the
  // program brings it up to date whenever the machine may look; a kernel thread's stays 0.
  std::uint64_t ip = 0;
  std::uint64_t reclaimed_slab = 0;  // pages of slabs it gave back (struct reclaim_state); counted by the slab floor
  std::uint32_t pf_flags = 0;        // PF_MEMALLOC and its kin (phys/task_flags.h); never touched here

  std::uint64_t mm_context = 0;     // the address space it last used; vm's, never touched here
  UnmapBatch tlb_ubc;               // never touched here
  KmapCtrl kmap_ctrl;               // never touched here
  unsigned migration_disabled = 0;  // keeps its CPU while it is not 0 (migrate_disable)

  // Linkage and words of the wait queues and locks; not for others. A task waits on one thing at a time.
  ListNode wait_node;
  std::uint64_t wait_key = 0;  // WaitTable: the address waited for; RwSemaphore: reader or writer
  unsigned preempt_count = 0;  // spinlocks held and preempt_disable()s
  HeldLocks held_locks;        // filled only while lock order is checked

 private:
  friend class Scheduler;
  Task(Scheduler& scheduler, unsigned id, std::string name, const TaskOptions& options);

  Scheduler& scheduler_;
  const unsigned id_;
  std::string name_;
  TaskKind kind_;
  TaskState state_ = TaskState::kRunnable;
  std::optional<unsigned> pinned_;
  unsigned cpu_ = 0;
  Nanos ready_at_ = 0;          // kRunnable: the earliest time at which it may run
  Nanos state_since_ = 0;       // when the state was entered, on the clock of who changed it
  bool interruptible_ = false;  // kWaiting: Scheduler::wake may end the wait
  bool timed_out_ = false;
  EventId timer_;
  WaitReason wait_reason_;
  ListNode run_node_;
  Context* fiber_ = nullptr;
  std::function<void()> body_;
  TaskStats stats_;
};

}  // namespace quire::sim
