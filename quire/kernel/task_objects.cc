#include "quire/kernel/task_objects.h"

#include <cstring>
#include <utility>

namespace quire::kernel {

namespace {

constexpr std::uint64_t kThreadSize = TaskObjects::kThreadSize;
constexpr auto kAligned = slab::SlabFlags::kHwCacheAlign;

}  // namespace

TaskObjects::TaskObjects(phys::PhysMem& phys, slab::SlabSystem& slab, kvirt::Vmalloc& vmalloc)
    : phys_(phys),
      vmalloc_(vmalloc),
      cached_stacks_(phys.scheduler().cpus()),
      task_struct_(slab, "task_struct", kAligned),
      pid_(slab, "pid", kAligned),
      signal_cache_(slab, "signal_cache", kAligned),
      sighand_cache_(slab, "sighand_cache", kAligned),
      cred_jar_(slab, "cred_jar", kAligned),
      fs_cache_(slab, "fs_cache", kAligned) {}

// --- stacks -----------------------------------------------------------------------------------------------------------

void* TaskObjects::alloc_thread_stack_node() {
  for (void*& kept : cached_stacks_[phys_.scheduler().cpu()]) {
    if (kept == nullptr) continue;
    void* stack = std::exchange(kept, nullptr);
    std::memset(stack, 0, kThreadSize);
    return stack;
  }
  return vmalloc_.vmalloc_range(
      {.size = kThreadSize, .align = kThreadSize, .gfp = phys::Gfp::kKernel | phys::Gfp::kZero, .caller = "dup_task_struct"});
}

void TaskObjects::account_kernel_stack(const void* stack, int sign) {
  for (std::uint64_t at = 0; at < kThreadSize; at += kPageSize) {
    phys::Page* page = vmalloc_.vmalloc_to_page(static_cast<const std::byte*>(stack) + at);
    QUIRE_BUG_ON(page == nullptr);
    phys_.page_node(*page).stats.add(phys::NodeStat::kNrKernelStack, sign * static_cast<std::int64_t>(kPageSize / kKiB));
  }
}

void TaskObjects::free_stack(Thread& thread) {
  if (thread.kernel_stack == nullptr) return;
  void* stack = std::exchange(thread.kernel_stack, nullptr);
  account_kernel_stack(stack, -1);
  for (void*& kept : cached_stacks_[phys_.scheduler().cpu()]) {
    if (kept != nullptr) continue;
    kept = stack;
    return;
  }
  vmalloc_.vfree(stack);
}

void TaskObjects::free_vm_stack_cache() {
  for (auto& of_cpu : cached_stacks_) {
    for (void*& kept : of_cpu) vmalloc_.vfree(std::exchange(kept, nullptr));
  }
}

// --- threads ------------------------------------------------------------------------------------------------------------

Thread* TaskObjects::alloc_thread(Process& process, int tid) {
  TaskObject* thread = task_struct_.alloc(phys::Gfp::kKernel);
  if (thread == nullptr) return nullptr;
  thread->tid = tid;
  thread->process = &process;
  thread->kernel_stack = alloc_thread_stack_node();
  if (thread->kernel_stack != nullptr) {
    account_kernel_stack(thread->kernel_stack, +1);
    thread->pid = pid_.alloc(phys::Gfp::kKernel, tid);
  }
  if (thread->pid == nullptr) {
    free_thread(*thread);
    return nullptr;
  }
  return thread;
}

void TaskObjects::free_thread(Thread& thread) {
  QUIRE_BUG_ON(thread.thread_node.linked());
  free_stack(thread);
  if (thread.pid != nullptr) pid_.free(static_cast<PidObject*>(thread.pid));
  task_struct_.free(static_cast<TaskObject*>(&thread));
}

}  // namespace quire::kernel
