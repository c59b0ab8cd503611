// Taking folios off the lists for a while, and giving them back.
#include <array>

#include "quire/reclaim/reclaim.h"

namespace quire::reclaim {

using lru::AnonOrFile;
using lru::LruList;
using lru::Lruvec;
using phys::Folio;
using phys::FolioList;
using phys::Gfp;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneType;

namespace {

using PerZone = std::array<std::uint64_t, phys::kZoneTypes>;

constexpr unsigned kIsolateUnmapped = 0x2;  // ISOLATE_UNMAPPED, as the tracepoint shows it

}  // namespace

std::uint64_t Reclaim::isolate_lru_folios(std::uint64_t nr_to_scan, Lruvec& lruvec, FolioList& taken, std::uint64_t& nr_scanned,
                                          const ScanControl& sc, LruList list) {
  FolioList& from = lruvec.list(list);
  FolioList skipped;
  PerZone nr_skipped{};
  PerZone nr_zone_taken{};
  std::uint64_t scan = 0;
  std::uint64_t nr_taken = 0;
  std::uint64_t total_scan = 0;
  while (scan < nr_to_scan && !from.empty()) {
    Folio& folio = from.back();
    const std::uint64_t pages = folio_nr_pages(folio);
    const auto zone = static_cast<std::size_t>(folio_zone_type(folio));
    total_scan += pages;
    // A page of a zone that does not help does not count as scanned, or a list full of those would hide the others.
    if (folio_zone_type(folio) > sc.reclaim_idx) {
      from.erase(folio);
      skipped.push_front(folio);
      nr_skipped[zone] += pages;
      continue;
    }
    scan += pages;
    const bool may_take = any(sc.may, May::kUnmap) || !folio_mapped(folio);
    if (!may_take || !phys::folio_test_lru(folio) || !folio_try_get(folio)) {
      from.move_to_front(folio);
      continue;
    }
    phys::folio_clear_lru(folio);
    from.erase(folio);
    taken.push_front(folio);
    nr_taken += pages;
    nr_zone_taken[zone] += pages;
  }
  std::uint64_t total_skipped = 0;
  for (unsigned zone = 0; zone < phys::kZoneTypes; ++zone) {
    const auto type = static_cast<ZoneType>(zone);
    if (nr_skipped[zone] != 0) {
      parts_.phys.vmstat().count_zid_vm_events(VmEvent::kPgskipDma, type, static_cast<std::int64_t>(nr_skipped[zone]));
    }
    total_skipped += nr_skipped[zone];
    if (nr_zone_taken[zone] == 0) continue;
    parts_.lru.update_lru_size(lruvec, list, type, -static_cast<std::int64_t>(nr_zone_taken[zone]));
  }
  from.splice_front(skipped);
  nr_scanned = total_scan;
  parts_.scheduler.charge(scan * parts_.scheduler.costs().reclaim_scan_page);
  events_.lru_isolate([&] {
    return MmVmscanLruIsolate{any(sc.may, May::kUnmap) ? 0 : kIsolateUnmapped,
                              parts_.phys.zone_index(sc.reclaim_idx),
                              static_cast<int>(sc.order.value()),
                              nr_to_scan,
                              total_scan,
                              total_skipped,
                              nr_taken,
                              list};
  });
  return nr_taken;
}

std::uint64_t Reclaim::move_folios_to_lru(Lruvec& lruvec, FolioList& folios) {
  FolioList to_free;
  std::uint64_t nr_moved = 0;
  while (Folio* folio = folios.pop_back()) {
    if (!parts_.lru.folio_evictable(*folio)) [[unlikely]] {
      lruvec.lru_lock.unlock();
      parts_.lru.folio_putback_lru(*folio);
      lruvec.lru_lock.lock();
      continue;
    }
    if (folio_put_testzero(*folio)) {
      // Everybody else gave it up while it was isolated.
      phys::folio_clear_active(*folio);
      phys::folio_clear_unevictable(*folio);
      to_free.push_front(*folio);
      continue;
    }
    phys::folio_set_lru(*folio);
    parts_.lru.lruvec_add_folio_locked(lruvec, *folio);
    const std::uint64_t pages = folio_nr_pages(*folio);
    nr_moved += pages;
    if (phys::folio_test_active(*folio)) parts_.lru.workingset_age_nonresident(lruvec, pages);
  }
  folios.splice_front(to_free);
  return nr_moved;
}

// A reclaimer that finds most of the inactive list in the hands of others waits for them, rather than to conclude that
// there is nothing left.
bool Reclaim::too_many_isolated(NodeReclaim& node, AnonOrFile kind, const ScanControl& sc) {
  if (sc.is_kswapd()) return false;
  const bool file = kind == AnonOrFile::kFile;
  auto inactive = node.node.stats[file ? NodeStat::kNrInactiveFile : NodeStat::kNrInactiveAnon];
  const auto isolated = node.node.stats[file ? NodeStat::kNrIsolatedFile : NodeStat::kNrIsolatedAnon];
  // Those who may do I/O wait for those who may not, never the other way about.
  if (all(sc.gfp_mask, Gfp::kIo | Gfp::kFs)) inactive >>= 3;
  const bool too_many = isolated > inactive;
  if (!too_many) node.reclaim_wait[static_cast<std::size_t>(VmscanThrottle::kIsolated)]->wake_all();
  return too_many;
}

}  // namespace quire::reclaim
