// One run of compaction over one zone (Linux's struct compact_control): what it is for, how far it may go, where its two
// scanners stand and what they hold.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "quire/phys/alloc_flags.h"
#include "quire/phys/folio.h"
#include "quire/phys/memory_pressure.h"
#include "quire/phys/page_mover.h"
#include "quire/phys/phys_mem.h"

namespace quire::compact {

inline constexpr std::uint64_t kCompactClusterMax = 32;  // COMPACT_CLUSTER_MAX

struct CompactControl {
  phys::Zone& zone;
  std::optional<Order> order = std::nullopt;  // none: no request, compact what there is (compact_memory, proactive)
  phys::Gfp gfp = phys::Gfp::kKernel;
  phys::MigrateMode mode = phys::MigrateMode::kSyncLight;
  phys::AllocFlags alloc_flags = phys::AllocFlags::kWmarkMin;
  phys::ZoneType highest_zoneidx = phys::ZoneType::kMovable;
  bool direct_compaction = false;      // on behalf of an allocation, rather than of kcompactd
  bool whole_zone = false;             // from end to end, not from where the last run stopped
  bool ignore_skip_hint = false;       // look into pageblocks that are marked as hopeless
  bool ignore_block_suitable = false;  // free pages from any pageblock
  bool proactive = false;              // until the node's score is low enough

  phys::FolioList migratepages = {};  // isolated, to be moved
  std::uint64_t nr_migratepages = 0;
  phys::PageList freepages = {};  // isolated single frames to move to
  std::uint64_t nr_freepages = 0;
  Pfn migrate_pfn{};  // the migrate scanner goes up from here
  Pfn free_pfn{};     // the free scanner goes down from here: the start of a pageblock, or a place inside it
  std::uint64_t total_migrate_scanned = 0;
  std::uint64_t total_free_scanned = 0;
  bool rescan = false;             // the same pageblock again: take it whole this time
  bool update_sync_cache = false;  // nothing taken yet: what an asynchronous run has seen, a synchronous one need not look at

  [[nodiscard]] phys::MigrateType migratetype() const { return phys::gfp_migratetype(gfp); }
  [[nodiscard]] bool sync() const { return mode != phys::MigrateMode::kAsync; }
  [[nodiscard]] bool scanners_met() const { return block_of(free_pfn) <= block_of(migrate_pfn); }

  [[nodiscard]] static std::uint64_t block_of(Pfn pfn) { return pfn.value() / phys::kPageblockPages; }
  [[nodiscard]] static Pfn block_start(Pfn pfn) { return align_down(pfn, phys::kPageblockPages); }
  [[nodiscard]] static Pfn block_end(Pfn pfn) { return align_down(pfn, phys::kPageblockPages) + phys::kPageblockPages; }
};

// pageblock_pfn_to_page for the part of a pageblock [start, end) inside the zone: it has memory of this zone, initialised.
[[nodiscard]] inline bool pageblock_in_zone(phys::PhysMem& phys, const phys::Zone& zone, Pfn start, Pfn end) {
  if (!phys.pfn_valid(start) || !phys.pfn_valid(end - 1)) return false;
  if (!phys.page_initialised(start) || !phys.page_initialised(end - 1)) return false;
  const auto belongs = [&](Pfn pfn) { return &phys.page_zone(phys.pfn_to_page(pfn)) == &zone; };
  return belongs(start) && belongs(end - 1);
}

}  // namespace quire::compact
