// One run of compaction in one zone: isolate, migrate, and see whether that did it.
#include "quire/compact/compaction.h"
#include "quire/sim/lock_guards.h"

namespace quire::compact {

using phys::CompactResult;
using phys::CompactSuitable;
using phys::Folio;
using phys::MigrateMode;
using phys::VmEvent;
using phys::Zone;

CompactSuitable Compaction::suitable(const Zone& zone, Order order, phys::AllocFlags flags, phys::ZoneType highest) {
  const CompactSuitable answer =
      phys::compaction_suitable(zone, order, flags, highest, zone.free_pages(), parts_.phys.extfrag_threshold());
  events_.suitable([&] {
    CompactResult ret = CompactResult::kContinue;
    if (answer == CompactSuitable::kSuccess) ret = CompactResult::kSuccess;
    if (answer == CompactSuitable::kSkipped) ret = CompactResult::kSkipped;
    return MmCompactionSuitable{{zone.node().nid().value(), zone.name(), order.value()}, ret};
  });
  return answer;
}

// Where the scanners start: at the zone's ends, or where the last run stopped.
void Compaction::set_up_scanners(CompactControl& cc) {
  phys::ZoneCompaction& cached = cc.zone.compaction;
  const Pfn start = cc.zone.start_pfn();
  const Pfn last_block = CompactControl::block_start(cc.zone.end_pfn() - 1);
  cc.migrate_pfn = start;
  cc.free_pfn = last_block;
  if (cc.whole_zone) return;
  cc.migrate_pfn = cached.cached_migrate_pfn[cc.sync() ? 1 : 0];
  cc.free_pfn = cached.cached_free_pfn;
  if (cc.free_pfn < start || cc.free_pfn >= cc.zone.end_pfn()) {
    cc.free_pfn = cached.cached_free_pfn = last_block;
  }
  if (cc.migrate_pfn < start || cc.migrate_pfn >= cc.zone.end_pfn()) {
    cc.migrate_pfn = start;
    cached.cached_migrate_pfn.fill(start);
  }
  if (cc.migrate_pfn <= start) cc.whole_zone = true;
}

CompactResult Compaction::compact_zone(CompactControl& cc) {
  if (cc.order) {
    switch (suitable(cc.zone, *cc.order, cc.alloc_flags, cc.highest_zoneidx)) {
      case CompactSuitable::kSuccess: return CompactResult::kSuccess;
      case CompactSuitable::kSkipped: return CompactResult::kSkipped;
      case CompactSuitable::kContinue: break;
    }
    if (compaction_restarting(cc.zone, *cc.order)) reset_zone_isolation_suitable(cc.zone);
  }
  set_up_scanners(cc);
  const Zone& zone = cc.zone;
  cc.update_sync_cache = !cc.sync() && zone.compaction.cached_migrate_pfn[0] == zone.compaction.cached_migrate_pfn[1];
  events_.begin([&] { return MmCompactionBegin{zone.start_pfn(), cc.migrate_pfn, cc.free_pfn, zone.end_pfn(), cc.sync()}; });
  parts_.lru.lru_add_drain();  // what waits in batches cannot be isolated

  Pfn last_migrated{};
  CompactResult result = CompactResult::kContinue;
  while ((result = compact_finished(cc)) == CompactResult::kContinue) {
    if (!compact_step(cc, result, last_migrated)) break;
  }
  release_freepages(cc);
  phys::VmStat& vmstat = parts_.phys.vmstat();
  vmstat.count_vm_events(VmEvent::kCompactMigrateScanned, static_cast<std::int64_t>(cc.total_migrate_scanned));
  vmstat.count_vm_events(VmEvent::kCompactFreeScanned, static_cast<std::int64_t>(cc.total_free_scanned));
  events_.end(
      [&] { return MmCompactionEnd{zone.start_pfn(), cc.migrate_pfn, cc.free_pfn, zone.end_pfn(), cc.sync(), result}; });
  return result;
}

// Isolates a batch and moves it. False: the run is over, with `result`.
bool Compaction::compact_step(CompactControl& cc, CompactResult& result, Pfn& last_migrated) {
  const Pfn start = cc.migrate_pfn;
  cc.rescan = last_migrated != Pfn{} && CompactControl::block_of(last_migrated) == CompactControl::block_of(start);
  switch (isolate_migratepages(cc)) {
    case Isolated::kAbort:
      result = CompactResult::kContended;
      migration_.putback_movable_pages(cc.migratepages);
      cc.nr_migratepages = 0;
      return false;
    case Isolated::kNone:
      // Nothing in this pageblock: the asynchronous scanner has seen it, so the next synchronous one need not look either.
      if (cc.update_sync_cache) cc.zone.compaction.cached_migrate_pfn[1] = cc.zone.compaction.cached_migrate_pfn[0];
      drain_for_block(cc, last_migrated);
      return true;
    case Isolated::kSuccess:
      cc.update_sync_cache = false;
      last_migrated = start;
      break;
  }
  const auto get = [&](Folio&) { return compaction_alloc(cc); };
  const auto put = [&](Folio& unused) {
    cc.freepages.push_front(unused);
    ++cc.nr_freepages;
  };
  const vm::MigrateOutcome moved =
      migration_.migrate_pages(cc.migratepages, get, put, cc.mode, phys::MigrateReason::kCompaction);
  events_.migratepages([&] { return MmCompactionMigratepages{moved.succeeded, moved.failed}; });
  cc.nr_migratepages = 0;
  if (moved.failed != 0) {
    migration_.putback_movable_pages(cc.migratepages);
    if (moved.no_memory && !cc.scanners_met()) {
      result = CompactResult::kContended;
      return false;
    }
    // One page that stays keeps the whole block from coming free: on to the next block of the order.
    if (cc.direct_compaction && !cc.sync() && cc.order) {
      cc.migrate_pfn = align_up(cc.migrate_pfn, cc.order->pages());
      last_migrated = Pfn{};
    }
  }
  drain_for_block(cc, last_migrated);
  return true;
}

// When the scanner leaves a block of the order in which it moved something, the frames that came free must not lie about on
// per-CPU lists: they are what the block is made of.
void Compaction::drain_for_block(const CompactControl& cc, Pfn& last_migrated) {
  if (!cc.order || cc.order->value() == 0 || last_migrated == Pfn{}) return;
  if (last_migrated >= align_down(cc.migrate_pfn, cc.order->pages())) return;
  parts_.lru.lru_add_drain();
  parts_.phys.drain_local_pages();
  last_migrated = Pfn{};
}

// Frames that were not needed go back, and the next run starts at the highest of them.
void Compaction::release_freepages(CompactControl& cc) {
  if (cc.nr_freepages == 0) return;
  Pfn high{};
  while (phys::Page* page = cc.freepages.pop_front()) {
    high = std::max(high, parts_.phys.page_to_pfn(*page));
    parts_.phys.free_page(*page);
  }
  cc.nr_freepages = 0;
  phys::ZoneCompaction& cached = cc.zone.compaction;
  cached.cached_free_pfn = std::max(cached.cached_free_pfn, CompactControl::block_start(high));
}

CompactResult Compaction::compact_finished(CompactControl& cc) {
  const CompactResult reason = finished_reason(cc);
  events_.finished([&] {
    const Zone& zone = cc.zone;
    return MmCompactionFinished{{zone.node().nid().value(), zone.name(), cc.order ? cc.order->value() : ~0u}, reason};
  });
  return reason == CompactResult::kNoSuitablePage ? CompactResult::kContinue : reason;
}

CompactResult Compaction::finished_reason(CompactControl& cc) {
  if (cc.scanners_met()) {
    phys::ZoneCompaction& cached = cc.zone.compaction;
    cached.cached_migrate_pfn.fill(cc.zone.start_pfn());
    cached.cached_free_pfn = CompactControl::block_start(cc.zone.end_pfn() - 1);
    // kcompactd forgets the marks by itself before it sleeps; a direct compactor leaves word.
    if (cc.direct_compaction) cached.blockskip_flush = true;
    return cc.whole_zone ? CompactResult::kComplete : CompactResult::kPartialSkipped;
  }
  if (cc.proactive) {
    if (cc.zone.test(phys::ZoneFlag::kReclaimActive)) return CompactResult::kPartialSkipped;  // kswapd comes first
    return fragmentation_score_zone(cc.zone) > fragmentation_score_wmark(true) ? CompactResult::kContinue
                                                                               : CompactResult::kSuccess;
  }
  if (!cc.order) return fatal_signal_pending() ? CompactResult::kContended : CompactResult::kContinue;
  // A pageblock that was begun is finished first, or the next run would have to start it again.
  if (cc.migrate_pfn != CompactControl::block_start(cc.migrate_pfn)) return CompactResult::kContinue;
  if (zone_has_block(cc)) return CompactResult::kSuccess;
  if (fatal_signal_pending()) return CompactResult::kContended;
  return CompactResult::kNoSuitablePage;
}

bool Compaction::zone_has_block(const CompactControl& cc) const {
  return phys::Buddy::has_block_of(cc.zone, *cc.order, cc.migratetype());
}

}  // namespace quire::compact
