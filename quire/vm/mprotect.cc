// mprotect(2), and the change of flags on part of an area that mlock and madvise share with it.
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/mmu_gather.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

constexpr Prot kKnownProt = Prot::kRead | Prot::kWrite | Prot::kExec | Prot::kSem;
constexpr Prot kGrowProt = Prot::kGrowsDown | Prot::kGrowsUp;

// VM_READ|WRITE|EXEC that the area may never get (VM_MAY* missing).
bool exceeds_may(VmFlags flags) {
  const auto wanted = static_cast<std::uint64_t>(flags & VmFlags::kAccessFlags);
  const auto may = static_cast<std::uint64_t>(flags & VmFlags::kMayFlags) >> 4;
  return (wanted & ~may) != 0;
}

}  // namespace

arch::Pgprot Vm::vm_get_page_prot(VmFlags flags) const {
  const bool exec = any(flags, VmFlags::kExec);
  if (!any(flags, VmFlags::kAccessFlags)) return arch::kPageNone;
  // A private page is never mapped writable from the start: the first write copies.
  if (all(flags, VmFlags::kWrite | VmFlags::kShared)) return exec ? arch::kPageSharedExec : arch::kPageShared;
  return exec ? arch::kPageReadonlyExec : arch::kPageReadonly;
}

// Must the first write to a shared page be noticed (to account for its dirtying)?
bool Vm::vma_wants_writenotify(const Vma& vma) const {
  return all(vma.vm_flags, VmFlags::kWrite | VmFlags::kShared) && vma.vm_file != nullptr &&
         &vma.vm_file->sb() != &parts_.vfs.shmem();
}

arch::Pgprot Vm::vma_page_prot(const Vma& vma) const {
  return vm_get_page_prot(vma_wants_writenotify(vma) ? vma.vm_flags & ~VmFlags::kShared : vma.vm_flags);
}

Status Vm::vma_set_flags(Vma** vma, Vma** prev, Range<VirtAddr> range, VmFlags flags) {
  Vma& area = **vma;
  Mm& mm = *area.vm_mm;
  if (flags == area.vm_flags) {
    *prev = *vma;
    return {};
  }
  const MergeRequest request{.prev = *prev,
                             .range = range,
                             .flags = flags,
                             .anon_vma = area.anon_vma,
                             .file = area.vm_file,
                             .pgoff = area.linear_page_index(range.begin)};
  if (Vma* merged = vma_merge(mm, request)) {
    *vma = *prev = merged;
    return {};
  }
  *prev = *vma;
  if (area.vm_start != range.begin) {
    if (Status split = split_vma(area, range.begin, NewPart::kLower); !split) return split;
  }
  if (area.vm_end != range.end) {
    if (Status split = split_vma(area, range.end, NewPart::kUpper); !split) return split;
  }
  area.vm_flags = flags;
  return {};
}

Status Vm::mprotect(Mm& mm, VirtAddr start, std::uint64_t length, Prot prot) {
  const Prot grows = prot & kGrowProt;
  prot &= ~kGrowProt;
  if (grows == kGrowProt) return fail(Errno::kInval);
  if (page_offset(start) != 0) return fail(Errno::kInval);
  if (length == 0) return {};
  VirtAddr end = start + align_up(length, kPageSize);
  if (end <= start) return fail(Errno::kNoMem);
  if (any(prot, ~kKnownProt)) return fail(Errno::kInval);

  sim::WriteGuard guard(mm.mmap_lock);
  Vma* vma = mm.mm_vmas.find(start);
  if (vma == nullptr) return fail(Errno::kNoMem);
  if (any(grows, Prot::kGrowsDown)) {
    if (vma->vm_start >= end) return fail(Errno::kNoMem);
    start = vma->vm_start;
    if (!vma->has(VmFlags::kGrowsDown)) return fail(Errno::kInval);
  } else {
    if (vma->vm_start > start) return fail(Errno::kNoMem);
    if (any(grows, Prot::kGrowsUp)) return fail(Errno::kInval);
  }

  const auto access = static_cast<VmFlags>(static_cast<std::uint64_t>(prot)) & VmFlags::kAccessFlags;
  MmuGather tlb(*this, mm, FlushSite::kMprotect);
  const Status done = mprotect_areas(tlb, *vma, {start, end}, access);
  tlb.finish();
  return done;
}

// The areas of the range from the first one on, until one is missing or refuses.
Status Vm::mprotect_areas(MmuGather& tlb, Vma& first, Range<VirtAddr> range, VmFlags access) {
  Vma* vma = &first;
  Vma* prev = range.begin > vma->vm_start ? vma : VmaTree::prev(*vma);
  for (VirtAddr at = range.begin;;) {
    const VmFlags flags = (vma->vm_flags & ~VmFlags::kAccessFlags) | access;
    if (exceeds_may(flags)) return fail(Errno::kAcces);
    const VirtAddr stop = std::min(vma->vm_end, range.end);
    if (Status fixed = mprotect_fixup(tlb, *vma, &prev, {at, stop}, flags); !fixed) return fixed;
    at = std::max(stop, prev->vm_end);
    if (at >= range.end) return {};
    vma = VmaTree::next(*prev);
    if (vma == nullptr || vma->vm_start != at) return fail(Errno::kNoMem);
  }
}

Status Vm::mprotect_fixup(MmuGather& tlb, Vma& area, Vma** prev, Range<VirtAddr> range, VmFlags new_flags) {
  Mm& mm = *area.vm_mm;
  const VmFlags old_flags = area.vm_flags;
  if (any(old_flags, VmFlags::kSealed)) return fail(Errno::kPerm);
  if (new_flags == old_flags) {
    *prev = &area;
    return {};
  }
  const std::uint64_t pages = range.size() >> kPageShift;
  std::uint64_t charged = 0;
  if (any(new_flags, VmFlags::kWrite)) {
    if (!may_expand_vm(mm, new_flags, pages) && may_expand_vm(mm, old_flags, pages)) return fail(Errno::kNoMem);
    constexpr VmFlags kNoCharge =
        VmFlags::kAccount | VmFlags::kWrite | VmFlags::kHugeTlb | VmFlags::kShared | VmFlags::kNoReserve;
    if (!any(old_flags, kNoCharge)) {
      charged = pages;
      if (Status enough = commit_.vm_enough_memory(mm, charged); !enough) return enough;
      new_flags |= VmFlags::kAccount;
    }
  }
  Vma* vma = &area;
  if (Status set = vma_set_flags(&vma, prev, range, new_flags); !set) {
    commit_.vm_unacct_memory(charged);
    return set;
  }
  change_protection(tlb, *vma, range);
  if ((old_flags & (VmFlags::kWrite | VmFlags::kShared | VmFlags::kLocked)) == VmFlags::kLocked &&
      any(new_flags, VmFlags::kWrite)) {
    static_cast<void>(populate_vma_range(*vma, range, arch::Access::kWrite));
  }
  const auto moved = static_cast<std::int64_t>(pages);
  vm_stat_account(mm, old_flags, -moved);
  vm_stat_account(mm, new_flags, moved);
  return {};
}

// A page on its way comes back without the right to write; who may have it finds out by a fault.
void Vm::protect_migration_entry(arch::Pte& pte) {
  if (pte.none()) return;
  const arch::SwapEntry entry = arch::pte_to_swp_entry(pte);
  if (!arch::is_writable_migration_entry(entry)) return;
  const bool anon = phys::folio_test_anon(migration_entry_folio(entry));
  pte = arch::migration_pte_as(anon ? arch::MigrationKind::kReadExclusive : arch::MigrationKind::kRead, pte);
}

// Gives present entries of the range the area's present rights. An entry whose page needs no copy or notice is made writable
// at once (can_change_pte_writable).
void Vm::change_protection(MmuGather& tlb, Vma& vma, Range<VirtAddr> range) {
  const arch::Pgprot prot = vma_page_prot(vma);
  const bool try_writable = vma.has(VmFlags::kWrite) && (!vma.has(VmFlags::kShared) || vma_wants_writenotify(vma));
  walk_page_range(*vma.vm_mm, range, Deferred::kSettle, [&](VirtAddr address, arch::Pte& pte) {
    if (!pte.present()) return protect_migration_entry(pte);
    arch::Pte fresh = arch::pte_modify(pte, prot);
    if (try_writable && !arch::pte_write(fresh) && !arch::pte_uffd_wp(fresh)) {
      const phys::Page* page = vm_normal_page(pte);
      const bool exclusive =
          page != nullptr && (page->mapping & phys::kMappingAnon) != 0 && page->test(phys::PageFlag::kAnonExclusive);
      if (vma.has(VmFlags::kShared) ? arch::pte_dirty(pte) : exclusive) fresh = arch::pte_mkwrite(fresh);
    }
    if (arch::pte_needs_flush(pte, fresh)) tlb.note_range(address);
    pte = fresh;
  });
}

}  // namespace quire::vm
