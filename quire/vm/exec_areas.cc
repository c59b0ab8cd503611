// Areas that exec makes: the stack with the arguments, the heap's beginning, and the kernel's own pages ([vdso]).
#include <algorithm>

#include "quire/vm/layout.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

constexpr std::uint64_t kStackExpand = 128 * kKiB;  // room below the arguments that a program gets at once

}  // namespace

Status Vm::insert_stack_area(Mm& mm, Range<VirtAddr> range) {
  const VmFlags flags =
      VmFlags::kRead | VmFlags::kWrite | VmFlags::kMayFlags | VmFlags::kGrowsDown | VmFlags::kAccount | mm.def_flags;
  if (mm.mm_vmas.find_intersection(range) != nullptr) return fail(Errno::kExist);
  const std::uint64_t pages = range.size() >> kPageShift;
  if (!commit_.vm_enough_memory(mm, pages)) return fail(Errno::kNoMem);
  Vma* vma = vm_area_alloc(mm, range, flags, Pgoff(range.begin.value() >> kPageShift), nullptr);
  if (vma == nullptr) {
    commit_.vm_unacct_memory(pages);
    return fail(Errno::kNoMem);
  }
  vma_link(*vma);
  vm_stat_account(mm, flags, static_cast<std::int64_t>(pages));
  mm.update_hiwater_vm();
  if (any(flags, VmFlags::kLocked)) mm.locked_vm += pages;
  return {};
}

Status Vm::bprm_mm_init(Mm& mm, VirtAddr stack_top) {
  sim::WriteGuard guard(mm.mmap_lock);
  return insert_stack_area(mm, {VirtAddr(stack_top.value() - kPageSize), stack_top});
}

Status Vm::setup_arg_pages(Mm& mm, VirtAddr p, ExecStack exec_stack) {
  Vma* vma = mm.mm_vmas.lookup(p);
  if (vma == nullptr) return fail(Errno::kFault);
  if (exec_stack == ExecStack::kEnableX) {
    const Status changed = mprotect(mm, vma->vm_start, vma->vm_end - vma->vm_start, Prot::kRead | Prot::kWrite | Prot::kExec);
    if (!changed) return changed;
  }
  sim::WriteGuard guard(mm.mmap_lock);
  vma = mm.mm_vmas.lookup(p);
  if (vma == nullptr) return fail(Errno::kFault);
  mm.arg_start = mm.start_stack = p;
  const std::uint64_t limit = align_down(mm.rlimits.stack, kPageSize);
  const std::uint64_t size = std::min(limit, (vma->vm_end - vma->vm_start) + kStackExpand);
  const VirtAddr base(vma->vm_end.value() - size);
  if (base >= vma->vm_start) return {};
  return expand_stack(*vma, base) ? Status{} : fail(Errno::kFault);
}

Status Vm::vm_brk_flags(Mm& mm, Range<VirtAddr> range, VmFlags exec) {
  const VmFlags locked = mm.def_flags & VmFlags::kLocked;
  {
    sim::WriteGuard guard(mm.mmap_lock);
    if (const auto free = get_unmapped_area(mm, range.begin, range.size(), MapFlags::kFixed); !free) return fail(free.error());
    if (!mlock_future_check(mm, mm.def_flags, range.size())) return fail(Errno::kAgain);
    if (mm.mm_vmas.find_intersection(range) != nullptr && !do_munmap(mm, range)) return fail(Errno::kNoMem);
    if (Status made = do_brk_flags(mm, range, exec); !made) return made;
  }
  if (any(locked, VmFlags::kLocked)) static_cast<void>(mm_populate(mm, range));
  return {};
}

Status Vm::install_special_mapping(Mm& mm, Range<VirtAddr> range, VmFlags flags, file::File& file) {
  sim::WriteGuard guard(mm.mmap_lock);
  const auto mapped = mmap_region(mm, range, flags | mm.def_flags | VmFlags::kDontExpand, &file, Pgoff(0));
  return mapped ? Status{} : fail(mapped.error());
}

}  // namespace quire::vm
