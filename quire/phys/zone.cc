#include "quire/phys/zone.h"

#include <bit>

#include "quire/phys/node.h"

namespace quire::phys {

std::string_view zone_name(ZoneType type) {
  constexpr std::array<std::string_view, kZoneTypes> kNames = {"DMA", "DMA32", "Normal", "HighMem", "Movable", "Device"};
  return type < ZoneType::kCount ? kNames[static_cast<unsigned>(type)] : "?";
}

std::string_view migratetype_name(MigrateType type) {
  constexpr std::array<std::string_view, kMigrateTypes> kNames = {"Unmovable",  "Movable", "Reclaimable",
                                                                  "HighAtomic", "CMA",     "Isolate"};
  return type < MigrateType::kCount ? kNames[static_cast<unsigned>(type)] : "?";
}

Zone::Zone(Node& node, ZoneType type, sim::Scheduler& scheduler, sim::LockClass& lock_class, unsigned cpus)
    : lock(scheduler, lock_class), node_(node), type_(type), pcp_(std::make_unique<PerCpuPages[]>(cpus)), cpus_(cpus) {}

std::uint64_t Zone::nr_free(Order order) const {
  std::uint64_t n = free_area_[order.value()].nr_free;
  // What waits to be initialised, cut into blocks as memblock_free_all would cut it.
  for (const Range<Pfn>& range : deferred_) {
    Pfn at = range.begin;
    while (at < range.end) {
      unsigned o = std::min<unsigned>(kMaxOrder.value(), static_cast<unsigned>(std::countr_zero(at.value())));
      while (range.end - at < std::uint64_t{1} << o) --o;
      if (o == order.value()) ++n;
      at += std::uint64_t{1} << o;
    }
  }
  return n;
}

Node::Node(Nid nid, sim::Scheduler& scheduler, sim::LockClass& zone_lock_class, unsigned cpus) : nid_(nid) {
  for (unsigned i = 0; i < kZoneTypes; ++i) {
    zones_[i] = std::make_unique<Zone>(*this, static_cast<ZoneType>(i), scheduler, zone_lock_class, cpus);
  }
}

std::uint64_t Node::managed_pages() const {
  std::uint64_t n = 0;
  for (const auto& zone : zones_) n += zone->managed_pages();
  return n;
}

}  // namespace quire::phys
