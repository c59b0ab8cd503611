// The zonelists: in which order a node's requests look for memory. Made at boot, and again when a zone gets its first
// memory or loses its last.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

// Gives the boot log's line for each node.
std::vector<std::string> PhysMem::build_all_zonelists(CpusOnNodes cpus) {
  std::vector<unsigned> load(nodes_.size(), 0);
  std::vector<std::string> lines;
  for (const auto& node : nodes_) lines.push_back(build_zonelist(*node, cpus, load));
  fast_zones_.assign(static_cast<std::size_t>(config_.cpus) * kZoneTypes, nullptr);
  // The short cut past the flow is linux-6's own, and takes the types for granted.
  const bool short_cut =
      config_.alloc_policy == AllocPolicyKind::kLinux6 && page_group_by_mobility_ && config_.arch == Arch::kX86_64;
  for (unsigned cpu = 0; cpu < config_.cpus && short_cut; ++cpu) {
    Node& home = node(cpu_to_node_[cpu]);
    if (!home.has_memory()) continue;
    for (unsigned highest = 0; highest < kZoneTypes; ++highest) {
      Zone* zone = home.zonelist_.first_[highest];
      const bool local = zone != nullptr && &zone->node() == &home;
      fast_zones_[cpu * kZoneTypes + highest] = local ? zone : nullptr;
    }
  }
  return lines;
}

// Nearest node first; among equals one with CPUs counts as a little farther, later nodes come before earlier ones that
// are another's first choice already (find_next_best_node).
std::string PhysMem::build_zonelist(Node& local, CpusOnNodes cpus, std::vector<unsigned>& load) {
  std::vector<Node*> order;
  std::vector<bool> used(nodes_.size(), false);
  const auto index = [](const Node& n) { return static_cast<std::size_t>(n.nid().value()); };
  used[index(local)] = true;
  order.push_back(&local);
  Node* previous = &local;
  for (;;) {
    std::uint64_t best_value = std::numeric_limits<std::uint64_t>::max();
    Node* best = nullptr;
    for (const auto& candidate : nodes_) {
      if (used[index(*candidate)] || !candidate->has_memory()) continue;
      std::uint64_t value = local.distance(candidate->nid());
      if (candidate->nid() < local.nid()) ++value;
      if (cpus == CpusOnNodes::kKnown && !candidate->cpus().empty()) ++value;
      value = value * 1024 + load[index(*candidate)];
      if (value < best_value) {
        best_value = value;
        best = candidate.get();
      }
    }
    if (best == nullptr) break;
    if (local.distance(best->nid()) != local.distance(previous->nid())) ++load[index(*best)];
    used[index(*best)] = true;
    order.push_back(best);
    previous = best;
  }

  const auto add_zones = [](ZoneList& list, Node& node) {
    for (unsigned i = kZoneTypes; i-- > 0;) {
      Zone& zone = node.zone(static_cast<ZoneType>(i));
      if (zone.populated() && zone.type() != ZoneType::kDevice) list.zones_.push_back({&zone, zone.type()});
    }
  };
  for (ZoneList* list : {&local.zonelist_, &local.zonelist_thisnode_}) list->reset(nodes_.size() * kZoneTypes);
  for (Node* node : order) add_zones(local.zonelist_, *node);
  add_zones(local.zonelist_thisnode_, local);
  for (ZoneList* list : {&local.zonelist_, &local.zonelist_thisnode_}) {
    for (unsigned highest = 0; highest < kZoneTypes; ++highest) {
      list->for_each_zone(static_cast<ZoneType>(highest), [&](Zone& zone) {
        list->first_[highest] = &zone;
        return false;
      });
    }
  }
  std::string names;
  for (Node* node : order) names += fmt::format("{} ", node->nid().value());
  return fmt::format("Fallback order for Node {}: {}", local.nid().value(), names);
}

}  // namespace quire::phys
