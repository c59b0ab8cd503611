// MADV_GUARD_INSTALL and MADV_GUARD_REMOVE (Linux 6.13 and newer): entries that say "an access here is SIGSEGV", without an
// area of their own.
//
// A guard is a marker in the page table: not a page, not counted. It goes with MADV_GUARD_REMOVE or with its area; MADV_DONTNEED
// and truncation leave it. Fork copies it, mremap moves it, mprotect passes it over.
#include "quire/arch/swap_entry.h"
#include "quire/vm/vm.h"

namespace quire::vm {

// Markers into every empty entry of one range that a page table covers; false: pages are in the way, or no memory.
bool Vm::guard_range(Vma& vma, Range<VirtAddr> range) {
  arch::Pte* pte = pgtable_.pte_offset(*vma.vm_mm, range.begin);
  const sim::Nanos cost = parts_.scheduler.costs().pte_zap;
  sim::SpinGuard guard(vma.vm_mm->page_table_lock);
  for (VirtAddr at = range.begin; at < range.end; at += kPageSize, ++pte) {
    parts_.scheduler.charge(cost);
    if (pte->none()) {
      *pte = arch::make_pte_marker(arch::kPteMarkerGuard);
    } else if (pte->present() || !arch::is_guard_swp_entry(arch::pte_to_swp_entry(*pte))) {
      return false;
    }
  }
  return true;
}

Status Vm::madvise_guard_install(Vma& vma, Range<VirtAddr> range) {
  if (vma.has(VmFlags::kSpecial | VmFlags::kHugeTlb | VmFlags::kLocked)) return fail(Errno::kInval);
  // So that fork copies the entries.
  if (Status prepared = rmap_.anon_vma_prepare(vma); !prepared) return prepared;
  Mm& mm = *vma.vm_mm;
  for (VirtAddr at = range.begin; at < range.end;) {
    const Range<VirtAddr> part{at, pgtable_.geometry().addr_end(at, range.end, arch::kPmdLevel)};
    if (pgtable_.pte_alloc(mm, at) == nullptr) return fail(Errno::kNoMem);
    // Others may fault pages in between: then they go once more.
    while (!guard_range(vma, part)) zap_page_range(vma, part);
    at = part.end;
  }
  return {};
}

void Vm::madvise_guard_remove(Vma& vma, Range<VirtAddr> range) {
  const sim::Nanos cost = parts_.scheduler.costs().pte_zap;
  walk_page_range(*vma.vm_mm, range, Deferred::kLeave, [&](VirtAddr, arch::Pte& pte) {
    if (pte.none() || pte.present() || !arch::is_guard_swp_entry(arch::pte_to_swp_entry(pte))) return;
    parts_.scheduler.charge(cost);
    arch::pte_clear(&pte);
  });
}

}  // namespace quire::vm
