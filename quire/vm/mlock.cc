// mlock(2) and its family.
#include <algorithm>

#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

// New lock flags on a part of an area: accounts, and moves the folios that are present on or off the unevictable list.
Status Vm::mlock_fixup(Vma** vma, Vma** prev, Range<VirtAddr> range, VmFlags flags) {
  Mm& mm = *(*vma)->vm_mm;
  const VmFlags old_flags = (*vma)->vm_flags;
  if (flags == old_flags || any(old_flags, VmFlags::kSpecial | VmFlags::kDroppable)) {
    *prev = *vma;
    return {};
  }
  if (Status set = vma_set_flags(vma, prev, range, flags); !set) return set;
  const std::uint64_t pages = range.size() >> kPageShift;
  const bool was = any(old_flags, VmFlags::kLocked);
  const bool is = any(flags, VmFlags::kLocked);
  if (was == is) return {};
  is ? mm.locked_vm += pages : mm.locked_vm -= pages;
  Vma& area = **vma;
  if (is) area.vm_flags |= VmFlags::kIo;  // see vma_mlocks_folios
  mlock_vma_pages_range(area, range, flags);
  if (is) area.vm_flags &= ~VmFlags::kIo;
  return {};
}

void Vm::mlock_vma_pages_range(Vma& vma, Range<VirtAddr> range, VmFlags new_flags) {
  // The folios' last batches must be drained, or they would join an evictable list afterwards.
  parts_.lru.lru_add_drain();
  walk_page_range(*vma.vm_mm, range, Deferred::kLeave, [&](VirtAddr, arch::Pte& pte) {
    if (!pte.present()) return;
    phys::Page* page = vm_normal_page(pte);
    if (page == nullptr) return;
    phys::Folio& folio = phys::page_folio(*page);
    any(new_flags, VmFlags::kLocked) ? parts_.lru.mlock_folio(folio) : parts_.lru.munlock_folio(folio);
  });
}

Status Vm::apply_vma_lock_flags(Mm& mm, Range<VirtAddr> range, VmFlags lock_flags) {
  if (range.end < range.begin) return fail(Errno::kInval);
  if (range.empty()) return {};
  Vma* vma = mm.mm_vmas.lookup(range.begin);
  if (vma == nullptr) return fail(Errno::kNoMem);
  Vma* prev = range.begin > vma->vm_start ? vma : VmaTree::prev(*vma);
  for (VirtAddr at = range.begin;;) {
    const VmFlags flags = (vma->vm_flags & ~VmFlags::kLockedMask) | lock_flags;
    const VirtAddr stop = std::min(vma->vm_end, range.end);
    if (Status fixed = mlock_fixup(&vma, &prev, {at, stop}, flags); !fixed) return fixed;
    at = std::max(stop, prev->vm_end);
    if (at >= range.end) return {};
    vma = VmaTree::next(*prev);
    if (vma == nullptr || vma->vm_start != at) return fail(Errno::kNoMem);
  }
}

Status Vm::do_mlock(Mm& mm, VirtAddr start, std::uint64_t length, VmFlags flags) {
  if (!can_do_mlock(mm)) return fail(Errno::kPerm);
  const std::uint64_t bytes = align_up(length + page_offset(start), kPageSize);
  const Range<VirtAddr> range{align_down(start, kPageSize), align_down(start, kPageSize) + bytes};
  {
    sim::WriteGuard guard(mm.mmap_lock);
    const std::uint64_t limit = mm.rlimits.memlock >> kPageShift;
    std::uint64_t locked = mm.locked_vm + (bytes >> kPageShift);
    if (locked > limit && mm.ipc_lock == CapIpcLock::kNo) {
      // What the range has locked already does not count twice.
      for (const Vma* vma = mm.mm_vmas.find_intersection(range); vma != nullptr && vma->vm_start < range.end;
           vma = VmaTree::next(*vma)) {
        if (vma->has(VmFlags::kLocked)) locked -= vma->range().intersect(range).size() >> kPageShift;
      }
    }
    if (locked > limit && mm.ipc_lock == CapIpcLock::kNo) return fail(Errno::kNoMem);
    if (Status applied = apply_vma_lock_flags(mm, range, flags); !applied) return applied;
  }
  const Status populated = mm_populate(mm, range);
  if (populated) return {};
  if (populated.error() == Errno::kFault) return fail(Errno::kNoMem);  // __mlock_posix_error_return
  if (populated.error() == Errno::kNoMem) return fail(Errno::kAgain);
  return populated;
}

Status Vm::mlock(Mm& mm, VirtAddr start, std::uint64_t length, MlockFlags flags) {
  if (any(flags, ~MlockFlags::kOnFault)) return fail(Errno::kInval);
  const bool on_fault = any(flags, MlockFlags::kOnFault);
  return do_mlock(mm, start, length, on_fault ? VmFlags::kLockedMask : VmFlags::kLocked);
}

Status Vm::munlock(Mm& mm, VirtAddr start, std::uint64_t length) {
  const std::uint64_t bytes = align_up(length + page_offset(start), kPageSize);
  start = align_down(start, kPageSize);
  sim::WriteGuard guard(mm.mmap_lock);
  return apply_vma_lock_flags(mm, {start, start + bytes}, VmFlags::kNone);
}

void Vm::apply_mlockall_flags(Mm& mm, MclFlags flags) {
  mm.def_flags &= ~VmFlags::kLockedMask;
  const VmFlags lock = VmFlags::kLocked | (any(flags, MclFlags::kOnFault) ? VmFlags::kLockOnFault : VmFlags::kNone);
  if (any(flags, MclFlags::kFuture)) {
    mm.def_flags |= lock;
    if (!any(flags, MclFlags::kCurrent)) return;
  }
  const VmFlags to_add = any(flags, MclFlags::kCurrent) ? lock : VmFlags::kNone;
  Vma* prev = nullptr;
  for (Vma* vma = mm.mm_vmas.first(); vma != nullptr; vma = VmaTree::next(*prev)) {
    // Errors are ignored, as Linux does.
    static_cast<void>(mlock_fixup(&vma, &prev, vma->range(), (vma->vm_flags & ~VmFlags::kLockedMask) | to_add));
    if (prev == nullptr) prev = vma;
  }
}

Status Vm::mlockall(Mm& mm, MclFlags flags) {
  constexpr MclFlags kKnown = MclFlags::kCurrent | MclFlags::kFuture | MclFlags::kOnFault;
  if (flags == MclFlags::kNone || any(flags, ~kKnown) || flags == MclFlags::kOnFault) return fail(Errno::kInval);
  if (!can_do_mlock(mm)) return fail(Errno::kPerm);
  {
    sim::WriteGuard guard(mm.mmap_lock);
    const bool fits = mm.total_vm <= mm.rlimits.memlock >> kPageShift;
    if (any(flags, MclFlags::kCurrent) && !fits && mm.ipc_lock == CapIpcLock::kNo) return fail(Errno::kNoMem);
    apply_mlockall_flags(mm, flags);
  }
  if (any(flags, MclFlags::kCurrent)) static_cast<void>(mm_populate_all(mm));
  return {};
}

Status Vm::munlockall(Mm& mm) {
  sim::WriteGuard guard(mm.mmap_lock);
  apply_mlockall_flags(mm, MclFlags::kNone);
  return {};
}

// Every area, whatever fails on the way (mm_populate's ignore_errors).
Status Vm::mm_populate_all(Mm& mm) {
  VirtAddr at(0);
  while (true) {
    Range<VirtAddr> part;
    {
      sim::ReadGuard guard(mm.mmap_lock);
      const Vma* vma = mm.mm_vmas.find(at);
      if (vma == nullptr) return {};
      part = vma->range();
    }
    static_cast<void>(mm_populate(mm, part));
    at = part.end;
  }
}

}  // namespace quire::vm
