// Whole-structure checks of the LRU: lists, flags and counters say the same.
#include "quire/lru/lru.h"

namespace quire::lru {

using phys::Folio;

namespace {

using Sizes = std::array<std::array<std::uint64_t, kLruLists>, phys::kZoneTypes>;

void check_listed(const Folio& folio, Nid nid, LruList list) {
  QUIRE_BUG_ON(!phys::folio_test_lru(folio));
  QUIRE_BUG_ON(folio.nid() != nid);
  QUIRE_BUG_ON(folio_lru_list(folio) != list);
  QUIRE_BUG_ON(phys::folio_test_active(folio) && phys::folio_test_unevictable(folio));
  QUIRE_BUG_ON(folio.is_tail() || folio.test(phys::PageFlag::kSlab) || folio.test(phys::PageFlag::kBuddy));
}

// Pages on the four linked lists, by zone.
Sizes walk_lists(const Lruvec& lruvec) {
  Sizes sizes{};
  for (std::size_t l = 0; l < kLruLists; ++l) {
    for (const phys::Page& page : lruvec.list(static_cast<LruList>(l)).pages()) {
      const auto& folio = static_cast<const Folio&>(page);
      check_listed(folio, lruvec.nid, static_cast<LruList>(l));
      sizes[static_cast<std::size_t>(folio.zone_type())][l] += phys::folio_nr_pages(folio);
    }
  }
  QUIRE_BUG_ON(!lruvec.list(LruList::kUnevictable).empty());  // counted only
  return sizes;
}

}  // namespace

// The unevictable have no list to walk, so every struct Page of the node is looked at.
void Lru::check_all_pages(const Lruvec& lruvec) const {
  const phys::Node& node = phys_.node(lruvec.nid);
  std::uint64_t unevictable = 0;
  std::uint64_t on_lru = 0;
  for (Pfn pfn = node.start_pfn(); pfn < node.start_pfn() + node.spanned_pages(); ++pfn) {
    if (!phys_.pfn_valid(pfn) || !phys_.page_initialised(pfn)) continue;
    const phys::Page& page = phys_.pfn_to_page(pfn);
    if (page.nid() != lruvec.nid || page.is_tail() || !page.test(phys::PageFlag::kLru)) continue;
    const auto& folio = static_cast<const Folio&>(page);
    on_lru += phys::folio_nr_pages(folio);
    if (folio_lru_list(folio) != LruList::kUnevictable) continue;
    QUIRE_BUG_ON(phys::folio_test_active(folio));
    unevictable += phys::folio_nr_pages(folio);
  }
  QUIRE_BUG_ON(unevictable != lruvec.size(LruList::kUnevictable));
  std::uint64_t listed = 0;
  for (std::size_t l = 0; l < kLruLists; ++l) listed += lruvec.size(static_cast<LruList>(l));
  QUIRE_BUG_ON(on_lru != listed);  // PG_lru on a folio that is on no list
}

void Lru::check_batches() const {
  for (const CpuBatches& cpu : batches_) {
    for (const FolioBatch* batch : CpuBatches::all(cpu)) {
      for (const Folio* folio : batch->folios()) QUIRE_BUG_ON(phys::folio_ref_count(*folio) <= 0);
    }
    for (const Folio* folio : cpu.lru_add.folios()) QUIRE_BUG_ON(phys::folio_test_lru(*folio));
  }
}

void Lru::validate() const {
  for (const auto& lruvec : lruvecs_) {
    const Sizes sizes = walk_lists(*lruvec);
    const phys::Node& node = phys_.node(lruvec->nid);
    for (std::size_t l = 0; l < kLruLists; ++l) {
      const auto list = static_cast<LruList>(l);
      for (std::size_t z = 0; z < phys::kZoneTypes; ++z) {
        const auto zone = static_cast<phys::ZoneType>(z);
        if (list != LruList::kUnevictable) QUIRE_BUG_ON(sizes[z][l] != lruvec->zone_size(list, zone));
        const auto stat = static_cast<phys::ZoneStat>(static_cast<std::size_t>(phys::ZoneStat::kNrZoneInactiveAnon) + l);
        QUIRE_BUG_ON(node.zone(zone).stats[stat] != static_cast<std::int64_t>(lruvec->zone_size(list, zone)));
      }
      const auto stat = static_cast<phys::NodeStat>(static_cast<std::size_t>(phys::NodeStat::kNrInactiveAnon) + l);
      QUIRE_BUG_ON(node.stats[stat] != static_cast<std::int64_t>(lruvec->size(list)));
    }
    check_all_pages(*lruvec);
  }
  check_batches();
}

}  // namespace quire::lru
