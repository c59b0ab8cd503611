// Taking translations away: unmap_page_range (Linux's zap_pte_range).
#include "quire/arch/swap_entry.h"
#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/mmu_gather.h"
#include "quire/vm/vm.h"

namespace quire::vm {

// Clears the entries of one page-table page from `at` on until the batch is full; gives where it stopped.
VirtAddr Vm::zap_pte_range(MmuGather& tlb, Vma& vma, Range<VirtAddr> range, ZapCows cows) {
  Mm& mm = *vma.vm_mm;
  const sim::Nanos zap_cost = parts_.scheduler.costs().pte_zap;
  sim::SpinGuard guard(mm.page_table_lock);
  shootdown_.flush_tlb_batched_pending(mm);
  arch::Pte* pte = pgtable_.pte_offset(mm, range.begin);
  if (pte == nullptr) return range.end;
  VirtAddr at = range.begin;
  bool force_flush = false;
  for (; at < range.end && !tlb.need_flush(); at += kPageSize, ++pte) {
    const arch::Pte entry = *pte;
    if (entry.none()) continue;
    if (!entry.present()) {
      zap_nonpresent(mm, pte, cows);
      continue;
    }
    phys::Page* page = vm_normal_page(entry);
    if (page == nullptr) {
      arch::pte_clear(pte);
      tlb.note_range(at);
      continue;
    }
    phys::Folio& folio = phys::page_folio(*page);
    if (cows == ZapCows::kNo && phys::folio_test_anon(folio)) continue;
    parts_.scheduler.charge(zap_cost);
    arch::pte_clear(pte);
    if (!phys::folio_test_anon(folio)) {
      if (arch::pte_dirty(entry)) {
        parts_.vfs.filemap().folio_mark_dirty(folio);
        force_flush = true;  // nobody may write through a stale translation once the folio can be cleaned
      }
      if (arch::pte_young(entry) && !vma.has(VmFlags::kSeqRead)) parts_.lru.mark_folio_accessed(folio);
    }
    mm.add_counter(mm_counter(folio), -1);
    rmap_.page_remove_rmap(*page, vma);
    tlb.unmap_page(at, folio);
  }
  if (force_flush) tlb.force_flush(FlushSite::kZapDirty);
  return at;
}

void Vm::zap_nonpresent(Mm& mm, arch::Pte* pte, ZapCows cows) {
  const arch::SwapEntry entry = arch::pte_to_swp_entry(*pte);
  if (arch::is_migration_entry(entry)) {
    // A page on its way: whoever moves it finds nothing left to map. Its reference went when the entry was made.
    const phys::Folio& folio = migration_entry_folio(entry);
    if (cows == ZapCows::kNo && phys::folio_test_anon(folio)) return;
    arch::pte_clear(pte);
    mm.add_counter(mm_counter(folio), -1);
    return;
  }
  if (arch::is_guard_swp_entry(entry)) {
    if (cows == ZapCows::kAreaGoes) arch::pte_clear(pte);
    return;
  }
  QUIRE_BUG_ON(arch::non_swap_entry(entry));
  if (cows == ZapCows::kNo) return;
  arch::pte_clear(pte);
  mm.add_counter(Rss::kSwapEnts, -1);
  parts_.swap.free_swap_and_cache(entry);
}

void Vm::unmap_page_range(MmuGather& tlb, Vma& vma, Range<VirtAddr> range, ZapCows cows) {
  vma.vm_mm->update_hiwater_rss();
  const arch::Geometry& geometry = pgtable_.geometry();
  for (VirtAddr at = range.begin; at < range.end;) {
    if (pgtable_.pte_offset(*vma.vm_mm, at) == nullptr) {
      at = pgtable_.end_of_hole(*vma.vm_mm, at, range.end);
      continue;
    }
    const VirtAddr stop = geometry.addr_end(at, range.end, arch::kPmdLevel);
    at = zap_pte_range(tlb, vma, {at, stop}, cows);
    if (tlb.need_flush()) tlb.flush();
  }
}

void Vm::zap_page_range(Vma& vma, Range<VirtAddr> range) {
  MmuGather tlb(*this, *vma.vm_mm, FlushSite::kZap);
  unmap_page_range(tlb, vma, range);
  tlb.finish();
}

}  // namespace quire::vm
