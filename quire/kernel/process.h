// A process: an address space, open files, and the threads that run in it.
//
//   fork    dup_mm, files copied       vfork   same Mm until the child execs or ends; the parent waits
//   exec    a fresh Mm                 exit    files closed, Mm put, parent told; a zombie until somebody waits
//
// Objects are host-side; what a task costs the machine (its task_struct and kernel stack) is taken from the arena.
// Confined to the machine's host thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quire/kernel/file_table.h"
#include "quire/sim/task.h"
#include "quire/sim/wait_queue.h"
#include "quire/vm/mm.h"

namespace quire::kernel {

class Process;

// One thread: what it holds of the machine's memory, and where it runs.
struct Thread {
  int tid = 0;
  Process* process = nullptr;
  sim::Task* task = nullptr;
  void* task_struct = nullptr;         // object of the cache "task_struct"
  phys::Page* kernel_stack = nullptr;  // THREAD_SIZE, 16 KiB
};

enum class ProcessState : std::uint8_t { kRunning, kZombie, kReaped };

// How a process ended, in the terms of wait(2).
struct ExitStatus {
  int code = 0;    // exit code, when signal is 0
  int signal = 0;  // the signal that killed it
};

class Process {
 public:
  Process(sim::Scheduler& scheduler, int number, Process* made_by, std::string name)
      : pid(number), parent(made_by), comm(std::move(name)), child_exit(scheduler, "wait4"), vfork_done(scheduler, "vfork") {}
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const int pid;
  Process* parent;  // nullptr: made by the machine's owner
  std::string comm;
  ProcessState state = ProcessState::kRunning;
  vm::Mm* mm = nullptr;      // one mm_users reference; nullptr once it has exited
  vm::Mm* oom_mm = nullptr;  // an mm_count reference: what the OOM killer killed it for, until that is free
  std::shared_ptr<FileTable> files;
  std::vector<std::unique_ptr<Thread>> threads;
  unsigned live_threads = 0;
  ExitStatus exit;  // settle_exit() sets it
  std::int16_t oom_score_adj = 0;
  sim::WaitQueue child_exit;  // this process's parent side: a child has ended
  sim::WaitQueue vfork_done;
  enum class SharedMm : std::uint8_t { kNo, kVfork } shared_mm = SharedMm::kNo;
  void* local = nullptr;  // the owner's

  // What getrusage gives, kept when an address space goes.
  std::uint64_t min_flt = 0, maj_flt = 0;
  std::uint64_t max_rss = 0;                   // pages
  std::uint64_t start_time = 0, end_time = 0;  // virtual ns

  [[nodiscard]] std::uint64_t minor_faults() const { return min_flt + (owns_mm() ? mm->min_flt : 0); }
  [[nodiscard]] std::uint64_t major_faults() const { return maj_flt + (owns_mm() ? mm->maj_flt : 0); }
  [[nodiscard]] std::uint64_t peak_rss() const;
  // True while faults of its Mm are its own (not a vfork child's, which run in the parent's Mm).
  [[nodiscard]] bool owns_mm() const { return mm != nullptr && mm->owner == this; }
  // How the process ends: the first word stands (signal_struct::group_exit_code), also when it is 0.
  void settle_exit(ExitStatus status) {
    if (!exit_settled_) exit = status;
    exit_settled_ = true;
  }
  [[nodiscard]] bool killed() const { return mm != nullptr && mm->killed(); }

 private:
  bool exit_settled_ = false;
};

}  // namespace quire::kernel
