// Where the memory map lies, and the first state of each struct Page.
#include <algorithm>

#include "quire/phys/boot.h"
#include "quire/phys/boot_log.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr std::uint64_t kMemmapBytes = kPagesPerSection * sizeof(Page);  // of one section: 2 MiB
constexpr std::uint64_t kSectionsPerRoot = kPageSize / 16;
constexpr std::uint64_t kSectionRootBytes = 16 * kKiB;  // of a 46-bit physical address space
constexpr PhysAddr kAboveDma{16 * kMiB};
constexpr std::uint64_t kVmemmapPerPmdPage = kGiB;
constexpr std::uint64_t kAllMovable = 0x1111'1111'1111'1111;

// Deferred initialisation pays from this many sections on (2 GiB).
constexpr std::uint64_t kDeferFromSections = 16;

}  // namespace

BootStatus PhysBoot::sparse_init() {
  PhysMem& mem = *mem_;
  const std::uint64_t end = align_up(mem.max_pfn_.value(), kPagesPerSection) >> kPfnSectionShift;
  mem.sparse_.resize(end);
  std::vector<std::vector<std::uint64_t>> by_node(mem.nodes_.size());
  for (const MemblockRegion& m : memblock_.memory()) {
    for (std::uint64_t s = SparseMemory::section_of(phys_to_pfn(m.range.begin));
         s <= SparseMemory::section_of(phys_to_pfn(m.range.end - 1)); ++s) {
      MemSection& section = mem.sparse_.section(s);
      if (section.state != SectionState::kAbsent) continue;
      section.state = SectionState::kDeferred;
      section.nid = m.nid;
      by_node[static_cast<std::size_t>(m.nid.value())].push_back(s);
    }
  }
  if (!boot_alloc({.size = kSectionRootBytes})) return std::unexpected(too_small("the section table"));
  std::uint64_t last_root = ~std::uint64_t{0};
  for (std::uint64_t s = 0; s < end; ++s) {
    if (mem.sparse_.section(s).state == SectionState::kAbsent || s / kSectionsPerRoot == last_root) continue;
    last_root = s / kSectionsPerRoot;
    if (!boot_alloc({.size = kPageSize, .nid = mem.sparse_.section(s).nid})) {
      return std::unexpected(too_small("the section table"));
    }
  }
  for (std::size_t i = 0; i < by_node.size(); ++i) {
    if (by_node[i].empty()) continue;
    if (BootStatus status = sparse_init_node(Nid(static_cast<int>(i)), by_node[i]); !status) return status;
  }
  return {};
}

// One node's sections: the pageblock flags, then one block of memmap for them all, then the tables that map it.
BootStatus PhysBoot::sparse_init_node(Nid nid, const std::vector<std::uint64_t>& sections) {
  PhysMem& mem = *mem_;
  const std::uint64_t n = sections.size();
  const auto usage = boot_alloc({.size = kSectionUsageBytes * n, .nid = nid});
  if (!usage) return std::unexpected(too_small("the pageblock flags"));
  constexpr std::uint64_t kFlagsOffset = kSectionUsageBytes - 32;
  for (std::uint64_t i = 0; i < n; ++i) {
    mem.sparse_.section(sections[i]).pageblock_flags =
        reinterpret_cast<std::uint64_t*>(mem.arena_.to_virt(*usage + i * kSectionUsageBytes + kFlagsOffset));
  }

  const auto map_section = [&](std::uint64_t section, PhysAddr at) {
    const Pfn first = SparseMemory::section_start(section);
    return mem.arena_.map_memmap({first, first + kPagesPerSection}, at);
  };
  const auto whole = boot_alloc({.size = kMemmapBytes * n,
                                 .align = kMemmapBytes,
                                 .min = kAboveDma,
                                 .nid = nid,
                                 .node_rule = MemblockAllocSpec::Node::kExact});
  for (std::uint64_t i = 0; i < n;) {
    // Sections side by side share one host mapping.
    std::uint64_t run = 1;
    BootStatus status;
    if (whole) {
      while (i + run < n && sections[i + run] == sections[i] + run) ++run;
      const Pfn first = SparseMemory::section_start(sections[i]);
      status = mem.arena_.map_memmap({first, first + run * kPagesPerSection}, *whole + i * kMemmapBytes);
    } else {
      const auto at = boot_alloc({.size = kMemmapBytes, .align = kMemmapBytes, .min = kAboveDma, .nid = nid});
      if (!at) return std::unexpected(too_small("the memory map"));
      status = map_section(sections[i], *at);
    }
    if (!status) return status;
    i += run;
  }

  const std::uint64_t span = (sections.back() - sections.front() + 1) * kMemmapBytes;
  const std::uint64_t table_pages = 1 + (span + kVmemmapPerPmdPage - 1) / kVmemmapPerPmdPage;  // pud, then pmds
  for (std::uint64_t i = 0; i < table_pages; ++i) {
    if (!boot_alloc({.size = kPageSize, .align = kPageSize, .min = kAboveDma, .nid = nid})) {
      return std::unexpected(too_small("the memory map's page tables"));
    }
  }
  return {};
}

// Initialises the struct Pages that are needed at once; the rest stay untouched until the buddy runs short. At once: the
// first section of each zone, sections that several zones share, those with memory that boot gives back later, and those
// with a free stretch that is not whole blocks of the largest order.
void PhysBoot::memmap_init() {
  PhysMem& mem = *mem_;
  std::uint64_t present = 0;
  for (std::uint64_t s = 0; s < mem.sparse_.size(); ++s) {
    present += mem.sparse_.section(s).state != SectionState::kAbsent ? 1 : 0;
  }
  const bool defer = config_.deferred_init == DeferredInit::kOn ||
                     (config_.deferred_init == DeferredInit::kAuto && present >= kDeferFromSections);
  std::vector<bool> now(mem.sparse_.size(), !defer);
  std::vector<unsigned> zones_in(mem.sparse_.size(), 0);
  mem.for_each_populated_zone([&](Zone& zone) {
    now[SparseMemory::section_of(zone.start_pfn())] = true;
    for (std::uint64_t s = SparseMemory::section_of(zone.start_pfn()); s <= SparseMemory::section_of(zone.end_pfn() - 1); ++s) {
      ++zones_in[s];
    }
  });
  for (std::size_t nid = 0; bootmem_ && nid < node_bytes_.size(); ++nid) {
    const Range<Pfn> bitmap = bootmem_->bitmap(Nid(static_cast<int>(nid)));
    for (Pfn pfn = bitmap.begin; pfn < bitmap.end; ++pfn) now[SparseMemory::section_of(pfn)] = true;
  }
  for (const LateFree& late : late_) {
    for (std::uint64_t s = SparseMemory::section_of(late.pfns.begin); s <= SparseMemory::section_of(late.pfns.end - 1); ++s) {
      now[s] = true;
    }
  }
  memblock_.for_each_free_range([&](Range<PhysAddr> range, Nid) {
    const Range<Pfn> pfns{phys_to_pfn(align_up(range.begin, kPageSize)), phys_to_pfn(range.end)};
    if (pfns.empty()) return;
    if (align_down(pfns.begin, kMaxOrder.pages()) != pfns.begin) now[SparseMemory::section_of(pfns.begin)] = true;
    if (align_down(pfns.end, kMaxOrder.pages()) != pfns.end) now[SparseMemory::section_of(pfns.end - 1)] = true;
  });
  mem.memblock_ = memblock_;  // init_section reads it, now and when a deferred section's turn comes
  for (std::uint64_t s = 0; s < mem.sparse_.size(); ++s) {
    if (mem.sparse_.section(s).state == SectionState::kAbsent) continue;
    std::fill_n(mem.sparse_.section(s).pageblock_flags, kPagesPerSection / kPageblockPages / 16, kAllMovable);
    if (now[s] || zones_in[s] > 1) mem.init_section(s);
  }
}

// Gives every struct Page of a section its zone and node. Frames that are reserved, or no memory at all, are PG_reserved
// with one reference, as Linux leaves them.
void PhysMem::init_section(std::uint64_t section) {
  const Range<Pfn> all{SparseMemory::section_start(section), SparseMemory::section_start(section + 1)};
  sparse_.section(section).state = SectionState::kInitialised;
  const auto init = [&](Range<Pfn> pfns, ZoneType zone, Nid nid) {
    std::uint64_t flags = 0;
    {
      Page links;
      set_page_links(links, zone, nid);
      flags = links.flags;
    }
    for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) pfn_to_page(pfn).flags = flags;
  };
  const auto reserve = [&](Range<Pfn> pfns) {
    for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
      Page& page = pfn_to_page(pfn);
      page.set(PageFlag::kReserved);
      page.refcount = 1;
    }
  };

  Pfn hole = all.begin;
  ZoneType zone_type = ZoneType::kDma;
  Nid nid = sparse_.section(section).nid;
  for (const MemblockRegion& m : memblock_.memory()) {
    const Range<Pfn> memory = Range<Pfn>{phys_to_pfn(m.range.begin), phys_to_pfn(m.range.end)}.intersect(all);
    if (memory.empty()) continue;
    nid = m.nid;
    PhysBoot::for_each_zone_part(node(nid), memory, [&](Zone& zone, Range<Pfn> part) {
      zone_type = zone.type();
      init({hole, part.end}, zone_type, nid);
      reserve({hole, part.begin});
      hole = part.end;
    });
  }
  init({hole, all.end}, zone_type, nid);
  reserve({hole, all.end});

  for (const MemblockRegion& r : memblock_.reserved()) {
    const Range<Pfn> pfns =
        Range<Pfn>{phys_to_pfn(r.range.begin), phys_to_pfn(align_up(r.range.end, kPageSize))}.intersect(all);
    if (!pfns.empty()) reserve(pfns);
  }
}

// The next section with waiting blocks becomes real: its struct Pages are initialised and the blocks go to the buddy.
// They counted as free before, so no counter changes.
bool PhysMem::grow_zone(Zone& zone) {
  zone.lock.assert_held();
  if (zone.deferred_pages_ == 0) return false;
  const std::uint64_t section = SparseMemory::section_of(zone.deferred_[zone.deferred_next_].begin);
  const Pfn section_end = SparseMemory::section_start(section + 1);
  if (!sparse_.page_initialised(SparseMemory::section_start(section))) init_section(section);
  while (zone.deferred_next_ < zone.deferred_.size()) {
    Range<Pfn>& range = zone.deferred_[zone.deferred_next_];
    if (range.begin >= section_end) break;
    const Range<Pfn> part{range.begin, std::min(range.end, section_end)};
    zone.deferred_pages_ -= part.size();
    zone.stats.sub(ZoneStat::kNrFreePages, static_cast<std::int64_t>(part.size()));
    PhysBoot::for_each_block(part, [&](Pfn pfn, Order order) {
      buddy_.free_one_page(zone, pfn_to_page(pfn), order, MigrateType::kMovable, FreeHint::kToTail);
    });
    range.begin = part.end;
    if (range.empty()) ++zone.deferred_next_;
  }
  return true;
}

}  // namespace quire::phys
