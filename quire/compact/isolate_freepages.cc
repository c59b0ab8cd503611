// The free scanner: goes down the zone a pageblock at a time and takes free frames out of the buddy, as many as there are
// pages to move.
#include "quire/compact/compaction.h"
#include "quire/sim/lock_guards.h"

namespace quire::compact {

using phys::Folio;
using phys::MigrateType;
using phys::Page;
using phys::PageFlag;

bool Compaction::isolation_suitable(const CompactControl& cc, Pfn pfn) const {
  return cc.ignore_skip_hint || !parts_.phys.pageblock_skip(pfn);
}

// Movable pages go where movable pages belong, and not into blocks that are as large as they need to be already.
bool Compaction::suitable_migration_target(const CompactControl& cc, Pfn pfn) {
  const Page& page = parts_.phys.pfn_to_page(pfn);
  if (page.test(PageFlag::kBuddy) && page.private_ >= phys::kPageblockOrder.value()) return false;
  if (cc.ignore_block_suitable) return parts_.phys.pageblock_migratetype(pfn) != MigrateType::kIsolate;
  const MigrateType type = parts_.phys.pageblock_migratetype(pfn);
  return type == MigrateType::kMovable || type == MigrateType::kCma;
}

// Takes free blocks from [start, end) until there are enough; `start` is where it stopped. A stride above 1 samples.
std::uint64_t Compaction::isolate_freepages_block(CompactControl& cc, Pfn& start, Pfn end, std::uint64_t stride) {
  const Pfn begin = start;
  std::uint64_t nr_scanned = 0;
  std::uint64_t total = 0;
  {
    sim::SpinGuard guard(cc.zone.lock);
    Pfn at = start;
    while (at < end) {
      ++nr_scanned;
      Page& page = parts_.phys.pfn_to_page(at);
      if (page.test(PageFlag::kBuddy)) {
        const std::uint64_t isolated = parts_.phys.isolate_free_page(cc.zone, page);
        if (isolated == 0) break;
        for (std::uint64_t i = 0; i < isolated; ++i) cc.freepages.push_back((&page)[i]);
        cc.nr_freepages += isolated;
        total += isolated;
        at += isolated;
        if (cc.nr_migratepages <= cc.nr_freepages) break;
        continue;
      }
      at += page.is_head() ? phys::compound_order(page).pages() : stride;
    }
    start = std::min(at, end);
  }
  parts_.scheduler.charge(nr_scanned * parts_.scheduler.costs().reclaim_scan_page / 4);
  events_.isolate_freepages([&] { return MmCompactionIsolateFreepages{{begin, start, nr_scanned, total}}; });
  cc.total_free_scanned += nr_scanned;
  parts_.phys.vmstat().count_vm_events(phys::VmEvent::kCompactIsolated, static_cast<std::int64_t>(total));
  return total;
}

void Compaction::isolate_freepages(CompactControl& cc) {
  phys::ZoneCompaction& cached = cc.zone.compaction;
  const Pfn low = CompactControl::block_end(cc.migrate_pfn);
  Pfn at = cc.free_pfn;
  Pfn block = CompactControl::block_start(at);
  Pfn end = std::min(block + phys::kPageblockPages, cc.zone.end_pfn());
  std::uint64_t stride = cc.sync() ? 1 : kCompactClusterMax;
  while (block >= low) {
    const auto go_down = [&] {
      end = block;
      block = block.value() >= phys::kPageblockPages ? block - phys::kPageblockPages : Pfn(0);
      at = block;
    };
    if (!pageblock_in_zone(parts_.phys, cc.zone, block, end) || !suitable_migration_target(cc, block) ||
        !isolation_suitable(cc, block)) {
      go_down();
      continue;
    }
    const std::uint64_t isolated = isolate_freepages_block(cc, at, end, stride);
    if (at == end) {
      parts_.phys.set_pageblock_skip(block, true);
      cached.cached_free_pfn = std::min(cached.cached_free_pfn, block);
    }
    if (cc.nr_freepages >= cc.nr_migratepages) {
      if (at >= end) at = block - phys::kPageblockPages;
      break;
    }
    if (at < end) break;  // the zone's marks forbid taking more
    stride = isolated != 0 ? 1 : std::min(kCompactClusterMax, stride << 1);
    go_down();
  }
  cc.free_pfn = at;
}

Folio* Compaction::compaction_alloc(CompactControl& cc) {
  if (cc.freepages.empty()) isolate_freepages(cc);
  Page* page = cc.freepages.pop_front();
  if (page == nullptr) return nullptr;
  --cc.nr_freepages;
  return static_cast<Folio*>(page);
}

}  // namespace quire::compact
