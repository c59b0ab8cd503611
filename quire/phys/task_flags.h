// Flags of a task (Linux's PF_*) that change what the allocator does for it. They live in sim::Task::pf_flags; a scope
// sets some and puts them back as they were.
#pragma once

#include <cstdint>

#include "quire/base/flags.h"
#include "quire/sim/scheduler.h"

namespace quire::phys {

enum class TaskFlag : std::uint32_t {
  kNone = 0,
  kMemalloc = 1u << 0,      // may use all reserves and never enters reclaim (PF_MEMALLOC)
  kMemallocNoFs = 1u << 1,  // allocations act as without __GFP_FS
  kMemallocNoIo = 1u << 2,  // allocations act as without __GFP_IO and __GFP_FS
  kOomVictim = 1u << 3,     // is being killed for memory: may use part of the reserves (tsk_is_oom_victim)
  kKswapd = 1u << 4,        // is a kswapd (PF_KSWAPD)
  kMemallocPin = 1u << 5,   // allocations act as without __GFP_MOVABLE: the pages will be pinned for long (PF_MEMALLOC_PIN)
};

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::TaskFlag> = true;

namespace quire::phys {

[[nodiscard]] inline bool task_test(const sim::Scheduler& scheduler, TaskFlag flag) {
  return (scheduler.context().pf_flags & bits(flag)) != 0;
}

// While it lives, the running task (or boot context) has `flags` set.
class [[nodiscard]] TaskFlagScope {
 public:
  TaskFlagScope(sim::Scheduler& scheduler, TaskFlag flags) : task_(scheduler.context()), added_(bits(flags) & ~task_.pf_flags) {
    task_.pf_flags |= added_;
  }
  ~TaskFlagScope() { task_.pf_flags &= ~added_; }
  TaskFlagScope(const TaskFlagScope&) = delete;
  TaskFlagScope& operator=(const TaskFlagScope&) = delete;

 private:
  sim::Task& task_;
  std::uint32_t added_;
};

// PF_MEMALLOC for reclaim's own allocations (memalloc_noreclaim_save).
class [[nodiscard]] MemallocScope : TaskFlagScope {
 public:
  explicit MemallocScope(sim::Scheduler& scheduler) : TaskFlagScope(scheduler, TaskFlag::kMemalloc) {}
};

}  // namespace quire::phys
