// Touching pages ahead of the program: MAP_POPULATE, mlock, MADV_POPULATE_*, and get_user_pages.
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

// Faults in every page of the range, which lies in the area (populate_vma_page_range). mmap_lock held.
Status Vm::populate_vma_range(Vma& vma, Range<VirtAddr> range, arch::Access kind) {
  if (vma.has(VmFlags::kLockOnFault)) return {};
  if (!vma.has(VmFlags::kAccessFlags)) return fail(Errno::kFault);
  for (VirtAddr at = range.begin; at < range.end; at += kPageSize) {
    const Result<phys::Page*> page = fault_in_page(vma, at, kind);
    if (!page) return fail(page.error());
  }
  return {};
}

// The page at `address`, faulted in if need be; null for the zero page. mmap_lock held, no other lock.
Result<phys::Page*> Vm::fault_in_page(Vma& vma, VirtAddr address, arch::Access kind) {
  Mm& mm = *vma.vm_mm;
  const bool write = kind == arch::Access::kWrite;
  while (true) {
    if (mm.killed()) return fail(Errno::kIntr);
    const arch::Pte* pte = pgtable_.pte_offset(mm, address);
    if (pte != nullptr && pte->present() && (!write || arch::pte_write(*pte))) {
      phys::Page* page = vm_normal_page(*pte);
      // Who asked for it to write (FOLL_TOUCH) gets a dirty page, also where a read had mapped it writable.
      if (write && page != nullptr && !arch::pte_dirty(*pte) && !phys::folio_test_dirty(phys::page_folio(*page))) {
        parts_.vfs.filemap().folio_mark_dirty(phys::page_folio(*page));
      }
      return page;
    }
    const FaultOutcome outcome = handle_mm_fault(vma, address, write ? FaultFlags::kWrite : FaultFlags::kNone);
    if (any(outcome, FaultOutcome::kOom)) return fail(Errno::kNoMem);
    if (any(outcome, FaultOutcome::kError)) return fail(Errno::kFault);
  }
}

Status Vm::mm_populate(Mm& mm, Range<VirtAddr> range) {
  sim::ReadGuard guard(mm.mmap_lock);
  Status result{};
  for (VirtAddr at = range.begin; at < range.end;) {
    Vma* vma = mm.mm_vmas.find_intersection({at, range.end});
    if (vma == nullptr) break;
    const Range<VirtAddr> part = vma->range().intersect({at, range.end});
    at = part.end;
    if (vma->has(VmFlags::kIo | VmFlags::kPfnMap)) continue;
    // Writable private pages are broken from sharing now, so that no write faults later.
    const bool write = (vma->vm_flags & (VmFlags::kWrite | VmFlags::kShared)) == VmFlags::kWrite;
    result = populate_vma_range(*vma, part, write ? arch::Access::kWrite : arch::Access::kRead);
    if (!result) break;
  }
  return result;
}

Result<std::uint64_t> Vm::get_user_pages(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind) {
  sim::ReadGuard guard(mm.mmap_lock);
  std::uint64_t got = 0;
  for (; got < pages.size(); ++got) {
    const VirtAddr address = align_down(start, kPageSize) + (got << kPageShift);
    Vma* vma = mm.mm_vmas.lookup(address);
    const VmFlags need = kind == arch::Access::kWrite ? VmFlags::kWrite : VmFlags::kRead;
    Result<phys::Page*> page = fail(Errno::kFault);
    if (vma != nullptr && vma->has(need)) page = fault_in_page(*vma, address, kind);
    if (!page) {
      if (got == 0) return fail(page.error());
      break;
    }
    phys::Page* pinned = *page != nullptr ? *page : zero_page_;
    phys::folio_get(phys::page_folio(*pinned));
    pages[got] = pinned;
  }
  return got;
}

}  // namespace quire::vm
