// The migrate scanner: goes up the zone a pageblock at a time and takes movable pages off the LRU lists.
#include "quire/compact/compaction.h"
#include "quire/file/address_space.h"

namespace quire::compact {

using phys::Folio;
using phys::MigrateMode;
using phys::MigrateType;
using phys::NodeStat;
using phys::Page;
using phys::PageFlag;

namespace {

constexpr sim::Nanos kIsolatedWait = 20'000'000;  // HZ / 50

}  // namespace

void Compaction::update_cached_migrate(CompactControl& cc, Pfn pfn) {
  auto& cached = cc.zone.compaction.cached_migrate_pfn;
  cached[0] = std::max(cached[0], pfn);
  if (cc.sync()) cached[1] = std::max(cached[1], pfn);
}

// While most of the node's pages are in other hands, those have to be worked off first. False: do not wait, give up.
bool Compaction::wait_while_too_many_isolated(const CompactControl& cc) {
  const auto& stats = cc.zone.node().stats;
  const auto too_many = [&] {
    const auto isolated = stats[NodeStat::kNrIsolatedAnon] + stats[NodeStat::kNrIsolatedFile];
    const auto on_lists = stats[NodeStat::kNrInactiveAnon] + stats[NodeStat::kNrActiveAnon] + stats[NodeStat::kNrInactiveFile] +
                          stats[NodeStat::kNrActiveFile];
    return isolated > on_lists / 2;
  };
  while (too_many()) {
    if (cc.nr_migratepages != 0 || !cc.sync()) return false;  // what we hold ourselves may be the trouble
    parts_.scheduler.sleep_for(kIsolatedWait);
    if (fatal_signal_pending()) return false;
  }
  return true;
}

// A request that only looks around asynchronously does not touch pageblocks of another kind than its own.
bool Compaction::suitable_migration_source(const CompactControl& cc, Pfn pfn) const {
  const MigrateType block = parts_.phys.pageblock_migratetype(pfn);
  if (block == MigrateType::kIsolate) return false;
  if (cc.sync() || !cc.direct_compaction) return true;
  if (cc.migratetype() == MigrateType::kMovable) return block == MigrateType::kMovable || block == MigrateType::kCma;
  return block == cc.migratetype();
}

// The cheap questions, before the folio is taken: would migration fail anyway?
bool Compaction::may_isolate(const CompactControl& cc, Folio& folio) const {
  if (!phys::folio_test_lru(folio) || folio_ref_count(folio) == 0) return false;
  if (phys::folio_test_unevictable(folio) && !tunables_.compact_unevictable_allowed) return false;
  if (cc.mode != MigrateMode::kSync && phys::folio_test_writeback(folio)) return false;  // nobody would wait for it
  const bool in_cache = phys::folio_test_swapcache(folio) || file::AddressSpace::of(folio) != nullptr;
  // More references than mappings: somebody has pinned it.
  if (!in_cache && folio_ref_count(folio) > phys::folio_mapcount(folio)) return false;
  return any(cc.gfp, phys::Gfp::kFs) || !in_cache;
}

// Takes what it can from [low, end); false: give the whole run up.
bool Compaction::isolate_migratepages_block(CompactControl& cc, Pfn low, Pfn end) {
  phys::PhysMem& phys = parts_.phys;
  if (!wait_while_too_many_isolated(cc)) return false;
  const Pfn start = low;
  std::uint64_t nr_scanned = 0;
  std::uint64_t nr_isolated = 0;
  while (low < end) {
    ++nr_scanned;
    Page& page = phys.pfn_to_page(low);
    if (page.test(PageFlag::kBuddy)) {
      low += std::min<std::uint64_t>(std::uint64_t{1} << std::min<std::uint64_t>(page.private_, phys::kMaxOrder.value()),
                                     end - low);
      continue;
    }
    if (page.is_head()) {
      low += std::min<std::uint64_t>(phys::compound_order(page).pages(), end - low);
      continue;
    }
    low += 1;
    if (page.is_compound()) continue;
    auto& folio = static_cast<Folio&>(page);
    if (!may_isolate(cc, folio) || !migration_.isolate(folio, cc.migratepages)) continue;
    ++cc.nr_migratepages;
    ++nr_isolated;
    if (cc.nr_migratepages >= kCompactClusterMax && !cc.rescan) break;
  }
  parts_.scheduler.charge(nr_scanned * parts_.scheduler.costs().reclaim_scan_page);
  // Nothing here, or nothing more than the last time: leave it out until the marks are cleared.
  if (low == end && (nr_isolated == 0 || cc.rescan)) {
    if (start == CompactControl::block_start(start)) phys.set_pageblock_skip(start, true);
    update_cached_migrate(cc, low);
  }
  events_.isolate_migratepages([&] { return MmCompactionIsolateMigratepages{{start, low, nr_scanned, nr_isolated}}; });
  cc.total_migrate_scanned += nr_scanned;
  phys.vmstat().count_vm_events(phys::VmEvent::kCompactIsolated, static_cast<std::int64_t>(nr_isolated));
  cc.migrate_pfn = low;
  return true;
}

Compaction::Isolated Compaction::isolate_migratepages(CompactControl& cc) {
  Pfn low = cc.migrate_pfn;
  Pfn start = std::max(CompactControl::block_start(low), cc.zone.start_pfn());
  for (Pfn end = CompactControl::block_end(low); end <= cc.free_pfn; end += phys::kPageblockPages) {
    const bool whole = low == CompactControl::block_start(low) || low == cc.zone.start_pfn();
    if (pageblock_in_zone(parts_.phys, cc.zone, start, end) && (!whole || isolation_suitable(cc, low))) {
      if (suitable_migration_source(cc, low)) {
        if (!isolate_migratepages_block(cc, low, end)) return Isolated::kAbort;
        return cc.nr_migratepages != 0 ? Isolated::kSuccess : Isolated::kNone;
      }
      update_cached_migrate(cc, end);
    }
    cc.migrate_pfn = low = start = end;
  }
  return Isolated::kNone;
}

}  // namespace quire::compact
