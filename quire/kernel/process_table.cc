#include "quire/kernel/process_table.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "quire/phys/task_flags.h"

namespace quire::kernel {

namespace {

constexpr std::size_t kTaskCommLen = 16;  // TASK_COMM_LEN, the final zero with it

}  // namespace

std::uint64_t Process::peak_rss() const { return owns_mm() ? std::max({max_rss, mm->hiwater_rss, mm->rss()}) : max_rss; }

ProcessTable::ProcessTable(phys::PhysMem& phys, slab::SlabSystem& slab, kvirt::KernelSpace& kernel_space, file::Vfs& vfs,
                           vm::Vm& vm)
    : phys_(phys),
      vm_(vm),
      objects_(phys, slab, kernel_space.vmalloc()),
      files_(slab, kernel_space.kv(), vfs),
      pseudo_fs_(phys, slab, vfs),
      exec_(phys, slab, vfs, vm) {
  vm_.commit().set_current(this);
}

ProcessTable::~ProcessTable() {
  vm_.commit().set_current(nullptr);
  // Who still has memory and files was stopped in the middle of something, which may have left them half changed: they go with the
  // machine's memory, as they are.
  for (const auto& process : processes_) free_task(*process);  // what was being reaped, too
}

// --- how they are made --------------------------------------------------------------------------------------------------

Result<vm::Mm*> ProcessTable::copy_mm(Process& child, Process* parent, CopyMm copy) {
  if (copy == CopyMm::kShare) {
    vm::Vm::mmget(*parent->mm);
    child.shared_mm = Process::SharedMm::kVfork;
    return parent->mm;
  }
  const Result<vm::Mm*> mm = copy == CopyMm::kCopy ? vm_.dup_mm(*parent->mm) : vm_.mm_alloc();
  if (mm) (*mm)->owner = &child;
  return mm;
}

// All that a process takes besides its first thread, in Linux's order. What it got before a failure stays for the caller to
// give back.
Status ProcessTable::copy_parts(Process& child, Process* parent, CopyMm copy) {
  const auto no_memory = [](const void* object) { return object == nullptr; };
  if (no_memory(child.cred = objects_.prepare_creds())) return fail(Errno::kNoMem);
  child.files = parent == nullptr ? files_.alloc() : files_.dup_fd(*parent->files);
  if (child.files == nullptr) return fail(Errno::kNoMem);
  if (no_memory(child.fs = objects_.alloc_fs())) return fail(Errno::kNoMem);
  if (no_memory(child.sighand = objects_.alloc_sighand())) return fail(Errno::kNoMem);
  if (no_memory(child.signal = objects_.alloc_signal())) return fail(Errno::kNoMem);
  const Result<vm::Mm*> mm = copy_mm(child, parent, copy);
  if (!mm) return fail(mm.error());
  child.mm = *mm;
  return {};
}

Result<Process*> ProcessTable::copy_process(Process* parent, std::string comm, CopyMm copy, Body body) {
  auto record = std::make_unique<Process>(next_tid_++, parent, std::move(comm));
  Process& child = *record;
  Thread* leader = objects_.alloc_thread(child, child.pid);
  if (leader == nullptr) return fail(Errno::kNoMem);
  if (const Status done = copy_parts(child, parent, copy); !done) {
    put_memory_and_files(child);
    free_task(child);
    objects_.free_thread(*leader);
    return fail(done.error());
  }
  // Nothing fails from here on.
  child.start_time = phys_.scheduler().now();
  if (parent != nullptr) {
    child.oom_score_adj = parent->oom_score_adj;
    child.personality = parent->personality;
    child.real_parent = parent;
    parent->children.push_back(child);
  }
  processes_.push_back(std::move(record));
  start_thread(child, *leader, std::move(body));
  return &child;
}

void ProcessTable::start_thread(Process& process, Thread& thread, Body body) {
  process.signal->threads.push_back(thread);
  ++process.signal->live;
  ++process.signal->nr_threads;
  thread.task = &phys_.scheduler().spawn(process.comm, [&thread, run = std::move(body)] { run(thread); },
                                         {.kind = sim::TaskKind::kUser, .local = &thread});
  if (process.mm != nullptr) vm::TlbShootdown::begins_in(*thread.task, *process.mm);
}

Result<Process*> ProcessTable::create(std::string comm, Body body) {
  return copy_process(nullptr, std::move(comm), CopyMm::kNone, std::move(body));
}

Result<Process*> ProcessTable::fork(Process& parent, Body body) {
  return copy_process(&parent, parent.comm, CopyMm::kCopy, std::move(body));
}

Result<Process*> ProcessTable::vfork(Process& parent, Body body) {
  const Result<Process*> child = copy_process(&parent, parent.comm, CopyMm::kShare, std::move(body));
  if (!child) return child;
  parent.signal->vfork_done.wait_until(
      [&made = **child, &parent] { return made.shared_mm == Process::SharedMm::kNo || parent.killed(); });
  return child;
}

Result<Thread*> ProcessTable::clone_thread(Process& process, Body body) {
  Thread* thread = objects_.alloc_thread(process, next_tid_++);
  if (thread == nullptr) return fail(Errno::kNoMem);
  start_thread(process, *thread, std::move(body));
  return thread;
}

Result<vm::Mm*> ProcessTable::exec(Process& process, std::string comm) {
  Cred* cred = objects_.prepare_creds();  // of the new program (bprm->cred)
  if (cred == nullptr) return fail(Errno::kNoMem);
  const Result<vm::Mm*> mm = vm_.mm_alloc();
  if (!mm) {
    objects_.free(cred);
    return fail(mm.error());
  }
  exec_mmap(process, **mm, *cred);
  set_task_comm(process, comm);
  return process.mm;
}

// Of the process and of the one thread that it has when it executes a program.
void ProcessTable::set_task_comm(Process& process, std::string_view comm) {
  process.comm = comm.substr(0, kTaskCommLen - 1);
  for (Thread& thread : process.signal->threads) {
    if (thread.task != nullptr) thread.task->set_name(process.comm);
  }
}

// The process has the new address space and the new program's credentials; the old ones go.
void ProcessTable::exec_mmap(Process& process, vm::Mm& mm, Cred& cred) {
  mm.owner = &process;
  vm::Mm* old = std::exchange(process.mm, &mm);  // at once: a kill finds the one or the other
  objects_.free(std::exchange(process.cred, &cred));
  if (old == nullptr) return;
  mm.rlimits = old->rlimits;
  mm.ipc_lock = old->ipc_lock;
  if (old->killed()) vm_.mark_killed(mm);
  let_go_of(process, *old);
}

ExecResult<ExecImage> ProcessTable::execve(Process& process, const ExecArgs& args) {
  if (process.signal->nr_threads > 1)
    return exec_error(Errno::kAgain, "the process has other threads, which would have to end");
  Cred* cred = objects_.prepare_creds();
  if (cred == nullptr) return exec_error(Errno::kNoMem, "no memory for credentials");
  LinuxBinprm bprm(args);
  bprm.cred = cred;
  auto image = exec_binprm(process, bprm, *cred);
  exec_.free_bprm(bprm);
  return image;
}

// `cred` is the process's then, or goes.
ExecResult<ExecImage> ProcessTable::exec_binprm(Process& process, LinuxBinprm& bprm, Cred& cred) {
  if (auto ready = exec_.prepare(bprm, *process.mm, process.personality); !ready) {
    objects_.free(&cred);
    return std::unexpected(ready.error());
  }
  vm::Mm& mm = *std::exchange(bprm.mm, nullptr);
  exec_mmap(process, mm, cred);
  const std::string_view path = bprm.args.filename;
  set_task_comm(process, path.substr(path.rfind('/') + 1));
  auto image = exec_.load(bprm, mm, process.personality);
  if (!image) kill(process, SIGSEGV);
  return image;
}

// --- how they end -------------------------------------------------------------------------------------------------------

void ProcessTable::put_mm(Process& process) {
  if (process.mm != nullptr) let_go_of(process, *std::exchange(process.mm, nullptr));
}

void ProcessTable::let_go_of(Process& process, vm::Mm& mm) {
  if (mm.owner == &process) {
    process.min_flt += mm.min_flt;
    process.maj_flt += mm.maj_flt;
    process.max_rss = std::max({process.max_rss, mm.hiwater_rss, mm.rss()});
    if (mm.mm_users > 1) mm.owner = nullptr;
  }
  if (process.shared_mm == Process::SharedMm::kVfork) {
    process.shared_mm = Process::SharedMm::kNo;
    if (process.real_parent != nullptr) process.real_parent->signal->vfork_done.wake_all();
  }
  // Not where a parent gives back what its child was about to share.
  const sim::Task* task = phys_.scheduler().current();
  const auto* thread = task != nullptr ? static_cast<const Thread*>(task->local) : nullptr;
  if (thread != nullptr && thread->process == &process) vm_.shootdown().enter_lazy_tlb(mm);
  vm_.mmput(mm);
}

// Its memory is free, or others that are dying too have it.
void ProcessTable::put_oom_mm(Process& process) {
  if (process.oom_mm != nullptr) vm_.mmdrop(*std::exchange(process.oom_mm, nullptr));
}

void ProcessTable::exit_thread(Thread& thread, ExitStatus status) {
  Process& process = *thread.process;
  SignalStruct& signal = *process.signal;
  QUIRE_BUG_ON(signal.live == 0);
  if (--signal.live == 0) {
    process.settle_exit(status);
    put_memory_and_files(process);
  } else if (process.mm != nullptr) {
    vm_.shootdown().enter_lazy_tlb(*process.mm);
  }
  // The host's fiber runs on for a moment, without the machine's task behind it.
  thread.task->local = nullptr;
  thread.task = nullptr;
  objects_.free_stack(thread);
  if (thread.tid != process.pid) {
    signal.threads.erase(thread);
    objects_.free_thread(thread);
  }
  if (--signal.nr_threads == 0) exit_notify(process);
}

void ProcessTable::exit_group(Thread& thread, ExitStatus status) {
  Process& process = *thread.process;
  if (process.signal->live > 1 && !process.killed()) {
    process.settle_exit(status);
    send_sigkill(process);
  }
  exit_thread(thread, status);
}

// exit_mm, exit_files, exit_fs. May sleep.
void ProcessTable::put_memory_and_files(Process& process) {
  put_mm(process);
  put_oom_mm(process);
  if (process.files != nullptr) files_.put_files_struct(*std::exchange(process.files, nullptr));
  objects_.free(std::exchange(process.fs, nullptr));
}

// The process has no thread left that runs: its children get another parent, its own hears of it. From that moment others
// may reap it, so its children have left it before; those that ended stay in its list until they are reaped.
void ProcessTable::exit_notify(Process& process) {
  process.end_time = phys_.scheduler().now();
  ChildLink* next = nullptr;
  for (ChildLink* link = process.children.front_or_null(); link != nullptr; link = next) {
    next = process.children.next_or_null(*link);
    auto& child = static_cast<Process&>(*link);
    child.real_parent = nullptr;
    if (child.state != ProcessState::kZombie) process.children.erase(child);
  }
  process.state = ProcessState::kZombie;
  if (process.real_parent != nullptr) {
    process.real_parent->signal->wait_chldexit.wake_all();
  } else {
    release_task(process);
  }
  while (ChildLink* link = process.children.pop_front()) release_task(static_cast<Process&>(*link));
}

// Whoever asks first reaps it: what follows may sleep, and others may ask again meanwhile.
void ProcessTable::release_task(Process& process) {
  if (process.state == ProcessState::kReaped) return;
  process.state = ProcessState::kReaped;
  if (process.real_parent != nullptr) process.real_parent->children.erase(process);
  process.real_parent = nullptr;
  free_task(process);
}

// What a process that has ended, or was never whole, still holds. Without threads but the first.
void ProcessTable::free_task(Process& process) {
  if (SignalStruct* signal = process.signal; signal != nullptr) {
    while (Thread* thread = signal->threads.pop_front()) objects_.free_thread(*thread);
  }
  objects_.free(std::exchange(process.signal, nullptr));
  objects_.free(std::exchange(process.sighand, nullptr));
  objects_.free(std::exchange(process.cred, nullptr));
}

Result<ExitStatus> ProcessTable::wait(Process& parent, Process& child) {
  if (child.real_parent != &parent) return fail(Errno::kChild);
  parent.signal->wait_chldexit.wait_until(
      [&child, &parent] { return child.state != ProcessState::kRunning || parent.killed(); });
  if (child.state == ProcessState::kRunning) return fail(Errno::kIntr);
  if (child.state == ProcessState::kReaped) return fail(Errno::kChild);  // another thread was faster
  release_task(child);                                                   // nothing ran since the test
  return child.exit;
}

void ProcessTable::kill(Process& process, int signal) {
  if (process.mm == nullptr || process.state != ProcessState::kRunning) return;
  process.settle_exit(ExitStatus{0, signal});
  send_sigkill(process);
}

// Its threads end when they next look. Until then they may use reserves and their allocations may fail, or a task that is to
// die for want of memory would wait for memory first (mark_oom_victim; Linux does it when the OOM killer meets the task).
void ProcessTable::send_sigkill(Process& process) {
  vm_.mark_killed(*process.mm);
  for (Thread& thread : process.signal->threads) {
    if (thread.task == nullptr) continue;
    thread.task->pf_flags |= bits(phys::TaskFlag::kOomVictim);
    if (thread.task != phys_.scheduler().current()) phys_.scheduler().wake(*thread.task);
  }
}

void ProcessTable::for_each_candidate(FunctionRef<reclaim::OomVisit(const reclaim::OomCandidate&)> visit) {
  using State = reclaim::OomCandidate::State;
  for (const auto& process : processes_) {
    // Who has let go of its memory holds nothing more, unless it was made to: that memory is still on its way.
    if (process->mm == nullptr && process->oom_mm == nullptr) continue;
    const vm::Mm& mm = process->oom_mm != nullptr ? *process->oom_mm : *process->mm;
    reclaim::OomCandidate candidate;
    candidate.pid = static_cast<std::uint64_t>(process->pid);
    candidate.comm = process->comm;
    candidate.oom_score_adj = process->oom_score_adj;
    candidate.rss = mm.rss();
    candidate.swapents = static_cast<std::uint64_t>(mm.counter(vm::Rss::kSwapEnts));
    candidate.pgtables = mm.pgtables_pages;
    // A vfork child would be killed for its parent's memory, and then not free it.
    const bool in_vfork = process->shared_mm == Process::SharedMm::kVfork;
    if (in_vfork || any(mm.flags, vm::MmFlags::kOomSkip))
      candidate.state = State::kSkip;
    else if (process->oom_mm != nullptr)
      candidate.state = State::kVictim;
    if (visit(candidate) == reclaim::OomVisit::kStop) return;
  }
}

void ProcessTable::oom_kill_process(std::uint64_t pid, std::uint64_t /*points*/) {
  Process* victim = find(static_cast<int>(pid));
  if (victim == nullptr || victim->mm == nullptr) return;
  vm::Mm& mm = *victim->mm;
  vm_.mark_oom_victim(mm);
  // Whoever shares the memory goes too, or it would not come free.
  for (const auto& process : processes_) {
    if (process->mm != &mm) continue;
    if (process->oom_mm == nullptr) {
      vm::Vm::mmgrab(mm);
      process->oom_mm = &mm;
    }
    kill(*process, 9);
  }
}

const Process* ProcessTable::current() const {
  const sim::Task* task = phys_.scheduler().current();
  return task == nullptr || task->local == nullptr ? nullptr : static_cast<const Thread*>(task->local)->process;
}

std::uint64_t ProcessTable::current_pid() const {
  const Process* process = current();
  return process == nullptr ? 0 : static_cast<std::uint64_t>(process->pid);
}

bool ProcessTable::fatal_signal_pending() const {
  const Process* process = current();
  return process != nullptr && process->killed();
}

const vm::Mm* ProcessTable::current_mm() const {
  const Process* process = current();
  return process == nullptr ? nullptr : process->mm;
}

Process* ProcessTable::find(int pid) {
  const auto it = std::ranges::find_if(processes_, [pid](const auto& process) { return process->pid == pid; });
  return it == processes_.end() ? nullptr : it->get();
}

}  // namespace quire::kernel
