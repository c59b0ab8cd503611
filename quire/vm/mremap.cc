// mremap(2).
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

// May the area (found at `address`) become new_length long? Checks limits; changes nothing.
Result<Vma*> Vm::vma_to_resize(Mm& mm, VirtAddr address, std::uint64_t old_length, std::uint64_t new_length,
                               MremapFlags flags) {
  Vma* vma = mm.mm_vmas.lookup(address);
  if (vma == nullptr) return fail(Errno::kFault);
  if (old_length == 0 && !vma->has(VmFlags::kShared | VmFlags::kMayShare)) return fail(Errno::kInval);
  if (any(flags, MremapFlags::kDontUnmap) && vma->has(VmFlags::kDontExpand | VmFlags::kPfnMap)) {
    return fail(Errno::kInval);
  }
  if (old_length > vma->vm_end - address) return fail(Errno::kFault);
  if (new_length == old_length) return vma;
  const std::uint64_t pgoff = vma->linear_page_index(address).value();
  if (pgoff + (new_length >> kPageShift) < pgoff) return fail(Errno::kInval);
  if (vma->has(VmFlags::kDontExpand | VmFlags::kPfnMap)) return fail(Errno::kFault);
  if (!mlock_future_check(mm, vma->vm_flags, new_length - old_length)) return fail(Errno::kAgain);
  if (!may_expand_vm(mm, vma->vm_flags, (new_length - old_length) >> kPageShift)) return fail(Errno::kNoMem);
  return vma;
}

Result<VirtAddr> Vm::mremap(Mm& mm, VirtAddr old_address, std::uint64_t old_length, std::uint64_t new_length, MremapFlags flags,
                            VirtAddr new_address) {
  constexpr MremapFlags kKnown = MremapFlags::kMayMove | MremapFlags::kFixed | MremapFlags::kDontUnmap;
  if (any(flags, ~kKnown)) return fail(Errno::kInval);
  if (any(flags, MremapFlags::kFixed) && !any(flags, MremapFlags::kMayMove)) return fail(Errno::kInval);
  if (any(flags, MremapFlags::kDontUnmap) && (!any(flags, MremapFlags::kMayMove) || old_length != new_length)) {
    return fail(Errno::kInval);
  }
  if (page_offset(old_address) != 0) return fail(Errno::kInval);
  old_length = align_up(old_length, kPageSize);
  new_length = align_up(new_length, kPageSize);
  if (new_length == 0) return fail(Errno::kInval);

  Range<VirtAddr> populate{};
  Result<VirtAddr> result = fail(Errno::kNoMem);
  {
    sim::WriteGuard guard(mm.mmap_lock);
    result = any(flags, MremapFlags::kFixed | MremapFlags::kDontUnmap)
                 ? mremap_to(mm, old_address, old_length, new_address, new_length, flags)
                 : do_mremap(mm, old_address, old_length, new_length, flags);
    if (result && new_length > old_length) {
      const Vma* vma = mm.mm_vmas.lookup(*result);
      if (vma != nullptr && vma->has(VmFlags::kLocked)) populate = {*result + old_length, *result + new_length};
    }
  }
  if (!populate.empty()) static_cast<void>(mm_populate(mm, populate));
  return result;
}

Result<VirtAddr> Vm::do_mremap(Mm& mm, VirtAddr address, std::uint64_t old_length, std::uint64_t new_length,
                               MremapFlags flags) {
  const Vma* source = mm.mm_vmas.lookup(address);
  if (source == nullptr) return fail(Errno::kFault);
  if (source->has(VmFlags::kSealed)) return fail(Errno::kPerm);
  if (old_length >= new_length) {
    if (old_length == new_length) return address;
    // The tail may lie where nothing is mapped, as in munmap.
    if (old_length > mm.task_size - address) return fail(Errno::kInval);
    if (Status shrunk = do_munmap(mm, {address + new_length, address + old_length}); !shrunk) return fail(shrunk.error());
    return address;
  }
  const Result<Vma*> resizable = vma_to_resize(mm, address, old_length, new_length, flags);
  if (!resizable) return fail(resizable.error());
  Vma* vma = *resizable;
  if (old_length == vma->vm_end - address && vma_expandable(*vma, new_length - old_length)) {
    return expand_in_place(*vma, address, new_length - old_length);
  }
  if (!any(flags, MremapFlags::kMayMove)) return fail(Errno::kNoMem);
  const MapFlags map_flags = vma->has(VmFlags::kMayShare) ? MapFlags::kShared : MapFlags::kNone;
  const Result<VirtAddr> target =
      get_unmapped_area(mm, VirtAddr(0), new_length, map_flags, vma->vm_file, vma->linear_page_index(address));
  if (!target) return target;
  return move_vma(*vma, address, old_length, new_length, *target, flags);
}

bool Vm::vma_expandable(const Vma& vma, std::uint64_t delta) {
  const VirtAddr end = vma.vm_end + delta;
  if (end < vma.vm_end || vma.vm_mm->mm_vmas.find_intersection({vma.vm_end, end}) != nullptr) return false;
  return get_unmapped_area(*vma.vm_mm, vma.vm_start, end - vma.vm_start, MapFlags::kFixed).has_value();
}

Result<VirtAddr> Vm::expand_in_place(Vma& vma, VirtAddr address, std::uint64_t delta) {
  Mm& mm = *vma.vm_mm;
  const std::uint64_t pages = delta >> kPageShift;
  const VmFlags flags = vma.vm_flags;
  const std::uint64_t charged = any(flags, VmFlags::kAccount) ? pages : 0;
  if (charged != 0 && !commit_.vm_enough_memory(mm, charged)) return fail(Errno::kNoMem);
  // The extension may close the gap to the next area, too.
  const MergeRequest request{.prev = &vma,
                             .range = {vma.vm_end, vma.vm_end + delta},
                             .flags = flags,
                             .anon_vma = vma.anon_vma,
                             .file = vma.vm_file,
                             .pgoff = vma.vm_pgoff + vma.pages()};
  // One that counts its areas is never merged, and just grows.
  const bool counted = vma.vm_file != nullptr && vma.vm_file->area_ops != nullptr;
  const VmaChange growth{.vma = &vma, .range = {vma.vm_start, vma.vm_end + delta}, .pgoff = vma.vm_pgoff};
  if (counted ? !vma_adjust(growth) : vma_merge(mm, request) == nullptr) {
    commit_.vm_unacct_memory(charged);
    return fail(Errno::kNoMem);
  }
  vm_stat_account(mm, flags, static_cast<std::int64_t>(pages));
  mm.update_hiwater_vm();
  if (any(flags, VmFlags::kLocked)) mm.locked_vm += pages;
  return address;
}

Result<VirtAddr> Vm::mremap_to(Mm& mm, VirtAddr address, std::uint64_t old_length, VirtAddr new_address,
                               std::uint64_t new_length, MremapFlags flags) {
  const Vma* source = mm.mm_vmas.lookup(address);
  if (source == nullptr) return fail(Errno::kFault);
  if (page_offset(new_address) != 0) return fail(Errno::kInval);
  if (new_length > mm.task_size.value() || new_address.value() > mm.task_size.value() - new_length) {
    return fail(Errno::kInval);
  }
  if (address + old_length > new_address && new_address + new_length > address) return fail(Errno::kInval);
  if (source->has(VmFlags::kSealed)) return fail(Errno::kPerm);
  if (mm.map_count + 2 >= tunables_.max_map_count - 3) return fail(Errno::kNoMem);
  if (any(flags, MremapFlags::kFixed)) {
    if (Status freed = do_munmap(mm, {new_address, new_address + new_length}); !freed) return fail(freed.error());
  }
  if (old_length > new_length) {
    if (old_length > mm.task_size - address) return fail(Errno::kInval);
    if (Status cut = do_munmap(mm, {address + new_length, address + old_length}); !cut) return fail(cut.error());
    old_length = new_length;
  }
  const Result<Vma*> resizable = vma_to_resize(mm, address, old_length, new_length, flags);
  if (!resizable) return fail(resizable.error());
  Vma& vma = **resizable;
  if (any(flags, MremapFlags::kDontUnmap) && !may_expand_vm(mm, vma.vm_flags, old_length >> kPageShift)) {
    return fail(Errno::kNoMem);
  }
  MapFlags map_flags = any(flags, MremapFlags::kFixed) ? MapFlags::kFixed : MapFlags::kNone;
  if (vma.has(VmFlags::kMayShare)) map_flags |= MapFlags::kShared;
  const Result<VirtAddr> target =
      get_unmapped_area(mm, new_address, new_length, map_flags, vma.vm_file, vma.linear_page_index(address));
  if (!target) return target;
  return move_vma(vma, address, old_length, new_length, *target, flags);
}

// The area for the new place: merged into a neighbour there, or a copy. `*vma` changes when its own area grew over it.
Vma* Vm::copy_vma(Vma** vma, VirtAddr address, std::uint64_t length, Pgoff pgoff) {
  Vma& old = **vma;
  Mm& mm = *old.vm_mm;
  const bool unfaulted = old.is_anonymous() && old.anon_vma == nullptr;
  if (unfaulted) pgoff = Pgoff(address.value() >> kPageShift);
  const VirtAddr old_start = old.vm_start;
  const MergeRequest request{.prev = mm.mm_vmas.find_prev(address),
                             .range = {address, address + length},
                             .flags = old.vm_flags,
                             .anon_vma = old.anon_vma,
                             .file = old.vm_file,
                             .pgoff = pgoff};
  if (Vma* merged = vma_merge(mm, request)) {
    if (merged->range().contains(old_start)) *vma = merged;
    return merged;
  }
  Vma* fresh = vm_area_dup(old, mm);
  if (fresh == nullptr) return nullptr;
  fresh->vm_start = address;
  fresh->vm_end = address + length;
  fresh->vm_pgoff = pgoff;
  if (!rmap_.anon_vma_clone(*fresh, old)) {
    vm_area_free(*fresh);
    return nullptr;
  }
  vma_link(*fresh);
  return fresh;
}

Result<VirtAddr> Vm::move_vma(Vma& area, VirtAddr old_address, std::uint64_t old_length, std::uint64_t new_length,
                              VirtAddr new_address, MremapFlags flags) {
  Vma* vma = &area;
  Mm& mm = *area.vm_mm;
  const VmFlags vm_flags = area.vm_flags;
  const bool dont_unmap = any(flags, MremapFlags::kDontUnmap);
  const bool accounted = any(vm_flags, VmFlags::kAccount);
  const std::uint64_t new_pages = new_length >> kPageShift;
  // Unmapping the old place may cut an area in three.
  if (mm.map_count >= tunables_.max_map_count - 3) return fail(Errno::kNoMem);
  // The new place is charged in full and the old one given back by munmap; only what is more has to be there.
  const std::uint64_t kept_pages = dont_unmap ? 0 : std::min(old_length, new_length) >> kPageShift;
  if (accounted) {
    if (!commit_.vm_enough_memory(mm, new_pages - kept_pages)) return fail(Errno::kNoMem);
    commit_.vm_acct_memory(static_cast<std::int64_t>(kept_pages));
  }
  const Pgoff pgoff = vma->linear_page_index(old_address);
  Vma* fresh = copy_vma(&vma, new_address, new_length, pgoff);
  if (fresh == nullptr) {
    if (accounted) commit_.vm_unacct_memory(new_pages);
    return fail(Errno::kNoMem);
  }
  Result<VirtAddr> result = new_address;
  const std::uint64_t moved = move_page_tables(*vma, old_address, new_address, old_length);
  if (moved < old_length) {
    // No memory for tables: back with what was moved, and the new area goes.
    static_cast<void>(move_page_tables(*fresh, new_address, old_address, moved));
    vma = fresh;
    old_address = new_address;
    old_length = new_length;
    result = fail(Errno::kNoMem);
  }
  vm_stat_account(mm, vm_flags, static_cast<std::int64_t>(new_pages));
  if (any(vm_flags, VmFlags::kLocked)) mm.locked_vm += new_pages;
  if (result && dont_unmap) {
    if (any(vm_flags, VmFlags::kLocked)) {
      mm.locked_vm -= vma->pages();
      vma->vm_flags &= ~VmFlags::kLockedMask;
    }
    if (vma != fresh && vma->range() == Range<VirtAddr>{old_address, old_address + old_length}) {
      rmap_.unlink_anon_vmas(*vma);
    }
    mm.update_hiwater_vm();
    return result;
  }
  // total_vm was raised for the moment between the two mappings only: no high-water mark.
  const std::uint64_t hiwater_vm = mm.hiwater_vm;
  // With an old length of 0 (a second mapping of shared pages) nothing goes. When the old area cannot be split for want of
  // memory it stays, empty.
  if (old_length != 0) static_cast<void>(do_munmap(mm, {old_address, old_address + old_length}));
  mm.hiwater_vm = hiwater_vm;
  mm.update_hiwater_vm();
  return result;
}

// Moves the entries of `length` bytes; how many bytes were moved before memory for tables ran out.
std::uint64_t Vm::move_page_tables(Vma& vma, VirtAddr old_address, VirtAddr new_address,
                                   std::uint64_t length) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Mm& mm = *vma.vm_mm;
  file::AddressSpace* mapping = vma.vm_file != nullptr ? &vma.vm_file->mapping() : nullptr;
  AnonVma* anon_vma = vma.anon_vma;
  std::uint64_t done = 0;
  while (done < length) {
    const VirtAddr from = old_address + done;
    const VirtAddr to = new_address + done;
    const std::uint64_t left_from = kPageSize * 512 - (from.value() & (kPageSize * 512 - 1));
    const std::uint64_t left_to = kPageSize * 512 - (to.value() & (kPageSize * 512 - 1));
    const std::uint64_t step = std::min({length - done, left_from, left_to});
    arch::Pte* source = pgtable_.pte_offset(mm, from);
    if (source == nullptr) {
      done += step;
      continue;
    }
    arch::Pte* target = pgtable_.pte_alloc(mm, to);
    if (target == nullptr) break;
    // A walk through the reverse map must find each page at the old place or the new one.
    if (mapping != nullptr) mapping->i_mmap_rwsem().down_write();
    if (anon_vma != nullptr) anon_vma->root->rwsem.down_write();
    mm.page_table_lock.lock();
    shootdown_.flush_tlb_batched_pending(mm);
    bool force_flush = false;
    for (std::uint64_t i = 0; i < step >> kPageShift; ++i) {
      if (source[i].none()) continue;
      force_flush |= source[i].present();
      target[i] = arch::ptep_get_and_clear(&source[i]);
    }
    if (force_flush) shootdown_.flush_tlb_range(mm, {from, from + step}, FlushSite::kMremap);
    mm.page_table_lock.unlock();
    if (anon_vma != nullptr) anon_vma->root->rwsem.up_write();
    if (mapping != nullptr) mapping->i_mmap_rwsem().up_write();
    done += step;
  }
  return done;
}

}  // namespace quire::vm
