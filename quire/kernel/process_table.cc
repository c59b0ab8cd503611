#include "quire/kernel/process_table.h"

#include <algorithm>
#include <utility>

#include "quire/phys/task_flags.h"

namespace quire::kernel {

namespace {

constexpr std::size_t kTaskStructSize = 9792;  // Debian 12's 6.1, /proc/slabinfo: task_struct
constexpr Order kThreadStackOrder{2};          // THREAD_SIZE, 16 KiB

}  // namespace

std::uint64_t Process::peak_rss() const { return owns_mm() ? std::max({max_rss, mm->hiwater_rss, mm->rss()}) : max_rss; }

ProcessTable::ProcessTable(phys::PhysMem& phys, slab::SlabSystem& slab, file::Vfs& vfs, vm::Vm& vm)
    : phys_(phys), slab_(slab), vfs_(vfs), vm_(vm) {
  auto cache = slab_.kmem_cache_create("task_struct", kTaskStructSize, 64, slab::SlabFlags::kPanic);
  QUIRE_BUG_ON(!cache);
  task_cache_ = *cache;
}

ProcessTable::~ProcessTable() {
  for (const auto& process : processes_) {
    for (const auto& thread : process->threads) free_thread(*thread);
    if (process->files) process->files->close_all();
    put_mm(*process);
    put_oom_mm(*process);
  }
}

Process& ProcessTable::add_process(Process* parent, std::string comm) {
  sim::Scheduler& scheduler = phys_.scheduler();
  processes_.push_back(std::make_unique<Process>(scheduler, next_tid_++, parent, std::move(comm)));
  Process& process = *processes_.back();
  process.start_time = scheduler.now();
  return process;
}

Result<Thread*> ProcessTable::make_thread(Process& process, int tid, Body body) {
  sim::Scheduler& scheduler = phys_.scheduler();
  void* task_struct = task_cache_->alloc(phys::Gfp::kKernel);
  if (task_struct == nullptr) return fail(Errno::kNoMem);
  phys::Page* stack = phys_.alloc_pages(phys::Gfp::kKernel | phys::Gfp::kZero, kThreadStackOrder);
  if (stack == nullptr) {
    task_cache_->free(task_struct);
    return fail(Errno::kNoMem);
  }
  phys_.page_node(*stack).stats.add(phys::NodeStat::kNrKernelStack, kThreadStackOrder.bytes() / kKiB);

  process.threads.push_back(std::make_unique<Thread>());
  Thread& thread = *process.threads.back();
  thread = Thread{tid, &process, nullptr, task_struct, stack};
  ++process.live_threads;
  thread.task = &scheduler.spawn(process.comm, [&thread, run = std::move(body)] { run(thread); },
                                 {.kind = sim::TaskKind::kUser, .local = &thread});
  return &thread;
}

void ProcessTable::free_thread(Thread& thread) {
  if (thread.kernel_stack == nullptr) return;
  phys_.page_node(*thread.kernel_stack).stats.sub(phys::NodeStat::kNrKernelStack, kThreadStackOrder.bytes() / kKiB);
  phys_.free_pages(*std::exchange(thread.kernel_stack, nullptr), kThreadStackOrder);
  task_cache_->free(std::exchange(thread.task_struct, nullptr));
}

Result<Process*> ProcessTable::create(std::string comm, Body body) {
  const Result<vm::Mm*> mm = vm_.mm_alloc();
  if (!mm) return fail(mm.error());
  Process& process = add_process(nullptr, std::move(comm));
  process.mm = *mm;
  process.mm->owner = &process;
  process.files = std::make_shared<FileTable>(vfs_);
  if (auto thread = make_thread(process, process.pid, std::move(body)); !thread) {
    forget(process);
    return fail(thread.error());
  }
  return &process;
}

Result<Process*> ProcessTable::fork(Process& parent, Body body) {
  const Result<vm::Mm*> mm = vm_.dup_mm(*parent.mm);
  if (!mm) return fail(mm.error());
  Process& child = add_process(&parent, parent.comm);
  child.mm = *mm;
  child.mm->owner = &child;
  child.files = parent.files->clone();
  child.oom_score_adj = parent.oom_score_adj;
  if (auto thread = make_thread(child, child.pid, std::move(body)); !thread) {
    forget(child);
    return fail(thread.error());
  }
  return &child;
}

Result<Process*> ProcessTable::vfork(Process& parent, Body body) {
  Process& child = add_process(&parent, parent.comm);
  vm::Vm::mmget(*parent.mm);
  child.mm = parent.mm;
  child.shared_mm = Process::SharedMm::kVfork;
  child.files = parent.files->clone();
  child.oom_score_adj = parent.oom_score_adj;
  if (auto thread = make_thread(child, child.pid, std::move(body)); !thread) {
    forget(child);
    return fail(thread.error());
  }
  parent.vfork_done.wait_until([&child, &parent] { return child.shared_mm == Process::SharedMm::kNo || parent.killed(); });
  return &child;
}

Result<Thread*> ProcessTable::clone_thread(Process& process, Body body) {
  return make_thread(process, next_tid_++, std::move(body));
}

Result<vm::Mm*> ProcessTable::exec(Process& process, std::string comm) {
  const Result<vm::Mm*> mm = vm_.mm_alloc();
  if (!mm) return fail(mm.error());
  (*mm)->owner = &process;
  vm::Mm* old = std::exchange(process.mm, *mm);  // at once: a kill finds the one or the other
  if (old != nullptr) {
    if (old->killed()) vm_.mark_killed(**mm);
    let_go_of(process, *old);
  }
  process.comm = std::move(comm);
  return process.mm;
}

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
    if (process.parent != nullptr) process.parent->vfork_done.wake_all();
  }
  vm_.mmput(mm);
}

// Its memory is free, or others that are dying too have it.
void ProcessTable::put_oom_mm(Process& process) {
  if (process.oom_mm != nullptr) vm_.mmdrop(*std::exchange(process.oom_mm, nullptr));
}

void ProcessTable::exit_thread(Thread& thread, ExitStatus status) {
  Process& process = *thread.process;
  QUIRE_BUG_ON(process.live_threads == 0);
  if (process.live_threads == 1) {
    process.settle_exit(status);
    finish(process);
  }
  --process.live_threads;
  free_thread(thread);
}

void ProcessTable::exit_group(Thread& thread, ExitStatus status) {
  Process& process = *thread.process;
  if (process.live_threads > 1 && !process.killed()) {
    process.settle_exit(status);
    send_sigkill(process);
  }
  exit_thread(thread, status);
}

// The process has no thread left that runs: memory and files go, the parent hears of it.
void ProcessTable::finish(Process& process) {
  put_mm(process);
  put_oom_mm(process);
  if (process.files) process.files->close_all();
  process.files.reset();
  process.end_time = phys_.scheduler().now();
  process.state = ProcessState::kZombie;
  if (process.parent != nullptr) process.parent->child_exit.wake_all();
}

// Undoes add_process and what was given to the process since; it has never run.
void ProcessTable::forget(Process& process) {
  put_mm(process);
  put_oom_mm(process);
  if (process.files) process.files->close_all();
  std::erase_if(processes_, [&process](const auto& each) { return each.get() == &process; });
}

Result<ExitStatus> ProcessTable::wait(Process& parent, Process& child) {
  if (child.parent != &parent || child.state == ProcessState::kReaped) return fail(Errno::kChild);
  parent.child_exit.wait_until([&child, &parent] { return child.state == ProcessState::kZombie || parent.killed(); });
  if (child.state != ProcessState::kZombie) return fail(Errno::kIntr);
  child.state = ProcessState::kReaped;
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
  for (const auto& thread : process.threads) {
    if (thread->task == nullptr || thread->task->finished()) continue;
    thread->task->pf_flags |= bits(phys::TaskFlag::kOomVictim);
    if (thread->task != phys_.scheduler().current()) phys_.scheduler().wake(*thread->task);
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

std::uint64_t ProcessTable::current_pid() const {
  const sim::Task* task = phys_.scheduler().current();
  if (task == nullptr || task->local == nullptr) return 0;
  return static_cast<std::uint64_t>(static_cast<const Thread*>(task->local)->process->pid);
}

bool ProcessTable::fatal_signal_pending() const {
  const sim::Task* task = phys_.scheduler().current();
  if (task == nullptr || task->local == nullptr) return false;
  return static_cast<const Thread*>(task->local)->process->killed();
}

Process* ProcessTable::find(int pid) {
  const auto it = std::ranges::find_if(processes_, [pid](const auto& process) { return process->pid == pid; });
  return it == processes_.end() ? nullptr : it->get();
}

}  // namespace quire::kernel
