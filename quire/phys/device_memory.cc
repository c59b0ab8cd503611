#include "quire/phys/device_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr std::uint64_t kSubsectionBytes = 2 * kMiB;  // memremap_compat_align, and what a label takes
constexpr std::string_view kKmemName = "System RAM (kmem)";

constexpr std::uint64_t kDeferFromPages = 2 * kGiB / kPageSize;  // as boot's deferred initialisation

Range<Pfn> part_of(std::uint64_t section, Range<Pfn> pfns) {
  return pfns.intersect({SparseMemory::section_start(section), SparseMemory::section_start(section + 1)});
}

Range<Pfn> pfns_of(Range<PhysAddr> range) { return {phys_to_pfn(range.begin), phys_to_pfn(range.end)}; }

}  // namespace

void DeviceMemory::add_region(Range<PhysAddr> range, Nid nid) {
  regions_.push_back({.id = static_cast<unsigned>(regions_.size()), .range = range, .nid = nid});
}

void DeviceMemory::probe() {
  for (const PmemRegion& region : regions_) {
    const Status taken = attach(region.id);
    if (taken) continue;
    std::string_view why = errno_name(taken.error());
    if (taken.error() == Errno::kOpNotSupp) why = "begin and end must be multiples of 2 MiB";
    if (taken.error() == Errno::kNoMem) why = "no memory for its struct Pages";
    mem_.boot_log_.push_back(fmt::format("nd_pmem {}: [mem {:#012x}-{:#012x}] stays raw: {}", namespace_name(region),
                                         region.range.begin.value(), region.range.end.value() - 1, why));
  }
}

std::string DeviceMemory::namespace_name(const PmemRegion& region) { return fmt::format("namespace{}.0", region.id); }
std::string DeviceMemory::dax_name(const PmemRegion& region) { return fmt::format("dax{}.0", region.id); }
Range<PhysAddr> DeviceMemory::label(const PmemRegion& region) {
  return {region.range.begin, region.range.begin + kSubsectionBytes};
}

const PmemRegion* DeviceMemory::region_of(Range<PhysAddr> range) const {
  const auto found = std::ranges::find_if(regions_, [&](const PmemRegion& r) { return r.range.contains(range); });
  return found == regions_.end() ? nullptr : &*found;
}

PmemRegion* DeviceMemory::find(Range<PhysAddr> range) { return const_cast<PmemRegion*>(region_of(range)); }

Status DeviceMemory::attach(unsigned id) {
  if (id >= regions_.size()) return fail(Errno::kNoEnt);
  PmemRegion& region = regions_[id];
  if (region.mode != PmemMode::kRaw) return fail(Errno::kBusy);
  if (region.range.begin.value() % kSubsectionBytes != 0 || region.range.end.value() % kSubsectionBytes != 0) {
    return fail(Errno::kOpNotSupp);
  }
  if (Status status = mem_.iomem().request(region.range, namespace_name(region)); !status) return status;
  if (Status status = devm_memremap_pages(region); !status) {
    QUIRE_BUG_ON(!mem_.iomem().release(region.range, namespace_name(region)));
    return status;
  }
  region.mode = PmemMode::kFsdax;
  return {};
}

Status DeviceMemory::detach(unsigned id) {
  if (id >= regions_.size()) return fail(Errno::kNoEnt);
  PmemRegion& region = regions_[id];
  if (region.mode != PmemMode::kFsdax) return fail(Errno::kBusy);
  memunmap_pages(region);
  QUIRE_BUG_ON(!mem_.iomem().release(region.range, namespace_name(region)));
  region.mode = PmemMode::kRaw;
  return {};
}

// struct Pages for the region, in ZONE_DEVICE of its node.
Status DeviceMemory::devm_memremap_pages(PmemRegion& region) {
  MemoryHotplug& hotplug = mem_.hotplug();
  const sim::MutexGuard guard(hotplug.lock());
  const Range<Pfn> pfns = pfns_of(region.range);
  if (Status status = hotplug.memmap().add_pages(region.nid, pfns); !status) return status;
  region.hole_flags.clear();
  for (std::uint64_t s = SparseMemory::section_of(pfns.begin); s <= SparseMemory::section_of(pfns.end - 1); ++s) {
    if (!mem_.sparse_.section(s).early) continue;
    const Pfn first = std::max(pfns.begin, SparseMemory::section_start(s));
    mem_.init_deferred({first, first + 1});
    region.hole_flags[s] = mem_.pfn_to_page(first).flags;
  }
  Zone& device = mem_.node(region.nid).zone(ZoneType::kDevice);
  MemoryHotplug::resize_zone_range(device, pfns);
  region.waiting.clear();
  for (std::uint64_t s = SparseMemory::section_of(pfns.begin); s <= SparseMemory::section_of(pfns.end - 1); ++s) {
    const bool wait = pfns.size() >= kDeferFromPages && !mem_.sparse_.section(s).early;
    if (wait) region.waiting.insert(s);
    if (!wait) hotplug.memmap_init_range(device, part_of(s, pfns), MigrateType::kMovable);
  }
  return {};
}

Page& DeviceMemory::page(Pfn pfn) {
  const PhysAddr at = pfn_to_phys(pfn);
  PmemRegion* region = find({at, at + kPageSize});
  QUIRE_BUG_ON(region == nullptr || region->mode != PmemMode::kFsdax);
  if (const std::uint64_t section = SparseMemory::section_of(pfn); region->waiting.erase(section) != 0) {
    const Zone& device = mem_.node(region->nid).zone(ZoneType::kDevice);
    mem_.hotplug().memmap_init_range(device, part_of(section, pfns_of(region->range)), MigrateType::kMovable);
  }
  return mem_.pfn_to_page(pfn);
}

// The zone keeps its span, as Linux's does: it cannot know what of it is still in use.
void DeviceMemory::memunmap_pages(PmemRegion& region) {
  MemoryHotplug& hotplug = mem_.hotplug();
  const sim::MutexGuard guard(hotplug.lock());
  const Range<Pfn> pfns = pfns_of(region.range);
  for (const auto& [section, flags] : region.hole_flags) {
    const Range<Pfn> part = part_of(section, pfns);
    for (Pfn pfn = part.begin; pfn < part.end; ++pfn) mem_.pfn_to_page(pfn).flags = flags;
  }
  region.hole_flags.clear();
  region.waiting.clear();
  hotplug.memmap().remove_pages(pfns);
}

Status DeviceMemory::dax_kmem_add(Range<PhysAddr> range, Nid nid) {
  PmemRegion* region = find(range);
  if (region == nullptr || range.empty()) return fail(Errno::kInval);
  if (region->mode == PmemMode::kKmem) return fail(Errno::kBusy);
  // The label stays what it is; of the rest, whole memory blocks.
  const std::uint64_t block = mem_.hotplug().memory_block_size();
  const PhysAddr begin = align_up(std::max(range.begin, label(*region).end), block);
  const Range<PhysAddr> kmem{begin, align_down(range.end, block)};
  if (kmem.empty()) return fail(Errno::kInval);
  if (nid.value() < 0 || static_cast<std::size_t>(nid.value()) >= mem_.nodes().size()) return fail(Errno::kInval);

  const bool was_attached = region->mode == PmemMode::kFsdax;
  if (was_attached) {
    if (Status status = detach(region->id); !status) return status;
  }
  IomemTree& iomem = mem_.iomem();
  Status status = iomem.request(label(*region), namespace_name(*region));
  if (status) {
    status = iomem.request(kmem, dax_name(*region), ResourceUse::kFree);
    if (status) {
      status = mem_.hotplug().add_memory_driver_managed(nid, kmem.begin, kmem.size(), kKmemName);
      if (!status) QUIRE_BUG_ON(!iomem.release(kmem, dax_name(*region)));
    }
    if (!status) QUIRE_BUG_ON(!iomem.release(label(*region), namespace_name(*region)));
  }
  if (!status) {
    // The struct Pages that it had have just come free.
    if (was_attached) static_cast<void>(attach(region->id));
    return status;
  }
  region->mode = PmemMode::kKmem;
  region->kmem = kmem;
  return {};
}

Status DeviceMemory::dax_kmem_remove(Range<PhysAddr> range) {
  PmemRegion* region = find(range);
  if (region == nullptr || region->mode != PmemMode::kKmem) return fail(Errno::kNoEnt);
  if (Status status = mem_.hotplug().remove_memory(region->kmem.begin, region->kmem.size()); !status) return status;
  QUIRE_BUG_ON(!mem_.iomem().release(region->kmem, dax_name(*region)));
  QUIRE_BUG_ON(!mem_.iomem().release(label(*region), namespace_name(*region)));
  region->mode = PmemMode::kRaw;
  region->kmem = {};
  return {};
}

}  // namespace quire::phys
