// fork: a copy-on-write copy of an address space.
#include <algorithm>
#include <utility>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

Result<Mm*> Vm::dup_mm(Mm& parent) {
  Result<Mm*> made = mm_alloc();
  if (!made) return made;
  Mm& mm = **made;
  if (Status copied = dup_mmap(mm, parent); !copied) {
    mmput(mm);
    return fail(copied.error());
  }
  mm.hiwater_rss = mm.rss();
  mm.hiwater_vm = mm.total_vm;
  return &mm;
}

namespace {

// The parts of an address space that are values (the memcpy in Linux's dup_mm).
void copy_layout(Mm& mm, const Mm& parent) {
  mm.task_size = parent.task_size;
  mm.mmap_base = parent.mmap_base;
  mm.mmap_legacy_base = parent.mmap_legacy_base;
  mm.randomize = parent.randomize;
  mm.layout = parent.layout;
  mm.start_code = parent.start_code;
  mm.end_code = parent.end_code;
  mm.start_data = parent.start_data;
  mm.end_data = parent.end_data;
  mm.start_brk = parent.start_brk;
  mm.brk = parent.brk;
  mm.start_stack = parent.start_stack;
  mm.arg_start = parent.arg_start;
  mm.arg_end = parent.arg_end;
  mm.env_start = parent.env_start;
  mm.env_end = parent.env_end;
  mm.vdso = parent.vdso;
  mm.saved_auxv = parent.saved_auxv;
  mm.rlimits = parent.rlimits;
  mm.ipc_lock = parent.ipc_lock;
  mm.membarrier_state = parent.membarrier_state;
}

// Linux's vma_needs_copy: pages that can be had again from the file are left to faults in the child.
bool vma_needs_copy(const Vma& src) { return src.has(VmFlags::kPfnMap | VmFlags::kMixedMap) || src.anon_vma != nullptr; }

}  // namespace

Status Vm::dup_mmap(Mm& mm, Mm& parent) {
  sim::WriteGuard parent_guard(parent.mmap_lock);
  sim::WriteGuard guard(mm.mmap_lock, sim::kSingleDepthNesting);
  copy_layout(mm, parent);
  const TlbFlushPending pending(parent.fork_flush_pending);
  Status result{};
  for (Vma& src : parent.mm_vmas) {
    if (parent.killed()) result = fail(Errno::kIntr);
    if (!result) break;
    if (src.has(VmFlags::kDontCopy)) continue;
    result = dup_vma(mm, src);
  }
  shootdown_.flush_tlb_mm(parent, FlushSite::kFork);  // its private pages are read-only now
  return result;
}

Status Vm::dup_vma(Mm& mm, Vma& src) {
  const std::uint64_t charged = src.has(VmFlags::kAccount) ? src.pages() : 0;
  if (charged != 0) {
    if (Status enough = commit_.vm_enough_memory(*src.vm_mm, charged); !enough) return enough;
  }
  Vma* vma = vm_area_dup(src, mm);
  if (vma == nullptr) {
    commit_.vm_unacct_memory(charged);
    return fail(Errno::kNoMem);
  }
  // Nobody watches the child: it has no userfaultfd of its own (dup_userfaultfd).
  vma->vm_flags &= ~(VmFlags::kLockedMask | VmFlags::kUffdMissing | VmFlags::kUffdWp);
  vma->anon_vma = nullptr;
  if (!vma->has(VmFlags::kWipeOnFork)) {
    if (Status forked = rmap_.anon_vma_fork(*vma, src); !forked) {
      vm_area_free(*vma);
      commit_.vm_unacct_memory(charged);
      return forked;
    }
  }
  vma_link(*vma);
  vm_stat_account(mm, vma->vm_flags, static_cast<std::int64_t>(vma->pages()));
  if (vma->has(VmFlags::kWipeOnFork)) return {};
  return copy_page_range(*vma, src);
}

Status Vm::copy_page_range(Vma& dst, Vma& src) {
  if (!vma_needs_copy(src)) return {};
  const arch::Geometry& geometry = pgtable_.geometry();
  for (VirtAddr at = src.vm_start; at < src.vm_end;) {
    arch::Pte* from = pgtable_.pte_offset(*src.vm_mm, at);
    if (from == nullptr) {
      at = pgtable_.end_of_hole(*src.vm_mm, at, src.vm_end);
      continue;
    }
    const VirtAddr stop = geometry.addr_end(at, src.vm_end, arch::kPmdLevel);
    arch::Pte* to = pgtable_.pte_alloc(*dst.vm_mm, at);
    if (to == nullptr) return fail(Errno::kNoMem);
    if (Status copied = copy_pte_range(dst, src, {at, stop}, to, from); !copied) return copied;
    at = stop;
  }
  return {};
}

// A page that has to be copied at once needs one to copy to, which is allocated between two goes at the entries.
Status Vm::copy_pte_range(Vma& dst, Vma& src, Range<VirtAddr> range, arch::Pte* to, arch::Pte* from) {
  const sim::Nanos cost = parts_.scheduler.costs().pte_copy;
  const std::uint64_t count = range.size() >> kPageShift;
  phys::Folio* prealloc = nullptr;
  Status result{};
  for (std::uint64_t i = 0; i < count && result;) {
    {
      sim::SpinGuard guard(dst.vm_mm->page_table_lock);
      sim::SpinGuard src_guard(src.vm_mm->page_table_lock, sim::kSingleDepthNesting);
      for (; i < count; ++i) {
        if (from[i].none()) continue;
        parts_.scheduler.charge(cost);
        if (!from[i].present()) {
          result = copy_nonpresent_pte(dst, src, to + i, from + i);
          if (!result) break;
        } else if (copy_present_pte(dst, src, range.begin + pages_to_bytes(i), to + i, from + i, &prealloc) ==
                   PteCopied::kNeedsPage) {
          break;
        }
      }
    }
    if (i == count || !result) break;
    prealloc = vma_alloc_folio(dst, range.begin + pages_to_bytes(i));
    if (prealloc == nullptr) result = fail(Errno::kNoMem);
  }
  if (prealloc != nullptr) parts_.lru.folio_put(*prealloc);
  return result;
}

Vm::PteCopied Vm::copy_present_pte(Vma& dst, Vma& src, VirtAddr address, arch::Pte* to, arch::Pte* from,
                                   phys::Folio** prealloc) {
  if (phys::Page* page = vm_normal_page(*from)) {
    phys::Folio& folio = phys::page_folio(*page);
    if (!phys::folio_test_anon(folio)) {
      rmap_.page_add_file_rmap(*page, dst);
    } else if (!rmap_.page_try_dup_anon_rmap(*page, *src.vm_mm)) {
      if (*prealloc == nullptr) return PteCopied::kNeedsPage;
      copy_present_page(dst, folio, address, to, *std::exchange(*prealloc, nullptr));
      return PteCopied::kDone;
    }
    phys::folio_get(folio);
    dst.vm_mm->add_counter(mm_counter(folio), 1);
  }
  if (src.is_cow_mapping() && arch::pte_write(*from)) arch::ptep_set_wrprotect(from);
  arch::Pte entry = *from;
  if (src.has(VmFlags::kShared)) entry = arch::pte_mkclean(entry);
  *to = arch::pte_clear_uffd_wp(arch::pte_mkold(entry));
  return PteCopied::kDone;
}

// The parent's page is pinned, so that the parent has to keep it as its own: the child gets a copy of its present bytes.
void Vm::copy_present_page(Vma& dst, const phys::Folio& from, VirtAddr address, arch::Pte* to, phys::Folio& fresh) {
  parts_.phys.copy_page(fresh, from);
  phys::folio_set_uptodate(fresh);
  rmap_.page_add_new_anon_rmap(fresh, dst, address);
  folio_add_lru_vma(fresh, dst);
  dst.vm_mm->add_counter(Rss::kAnonPages, 1);
  *to = maybe_mkwrite(arch::pte_mkdirty(arch::mk_pte(parts_.phys.page_to_pfn(fresh), vma_page_prot(dst))), dst);
}

Status Vm::copy_nonpresent_pte(Vma& dst, const Vma& src, arch::Pte* to, arch::Pte* from) {
  const arch::SwapEntry entry = arch::pte_to_swp_entry(*from);
  if (arch::is_migration_entry(entry)) {
    // Both get a page that neither may write without a copy.
    if (!src.has(VmFlags::kShared) && !arch::is_readable_migration_entry(entry)) {
      *from = arch::migration_pte_as(arch::MigrationKind::kRead, *from);
    }
    *to = arch::pte_swp_clear_uffd_wp(*from);
    dst.vm_mm->add_counter(mm_counter(migration_entry_folio(entry)), 1);
    return {};
  }
  if (arch::is_guard_swp_entry(entry)) {
    *to = *from;
    return {};
  }
  QUIRE_BUG_ON(arch::non_swap_entry(entry));
  if (Status counted = parts_.swap.swap_duplicate(entry); !counted) return counted;
  *from = arch::pte_swp_clear_exclusive(*from);
  *to = arch::pte_swp_clear_uffd_wp(*from);
  dst.vm_mm->add_counter(Rss::kSwapEnts, 1);
  return {};
}

}  // namespace quire::vm
