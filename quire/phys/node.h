// A NUMA node (Linux's pg_data_t): its zones, the zonelists that serve its CPUs, its counters and its distances.
// Nodes are numbered from 0 without gaps. A node may have no memory (it still has zonelists) or no CPUs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/vmstat.h"
#include "quire/phys/zone.h"

namespace quire::phys {

class Node {
 public:
  Node(Nid nid, sim::Scheduler& scheduler, sim::LockClass& zone_lock_class, unsigned cpus);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  [[nodiscard]] Nid nid() const { return nid_; }
  [[nodiscard]] Zone& zone(ZoneType type) { return *zones_[static_cast<unsigned>(type)]; }
  [[nodiscard]] const Zone& zone(ZoneType type) const { return *zones_[static_cast<unsigned>(type)]; }
  // Calls f(Zone&) for each zone, lowest first, populated or not.
  template <class F>
  void for_each_zone(F&& f) {
    for (auto& zone : zones_) f(*zone);
  }
  template <class F>
  void for_each_zone(F&& f) const {
    for (const auto& zone : zones_) f(static_cast<const Zone&>(*zone));
  }

  [[nodiscard]] Pfn start_pfn() const { return start_pfn_; }
  [[nodiscard]] std::uint64_t spanned_pages() const { return spanned_pages_; }
  [[nodiscard]] std::uint64_t present_pages() const { return present_pages_; }
  [[nodiscard]] std::uint64_t managed_pages() const;
  [[nodiscard]] bool has_memory() const { return present_pages_ != 0; }

  // With fallback to other nodes, and without (__GFP_THISNODE).
  [[nodiscard]] ZoneList& zonelist() { return zonelist_; }
  [[nodiscard]] const ZoneList& zonelist() const { return zonelist_; }
  [[nodiscard]] ZoneList& zonelist_thisnode() { return zonelist_thisnode_; }

  [[nodiscard]] unsigned distance(Nid other) const { return distance_[static_cast<unsigned>(other.value())]; }
  [[nodiscard]] const std::vector<unsigned>& cpus() const { return cpus_; }

  // Counters, open to every floor: node.stats.add(NodeStat::kNrDirty, n).
  Counters<NodeStat> stats;

 private:
  friend class PhysBoot;
  friend class PhysMem;
  friend class MemoryHotplug;

  const Nid nid_;
  std::array<std::unique_ptr<Zone>, kZoneTypes> zones_;
  Pfn start_pfn_{};
  std::uint64_t spanned_pages_ = 0;
  std::uint64_t present_pages_ = 0;
  ZoneList zonelist_;
  ZoneList zonelist_thisnode_;
  std::vector<unsigned> distance_;
  std::vector<unsigned> cpus_;
};

}  // namespace quire::phys
