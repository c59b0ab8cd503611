// Write faults on pages that are mapped read-only: reuse or copy.
#include "quire/file/vfs.h"
#include "quire/phys/page_wait.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"
#include "quire/vm/vm_fault.h"

namespace quire::vm {

namespace {

// Unsharing is no write: what the old entry says of writes stays.
arch::Pte unshared_entry(arch::Pte entry, arch::Pte old) {
  if (arch::pte_soft_dirty(old)) entry = arch::pte_mksoft_dirty(entry);
  return arch::pte_uffd_wp(old) ? arch::pte_mkuffd_wp(entry) : entry;
}

}  // namespace

// Called with the page-table lock held and vmf.orig_pte in place; returns without it.
FaultOutcome Vm::do_wp_page(VmFault& vmf) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  const FuncGraph::Call traced(graph_, __func__);
  Vma& vma = vmf.vma;
  sim::SpinLock& ptl = vmf.mm().page_table_lock;
  parts_.scheduler.charge(parts_.scheduler.costs().cow_fault);
  phys::Page* page = vm_normal_page(vmf.orig_pte);
  if (vmf.unshare() && (page == nullptr || vma.has(VmFlags::kShared | VmFlags::kMayShare))) {
    ptl.unlock();  // nothing of the process's own
    return FaultOutcome::kNone;
  }
  if (page == nullptr) {
    ptl.unlock();
    return wp_page_copy(vmf, nullptr);
  }
  phys::Folio& folio = phys::page_folio(*page);
  if (vma.has(VmFlags::kShared | VmFlags::kMayShare)) return wp_page_shared(vmf, folio);

  if (phys::folio_test_anon(folio) && wp_can_reuse_anon(vma, *page)) {
    if (!vmf.unshare()) wp_page_reuse(vmf);
    ptl.unlock();
    return FaultOutcome::kNone;
  }
  phys::folio_get(folio);
  ptl.unlock();
  return wp_page_copy(vmf, &folio);
}

// Does the page belong to this process alone? Known (PageAnonExclusive), or found out by its references: one mapping, and
// perhaps the swap cache, which then lets go.
bool Vm::wp_can_reuse_anon(Vma& vma, phys::Page& page) {
  if (page.test(phys::PageFlag::kAnonExclusive)) return true;
  phys::Folio& folio = phys::page_folio(page);
  if (phys::folio_ref_count(folio) > 3) return false;
  if (!phys::folio_test_lru(folio)) parts_.lru.lru_add_drain();  // a batch may hold a reference
  if (phys::folio_ref_count(folio) > 1 + (phys::folio_test_swapcache(folio) ? 1 : 0)) return false;
  if (!phys::folio_trylock(folio)) return false;
  if (phys::folio_test_swapcache(folio)) parts_.swap.folio_free_swap(folio);
  const bool alone = phys::folio_ref_count(folio) == 1;
  if (alone) rmap_.page_move_anon_rmap(page, vma);
  phys::folio_unlock(parts_.phys, folio);
  return alone;
}

void Vm::wp_page_reuse(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  *vmf.pte = maybe_mkwrite(arch::pte_mkdirty(arch::pte_mkyoung(vmf.orig_pte)), vmf.vma);
  parts_.phys.vmstat().count_vm_event(phys::VmEvent::kPgreuse);
}

// First write to a shared file page that is mapped for reading.
FaultOutcome Vm::wp_page_shared(VmFault& vmf, phys::Folio& folio) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  const FuncGraph::Call traced(graph_, __func__);
  sim::SpinLock& ptl = vmf.mm().page_table_lock;
  phys::folio_get(folio);
  if (!vma_wants_writenotify(vmf.vma)) {
    wp_page_reuse(vmf);
    ptl.unlock();
    phys::folio_lock(parts_.phys, folio);
  } else {
    ptl.unlock();
    const FaultOutcome made = do_page_mkwrite(vmf, folio);
    if (any(made, FaultOutcome::kError | FaultOutcome::kNoPage)) {
      parts_.lru.folio_put(folio);
      return any(made, FaultOutcome::kError) ? made : FaultOutcome::kNone;
    }
    ptl.lock();
    const bool same = *vmf.pte == vmf.orig_pte;
    if (same) wp_page_reuse(vmf);
    ptl.unlock();
    if (!same) {
      phys::folio_unlock(parts_.phys, folio);
      parts_.lru.folio_put(folio);
      return FaultOutcome::kNone;
    }
  }
  const FaultOutcome paid = fault_dirty_shared_page(vmf, folio);
  parts_.lru.folio_put(folio);
  return paid;
}

// The process gets a page of its own with the old one's bytes; null stands for the zero page. Takes over a reference on `old`.
FaultOutcome Vm::wp_page_copy(VmFault& vmf, phys::Folio* old) {
  const FuncGraph::Call traced(graph_, __func__);
  Vma& vma = vmf.vma;
  Mm& mm = vmf.mm();
  phys::Folio* fresh = rmap_.anon_vma_prepare(vma) ? vma_alloc_folio(vma, vmf.address) : nullptr;
  if (fresh == nullptr) {
    if (old != nullptr) parts_.lru.folio_put(*old);
    return FaultOutcome::kOom;
  }
  old != nullptr ? parts_.phys.copy_page(*fresh, *old) : parts_.phys.clear_page(*fresh);
  phys::folio_set_uptodate(*fresh);

  bool copied = false;
  {
    sim::SpinGuard guard(mm.page_table_lock);
    if (*vmf.pte == vmf.orig_pte) {
      if (old == nullptr || !phys::folio_test_anon(*old)) {
        if (old != nullptr) mm.add_counter(mm_counter(*old), -1);
        mm.add_counter(Rss::kAnonPages, 1);
      }
      const arch::Pte entry = arch::mk_pte(parts_.phys.page_to_pfn(*fresh), vma_page_prot(vma));
      // No CPU may see the old page once another may see the new one.
      static_cast<void>(shootdown_.ptep_clear_flush(mm, vmf.pte, vmf.address, FlushSite::kCow));
      rmap_.page_add_new_anon_rmap(*fresh, vma, vmf.address);
      folio_add_lru_vma(*fresh, vma);
      *vmf.pte = vmf.unshare() ? unshared_entry(entry, vmf.orig_pte) : maybe_mkwrite(arch::pte_mkdirty(entry), vma);
      if (old != nullptr) rmap_.page_remove_rmap(*old, vma);
      copied = true;
    }
  }
  if (!copied) {
    parts_.lru.folio_put(*fresh);
    if (old != nullptr) parts_.lru.folio_put(*old);
    return FaultOutcome::kNone;
  }
  if (old != nullptr) {
    free_swap_cache(*old);
    parts_.lru.folio_put_refs(*old, 2);  // ours and the mapping's
  }
  return FaultOutcome::kNone;
}

// A page of the swap cache that nobody maps any more keeps neither its slot nor its frame.
void Vm::free_swap_cache(phys::Folio& folio) {
  if (!phys::folio_test_swapcache(folio) || phys::folio_mapped(folio) || !phys::folio_trylock(folio)) return;
  parts_.swap.folio_free_swap(folio);
  phys::folio_unlock(parts_.phys, folio);
}

}  // namespace quire::vm
