// mseal(2): areas that stay as they are until the process ends (Linux 6.10 and newer).
//
// Refused with EPERM on a sealed area: munmap, mremap, mprotect, a mapping over it, brk's shrinking, and, where the process
// could not write anyway, the advices that discard anonymous memory. Each call asks where it walks its areas.
#include <algorithm>

#include "quire/vm/vm.h"

namespace quire::vm {

Status Vm::mseal(Mm& mm, VirtAddr start, std::uint64_t length, std::uint64_t flags) {
  if (flags != 0 || page_offset(start) != 0) return fail(Errno::kInval);
  const std::uint64_t bytes = align_up(length, kPageSize);
  if (length != 0 && bytes == 0) return fail(Errno::kInval);
  const Range<VirtAddr> range{start, start + bytes};
  if (range.end < range.begin) return fail(Errno::kInval);
  if (range.empty()) return {};

  sim::WriteGuard guard(mm.mmap_lock);
  // All or nothing: a hole anywhere, and no area is sealed.
  for (VirtAddr at = range.begin; at < range.end;) {
    const Vma* vma = mm.mm_vmas.lookup(at);
    if (vma == nullptr) return fail(Errno::kNoMem);
    at = vma->vm_end;
  }
  Vma* vma = mm.mm_vmas.lookup(range.begin);
  Vma* prev = range.begin > vma->vm_start ? vma : VmaTree::prev(*vma);
  for (VirtAddr at = range.begin;;) {
    const VirtAddr stop = std::min(vma->vm_end, range.end);
    if (Status sealed = vma_set_flags(&vma, &prev, {at, stop}, vma->vm_flags | VmFlags::kSealed); !sealed) return sealed;
    at = std::max(stop, prev->vm_end);
    if (at >= range.end) return {};
    vma = VmaTree::next(*prev);
  }
}

}  // namespace quire::vm
