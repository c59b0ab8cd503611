// Touching pages ahead of the program: MAP_POPULATE, mlock, MADV_POPULATE_*.
#include <algorithm>

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

}  // namespace quire::vm
