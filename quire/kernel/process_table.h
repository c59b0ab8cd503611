// All processes of a machine: how they are made, how they end, who waits for whom.
//
// Differs from Linux: the threads' code is not the processes' own instructions but what the owner of the machine runs in
// them (a replayed trace, a test): a new thread is given a body to run. A killed process ends when its threads notice,
// which they do at their next access or call. Whoever has no parent left that could wait for it is reaped at once, as init
// would.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/result.h"
#include "quire/kernel/exec.h"
#include "quire/kernel/process.h"
#include "quire/kernel/pseudo_fs.h"
#include "quire/kvirt/kernel_space.h"
#include "quire/reclaim/oom.h"
#include "quire/slab/slab_system.h"
#include "quire/vm/vm.h"

namespace quire::kernel {

class ProcessTable final : public reclaim::OomVictims, private vm::CurrentMm {
 public:
  ProcessTable(phys::PhysMem& phys, slab::SlabSystem& slab, kvirt::KernelSpace& kernel_space, file::Vfs& vfs, vm::Vm& vm);
  ~ProcessTable() override;

  using Body = std::function<void(Thread&)>;

  // A process with an empty address space, no files and one thread that runs `body` once the machine runs. kNoMem.
  Result<Process*> create(std::string comm, Body body);

  // --- called from a thread of `parent` ---------------------------------------------------------------------------------
  Result<Process*> fork(Process& parent, Body body);
  // The child runs in the parent's address space; the caller waits until it execs or ends.
  Result<Process*> vfork(Process& parent, Body body);
  Result<Thread*> clone_thread(Process& process, Body body);
  // A fresh address space for `process` in place of its own. kNoMem: it keeps the old one.
  Result<vm::Mm*> exec(Process& process, std::string comm);
  // execve(2): the program of a file of the machine in place of the process's own; see exec.h for what is checked in which
  // order. kAgain: the process has several threads. An error before the point of no return changes nothing; behind it the
  // process has been killed (SIGSEGV).
  ExecResult<ExecImage> execve(Process& process, const ExecArgs& args);
  // The calling thread ends; with the last one the process does. The body returns right afterwards.
  void exit_thread(Thread& thread, ExitStatus status);
  // Every thread ends: the caller now, others when they notice.
  void exit_group(Thread& thread, ExitStatus status);
  // Waits until the child has ended, and reaps it. kChild: not a child, or reaped already. kIntr: the caller was killed.
  Result<ExitStatus> wait(Process& parent, Process& child);

  // As SIGKILL: its accesses and calls end early from now on.
  void kill(Process& process, int signal);

  // Gives back the stacks that CPUs keep for the next threads. May sleep.
  void free_vm_stack_cache() { objects_.free_vm_stack_cache(); }

  [[nodiscard]] Process* find(int pid);
  // The records of all that ever were.
  [[nodiscard]] const std::vector<std::unique_ptr<Process>>& all() const { return processes_; }
  // Where pipes and what is no file come from.
  [[nodiscard]] PseudoFs& pseudo_fs() { return pseudo_fs_; }

  // --- reclaim::OomVictims --------------------------------------------------------------------------------------------------
  void for_each_candidate(FunctionRef<reclaim::OomVisit(const reclaim::OomCandidate&)> visit) override;
  void oom_kill_process(std::uint64_t pid, std::uint64_t points) override;
  [[nodiscard]] std::uint64_t current_pid() const override;
  [[nodiscard]] bool fatal_signal_pending() const override;

 private:
  [[nodiscard]] const Process* current() const;  // null: a task of the kernel's own, or nobody
  // vm::CurrentMm
  [[nodiscard]] const vm::Mm* current_mm() const override;

  enum class CopyMm : std::uint8_t { kNone, kCopy, kShare };

  Result<Process*> copy_process(Process* parent, std::string comm, CopyMm copy, Body body);
  Status copy_parts(Process& child, Process* parent, CopyMm copy);
  Result<vm::Mm*> copy_mm(Process& child, Process* parent, CopyMm copy);
  void start_thread(Process& process, Thread& thread, Body body);
  ExecResult<ExecImage> exec_binprm(Process& process, LinuxBinprm& bprm, Cred& cred);
  static void set_task_comm(Process& process, std::string_view comm);
  void exec_mmap(Process& process, vm::Mm& mm, Cred& cred);
  void put_mm(Process& process);
  void let_go_of(Process& process, vm::Mm& mm);
  void put_oom_mm(Process& process);
  void put_memory_and_files(Process& process);
  void exit_notify(Process& process);
  void release_task(Process& process);
  void free_task(Process& process);
  void send_sigkill(Process& process);

  phys::PhysMem& phys_;
  vm::Vm& vm_;
  TaskObjects objects_;
  FileTables files_;
  PseudoFs pseudo_fs_;
  Exec exec_;
  std::vector<std::unique_ptr<Process>> processes_;
  int next_tid_ = 1;
};

}  // namespace quire::kernel
