// Reclaim's unmapping: every entry of a folio becomes a swap entry (anonymous) or nothing (file).
#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/rmap.h"
#include "quire/vm/vm.h"

namespace quire::vm {

using phys::Folio;

bool Rmap::try_to_unmap(Folio& folio, TtuFlags flags) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  rmap_walk(folio, [&](Vma& vma, VirtAddr address) {
    const Walk next = try_to_unmap_one(folio, vma, address, flags);
    return phys::folio_mapped(folio) ? next : Walk::kStop;
  });
  return !phys::folio_mapped(folio);
}

Rmap::Walk Rmap::try_to_unmap_one(Folio& folio, Vma& vma, VirtAddr address, TtuFlags flags) {
  Mm& mm = *vma.vm_mm;
  sim::Scheduler& scheduler = vm_.parts_.scheduler;
  sim::SpinGuard guard(mm.page_table_lock);
  arch::Pte* pte = page_vma_mapped(folio, vma, address);
  if (pte == nullptr) return Walk::kContinue;
  if (vma.has(VmFlags::kLocked)) {
    if (vma_mlocks_folios(vma)) vm_.parts_.lru.mlock_folio(folio);  // back to the unevictable list
    return Walk::kStop;
  }
  scheduler.charge(scheduler.costs().reclaim_unmap_page);
  arch::Pte old;
  if (any(flags, TtuFlags::kBatchFlush) && vm_.shootdown_.should_defer_flush(mm)) {
    old = arch::ptep_get_and_clear(pte);
    vm_.shootdown_.defer(mm, arch::pte_dirty(old) ? TlbShootdown::Dirty::kYes : TlbShootdown::Dirty::kNo);
  } else {
    old = vm_.shootdown_.ptep_clear_flush(mm, pte, address, FlushSite::kUnmap);
  }
  if (arch::pte_dirty(old) && !vma.has(VmFlags::kDroppable)) vm_.parts_.vfs.filemap().folio_mark_dirty(folio);
  mm.update_hiwater_rss();

  if (phys::folio_test_anon(folio)) {
    if (unmap_anon_pte(folio, vma, old, pte) == Walk::kStop) return Walk::kStop;
  } else {
    mm.add_counter(mm_counter(folio), -1);
  }
  page_remove_rmap(folio, vma);
  vm_.parts_.lru.folio_put(folio);
  return Walk::kContinue;
}

// The entry of an anonymous folio was `old`; what stands in its place? kStop: the old entry again.
Rmap::Walk Rmap::unmap_anon_pte(Folio& folio, Vma& vma, arch::Pte old, arch::Pte* pte) {
  Mm& mm = *vma.vm_mm;
  if (!phys::folio_test_swapbacked(folio)) {
    // MADV_FREE: dropped if nobody wrote to it or refers to it, else an ordinary page again. MAP_DROPPABLE: written or not, it
    // may go.
    const bool unreferenced = phys::folio_ref_count(folio) == 1 + phys::folio_mapcount(folio);
    if (unreferenced && (!phys::folio_test_dirty(folio) || vma.has(VmFlags::kDroppable))) {
      mm.add_counter(Rss::kAnonPages, -1);
      return Walk::kContinue;
    }
    *pte = old;
    if (phys::folio_test_dirty(folio) && !vma.has(VmFlags::kDroppable)) phys::folio_set_swapbacked(folio);
    return Walk::kStop;
  }
  QUIRE_BUG_ON(!phys::folio_test_swapcache(folio));
  const swap::SwapEntry entry = swap::SwapSystem::folio_swap_entry(folio);
  if (!vm_.parts_.swap.swap_duplicate(entry)) {
    *pte = old;
    return Walk::kStop;
  }
  arch::Pte swap_pte = arch::swp_entry_to_pte(entry);
  if (folio.test(phys::PageFlag::kAnonExclusive)) {
    if (!page_try_share_anon_rmap(folio)) {
      vm_.parts_.swap.swap_free(entry);
      *pte = old;
      return Walk::kStop;
    }
    swap_pte = arch::pte_swp_mkexclusive(swap_pte);
  }
  if (arch::pte_soft_dirty(old)) swap_pte = arch::pte_swp_mksoft_dirty(swap_pte);
  if (arch::pte_uffd_wp(old)) swap_pte = arch::pte_swp_mkuffd_wp(swap_pte);
  mm.add_counter(Rss::kAnonPages, -1);
  mm.add_counter(Rss::kSwapEnts, 1);
  *pte = swap_pte;
  return Walk::kContinue;
}

}  // namespace quire::vm
