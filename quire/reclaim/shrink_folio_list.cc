// What becomes of each isolated folio: freed, sent to its device, kept for another round, or active again.
//
//   lock ─ evictable? ─ writeback? ─ references? ─ anon: swap slot ─ unmap ─ dirty: write ─ out of its cache ─ free
//      each step may end it:   kKeep   back to the list as it is        kActivate   back as active
#include "quire/phys/page_wait.h"
#include "quire/reclaim/reclaim.h"
#include "quire/vm/gup.h"

namespace quire::reclaim {

using phys::Folio;
using phys::FolioList;
using phys::Gfp;
using phys::NodeStat;
using phys::VmEvent;

enum class Reclaim::Verdict : std::uint8_t {
  kNext,          // go on with the next step
  kFree,          // ours alone: free it; unlocked
  kKeepUnlocked,  // back to its list; unlocked already
  kKeep,          // back to its list
  kActivate,      // back as active
};

struct Reclaim::FolioScan {
  Folio& folio;
  NodeReclaim& node;
  const ScanControl& sc;
  ReclaimStat& stat;
  References check;
  std::uint64_t pages;
  FolioReferences references = FolioReferences::kReclaim;
};

std::uint64_t Reclaim::shrink_folio_list(FolioList& folios, NodeReclaim& node, ScanControl& sc, ReclaimStat& stat,
                                         References references) {
  FolioList kept;
  FolioList freed;
  std::uint64_t nr_reclaimed = 0;
  while (Folio* folio = folios.pop_back()) {
    parts_.scheduler.sync_point();
    if (!phys::folio_trylock(*folio)) {
      kept.push_front(*folio);
      continue;
    }
    FolioScan scan{*folio, node, sc, stat, references, folio_nr_pages(*folio)};
    sc.nr_scanned += scan.pages;
    const Verdict verdict = shrink_folio(scan);
    if (verdict == Verdict::kFree) {
      nr_reclaimed += scan.pages;
      freed.push_front(*folio);
      continue;
    }
    if (verdict == Verdict::kActivate) activate_folio(scan);
    if (verdict != Verdict::kKeepUnlocked) phys::folio_unlock(parts_.phys, *folio);
    kept.push_front(*folio);
  }
  parts_.phys.vmstat().count_vm_events(VmEvent::kPgactivate,
                                       static_cast<std::int64_t>(stat.nr_activate[0] + stat.nr_activate[1]));
  // No CPU may write through a stale translation into a frame that somebody else gets.
  parts_.actions.try_to_unmap_flush();
  parts_.lru.free_folios(freed);
  folios.splice_front(kept);
  return nr_reclaimed;
}

// One folio, locked.
Reclaim::Verdict Reclaim::shrink_folio(FolioScan& scan) {
  Folio& folio = scan.folio;
  if (!parts_.lru.folio_evictable(folio)) [[unlikely]]
    return Verdict::kActivate;
  if (!any(scan.sc.may, May::kUnmap) && folio_mapped(folio)) return Verdict::kKeep;
  if (const Verdict v = check_writeback(scan); v != Verdict::kNext) return v;
  if (scan.check == References::kCheck) {
    scan.references = policy_->folio_check_references(folio, parts_.actions.folio_referenced(folio));
    if (scan.references == FolioReferences::kActivate) return Verdict::kActivate;
    if (scan.references == FolioReferences::kKeep) {
      scan.stat.nr_ref_keep += scan.pages;
      return Verdict::kKeep;
    }
  }
  if (const Verdict v = make_reclaimable(scan); v != Verdict::kNext) return v;
  if (const Verdict v = unmap_folio(scan); v != Verdict::kNext) return v;
  if (phys::folio_test_dirty(folio)) {
    if (const Verdict v = write_folio(scan); v != Verdict::kNext) return v;
  }
  return free_folio(scan);
}

// A page under writeback is on its way already. Whoever meets it marks it to be freed as soon as it is written (the end
// of the I/O moves it to the tail); met again so marked, it says that the lists turn over faster than the disk writes.
Reclaim::Verdict Reclaim::check_writeback(FolioScan& scan) {
  Folio& folio = scan.folio;
  const bool writeback = phys::folio_test_writeback(folio);
  const bool dirty = phys::folio_test_dirty(folio);
  // Anonymous folios count only through the swap cache's writeback: their dirty bit means no queue behind it.
  const bool file = lru::folio_is_file_lru(folio) && !(phys::folio_test_anon(folio) && !phys::folio_test_swapbacked(folio));
  if (file && (dirty || writeback)) scan.stat.nr_dirty += scan.pages;
  if (file && dirty && !writeback) scan.stat.nr_unqueued_dirty += scan.pages;
  if (file && writeback && phys::folio_test_reclaim(folio)) scan.stat.nr_congested += scan.pages;
  if (!writeback) return Verdict::kNext;
  if (scan.sc.is_kswapd() && phys::folio_test_reclaim(folio) && any(scan.node.flags, PgdatFlag::kWriteback)) {
    scan.stat.nr_immediate += scan.pages;
    return Verdict::kActivate;
  }
  phys::folio_set_reclaim(folio);
  scan.stat.nr_writeback += scan.pages;
  return Verdict::kActivate;
}

// An anonymous folio needs a place in swap before it can leave the page tables; lazily freed ones need none.
Reclaim::Verdict Reclaim::make_reclaimable(FolioScan& scan) {
  Folio& folio = scan.folio;
  if (!phys::folio_test_anon(folio) || !phys::folio_test_swapbacked(folio) || phys::folio_test_swapcache(folio)) {
    return Verdict::kNext;
  }
  if (!any(scan.sc.gfp_mask, Gfp::kIo)) return Verdict::kKeep;
  if (vm::folio_maybe_dma_pinned(folio)) return Verdict::kKeep;
  return parts_.swap.add_to_swap(folio) ? Verdict::kNext : Verdict::kActivate;
}

Reclaim::Verdict Reclaim::unmap_folio(FolioScan& scan) {
  Folio& folio = scan.folio;
  if (!folio_mapped(folio)) return Verdict::kNext;
  const bool was_swapbacked = phys::folio_test_swapbacked(folio);
  parts_.actions.try_to_unmap(folio);
  if (!folio_mapped(folio)) return Verdict::kNext;
  scan.stat.nr_unmap_fail += scan.pages;
  if (!was_swapbacked && phys::folio_test_swapbacked(folio)) scan.stat.nr_lazyfree_fail += scan.pages;
  return Verdict::kActivate;
}

Reclaim::Verdict Reclaim::write_folio(FolioScan& scan) {
  Folio& folio = scan.folio;
  // Dirty file pages are the flusher's: it writes in order of the file. Only when kswapd sees nothing but dirty pages,
  // and this very one for the second time, does it write a single page here.
  if (lru::folio_is_file_lru(folio) &&
      (!scan.sc.is_kswapd() || !phys::folio_test_reclaim(folio) || !any(scan.node.flags, PgdatFlag::kDirty))) {
    scan.node.node.stats.add(NodeStat::kNrVmscanImmediateReclaim, static_cast<std::int64_t>(scan.pages));
    phys::folio_set_reclaim(folio);
    return Verdict::kActivate;
  }
  if (scan.references == FolioReferences::kReclaimClean) return Verdict::kKeep;
  const bool may_enter_fs =
      any(scan.sc.gfp_mask, Gfp::kFs) || (phys::folio_test_swapcache(folio) && any(scan.sc.gfp_mask, Gfp::kIo));
  if (!may_enter_fs || !any(scan.sc.may, May::kWritepage)) return Verdict::kKeep;
  // No CPU may go on writing through its TLB once the I/O has begun.
  parts_.actions.try_to_unmap_flush_dirty();
  switch (parts_.actions.pageout(folio)) {
    case Pageout::kKeep: return Verdict::kKeep;
    case Pageout::kActivate: return Verdict::kActivate;
    case Pageout::kClean: return Verdict::kNext;
    case Pageout::kSuccess: break;
  }
  scan.stat.nr_pageout += scan.pages;
  scan.node.node.stats.add(NodeStat::kNrVmscanWrite, static_cast<std::int64_t>(scan.pages));
  events_.write_folio([&] {
    const auto kind = lru::folio_kind(folio);
    return MmVmscanWriteFolio{parts_.phys.page_to_pfn(folio), trace_shrink_flags(kind)};
  });
  // Written already if the device is synchronous: then it can go at once.
  if (phys::folio_test_writeback(folio) || phys::folio_test_dirty(folio)) return Verdict::kKeepUnlocked;
  if (!phys::folio_trylock(folio)) return Verdict::kKeepUnlocked;
  if (phys::folio_test_dirty(folio) || phys::folio_test_writeback(folio)) return Verdict::kKeep;
  return Verdict::kNext;
}

Reclaim::Verdict Reclaim::free_folio(FolioScan& scan) {
  Folio& folio = scan.folio;
  if (phys::folio_test_anon(folio) && !phys::folio_test_swapbacked(folio)) {
    // Lazily freed and not written since: only the isolation holds it.
    if (!folio_ref_freeze(folio, 1)) return Verdict::kKeep;
    parts_.phys.vmstat().count_vm_events(VmEvent::kPglazyfreed, static_cast<std::int64_t>(scan.pages));
    phys::folio_clear_dirty(folio);
  } else if (!parts_.actions.has_mapping(folio) || !parts_.actions.remove_mapping(folio)) {
    return Verdict::kKeep;
  }
  phys::folio_unlock(parts_.phys, folio);
  return Verdict::kFree;
}

void Reclaim::activate_folio(FolioScan& scan) {
  Folio& folio = scan.folio;
  // It stays in memory, so its slot can serve somebody else, if swap is getting full.
  if (phys::folio_test_swapcache(folio) && (parts_.swap.vm_swap_full() || phys::folio_test_mlocked(folio))) {
    parts_.swap.folio_free_swap(folio);
  }
  if (phys::folio_test_mlocked(folio)) return;
  const bool file = lru::folio_is_file_lru(folio);
  phys::folio_set_active(folio);
  scan.stat.nr_activate[file ? 1 : 0] += scan.pages;
}

}  // namespace quire::reclaim
