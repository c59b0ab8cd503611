// What isolation of a range and hotplug ask of the floors above: to move pages that are in use. The floor that knows the
// page tables and the LRU lists implements it and the machine plugs it in (PhysMem::set_page_mover); without one, only free
// pages can be taken out of a range.
#pragma once

#include <cstdint>

#include "quire/base/types.h"

namespace quire::phys {

// How long a migration may wait for one page (Linux's enum migrate_mode).
enum class MigrateMode : std::uint8_t {
  kAsync,      // never
  kSyncLight,  // for a page lock, not for a device
  kSync,       // for writeback too
};

// On whose behalf pages move (enum migrate_reason); tracepoints print it.
enum class MigrateReason : std::uint8_t {
  kCompaction = 0,
  kMemoryHotplug = 2,
  kSyscall,
  kMempolicy,
  kNumaMisplaced,
  kContigRange,
  kLongtermPin
};

class PageMover {
 public:
  virtual ~PageMover() = default;

  // lru_add_drain_all: pages that wait in per-CPU batches come onto their lists, where they can be taken.
  virtual void lru_add_drain_all() = 0;

  // Takes every movable page in use in [pfns) off its list and moves it to a frame elsewhere, bytes and mappings with it
  // (isolate_migratepages_range, migrate_pages). The caller has isolated the pageblocks, so that no new frame comes from
  // the range. Gives how many pages that were taken could not be moved; those are back on their lists. Pages nobody can
  // take (kernel memory, pinned pages) are left alone and not counted. May sleep: a task calls it.
  virtual std::uint64_t migrate_range(Range<Pfn> pfns, MigrateMode mode, MigrateReason reason) = 0;
};

}  // namespace quire::phys
