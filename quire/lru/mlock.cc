// Folios that may not be reclaimed, because locked areas map them (Linux's mm/mlock.c).
//
// PG_mlocked says that a locked area maps the folio; PG_unevictable that it is accounted to the unevictable list. There
// mlock_count counts the locked mappings that came while it was there; it may be too low (then munlock brings the folio
// back early, and reclaim finds it locked and culls it again), never too high.
#include "quire/lru/lru.h"

namespace quire::lru {

using phys::Folio;
using phys::VmEvent;

void Lru::rescue_locked(Lruvec& lruvec, Folio& folio) {
  lruvec_del_folio_locked(lruvec, folio);
  phys::folio_clear_unevictable(folio);
  lruvec_add_folio_locked(lruvec, folio);
  phys_.vmstat().count_vm_events(VmEvent::kUnevictablePgsRescued, pages(folio));
}

void Lru::cull_locked(Lruvec& lruvec, Folio& folio) {
  phys::folio_clear_active(folio);
  phys::folio_set_unevictable(folio);
  lruvec_add_folio_locked(lruvec, folio);
  folio_set_mlock_count(folio, phys::folio_test_mlocked(folio) ? 1 : 0);
  phys_.vmstat().count_vm_events(VmEvent::kUnevictablePgsCulled, pages(folio));
}

void Lru::count_mlocked(Folio& folio) {
  if (phys::folio_test_set_mlocked(folio)) return;
  phys_.page_zone(folio).stats.add(phys::ZoneStat::kNrMlock, pages(folio));
  phys_.vmstat().count_vm_events(VmEvent::kUnevictablePgsMlocked, pages(folio));
}

void Lru::mlock_folio(Folio& folio) {
  if (!phys::folio_test_lru(folio)) lru_add_drain();
  count_mlocked(folio);
  Lruvec& lruvec = folio_lruvec(folio);
  sim::SpinGuard guard(lruvec.lru_lock);
  if (!phys::folio_test_lru(folio)) return;  // isolated: who puts it back will see PG_mlocked
  if (folio_evictable(folio)) {              // munlocked while the lock was waited for
    if (phys::folio_test_unevictable(folio)) rescue_locked(lruvec, folio);
    return;
  }
  if (phys::folio_test_unevictable(folio)) {
    folio_set_mlock_count(folio, folio_mlock_count(folio) + 1);
    return;
  }
  lruvec_del_folio_locked(lruvec, folio);
  cull_locked(lruvec, folio);
}

void Lru::mlock_new_folio(Folio& folio) {
  QUIRE_BUG_ON(phys::folio_test_lru(folio));
  count_mlocked(folio);
  Lruvec& lruvec = folio_lruvec(folio);
  sim::SpinGuard guard(lruvec.lru_lock);
  cull_locked(lruvec, folio);
  phys::folio_set_lru(folio);
}

void Lru::munlock_folio(Folio& folio) {
  if (!phys::folio_test_lru(folio)) lru_add_drain();
  Lruvec& lruvec = folio_lruvec(folio);
  sim::SpinGuard guard(lruvec.lru_lock);
  const bool on_list = phys::folio_test_lru(folio);
  const bool unevictable = phys::folio_test_unevictable(folio);
  if (on_list && unevictable) {
    const std::uint64_t count = folio_mlock_count(folio);
    if (count > 0) folio_set_mlock_count(folio, count - 1);
    if (count > 1) return;  // others still lock it
  }
  if (phys::folio_test_clear_mlocked(folio)) {
    phys_.page_zone(folio).stats.sub(phys::ZoneStat::kNrMlock, pages(folio));
    const bool stranded = !on_list && unevictable;
    phys_.vmstat().count_vm_events(stranded ? VmEvent::kUnevictablePgsStranded : VmEvent::kUnevictablePgsMunlocked,
                                   pages(folio));
  }
  if (on_list && unevictable && folio_evictable(folio)) rescue_locked(lruvec, folio);
}

void Lru::check_move_unevictable_folios(std::span<Folio* const> folios) {
  for (Folio* folio : folios) {
    phys_.vmstat().count_vm_events(VmEvent::kUnevictablePgsScanned, pages(*folio));
    Lruvec& lruvec = folio_lruvec(*folio);
    sim::SpinGuard guard(lruvec.lru_lock);
    if (!phys::folio_test_lru(*folio) || !phys::folio_test_unevictable(*folio) || !folio_evictable(*folio)) continue;
    rescue_locked(lruvec, *folio);
  }
}

}  // namespace quire::lru
