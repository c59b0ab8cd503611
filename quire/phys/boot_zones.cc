// Zone limits, and how much of each zone is spanned and present on each node.
#include <algorithm>

#include "quire/phys/boot.h"
#include "quire/phys/boot_log.h"

namespace quire::phys {

namespace {

constexpr Pfn kDmaEnd{16 * kMiB >> kPageShift};
constexpr Pfn kDma32End{4 * kGiB >> kPageShift};
constexpr std::uint64_t kPageBytesOfI386 = 40;

}  // namespace

void PhysBoot::free_area_init() {
  PhysMem& mem = *mem_;
  const Pfn lowest = phys_to_pfn(memblock_.start_of_dram());
  const Pfn end = mem.max_pfn_;
  std::array<Range<Pfn>, kZoneTypes> limits{};
  Pfn at = lowest;
  // Where each ends; HighMem begins where the kernel's direct map does.
  const bool i386 = config_.arch != Arch::kX86_64;
  const std::array<Pfn, 4> ends = {std::min(kDmaEnd, end), i386 ? Pfn{} : std::min(kDma32End, end),
                                   i386 ? std::min(max_low_pfn_, end) : end, i386 ? end : Pfn{}};
  for (std::size_t i = 0; i < ends.size(); ++i) {
    limits[i] = {at, std::max(ends[i], at)};
    at = limits[i].end;
  }

  log("Zone ranges:");
  for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32, ZoneType::kNormal, ZoneType::kHighMem, ZoneType::kDevice}) {
    if (!has_zone(config_.arch, type)) continue;
    const Range<Pfn>& limit = limits[static_cast<unsigned>(type)];
    if (limit.empty()) {
      log("  {:<8} empty", zone_name(type));
    } else {
      log("  {:<8} [mem {:#018x}-{:#018x}]", zone_name(type), pfn_to_phys(limit.begin).value(),
          pfn_to_phys(limit.end).value() - 1);
    }
  }
  ZoneType movable_zone = ZoneType::kDma;  // of which ZONE_MOVABLE takes the upper end
  for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32, ZoneType::kNormal, ZoneType::kHighMem}) {
    if (!limits[static_cast<unsigned>(type)].empty()) movable_zone = type;
  }
  find_zone_movable_pfns_for_nodes(limits, movable_zone);
  log("Movable zone start for each node");
  for (std::size_t i = 0; i < movable_start_.size(); ++i) {
    if (movable_start_[i] != Pfn{}) log("  Node {}: {:#018x}", i, pfn_to_phys(movable_start_[i]).value());
  }
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
      const Range<Pfn> within = zone_span(*node, span, static_cast<ZoneType>(i), limits, movable_zone);
      if (within.empty()) continue;
      Zone& zone = node->zone(static_cast<ZoneType>(i));
      for (const MemblockRegion& m : memblock_.memory()) {
        if (m.nid != node->nid()) continue;
        zone.present_pages_ += Range<Pfn>{phys_to_pfn(m.range.begin), phys_to_pfn(m.range.end)}.intersect(within).size();
      }
      zone.start_pfn_ = within.begin;
      zone.spanned_pages_ = within.size();
    }
  }
  report_unavailable_ranges();
}

// The part of a node's span that lies in a zone: ZONE_MOVABLE has the upper end of the highest zone, the zones below what is
// left (zone_spanned_pages_in_node, adjust_zone_range_for_zone_movable).
Range<Pfn> PhysBoot::zone_span(const Node& node, Range<Pfn> node_span, ZoneType type,
                               const std::array<Range<Pfn>, kZoneTypes>& limits, ZoneType movable_zone) const {
  const Pfn movable = movable_start_[static_cast<std::size_t>(node.nid().value())];
  if (type == ZoneType::kMovable) {
    if (movable == Pfn{}) return {};
    return node_span.intersect({movable, limits[static_cast<unsigned>(movable_zone)].end});
  }
  Range<Pfn> span = node_span.intersect(limits[static_cast<unsigned>(type)]);
  if (movable == Pfn{} || span.empty()) return span;
  if (span.begin >= movable) return {};
  span.end = std::min(span.end, movable);
  return span;
}

// Deals what kernelcore= asks for evenly to the nodes, from the bottom of each; what lies above on a node is movable. A node
// that has too little leaves its share to the others. (As Linux: only memory in the highest zone counts as movable.)
void PhysBoot::find_zone_movable_pfns_for_nodes(const std::array<Range<Pfn>, kZoneTypes>& limits, ZoneType movable_zone) {
  const auto& nodes = mem_->nodes_;
  movable_start_.assign(nodes.size(), Pfn{});
  std::uint64_t total = 0;
  std::vector<std::vector<Range<Pfn>>> memory(nodes.size());
  for (const MemblockRegion& m : memblock_.memory()) {
    const Range<Pfn> pfns{phys_to_pfn(m.range.begin), phys_to_pfn(m.range.end)};
    memory[static_cast<std::size_t>(m.nid.value())].push_back(pfns);
    total += pfns.size();
  }
  const auto pages = [total](const CoreRequest& r) { return r.percent != 0 ? total * r.percent / 100 : r.pages; };
  std::uint64_t kernelcore = pages(parameters_.kernelcore);
  if (const std::uint64_t asked = pages(parameters_.movablecore); asked != 0) {
    const std::uint64_t movablecore = std::min(total, align_up(asked, kMaxOrder.pages()));
    kernelcore = std::max(kernelcore, total - movablecore);
  }
  if (kernelcore == 0 || kernelcore >= total) return;

  const Pfn usable_start = limits[static_cast<unsigned>(movable_zone)].begin;
  auto usable_nodes = static_cast<std::uint64_t>(std::ranges::count_if(memory, [](const auto& m) { return !m.empty(); }));
  do {
    std::uint64_t share = kernelcore / usable_nodes;
    for (std::size_t nid = 0; nid < nodes.size(); ++nid) {
      if (memory[nid].empty()) continue;
      if (kernelcore < share) share = kernelcore / usable_nodes;
      std::uint64_t remaining = share;
      Pfn& movable = movable_start_[nid];
      for (Range<Pfn> part : memory[nid]) {
        part.begin = std::max(part.begin, movable);
        if (part.empty()) continue;
        if (part.begin < usable_start) {  // the kernel's in any case
          const std::uint64_t kernel = std::min(part.end, usable_start) - part.begin;
          remaining -= std::min(kernel, remaining);
          kernelcore -= std::min(kernel, kernelcore);
          if (part.end <= usable_start) {
            movable = part.end;
            continue;
          }
          part.begin = usable_start;
        }
        const std::uint64_t taken = std::min(part.size(), remaining);
        movable = part.begin + taken;
        kernelcore -= std::min(kernelcore, taken);
        remaining -= taken;
        if (remaining == 0) break;
      }
    }
    --usable_nodes;
  } while (usable_nodes != 0 && kernelcore > usable_nodes);

  for (std::size_t nid = 0; nid < nodes.size(); ++nid) {
    movable_start_[nid] = align_up(movable_start_[nid], kMaxOrder.pages());
    if (memory[nid].empty() || movable_start_[nid] >= memory[nid].back().end) movable_start_[nid] = Pfn{};
  }
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
      // On i386 struct page has 40 bytes, and the memory map of HighMem is not counted.
      const bool i386 = config_.arch != Arch::kX86_64;
      const std::uint64_t memmap = bytes_to_pages_up(covered * (i386 ? kPageBytesOfI386 : sizeof(Page)));
      const bool counted = present >= memmap && zone.type() != ZoneType::kHighMem;
      total += counted ? present - memmap : present;
    });
  }
  if (config_.arch != Arch::kX86_64) return total;
  std::uint64_t reserved_below_dma_end = 0;
  const Range<PhysAddr> dma{PhysAddr(0), pfn_to_phys(kDmaEnd)};
  for (const MemblockRegion& m : memblock_.memory()) reserved_below_dma_end += m.range.intersect(dma).size();
  memblock_.for_each_free_range([&](Range<PhysAddr> range, Nid) { reserved_below_dma_end -= range.intersect(dma).size(); });
  return total - reserved_below_dma_end / kPageSize;
}

}  // namespace quire::phys
