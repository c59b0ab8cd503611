// A process: an address space, open files, and the threads that run in it.
//
//   fork    dup_mm, files copied       vfork   same Mm until the child execs or ends; the parent waits
//   exec    a fresh Mm                 exit    files closed, Mm put, parent told; a zombie until somebody waits
//
// What a process is to the machine lies in the machine's memory (task_objects.h, file_table.h, Mm) and goes as in Linux: at
// the exit, the rest when it is reaped. Process itself is the laboratory's record of it, on the host's heap: it stays, so
// that a report can tell of what has ended.
//
// Confined to the machine's host thread.
#pragma once

#include <cstdint>
#include <string>

#include "quire/base/intrusive_list.h"
#include "quire/kernel/file_table.h"
#include "quire/kernel/task_objects.h"
#include "quire/vm/mm.h"

namespace quire::kernel {

// kReaped: its parent has waited for it, or it had none left and init did.
enum class ProcessState : std::uint8_t { kRunning, kZombie, kReaped };

// How a process ended, in the terms of wait(2).
struct ExitStatus {
  int code = 0;    // exit code, when signal is 0
  int signal = 0;  // the signal that killed it
};

// A process among the children of another.
struct ChildLink {
  ListNode sibling;
};

class Process : public ChildLink {
 public:
  Process(int number, Process* made_by, std::string name) : pid(number), parent(made_by), comm(std::move(name)) {}
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const int pid;
  Process* const parent;           // who made it; nullptr: the machine's owner
  Process* real_parent = nullptr;  // who may wait for it; nullptr: init
  std::string comm;
  ProcessState state = ProcessState::kRunning;

  // In the machine's memory. nullptr: not there any more.
  vm::Mm* mm = nullptr;      // one mm_users reference; until it has exited
  vm::Mm* oom_mm = nullptr;  // an mm_count reference: what the OOM killer killed it for, until that is free
  FileTable* files = nullptr;
  FsStruct* fs = nullptr;
  SignalStruct* signal = nullptr;  // this and the following until it is reaped
  Sighand* sighand = nullptr;
  Cred* cred = nullptr;

  ExitStatus exit;  // settle_exit() sets it
  std::int16_t oom_score_adj = 0;
  vm::Personality personality = vm::Personality::kNone;
  enum class SharedMm : std::uint8_t { kNo, kVfork } shared_mm = SharedMm::kNo;
  void* local = nullptr;  // the owner's
  List<ChildLink, &ChildLink::sibling> children;

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
