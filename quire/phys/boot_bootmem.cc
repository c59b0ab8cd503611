// How a machine of Linux 2.4 boots with bootmem: e820 → a bitmap a node → what is RAM is free → kernel, bitmap and page 0 are
// reserved → node data and mem_map come from it → what is left goes to the buddy.
#include <algorithm>

#include "quire/phys/boot.h"
#include "quire/phys/boot_log.h"

namespace quire::phys {

namespace {

constexpr PhysAddr kMaxDmaAddress{16 * kMiB};  // what need not lie below is left to devices

}  // namespace

std::optional<PhysAddr> PhysBoot::boot_alloc(const MemblockAllocSpec& spec) {
  if (config_.faults != nullptr && config_.faults->should_fail(sim::FaultPoint::kPageAlloc, spec.size)) return std::nullopt;
  if (!bootmem_ && !config_.recorded.reserved.empty()) {
    const auto at = recorded_alloc(spec);
    if (at || spec.node_rule == MemblockAllocSpec::Node::kExact) return at;  // who asks so has a second way
  }
  if (!bootmem_) {
    const auto found = memblock_.alloc(spec);
    if (found || config_.arch == Arch::kX86_64) return found;
    // More memory map than lowmem holds: the rest of it lies in HighMem.
    const PhysAddr limit = memblock_.current_limit();
    memblock_.set_current_limit(PhysAddr(~std::uint64_t{0}));
    const auto high = memblock_.alloc(spec);
    memblock_.set_current_limit(limit);
    return high;
  }
  const PhysAddr goal = spec.min == PhysAddr{} ? kMaxDmaAddress : spec.min;
  std::optional<PhysAddr> at;
  if (spec.nid != kNoNode) at = bootmem_->alloc_bootmem_node(spec.nid, spec.size, spec.align, goal);
  if (!at && spec.node_rule == MemblockAllocSpec::Node::kPrefer) at = bootmem_->alloc_bootmem(spec.size, spec.align, goal);
  if (at) memblock_.reserve({*at, *at + spec.size});
  return at;
}

void PhysBoot::boot_reserve(Range<PhysAddr> range, Nid nid) {
  memblock_.reserve(range);
  if (bootmem_) QUIRE_BUG_ON(!bootmem_->reserve_bootmem(range, nid));
}

BootStatus PhysBoot::setup_bootmem() {
  bootmem_.emplace(arena_->base());
  for (std::size_t i = 0; i < node_bytes_.size(); ++i) {
    const Nid nid(static_cast<int>(i));
    Range<PhysAddr> span{};
    for (const MemblockRegion& m : memblock_.memory()) {
      if (m.nid != nid) continue;
      span = span.empty() ? m.range : Range<PhysAddr>{span.begin, m.range.end};
    }
    if (span.empty()) continue;
    // Right behind the kernel, or as low as can be on other nodes.
    const std::uint64_t frames = (span.end - span.begin) / kPageSize;
    memblock_.set_direction(MemblockDirection::kBottomUp);
    const auto map =
        memblock_.find({.size = align_up((frames + 7) / 8, kPageSize), .align = kPageSize, .min = image_.end, .nid = nid});
    memblock_.set_direction(MemblockDirection::kTopDown);
    if (!map) return std::unexpected(too_small("the bitmap of its frames"));
    const auto bytes = bootmem_->init_bootmem(nid, phys_to_pfn(*map), phys_to_pfn(span.begin), phys_to_pfn(span.end));
    if (!bytes) return std::unexpected(too_small("the bitmap of its frames"));
    memblock_.reserve({*map, *map + align_up(*bytes, kPageSize)});
    log("Bootmem: node {} [mem {:#018x}-{:#018x}], bitmap [mem {:#018x}-{:#018x}]", i, span.begin.value(), span.end.value() - 1,
        map->value(), map->value() + *bytes - 1);
    for (const MemblockRegion& m : memblock_.memory()) {
      if (m.nid == nid) QUIRE_BUG_ON(!bootmem_->free_bootmem(m.range, nid));
    }
    for (const MemblockRegion& r : memblock_.reserved()) {
      const Range<PhysAddr> part = r.range.intersect(span);
      if (!part.empty()) QUIRE_BUG_ON(!bootmem_->reserve_bootmem(part, nid));
    }
  }
  return {};
}

void PhysBoot::free_all_bootmem() {
  const std::uint64_t frames = bootmem_->free_all_bootmem([&](Nid nid, Range<Pfn> run, Bootmem::Frames what) {
    if (what == Bootmem::Frames::kUnused) return free_to_buddy(nid, run);
    memblock_.free({pfn_to_phys(run.begin), pfn_to_phys(run.end)});
    free_reserved_area(run);
  });
  bootmem_.reset();
  log("free_all_bootmem: {} pages", frames);
}

}  // namespace quire::phys
