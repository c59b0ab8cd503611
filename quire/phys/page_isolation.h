// Isolating a range of pageblocks: what is free there leaves NR_FREE_PAGES for the Isolate lists, what comes free goes there
// too, and nothing is handed out. Contiguous allocation and offlining empty a range this way before they take it.
//
//   start_isolate_page_range   | Movable | Isolate | Isolate | Movable |    all of it, or -EBUSY and nothing
//   (move what is in use)
//   test_pages_isolated        every frame of the range is free and isolated
//   undo_isolate_page_range    | Movable | Movable | Movable | Movable |
//
// A free block that reaches over an end of the range is cut there, so that the part outside stays usable.
// Locking: Zone::lock, taken inside. The range lies in one zone, online.
// Differs from Linux 6.1: each pageblock's own type is remembered, so that giving up restores it (Linux makes such
// pageblocks what the caller says, mostly movable).
#pragma once

#include <cstdint>

#include "quire/base/flags.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/gfp.h"
#include "quire/phys/page_mover.h"

namespace quire::phys {

class PhysMem;

enum class IsolateFlags : std::uint8_t {
  kNone = 0,
  kMemoryOffline = 1,  // pages that are poisoned or offline already do not stand in the way
};

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::IsolateFlags> = true;

namespace quire::phys {

class PageIsolation {
 public:
  explicit PageIsolation(PhysMem& mem) : mem_(mem) {}

  // Isolates the pageblocks of [pfns). `type`: what the caller takes the range for (kCma: the pages of a CMA area may be
  // taken, and no others are looked at). kInval: empty, not in one online zone. kBusy: a pageblock has a page that cannot
  // move, or is isolated already; then every pageblock is again what it was.
  [[nodiscard]] Status start_isolate_page_range(Range<Pfn> pfns, MigrateType type, IsolateFlags flags = IsolateFlags::kNone);
  // The pageblocks of [pfns) become `type`.
  void undo_isolate_page_range(Range<Pfn> pfns, MigrateType type);
  // The pageblocks of [pfns) become what they were before they were isolated.
  void cancel_isolate_page_range(Range<Pfn> pfns);
  // kBusy unless every frame of [pfns) lies in a free block of an isolated pageblock.
  [[nodiscard]] Status test_pages_isolated(Range<Pfn> pfns, IsolateFlags flags = IsolateFlags::kNone);
  // The same under the Zone::lock of their zone, which the caller holds: what it says is true until that is dropped.
  [[nodiscard]] Status test_pages_isolated_locked(Range<Pfn> pfns, IsolateFlags flags = IsolateFlags::kNone) const;

  // The first page of [pfns) (within one pageblock) that cannot be moved away; null: none.
  [[nodiscard]] const Page* has_unmovable_pages(Range<Pfn> pfns, MigrateType type, IsolateFlags flags) const;
  // The page that the last refusal was about, for a report; null: there was none.
  [[nodiscard]] const Page* unmovable() const { return unmovable_; }

  // Moves what is in use in [pfns) elsewhere, up to five tries (__alloc_contig_migrate_range). kBusy: pages were taken that
  // could not be moved. kIntr: the task is being killed. Without a mover nothing moves, which is no error here.
  [[nodiscard]] Status migrate_range(Range<Pfn> pfns, MigrateReason reason);

 private:
  enum class Edge : std::uint8_t { kStart, kEnd };
  Status set_migratetype_isolate(Pfn block, Range<Pfn> check, MigrateType type, IsolateFlags flags);
  void unset(Pfn block, const MigrateType* type);
  void unset_range(Range<Pfn> pfns, const MigrateType* type);
  Status cut_at(Pfn boundary);
  [[nodiscard]] bool one_online_zone(Range<Pfn> pfns) const;

  PhysMem& mem_;
  const Page* unmovable_ = nullptr;
};

}  // namespace quire::phys
