// madvise(2).
#include <algorithm>
#include <array>

#include "quire/file/vfs.h"
#include "quire/phys/page_wait.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/mmu_gather.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

bool behavior_valid(Advice advice) {
  switch (advice) {
    case Advice::kNormal:
    case Advice::kRandom:
    case Advice::kSequential:
    case Advice::kWillNeed:
    case Advice::kDontNeed:
    case Advice::kFree:
    case Advice::kRemove:
    case Advice::kDontFork:
    case Advice::kDoFork:
    case Advice::kMergeable:
    case Advice::kUnmergeable:
    case Advice::kHugePage:
    case Advice::kNoHugePage:
    case Advice::kDontDump:
    case Advice::kDoDump:
    case Advice::kWipeOnFork:
    case Advice::kKeepOnFork:
    case Advice::kCold:
    case Advice::kPageOut:
    case Advice::kPopulateRead:
    case Advice::kPopulateWrite:
    case Advice::kDontNeedLocked:
    case Advice::kCollapse:
    case Advice::kHwPoison:
    case Advice::kSoftOffline:
    case Advice::kGuardInstall:
    case Advice::kGuardRemove: return true;
    default: return false;
  }
}

// Would the advice let a process discard what it may not write? (can_madvise_modify; files' pages are not protected)
bool sealed_against(const Vma& vma, Advice advice) {
  if (!vma.has(VmFlags::kSealed) || !vma.is_anonymous() || vma.has(VmFlags::kWrite)) return false;
  switch (advice) {
    case Advice::kFree:
    case Advice::kDontNeed:
    case Advice::kDontNeedLocked:
    case Advice::kRemove:
    case Advice::kDontFork:
    case Advice::kWipeOnFork:
    case Advice::kGuardInstall: return true;
    default: return false;
  }
}

// The flags that an advice about an area gives it.
Result<VmFlags> advised_flags(const Vma& vma, Advice advice) {
  const VmFlags flags = vma.vm_flags;
  constexpr VmFlags kOrder = VmFlags::kRandRead | VmFlags::kSeqRead;
  switch (advice) {
    case Advice::kNormal: return flags & ~kOrder;
    case Advice::kSequential: return (flags & ~kOrder) | VmFlags::kSeqRead;
    case Advice::kRandom: return (flags & ~kOrder) | VmFlags::kRandRead;
    case Advice::kDontFork: return flags | VmFlags::kDontCopy;
    case Advice::kDoFork:
      if (any(flags, VmFlags::kIo)) return fail(Errno::kInval);
      return flags & ~VmFlags::kDontCopy;
    case Advice::kWipeOnFork:
      if (vma.mapped_file() != nullptr || any(flags, VmFlags::kShared)) return fail(Errno::kInval);
      return flags | VmFlags::kWipeOnFork;
    case Advice::kKeepOnFork:
      if (any(flags, VmFlags::kDroppable)) return fail(Errno::kInval);
      return flags & ~VmFlags::kWipeOnFork;
    case Advice::kDontDump: return flags | VmFlags::kDontDump;
    case Advice::kDoDump:
      if (any(flags, VmFlags::kSpecial | VmFlags::kDroppable)) return fail(Errno::kInval);
      return flags & ~VmFlags::kDontDump;
    case Advice::kHugePage: return (flags & ~VmFlags::kNoHugePage) | VmFlags::kHugePage;
    case Advice::kNoHugePage: return (flags & ~VmFlags::kHugePage) | VmFlags::kNoHugePage;
    case Advice::kMergeable: {
      // Noted where pages could be merged, which is not done yet.
      constexpr VmFlags kNever =
          VmFlags::kShared | VmFlags::kMayShare | VmFlags::kSpecial | VmFlags::kHugeTlb | VmFlags::kDroppable;
      return any(flags, kNever) ? flags : flags | VmFlags::kMergeable;
    }
    case Advice::kUnmergeable: return flags & ~VmFlags::kMergeable;
    default: return flags;
  }
}

void read_swap_ahead(const VmParts& parts, swap::SwapEntry entry) {
  phys::Folio* folio = parts.swap.read_swap_cache_async(entry, phys::Gfp::kHighUserMovable);
  if (folio != nullptr) parts.lru.folio_put(*folio);
}

// MADV_WILLNEED on a file of memory, whose cache knows what is in swap.
void force_shm_swapin_readahead(const VmParts& parts, const Vma& vma, Range<VirtAddr> range) {
  const std::uint64_t first = vma.linear_page_index(range.begin).value();
  const std::uint64_t last = first + (range.size() >> kPageShift) - 1;
  vma.vm_file->mapping().i_pages().for_range(first, last, [&](std::uint64_t, XaEntry entry) {
    if (entry.is_value()) read_swap_ahead(parts, swap::SwapEntry::from_value(entry.value().value()));
  });
  parts.lru.lru_add_drain();
}

}  // namespace

Status Vm::madvise(Mm& mm, VirtAddr start, std::uint64_t length, Advice advice) {
  if (!behavior_valid(advice) || page_offset(start) != 0) return fail(Errno::kInval);
  const std::uint64_t bytes = align_up(length, kPageSize);
  if (length != 0 && bytes == 0) return fail(Errno::kInval);
  const Range<VirtAddr> range{start, start + bytes};
  if (range.end < range.begin) return fail(Errno::kInval);
  if (range.empty()) return {};

  switch (advice) {
    case Advice::kPopulateRead: return madvise_populate(mm, range, arch::Access::kRead);
    case Advice::kPopulateWrite: return madvise_populate(mm, range, arch::Access::kWrite);
    case Advice::kRemove:
    case Advice::kWillNeed: return madvise_io(mm, range, advice);
    case Advice::kHwPoison:
    case Advice::kSoftOffline: return fail(Errno::kPerm);  // CAP_SYS_ADMIN, which no process here has
    case Advice::kDontNeed:
    case Advice::kDontNeedLocked:
    case Advice::kFree:
    case Advice::kCold:
    case Advice::kPageOut:
    case Advice::kCollapse:
    case Advice::kGuardInstall:
    case Advice::kGuardRemove: {
      sim::ReadGuard guard(mm.mmap_lock);
      return madvise_walk(mm, range, advice);
    }
    default: {
      sim::WriteGuard guard(mm.mmap_lock);
      return madvise_walk(mm, range, advice);
    }
  }
}

// Each area of the range in turn; holes are an error in the end, but do not stop it (madvise_walk_vmas).
Status Vm::madvise_walk(Mm& mm, Range<VirtAddr> range, Advice advice) {
  Status unmapped{};
  Vma* vma = mm.mm_vmas.find(range.begin);
  Vma* prev = vma != nullptr && range.begin > vma->vm_start ? vma : mm.mm_vmas.find_prev(range.begin);
  for (VirtAddr at = range.begin; at < range.end;) {
    if (vma == nullptr) return fail(Errno::kNoMem);
    if (at < vma->vm_start) {
      unmapped = fail(Errno::kNoMem);
      at = vma->vm_start;
      if (at >= range.end) break;
    }
    const VirtAddr stop = std::min(vma->vm_end, range.end);
    if (Status advised = madvise_vma(&vma, &prev, {at, stop}, advice); !advised) return advised;
    at = std::max(stop, prev->vm_end);
    vma = VmaTree::next(*prev);
  }
  return unmapped;
}

Status Vm::madvise_vma(Vma** vma, Vma** prev, Range<VirtAddr> range, Advice advice) {
  Vma& area = **vma;
  if (sealed_against(area, advice)) return fail(Errno::kPerm);
  switch (advice) {
    case Advice::kCollapse: return fail(Errno::kInval);  // no huge pages yet: no area can hold one
    case Advice::kGuardInstall: *prev = *vma; return madvise_guard_install(area, range);
    case Advice::kGuardRemove:
      *prev = *vma;
      if (area.has(VmFlags::kSpecial | VmFlags::kHugeTlb)) return fail(Errno::kInval);
      madvise_guard_remove(area, range);
      return {};
    case Advice::kDontNeed:
    case Advice::kDontNeedLocked:
    case Advice::kFree: {
      *prev = *vma;
      const VmFlags forbidden = VmFlags::kPfnMap | (advice == Advice::kDontNeedLocked ? VmFlags::kNone : VmFlags::kLocked);
      if (area.has(forbidden)) return fail(Errno::kInval);
      if (advice != Advice::kFree) {
        zap_page_range(area, range);
        return {};
      }
      if (!area.is_anonymous()) return fail(Errno::kInval);
      madvise_free_range(area, range);
      return {};
    }
    case Advice::kCold:
    case Advice::kPageOut:
      *prev = *vma;
      if (area.has(VmFlags::kLocked | VmFlags::kPfnMap)) return fail(Errno::kInval);
      madvise_cold_or_pageout(area, range, advice);
      return {};
    default: {
      const Result<VmFlags> flags = advised_flags(area, advice);
      if (!flags) return fail(flags.error());
      const Status set = vma_set_flags(vma, prev, range, *flags);
      // What there is no memory for now may work later; kNoMem is for a hole.
      return !set && set.error() == Errno::kNoMem ? fail(Errno::kAgain) : set;
    }
  }
}

// MADV_FREE: clean and old, off the swap; reclaim may drop the page, a write takes the advice back.
void Vm::madvise_free_range(Vma& vma, Range<VirtAddr> range) {
  Mm& mm = *vma.vm_mm;
  parts_.lru.lru_add_drain();
  MmuGather tlb(*this, mm, FlushSite::kFree);
  walk_page_range(mm, range, Deferred::kSettle, [&](VirtAddr address, arch::Pte& pte) {
    if (pte.none()) return;
    if (!pte.present()) {
      if (!arch::non_swap_entry(arch::pte_to_swp_entry(pte))) zap_nonpresent(mm, &pte, ZapCows::kYes);
      return;
    }
    phys::Page* page = vm_normal_page(pte);
    if (page == nullptr) return;
    phys::Folio& folio = phys::page_folio(*page);
    if (!phys::folio_test_anon(folio)) return;
    // Another process's entry is as clean, and the page may be the only copy of its bytes: read from swap past the cache, or
    // unshared by a pin. (Linux 6.1 gives it up.)
    if (phys::folio_mapcount(folio) != 1 && !arch::pte_dirty(pte)) return;
    if (phys::folio_test_swapcache(folio) || phys::folio_test_dirty(folio)) {
      // Shared with another process: not ours to give up.
      if (!phys::folio_trylock(folio)) return;
      const bool ours =
          phys::folio_mapcount(folio) == 1 && (!phys::folio_test_swapcache(folio) || parts_.swap.folio_free_swap(folio));
      if (ours) phys::folio_clear_dirty(folio);
      phys::folio_unlock(parts_.phys, folio);
      if (!ours) return;
    }
    if (arch::pte_young(pte) || arch::pte_dirty(pte)) {
      pte = arch::pte_mkclean(arch::pte_mkold(pte));
      tlb.note_range(address);
    }
    parts_.lru.mark_folio_lazyfree(folio);
  });
  tlb.finish();
}

// MADV_COLD: to the inactive list, not referenced. MADV_PAGEOUT: reclaimed at once, as far as possible.
void Vm::madvise_cold_or_pageout(Vma& vma, Range<VirtAddr> range, Advice advice) {
  Mm& mm = *vma.vm_mm;
  const bool pageout = advice == Advice::kPageOut && pageout_ != nullptr;
  parts_.lru.lru_add_drain();
  MmuGather tlb(*this, mm, FlushSite::kCold);
  for (VirtAddr at = range.begin; at < range.end;) {
    phys::FolioList isolated;
    if (pgtable_.pte_offset(mm, at) == nullptr) {
      at = pgtable_.end_of_hole(mm, at, range.end);
      continue;
    }
    const VirtAddr stop = pgtable_.geometry().addr_end(at, range.end, arch::kPmdLevel);
    walk_page_range(mm, {at, stop}, Deferred::kSettle, [&](VirtAddr address, arch::Pte& pte) {
      if (!pte.present()) return;
      phys::Page* page = vm_normal_page(pte);
      if (page == nullptr) return;
      phys::Folio& folio = phys::page_folio(*page);
      if (phys::folio_mapcount(folio) != 1) return;  // shared: others may need it
      if (arch::pte_young(pte)) {
        pte = arch::pte_mkold(pte);
        tlb.note_range(address);
      }
      phys::folio_clear_referenced(folio);
      if (!pageout) return parts_.lru.deactivate_folio(folio);
      if (!phys::folio_test_unevictable(folio) && parts_.lru.folio_isolate_lru(folio)) isolated.push_back(folio);
    });
    if (!isolated.empty()) pageout_->reclaim_pages(isolated);
    at = stop;
  }
  tlb.finish();
}

Status Vm::madvise_populate(Mm& mm, Range<VirtAddr> range, arch::Access kind) {
  sim::ReadGuard guard(mm.mmap_lock);
  for (VirtAddr at = range.begin; at < range.end;) {
    Vma* vma = mm.mm_vmas.lookup(at);
    if (vma == nullptr) return fail(Errno::kNoMem);
    const VmFlags need = kind == arch::Access::kWrite ? VmFlags::kWrite : VmFlags::kRead;
    if (!vma->has(need) || vma->has(VmFlags::kIo | VmFlags::kPfnMap)) return fail(Errno::kInval);
    const Range<VirtAddr> part = vma->range().intersect({at, range.end});
    for (; at < part.end; at += kPageSize) {
      const Result<phys::Page*> page = fault_in_page(*vma, at, kind);
      if (!page) return fail(page.error());
    }
  }
  return {};
}

// The advices that go to the file and must not hold mmap_lock meanwhile.
Status Vm::madvise_io(Mm& mm, Range<VirtAddr> range, Advice advice) {
  Status unmapped{};
  for (VirtAddr at = range.begin; at < range.end;) {
    file::File* file = nullptr;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    {
      sim::ReadGuard guard(mm.mmap_lock);
      Vma* vma = mm.mm_vmas.find(at);
      if (vma == nullptr) return fail(Errno::kNoMem);
      if (at < vma->vm_start) {
        unmapped = fail(Errno::kNoMem);
        at = vma->vm_start;
        if (at >= range.end) break;
      }
      const Range<VirtAddr> part = vma->range().intersect({at, range.end});
      if (sealed_against(*vma, advice)) return fail(Errno::kPerm);
      if (advice == Advice::kRemove) {
        if (vma->has(VmFlags::kLocked) || vma->mapped_file() == nullptr) return fail(Errno::kInval);
        if (!all(vma->vm_flags, VmFlags::kShared | VmFlags::kWrite)) return fail(Errno::kAcces);
      } else if (vma->is_anonymous()) {
        swapin_range(*vma, part);
      } else if (parts_.vfs.shmem().shmem_mapping(vma->vm_file->mapping())) {
        force_shm_swapin_readahead(parts_, *vma, part);
      }
      offset = pages_to_bytes(vma->linear_page_index(at).value());
      bytes = part.size();
      at = part.end;
      file = vma->mapped_file();
      if (file != nullptr) parts_.vfs.fget(*file);
    }
    if (file == nullptr) continue;
    Status done{};
    if (advice == Advice::kRemove) {
      done = parts_.vfs.fallocate(*file, file::FallocateMode::kPunchHole | file::FallocateMode::kKeepSize, offset, bytes);
    } else {
      static_cast<void>(parts_.vfs.fadvise(*file, offset, bytes, file::Fadvice::kWillNeed));
    }
    parts_.vfs.fput(*file);
    if (!done) return done;
  }
  return unmapped;
}

// MADV_WILLNEED on anonymous memory: reads what is swapped out into the swap cache.
void Vm::swapin_range(Vma& vma, Range<VirtAddr> range) {
  for (VirtAddr at = range.begin; at < range.end; at += kPageSize) {
    const arch::Pte* pte = pgtable_.pte_offset(*vma.vm_mm, at);
    if (pte == nullptr) {
      at = pgtable_.end_of_hole(*vma.vm_mm, at, range.end) - kPageSize;
      continue;
    }
    if (!arch::is_swap_pte(*pte) || arch::non_swap_entry(arch::pte_to_swp_entry(*pte))) continue;
    read_swap_ahead(parts_, arch::pte_to_swp_entry(*pte));
  }
  parts_.lru.lru_add_drain();
}

}  // namespace quire::vm
