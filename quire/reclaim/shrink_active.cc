// Ageing: from the tail of an active list to the front of the inactive one, but for what the policy keeps.
#include "quire/reclaim/reclaim.h"
#include "quire/sim/lock_guards.h"

namespace quire::reclaim {

using lru::AnonOrFile;
using lru::LruList;
using lru::Lruvec;
using phys::Folio;
using phys::FolioList;
using phys::NodeStat;
using phys::VmEvent;

void Reclaim::shrink_active_list(std::uint64_t nr_to_scan, NodeReclaim& node, Lruvec& lruvec, ScanControl& sc, LruList list) {
  const AnonOrFile kind = is_file_lru(list) ? AnonOrFile::kFile : AnonOrFile::kAnon;
  const NodeStat isolated = kind == AnonOrFile::kFile ? NodeStat::kNrIsolatedFile : NodeStat::kNrIsolatedAnon;
  phys::VmStat& vmstat = parts_.phys.vmstat();
  parts_.lru.lru_add_drain();
  FolioList hold;
  std::uint64_t nr_scanned = 0;
  std::uint64_t nr_taken = 0;
  {
    sim::SpinGuard guard(lruvec.lru_lock);
    nr_taken = isolate_lru_folios(nr_to_scan, lruvec, hold, nr_scanned, sc, list);
    node.node.stats.add(isolated, static_cast<std::int64_t>(nr_taken));
    vmstat.count_vm_events(VmEvent::kPgrefill, static_cast<std::int64_t>(nr_scanned));
  }
  FolioList active;
  FolioList inactive;
  std::uint64_t nr_rotated = 0;
  while (Folio* folio = hold.pop_back()) {
    parts_.scheduler.sync_point();
    if (!parts_.lru.folio_evictable(*folio)) [[unlikely]] {
      const auto pages = static_cast<std::int64_t>(folio_nr_pages(*folio));
      parts_.lru.folio_putback_lru(*folio);
      node.node.stats.sub(isolated, pages);
      nr_taken -= static_cast<std::uint64_t>(pages);
      continue;
    }
    if (policy_->judge_active(*folio, parts_.actions.folio_referenced(*folio)) == ActiveFate::kRotate) {
      nr_rotated += folio_nr_pages(*folio);
      active.push_front(*folio);
      continue;
    }
    phys::folio_clear_active(*folio);
    phys::folio_set_workingset(*folio);
    inactive.push_front(*folio);
  }
  std::uint64_t nr_active = 0;
  std::uint64_t nr_deactivated = 0;
  {
    sim::SpinGuard guard(lruvec.lru_lock);
    nr_active = move_folios_to_lru(lruvec, active);
    nr_deactivated = move_folios_to_lru(lruvec, inactive);
    vmstat.count_vm_events(VmEvent::kPgdeactivate, static_cast<std::int64_t>(nr_deactivated));
    node.node.stats.sub(isolated, static_cast<std::int64_t>(nr_taken));
  }
  active.splice_front(inactive);
  parts_.lru.free_folios(active);
  events_.lru_shrink_active([&] {
    return MmVmscanLruShrinkActive{node.node.nid().value(), nr_taken, nr_active, nr_deactivated, nr_rotated, sc.priority,
                                   trace_shrink_flags(kind)};
  });
}

}  // namespace quire::reclaim
