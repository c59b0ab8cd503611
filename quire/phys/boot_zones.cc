// Zone limits, and how much of each zone is spanned and present on each node.
#include <algorithm>

#include "quire/phys/boot.h"
#include "quire/phys/boot_log.h"

namespace quire::phys {

namespace {

constexpr Pfn kDmaEnd{16 * kMiB >> kPageShift};
constexpr Pfn kDma32End{4 * kGiB >> kPageShift};

}  // namespace

void PhysBoot::free_area_init() {
  PhysMem& mem = *mem_;
  const Pfn lowest = phys_to_pfn(memblock_.start_of_dram());
  const Pfn end = mem.max_pfn_;
  std::array<Range<Pfn>, kZoneTypes> limits{};
  Pfn at = lowest;
  const std::array<Pfn, 3> ends = {std::min(kDmaEnd, end), std::min(kDma32End, end), end};
  for (std::size_t i = 0; i < ends.size(); ++i) {
    limits[i] = {at, std::max(ends[i], at)};
    at = limits[i].end;
  }

  log("Zone ranges:");
  for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32, ZoneType::kNormal, ZoneType::kDevice}) {
    const Range<Pfn>& limit = limits[static_cast<unsigned>(type)];
    if (limit.empty()) {
      log("  {:<8} empty", zone_name(type));
    } else {
      log("  {:<8} [mem {:#018x}-{:#018x}]", zone_name(type), pfn_to_phys(limit.begin).value(),
          pfn_to_phys(limit.end).value() - 1);
    }
  }
  log("Movable zone start for each node");
  log("Early memory node ranges");
  for (const MemblockRegion& m : memblock_.memory()) {
    log("  node {:3}: [mem {:#018x}-{:#018x}]", m.nid.value(), m.range.begin.value(), m.range.end.value() - 1);
  }

  for (const auto& node : mem.nodes_) {
    Range<Pfn> span{};
    for (const MemblockRegion& m : memblock_.memory()) {
      if (m.nid != node->nid()) continue;
      const Range<Pfn> pfns{phys_to_pfn(m.range.begin), phys_to_pfn(m.range.end)};
      if (span.empty()) span.begin = pfns.begin;
      span.end = pfns.end;
      node->present_pages_ += pfns.size();
    }
    if (span.empty()) {
      log("Initmem setup node {} as memoryless", node->nid().value());
      continue;
    }
    log("Initmem setup node {} [mem {:#018x}-{:#018x}]", node->nid().value(), pfn_to_phys(span.begin).value(),
        pfn_to_phys(span.end).value() - 1);
    node->start_pfn_ = span.begin;
    node->spanned_pages_ = span.size();
    for (unsigned i = 0; i < kZoneTypes; ++i) {
      const Range<Pfn> zone_span = span.intersect(limits[i]);
      if (zone_span.empty()) continue;
      Zone& zone = node->zone(static_cast<ZoneType>(i));
      for (const MemblockRegion& m : memblock_.memory()) {
        if (m.nid != node->nid()) continue;
        zone.present_pages_ +=
            Range<Pfn>{phys_to_pfn(m.range.begin), phys_to_pfn(m.range.end)}.intersect(zone_span).size();
      }
      zone.start_pfn_ = zone_span.begin;
      zone.spanned_pages_ = zone_span.size();
    }
  }
  report_unavailable_ranges();
}

// Frames that have a struct Page but no memory, told by the zone of the memory that follows.
void PhysBoot::report_unavailable_ranges() {
  const auto report = [&](Range<Pfn> hole, const Zone& zone) {
    std::uint64_t pages = 0;
    for (Pfn pfn = hole.begin; pfn < hole.end;) {
      const Pfn next = std::min(hole.end, align_down(pfn, kPagesPerSection) + kPagesPerSection);
      if (mem_->pfn_valid(pfn)) pages += next - pfn;
      pfn = next;
    }
    if (pages != 0) {
      log("On node {}, zone {}: {} pages in unavailable ranges", zone.node().nid().value(), zone.name(), pages);
    }
  };
  Pfn hole{};
  const Zone* last = nullptr;
  for (const MemblockRegion& m : memblock_.memory()) {
    const Range<Pfn> memory{phys_to_pfn(m.range.begin), phys_to_pfn(m.range.end)};
    for_each_zone_part(mem_->node(m.nid), memory, [&](Zone& zone, Range<Pfn> part) {
      if (hole < part.begin) report({hole, part.begin}, zone);
      hole = part.end;
      last = &zone;
    });
  }
  const Pfn end = align_up(hole, kPagesPerSection);
  if (last != nullptr && hole < end) report({hole, end}, *last);
}

// Pages less an estimate of the memmap and less what is reserved below 16 MiB: what Linux counts with before the buddy
// knows better (calculate_node_totalpages, calc_memmap_size).
std::uint64_t PhysBoot::total_pages() const {
  std::uint64_t total = 0;
  for (const auto& node : mem_->nodes_) {
    node->for_each_zone([&](const Zone& zone) {
      if (!zone.populated()) return;
      const std::uint64_t spanned = zone.spanned_pages();
      const std::uint64_t present = zone.present_pages();
      const std::uint64_t covered = spanned > present + (present >> 4) ? present : spanned;
      const std::uint64_t memmap = bytes_to_pages_up(covered * sizeof(Page));
      total += present >= memmap ? present - memmap : present;
    });
  }
  std::uint64_t reserved_below_dma_end = 0;
  const Range<PhysAddr> dma{PhysAddr(0), pfn_to_phys(kDmaEnd)};
  for (const MemblockRegion& m : memblock_.memory()) reserved_below_dma_end += m.range.intersect(dma).size();
  memblock_.for_each_free_range(
      [&](Range<PhysAddr> range, Nid) { reserved_below_dma_end -= range.intersect(dma).size(); });
  return total - reserved_below_dma_end / kPageSize;
}

}  // namespace quire::phys
