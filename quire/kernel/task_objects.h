// What a task is made of in the machine's memory, each from the cache that Linux takes it from, in Linux's size.
//
//   Process (host-side record) ── SignalStruct "signal_cache" ── threads ──▶ Thread "task_struct" ── Pid "pid", kernel stack
//                               ├ Sighand "sighand_cache"
//                               ├ Cred "cred_jar"      FsStruct "fs_cache"
//                               └ FileTable "files_cache" (file_table.h)
//
// A thread that ends gives back its stack, and its task_struct and pid too unless it is the first of its process: those stay
// until the process is reaped, with signal, sighand and credentials (a zombie).
//
// Kernel stacks come from vmalloc (VMAP_STACK); each CPU keeps two that came free for the next threads, as in Linux.
//
// Fields are those that something here uses; what else Linux keeps in an object is room that it takes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "quire/base/intrusive_list.h"
#include "quire/kvirt/vmalloc.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/task.h"
#include "quire/sim/wait_queue.h"
#include "quire/slab/kmem_cache.h"

namespace quire::kernel {

class Process;

struct Pid {
  explicit Pid(int number) : nr(number) {}
  int nr;
};

// One thread: what it holds of the machine's memory, and where it runs.
struct Thread {
  int tid = 0;
  Process* process = nullptr;
  sim::Task* task = nullptr;  // nullptr once it has ended
  Pid* pid = nullptr;
  void* kernel_stack = nullptr;  // THREAD_SIZE, 16 KiB of vmalloc
  ListNode thread_node;          // SignalStruct::threads
};
using ThreadList = List<Thread, &Thread::thread_node>;

// What the threads of a process share about its life.
struct SignalStruct {
  explicit SignalStruct(sim::Scheduler& scheduler)
      : wait_chldexit(scheduler, "wait4", sim::Sleep::kInterruptible), vfork_done(scheduler, "vfork") {}
  ThreadList threads;
  unsigned live = 0;             // threads that have not begun to end
  unsigned nr_threads = 0;       // threads that are not wholly gone; what ends may sleep
  sim::WaitQueue wait_chldexit;  // its threads wait here for a child to end
  sim::WaitQueue vfork_done;     // and here for a vfork child to let go of the address space
};

struct Sighand {
  struct Action {  // k_sigaction
    std::uint64_t handler = 0, flags = 0, restorer = 0, mask = 0;
  };
  std::array<Action, 64> action{};  // as after exec: all by default. Signals are not delivered here.
};

struct Cred {
  std::array<std::uint32_t, 8> ids{};  // real, saved, effective and file-system ids of user and group: root's
};

struct FsStruct {
  std::uint32_t umask = 022;
};

// An object of T that takes `kBytes` of its cache.
template <class T, std::size_t kBytes>
struct Sized : T {
  using T::T;
  static_assert(sizeof(T) <= kBytes);
  std::array<std::byte, kBytes - sizeof(T)> rest;  // whatever it holds
};

class TaskObjects {
 public:
  static constexpr std::uint64_t kThreadSize = 16 * kKiB;  // THREAD_SIZE, and its alignment

  TaskObjects(phys::PhysMem& phys, slab::SlabSystem& slab, kvirt::Vmalloc& vmalloc);
  ~TaskObjects() { free_vm_stack_cache(); }
  TaskObjects(const TaskObjects&) = delete;
  TaskObjects& operator=(const TaskObjects&) = delete;

  // dup_task_struct and alloc_pid: a thread with stack and pid that is on no list. nullptr: no memory. May sleep.
  [[nodiscard]] Thread* alloc_thread(Process& process, int tid);
  // put_task_stack: the thread runs no more. May sleep.
  void free_stack(Thread& thread);
  // The rest of it, and the stack if it has one. On no list.
  void free_thread(Thread& thread);

  // Gives back the stacks that CPUs keep (in Linux when a CPU goes offline). May sleep.
  void free_vm_stack_cache();

  // nullptr: no memory. Each may sleep.
  [[nodiscard]] SignalStruct* alloc_signal() { return signal_cache_.alloc(phys::Gfp::kKernel, phys_.scheduler()); }
  [[nodiscard]] Sighand* alloc_sighand() { return sighand_cache_.alloc(phys::Gfp::kKernel); }
  [[nodiscard]] Cred* prepare_creds() { return cred_jar_.alloc(phys::Gfp::kKernel); }
  [[nodiscard]] FsStruct* alloc_fs() { return fs_cache_.alloc(phys::Gfp::kKernel); }
  // nullptr is nothing to give back.
  void free(SignalStruct* signal) {
    if (signal != nullptr) signal_cache_.free(static_cast<SignalObject*>(signal));
  }
  void free(Sighand* sighand) {
    if (sighand != nullptr) sighand_cache_.free(static_cast<SighandObject*>(sighand));
  }
  void free(Cred* cred) {
    if (cred != nullptr) cred_jar_.free(static_cast<CredObject*>(cred));
  }
  void free(FsStruct* fs) {
    if (fs != nullptr) fs_cache_.free(static_cast<FsObject*>(fs));
  }

 private:
  // Sizes of Debian 12's 6.1 (its /proc/slabinfo, before alignment).
  using TaskObject = Sized<Thread, 9792>;
  using PidObject = Sized<Pid, 112>;
  using SignalObject = Sized<SignalStruct, 1104>;
  using SighandObject = Sized<Sighand, 2088>;
  using CredObject = Sized<Cred, 176>;
  using FsObject = Sized<FsStruct, 56>;

  [[nodiscard]] void* alloc_thread_stack_node();
  void account_kernel_stack(const void* stack, int sign);

  static constexpr unsigned kCachedStacks = 2;  // NR_CACHED_STACKS

  phys::PhysMem& phys_;
  kvirt::Vmalloc& vmalloc_;
  std::vector<std::array<void*, kCachedStacks>> cached_stacks_;  // by CPU; fixed at boot
  slab::KmemCache<TaskObject> task_struct_;
  slab::KmemCache<PidObject> pid_;
  slab::KmemCache<SignalObject> signal_cache_;
  slab::KmemCache<SighandObject> sighand_cache_;
  slab::KmemCache<CredObject> cred_jar_;
  slab::KmemCache<FsObject> fs_cache_;
};

}  // namespace quire::kernel
