// The end of a folio: last reference, off its list, back to the buddy.
#include "quire/lru/lru.h"

namespace quire::lru {

using phys::Folio;

void Lru::folio_free(Folio& folio) {
  if (phys::folio_test_lru(folio)) {
    Lruvec& lruvec = folio_lruvec(folio);
    sim::SpinGuard guard(lruvec.lru_lock);
    page_cache_release_locked(lruvec, folio);
  }
  free_unlisted(folio);
}

// __page_cache_release: off the list.
void Lru::page_cache_release_locked(Lruvec& lruvec, Folio& folio) {
  lruvec_del_folio_locked(lruvec, folio);
  QUIRE_BUG_ON(phys::folio_test_active(folio) && phys::folio_test_unevictable(folio));
  phys::folio_clear_lru(folio);
}

// What says where the folio would stand on the lists ends with it. (Linux lets only the isolator free an isolated folio,
// after clearing these himself.)
void Lru::free_unlisted(Folio& folio) {
  phys::folio_clear_active(folio);
  phys::folio_clear_unevictable(folio);
  clear_mlocked_on_free(folio);
  phys_.free_unref_folio(folio);
}

// A locked folio whose last mapping vanished with its file.
void Lru::clear_mlocked_on_free(Folio& folio) {
  if (!phys::folio_test_mlocked(folio)) [[likely]]
    return;
  phys::folio_clear_mlocked(folio);
  const auto nr = static_cast<std::int64_t>(phys::folio_nr_pages(folio));
  phys_.page_zone(folio).stats.sub(phys::ZoneStat::kNrMlock, nr);
  phys_.vmstat().count_vm_events(phys::VmEvent::kUnevictablePgsCleared, nr);
}

void Lru::release_folios(std::span<Folio* const> folios) {
  phys::FolioList dead;
  std::size_t i = 0;
  while (i < folios.size()) {
    Folio& folio = *folios[i++];
    if (!phys::folio_put_testzero(folio)) continue;
    if (!phys::folio_test_lru(folio)) {
      dead.push_back(folio);
      continue;
    }
    // One lock for as many folios of its node as follow.
    Lruvec& lruvec = folio_lruvec(folio);
    sim::SpinGuard guard(lruvec.lru_lock);
    page_cache_release_locked(lruvec, folio);
    dead.push_back(folio);
    for (; i < folios.size() && &folio_lruvec(*folios[i]) == &lruvec; ++i) {
      Folio& next = *folios[i];
      if (!phys::folio_put_testzero(next)) continue;
      if (phys::folio_test_lru(next)) page_cache_release_locked(lruvec, next);
      dead.push_back(next);
    }
  }
  free_folios(dead);
}

void Lru::free_folios(phys::FolioList& folios) {
  while (Folio* folio = folios.pop_front()) {
    QUIRE_BUG_ON(phys::folio_ref_count(*folio) != 0 || phys::folio_test_lru(*folio));
    free_unlisted(*folio);
  }
}

}  // namespace quire::lru
