// brk(2).
#include "quire/vm/vm.h"

namespace quire::vm {

VirtAddr Vm::brk(Mm& mm, VirtAddr new_brk) {
  Range<VirtAddr> populate{};
  VirtAddr result;
  {
    sim::WriteGuard guard(mm.mmap_lock);
    result = do_brk(mm, new_brk, &populate);
  }
  if (!populate.empty()) static_cast<void>(mm_populate(mm, populate));
  return result;
}

VirtAddr Vm::do_brk(Mm& mm, VirtAddr new_brk, Range<VirtAddr>* populate) {
  const VirtAddr old_brk = mm.brk;
  if (new_brk < mm.start_brk || new_brk > mm.task_size) return old_brk;
  const std::uint64_t data = (new_brk - mm.start_brk) + (mm.end_data - mm.start_data);
  if (mm.rlimits.data != kRlimInfinity && data > mm.rlimits.data) return old_brk;
  const Range<VirtAddr> growth{align_up(old_brk, kPageSize), align_up(new_brk, kPageSize)};
  if (growth.end < growth.begin) {
    // Where the program itself has unmapped all of it, nothing shrinks.
    const Range<VirtAddr> rest{growth.end, growth.begin};
    if (mm.mm_vmas.find_intersection(rest) == nullptr || !do_munmap(mm, rest)) return old_brk;
  } else if (growth.begin < growth.end) {
    if (!get_unmapped_area(mm, growth.begin, growth.size(), MapFlags::kFixed)) return old_brk;
    if (!mlock_future_check(mm, mm.def_flags, growth.size())) return old_brk;
    const Vma* next = mm.mm_vmas.find(growth.begin);
    if (next != nullptr && growth.end + kPageSize > mm.mm_vmas.start_with_gap(*next)) return old_brk;
    if (!do_brk_flags(mm, growth)) return old_brk;
    if (any(mm.def_flags, VmFlags::kLocked)) *populate = growth;
  }
  return mm.brk = new_brk;
}

Status Vm::do_brk_flags(Mm& mm, Range<VirtAddr> range, VmFlags extra) {
  const VmFlags flags = VmFlags::kRead | VmFlags::kWrite | VmFlags::kMayFlags | VmFlags::kAccount | mm.def_flags | extra;
  const std::uint64_t pages = range.size() >> kPageShift;
  if (!may_expand_vm(mm, flags, pages) || mm.map_count > tunables_.max_map_count) return fail(Errno::kNoMem);
  if (Status enough = commit_.vm_enough_memory(mm, pages); !enough) return enough;
  const Pgoff pgoff(range.begin.value() >> kPageShift);
  // The heap grows; with what lies before its start it does not merge, and behind it a page stays free.
  Vma* heap = mm.mm_vmas.find_prev(range.begin);
  const bool is_heap = heap != nullptr && heap->vm_end > mm.start_brk;
  const MergeRequest request{.prev = heap, .range = range, .flags = flags, .pgoff = pgoff};
  if (!is_heap || vma_merge(mm, request) == nullptr) {
    Vma* vma = vm_area_alloc(mm, range, flags, pgoff, nullptr);
    if (vma == nullptr) {
      commit_.vm_unacct_memory(pages);
      return fail(Errno::kNoMem);
    }
    vma_link(*vma);
  }
  vm_stat_account(mm, flags, static_cast<std::int64_t>(pages));
  mm.update_hiwater_vm();
  if (any(flags, VmFlags::kLocked)) mm.locked_vm += pages;
  return {};
}

}  // namespace quire::vm
