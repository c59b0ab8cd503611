// One batch of an inactive list: isolate it, let shrink_folio_list have it, put back what is left.
#include "quire/reclaim/reclaim.h"
#include "quire/sim/lock_guards.h"

namespace quire::reclaim {

using lru::AnonOrFile;
using lru::LruList;
using lru::Lruvec;
using phys::FolioList;
using phys::NodeStat;
using phys::VmEvent;

namespace {

void count(phys::VmStat& vmstat, VmEvent event, std::uint64_t n) {
  vmstat.count_vm_events(event, static_cast<std::int64_t>(n));
}

void add_to_round(ScanControl& sc, const ReclaimStat& stat, std::uint64_t nr_taken, AnonOrFile kind) {
  sc.nr.dirty += stat.nr_dirty;
  sc.nr.congested += stat.nr_congested;
  sc.nr.unqueued_dirty += stat.nr_unqueued_dirty;
  sc.nr.writeback += stat.nr_writeback;
  sc.nr.immediate += stat.nr_immediate;
  sc.nr.taken += nr_taken;
  if (kind == AnonOrFile::kFile) sc.nr.file_taken += nr_taken;
}

}  // namespace

std::uint64_t Reclaim::shrink_inactive_list(std::uint64_t nr_to_scan, NodeReclaim& node, Lruvec& lruvec, ScanControl& sc,
                                            LruList list) {
  const AnonOrFile kind = is_file_lru(list) ? AnonOrFile::kFile : AnonOrFile::kAnon;
  const bool file = kind == AnonOrFile::kFile;
  const NodeStat isolated = file ? NodeStat::kNrIsolatedFile : NodeStat::kNrIsolatedAnon;
  phys::VmStat& vmstat = parts_.phys.vmstat();
  if (too_many_isolated(node, kind, sc)) {
    reclaim_throttle(node, VmscanThrottle::kIsolated);
    if (fatal_signal_pending()) return kSwapClusterMax;
    if (too_many_isolated(node, kind, sc)) return 0;
  }
  parts_.lru.lru_add_drain();
  FolioList folios;
  std::uint64_t nr_scanned = 0;
  std::uint64_t nr_taken = 0;
  {
    sim::SpinGuard guard(lruvec.lru_lock);
    nr_taken = isolate_lru_folios(nr_to_scan, lruvec, folios, nr_scanned, sc, list);
    node.node.stats.add(isolated, static_cast<std::int64_t>(nr_taken));
    count(vmstat, sc.is_kswapd() ? VmEvent::kPgscanKswapd : VmEvent::kPgscanDirect, nr_scanned);
    count(vmstat, file ? VmEvent::kPgscanFile : VmEvent::kPgscanAnon, nr_scanned);
  }
  if (nr_taken == 0) return 0;
  ReclaimStat stat;
  const std::uint64_t nr_reclaimed = shrink_folio_list(folios, node, sc, stat, References::kCheck);
  {
    sim::SpinGuard guard(lruvec.lru_lock);
    move_folios_to_lru(lruvec, folios);
    node.node.stats.sub(isolated, static_cast<std::int64_t>(nr_taken));
    count(vmstat, sc.is_kswapd() ? VmEvent::kPgstealKswapd : VmEvent::kPgstealDirect, nr_reclaimed);
    count(vmstat, file ? VmEvent::kPgstealFile : VmEvent::kPgstealAnon, nr_reclaimed);
  }
  parts_.lru.lru_note_cost(lruvec, kind, stat.nr_pageout);
  parts_.lru.free_folios(folios);
  // A whole batch of pages that are dirty and that nobody writes: the flusher lags behind.
  if (stat.nr_unqueued_dirty == nr_taken) parts_.actions.wakeup_flusher_threads();
  add_to_round(sc, stat, nr_taken, kind);
  events_.lru_shrink_inactive([&] {
    return MmVmscanLruShrinkInactive{node.node.nid().value(), nr_scanned, nr_reclaimed, stat, sc.priority,
                                     trace_shrink_flags(kind)};
  });
  return nr_reclaimed;
}

}  // namespace quire::reclaim
