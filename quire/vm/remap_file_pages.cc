// remap_file_pages(2): once a way to bend an area's order of pages, since 4.0 a mapping of its own of the same file.
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

Prot prot_of(VmFlags flags) { return static_cast<Prot>(static_cast<std::uint64_t>(flags & VmFlags::kAccessFlags)); }

// From `first` on, areas alike follow each other without a hole up to `end`.
bool alike_up_to(const Vma& first, VirtAddr end) {
  for (const Vma* vma = &first; vma->vm_end < end;) {
    const Vma* next = VmaTree::next(*vma);
    if (next == nullptr || next->vm_start != vma->vm_end) return false;
    if (next->vm_file != first.vm_file || next->vm_flags != first.vm_flags) return false;
    vma = next;
  }
  return true;
}

}  // namespace

Status Vm::remap_file_pages(Mm& mm, VirtAddr start, std::uint64_t size, Prot prot, std::uint64_t pgoff, MapFlags flags) {
  if (prot != Prot::kNone) return fail(Errno::kInval);
  start = align_down(start, kPageSize);
  size = align_down(size, kPageSize);
  const VirtAddr end = start + size;
  if (end <= start) return fail(Errno::kInval);
  if (pgoff + (size >> kPageShift) < pgoff) return fail(Errno::kInval);

  Range<VirtAddr> populate{};
  Result<VirtAddr> mapped = fail(Errno::kInval);
  {
    sim::WriteGuard guard(mm.mmap_lock);
    const Vma* vma = mm.mm_vmas.lookup(start);
    if (vma == nullptr || !vma->has(VmFlags::kShared) || !alike_up_to(*vma, end)) return fail(Errno::kInval);
    MapFlags map_flags = (flags & MapFlags::kNonBlock) | MapFlags::kShared | MapFlags::kFixed | MapFlags::kPopulate;
    if (vma->has(VmFlags::kLocked)) map_flags |= MapFlags::kLocked;
    file::File& file = *vma->vm_file;
    parts_.vfs.fget(file);  // the area that holds it is about to go
    mapped = do_mmap(mm, start, size, prot_of(vma->vm_flags), map_flags, &file, Pgoff(pgoff), &populate);
    parts_.vfs.fput(file);
  }
  if (!mapped) return fail(mapped.error());
  if (!populate.empty()) static_cast<void>(mm_populate(mm, populate));
  return {};
}

}  // namespace quire::vm
