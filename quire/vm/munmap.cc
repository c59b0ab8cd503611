// munmap(2).
#include <algorithm>

#include "quire/vm/mmu_gather.h"
#include "quire/vm/vm.h"

namespace quire::vm {

Status Vm::munmap(Mm& mm, VirtAddr start, std::uint64_t length) {
  if (page_offset(start) != 0 || start > mm.task_size || length > mm.task_size - start) return fail(Errno::kInval);
  const std::uint64_t bytes = align_up(length, kPageSize);
  if (bytes == 0) return fail(Errno::kInval);
  sim::WriteGuard guard(mm.mmap_lock);
  return do_munmap(mm, {start, start + bytes});
}

bool Vm::munmap_areas(Mm& mm, VirtAddr start, FunctionRef<AreaChoice(const Vma&)> choose) {
  const sim::WriteGuard guard(mm.mmap_lock);
  bool any = false;
  for (const Vma* vma = mm.mm_vmas.find(start); vma != nullptr;) {
    const AreaChoice choice = choose(*vma);
    if (choice == AreaChoice::kStop) break;
    const VirtAddr end = vma->vm_end;
    if (choice == AreaChoice::kUnmap) {
      static_cast<void>(do_munmap(mm, vma->range()));  // a sealed one stays
      any = true;
    }
    vma = mm.mm_vmas.find(end);
  }
  return any;
}

Status Vm::do_munmap(Mm& mm, Range<VirtAddr> range) {
  Vma* first = mm.mm_vmas.find_intersection(range);
  if (first == nullptr) return {};
  if (first->vm_start < range.begin) {
    // The middle of an area goes: one area becomes two. Otherwise the count is above its limit only until the parts go.
    if (range.end < first->vm_end && mm.map_count >= tunables_.max_map_count) return fail(Errno::kNoMem);
    if (first->has(VmFlags::kSealed)) return fail(Errno::kPerm);
    if (Status split = split_vma_beyond_limit(*first, range.begin, NewPart::kLower); !split) return split;
  }
  for (const Vma* vma = mm.mm_vmas.find(range.begin); vma != nullptr && vma->vm_start < range.end; vma = VmaTree::next(*vma)) {
    if (vma->has(VmFlags::kSealed)) return fail(Errno::kPerm);
  }
  Vma* last = mm.mm_vmas.find_intersection({range.end - kPageSize, range.end});
  if (last != nullptr && range.end < last->vm_end) {
    if (Status split = split_vma_beyond_limit(*last, range.end, NewPart::kUpper); !split) return split;
  }

  List<Vma, &Vma::detached> gone;
  for (Vma* vma = mm.mm_vmas.find(range.begin); vma != nullptr && vma->vm_start < range.end;) {
    Vma* next = VmaTree::next(*vma);
    mm.mm_vmas.erase(*vma);
    --mm.map_count;
    gone.push_back(*vma);
    vma = next;
  }
  const Vma* prev = mm.mm_vmas.find_prev(range.begin);
  const Vma* next = mm.mm_vmas.find(range.end);
  unmap_region(mm, gone,
               {prev != nullptr ? prev->vm_end : VirtAddr(0), next != nullptr ? next->vm_start : mm.task_size + kPageSize});

  mm.update_hiwater_vm();
  std::uint64_t accounted = 0;
  while (Vma* vma = gone.pop_front()) {
    const std::uint64_t pages = vma->pages();
    if (vma->has(VmFlags::kAccount)) accounted += pages;
    if (vma->has(VmFlags::kLocked)) mm.locked_vm -= pages;
    vm_stat_account(mm, vma->vm_flags, -static_cast<std::int64_t>(pages));
    vm_area_free(*vma);
  }
  commit_.vm_unacct_memory(accounted);
  return {};
}

// Unmaps the areas' pages and frees the page tables that lie wholly in `free`, the hole that opens.
void Vm::unmap_region(Mm& mm, List<Vma, &Vma::detached>& areas, Range<VirtAddr> free) {
  const Range<VirtAddr> span{areas.front().vm_start, areas.back().vm_end};
  MmuGather tlb(*this, mm, FlushSite::kMunmap);
  for (Vma& vma : areas) unmap_page_range(tlb, vma, vma.range(), ZapCows::kAreaGoes);
  for (Vma& vma : areas) unlink_rmap(vma);
  pgtable_.free_pgtables(mm, span, free, tlb);
  tlb.finish();
}

}  // namespace quire::vm
