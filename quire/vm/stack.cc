// Stacks: the area that exec makes, and its growth under faults.
#include "quire/vm/vm.h"

namespace quire::vm {

Result<VirtAddr> Vm::setup_stack(Mm& mm, std::uint64_t initial_bytes) {
  sim::WriteGuard guard(mm.mmap_lock);
  const VirtAddr top = pgtable_.geometry().default_map_window;  // STACK_TOP
  const std::uint64_t bytes = align_up(initial_bytes, kPageSize);
  const Range<VirtAddr> range{VirtAddr(top.value() - bytes), top};
  if (Status made = insert_stack_area(mm, range); !made) return fail(made.error());
  mm.start_stack = top;
  return top;
}

Status Vm::acct_stack_growth(Vma& vma, std::uint64_t size, std::uint64_t grow) {
  Mm& mm = *vma.vm_mm;
  if (!may_expand_vm(mm, vma.vm_flags, grow)) return fail(Errno::kNoMem);
  if (size > mm.rlimits.stack) return fail(Errno::kNoMem);
  if (!mlock_future_check(mm, vma.vm_flags, pages_to_bytes(grow))) return fail(Errno::kNoMem);
  // Linux charges the growth of every area, also of one that unmapping will not give back (MAP_NORESERVE): not followed.
  if (!vma.has(VmFlags::kAccount)) return {};
  return commit_.vm_enough_memory(mm, grow);
}

// The area's start moves down to hold `address`. mmap_lock is held for reading at least: concurrent faults serialise on the
// AnonVma's lock, and the change itself reaches no sync point.
Status Vm::expand_stack(Vma& vma, VirtAddr address) {
  const FuncGraph::Call traced(graph_, __func__);
  Mm& mm = *vma.vm_mm;
  address = align_down(address, kPageSize);
  if (!vma.has(VmFlags::kGrowsDown)) return fail(Errno::kFault);
  if (address < tunables_.mmap_min_addr) return fail(Errno::kPerm);
  const Vma* prev = VmaTree::prev(vma);
  if (prev != nullptr && !prev->has(VmFlags::kGrowsDown) && prev->has(VmFlags::kAccessFlags) &&
      address - prev->vm_end < tunables_.stack_guard_gap * kPageSize) {
    return fail(Errno::kNoMem);
  }
  if (Status prepared = rmap_.anon_vma_prepare(vma); !prepared) return prepared;

  sim::WriteGuard guard(vma.anon_vma->root->rwsem);
  if (address >= vma.vm_start) return {};
  const std::uint64_t grow = (vma.vm_start - address) >> kPageShift;
  if (grow > vma.vm_pgoff.value()) return fail(Errno::kNoMem);
  if (Status accounted = acct_stack_growth(vma, vma.vm_end - address, grow); !accounted) return accounted;
  if (vma.has(VmFlags::kLocked)) mm.locked_vm += grow;
  vm_stat_account(mm, vma.vm_flags, static_cast<std::int64_t>(grow));
  mm.update_hiwater_vm();
  rmap_.anon_vma_interval_tree_pre_update(vma);
  vma.vm_pgoff -= grow;
  mm.mm_vmas.adjust(vma, {address, vma.vm_end});
  rmap_.anon_vma_interval_tree_post_update(vma);
  return {};
}

}  // namespace quire::vm
