// The tree of physical address space: who has which range (Linux's struct resource under iomem_resource). Siblings are
// sorted and disjoint; a child lies within its parent.
//
//   00100000-1ffdffff : System RAM
//     01000000-01ffffff : Kernel code
//
// Locking: boot and hotplug only, one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/firmware_map.h"

namespace quire::phys {

// Whether others may claim parts of a resource: RAM is busy; a bus window or what the firmware merely reports is not.
enum class ResourceUse : std::uint8_t { kFree, kBusy };

struct Resource {
  Range<PhysAddr> range;
  std::string name;
  ResourceUse use = ResourceUse::kFree;
  std::vector<Resource> children;
};

class IomemTree {
 public:
  // Puts a range where it belongs: inside what contains it, around what it contains (insert_resource). kBusy when it
  // overlaps something partly; kInval when it is empty.
  Status insert(Range<PhysAddr> range, std::string name, ResourceUse use = ResourceUse::kFree);
  // Claims a range, within a resource that is not busy itself if there is one around it (request_mem_region). kBusy:
  // something busy is there, or something that the range does not lie in.
  Status request(Range<PhysAddr> range, std::string name, ResourceUse use = ResourceUse::kBusy);
  // Claims what of the range nothing at the top has yet (reserve_region_with_split).
  void fill(Range<PhysAddr> range, std::string_view name);
  // Gives back a claim without children. kNoEnt: there is none of exactly this range and name.
  Status release(Range<PhysAddr> range, std::string_view name);
  // Takes a part off a busy resource without children, which shrinks or falls in two (release_mem_region_adjustable).
  // kInval: there is no such resource around the range.
  Status release_adjustable(Range<PhysAddr> range);
  // How much of the range busy resources named `prefix`… cover (walk_system_ram_range), in bytes.
  [[nodiscard]] std::uint64_t busy_bytes(Range<PhysAddr> range, std::string_view prefix) const;

  // The innermost resource that contains all of the range; null: none.
  [[nodiscard]] const Resource* find(Range<PhysAddr> range) const;
  [[nodiscard]] const std::vector<Resource>& top() const { return root_.children; }
  // As /proc/iomem prints it to root.
  [[nodiscard]] std::string text() const;
  void validate() const;

 private:
  Resource root_{
      .range = {PhysAddr(0), PhysAddr(~std::uint64_t{0})}, .name = "PCI mem", .use = ResourceUse::kFree, .children = {}};
};

// What e820__reserve_resources makes of a map.
[[nodiscard]] std::string_view iomem_name(E820Type type);
[[nodiscard]] ResourceUse iomem_use(const E820Entry& entry);

}  // namespace quire::phys
