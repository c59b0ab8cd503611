// Contiguous ranges of any size and place: alloc_contig_range empties the range (isolation, migration) and takes it out of
// the buddy page by page; alloc_contig_pages looks for a range where that works.
#include <algorithm>
#include <bit>

#include "quire/phys/page_isolation.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

Status PhysMem::alloc_contig_range(Range<Pfn> pfns, MigrateType type, Gfp gfp) {
  if (pfns.empty() || (type != MigrateType::kMovable && type != MigrateType::kCma)) return fail(Errno::kInval);
  if (gfpflags_allow_blocking(gfp)) scheduler_.sync_point();
  PageIsolation isolation(*this);
  if (Status status = isolation.start_isolate_page_range(pfns, type); !status) return status;
  drain_all_pages();
  // Pages that would not move may have come free meanwhile: what the range is like now decides, not the move.
  Status status = isolation.migrate_range(pfns, MigrateReason::kContigRange);
  if (status || status.error() == Errno::kBusy) {
    const Pfn end = take_isolated_range(page_zone(pfn_to_page(pfns.begin)), pfns);
    status = end == pfns.begin ? Status(fail(Errno::kBusy)) : Status();
  }
  // (No destructor does this: locks are sync points, and what unwinds a task cannot pass a destructor.)
  if (status) {
    isolation.undo_isolate_page_range(pfns, type);
  } else {
    isolation.cancel_isolate_page_range(pfns);
  }
  return status;
}

// Takes every free block with a part in [pfns) off its list and makes single pages in use of those in [pfns), if all of it
// is free and isolated; gives where the last block ends, or where [pfns) begins if nothing was taken. Looking and taking are
// one hold of the lock: a page that comes free beside the range may join the range's first block to a larger one.
Pfn PhysMem::take_isolated_range(Zone& zone, Range<Pfn> pfns) {
  // The first free block may begin before the range, the last one end behind it: they are taken whole, the rest goes back.
  Range<Pfn> outer = pfns;
  {
    const sim::SpinGuard guard(zone.lock);
    for (unsigned order = 0; order < kNrOrders; ++order) {
      const Pfn head = align_down(pfns.begin, std::uint64_t{1} << order);
      if (!page_initialised(head)) continue;
      const Page& page = pfn_to_page(head);
      if (!page.test(PageFlag::kBuddy)) continue;
      if (head + (std::uint64_t{1} << page.private_) > pfns.begin) outer.begin = head;
      break;
    }
    if (!PageIsolation(*this).test_pages_isolated_locked(outer)) return pfns.begin;
    Pfn pfn = outer.begin;
    while (pfn < pfns.end) pfn += isolate_free_page(zone, pfn_to_page(pfn));
    outer.end = pfn;
  }
  free_contig_range({outer.begin, pfns.begin});
  free_contig_range({pfns.end, outer.end});
  return outer.end;
}

void PhysMem::free_contig_range(Range<Pfn> pfns) {
  for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) free_page(pfn_to_page(pfn));
}

// A range worth trying: online, of this zone, and nothing in it that is certain to stay (pfn_range_valid_contig).
bool PhysMem::pfn_range_valid_contig(const Zone& zone, Range<Pfn> pfns) const {
  for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
    if (!sparse_.online(pfn)) return false;
    if (!page_initialised(pfn)) continue;  // deferred boot: what is no RAM there shows when it is initialised
    const Page& page = pfn_to_page(pfn);
    if (page.zone_type() != zone.type() || page.nid() != zone.node().nid() || page.test(PageFlag::kReserved)) return false;
  }
  return true;
}

Page* PhysMem::alloc_contig_pages(std::uint64_t nr_pages, Gfp gfp, Nid nid) {
  if (nr_pages == 0) return nullptr;
  if (nid == kNoNode) nid = numa_node_id();
  const ZoneList& zonelist = any(gfp, Gfp::kThisNode) ? node(nid).zonelist_thisnode() : node(nid).zonelist();
  Page* found = nullptr;
  zonelist.for_each_zone(gfp_zone(gfp), [&](Zone& zone) {
    const std::uint64_t align = std::bit_ceil(nr_pages);  // ranges begin at multiples of their size
    Pfn pfn = std::has_single_bit(nr_pages) ? align_up(zone.start_pfn(), align)
                                            : Pfn((zone.start_pfn().value() + nr_pages - 1) / nr_pages * nr_pages);
    for (; pfn + nr_pages <= zone.end_pfn(); pfn += nr_pages) {
      const Range<Pfn> pfns{pfn, pfn + nr_pages};
      if (!pfn_range_valid_contig(zone, pfns)) continue;
      if (!alloc_contig_range(pfns, MigrateType::kMovable, gfp)) continue;
      found = &pfn_to_page(pfn);
      return false;
    }
    return true;
  });
  return found;
}

}  // namespace quire::phys
