#include "quire/kernel/task_objects.h"

#include <utility>

namespace quire::kernel {

namespace {

constexpr Order kThreadStackOrder{2};  // THREAD_SIZE, 16 KiB
constexpr auto kAligned = slab::SlabFlags::kHwCacheAlign;

}  // namespace

TaskObjects::TaskObjects(phys::PhysMem& phys, slab::SlabSystem& slab)
    : phys_(phys),
      task_struct_(slab, "task_struct", kAligned),
      pid_(slab, "pid", kAligned),
      signal_cache_(slab, "signal_cache", kAligned),
      sighand_cache_(slab, "sighand_cache", kAligned),
      cred_jar_(slab, "cred_jar", kAligned),
      fs_cache_(slab, "fs_cache", kAligned) {}

Thread* TaskObjects::alloc_thread(Process& process, int tid) {
  TaskObject* thread = task_struct_.alloc(phys::Gfp::kKernel);
  if (thread == nullptr) return nullptr;
  thread->tid = tid;
  thread->process = &process;
  thread->kernel_stack = phys_.alloc_pages(phys::Gfp::kKernelAccount | phys::Gfp::kZero, kThreadStackOrder);
  if (thread->kernel_stack != nullptr) {
    phys_.page_node(*thread->kernel_stack).stats.add(phys::NodeStat::kNrKernelStack, kThreadStackOrder.bytes() / kKiB);
    thread->pid = pid_.alloc(phys::Gfp::kKernel, tid);
  }
  if (thread->pid == nullptr) {
    free_thread(*thread);
    return nullptr;
  }
  return thread;
}

void TaskObjects::free_stack(Thread& thread) {
  if (thread.kernel_stack == nullptr) return;
  phys_.page_node(*thread.kernel_stack).stats.sub(phys::NodeStat::kNrKernelStack, kThreadStackOrder.bytes() / kKiB);
  phys_.free_pages(*std::exchange(thread.kernel_stack, nullptr), kThreadStackOrder);
}

void TaskObjects::free_thread(Thread& thread) {
  QUIRE_BUG_ON(thread.thread_node.linked());
  free_stack(thread);
  if (thread.pid != nullptr) pid_.free(static_cast<PidObject*>(thread.pid));
  task_struct_.free(static_cast<TaskObject*>(&thread));
}

}  // namespace quire::kernel
