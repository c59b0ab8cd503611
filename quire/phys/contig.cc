// Contiguous ranges of any size and place: alloc_contig_range empties the range (isolation, migration) and takes it out of
// the buddy page by page; alloc_contig_pages looks for a range where that works.
#include <algorithm>
#include <bit>

#include "quire/phys/page_isolation.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

// Ends the isolation of a range, whatever way the caller leaves: as before, or, once it succeeded, with its type.
class IsolatedRange {
 public:
  IsolatedRange(PageIsolation& isolation, Range<Pfn> pfns) : isolation_(isolation), pfns_(pfns) {}
  ~IsolatedRange() { isolation_.cancel_isolate_page_range(pfns_); }
  IsolatedRange(const IsolatedRange&) = delete;
  IsolatedRange& operator=(const IsolatedRange&) = delete;
  void done(MigrateType type) { isolation_.undo_isolate_page_range(pfns_, type); }

 private:
  PageIsolation& isolation_;
  Range<Pfn> pfns_;
};

}  // namespace

Status PhysMem::alloc_contig_range(Range<Pfn> pfns, MigrateType type, Gfp gfp) {
  if (pfns.empty() || (type != MigrateType::kMovable && type != MigrateType::kCma)) return fail(Errno::kInval);
  if (gfpflags_allow_blocking(gfp)) scheduler_.sync_point();
  PageIsolation isolation(*this);
  if (Status status = isolation.start_isolate_page_range(pfns, type); !status) return status;
  IsolatedRange isolated(isolation, pfns);
  drain_all_pages();
  // Pages that would not move may have come free meanwhile: what the range is like now decides, not the move.
  const Status moved = isolation.migrate_range(pfns, MigrateReason::kContigRange);
  if (!moved && moved.error() != Errno::kBusy) return moved;

  // The first free block may begin before the range, the last one end behind it: they are taken whole, the rest goes back.
  Zone& zone = page_zone(pfn_to_page(pfns.begin));
  Range<Pfn> outer = pfns;
  {
    const sim::SpinGuard guard(zone.lock);
    for (unsigned order = 0; order < kNrOrders; ++order) {
      const Pfn head = align_down(pfns.begin, std::uint64_t{1} << order);
      const Page& page = pfn_to_page(head);
      if (!page_initialised(head) || !page.test(PageFlag::kBuddy)) continue;
      if (head + (std::uint64_t{1} << page.private_) > pfns.begin) outer.begin = head;
      break;
    }
  }
  if (Status status = isolation.test_pages_isolated(outer); !status) return status;
  outer.end = take_isolated_range(zone, outer);
  free_contig_range({outer.begin, pfns.begin});
  free_contig_range({pfns.end, outer.end});
  isolated.done(type);
  return {};
}

// Takes every free block that begins in [pfns) off its list and makes single pages in use of it; gives where the last ends.
Pfn PhysMem::take_isolated_range(Zone& zone, Range<Pfn> pfns) {
  const sim::SpinGuard guard(zone.lock);
  Pfn pfn = pfns.begin;
  while (pfn < pfns.end) {
    const std::uint64_t taken = isolate_free_page(zone, pfn_to_page(pfn));
    QUIRE_BUG_ON(taken == 0);
    pfn += taken;
  }
  return pfn;
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
