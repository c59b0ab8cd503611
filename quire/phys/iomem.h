// The tree of physical address space: who has which range (Linux's struct resource under iomem_resource). Siblings are
// sorted and disjoint; a child lies within its parent.
//
//   00100000-1ffdffff : System RAM
//     01000000-01ffffff : Kernel code
//
// Locking: boot and hotplug only, one at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/firmware_map.h"

namespace quire::phys {

struct Resource {
  Range<PhysAddr> range;
  std::string name;
  std::vector<Resource> children;
};

class IomemTree {
 public:
  // Puts a range where it belongs: inside what contains it, around what it contains (insert_resource). kBusy when it
  // overlaps something partly; kInval when it is empty.
  Status insert(Range<PhysAddr> range, std::string name);
  // Claims a range that nothing but its parent may have yet (request_resource). kBusy: something is there.
  Status request(Range<PhysAddr> range, std::string name);
  // Claims what of the range nothing at the top has yet (reserve_region_with_split).
  void fill(Range<PhysAddr> range, std::string_view name);
  // Gives back a claim without children. kNoEnt: there is none of exactly this range and name.
  Status release(Range<PhysAddr> range, std::string_view name);

  // The innermost resource that contains all of the range; null: none.
  [[nodiscard]] const Resource* find(Range<PhysAddr> range) const;
  [[nodiscard]] const std::vector<Resource>& top() const { return root_.children; }
  // As /proc/iomem prints it to root.
  [[nodiscard]] std::string text() const;
  void validate() const;

 private:
  Resource root_{.range = {PhysAddr(0), PhysAddr(~std::uint64_t{0})}, .name = "PCI mem", .children = {}};
};

// What e820__reserve_resources makes of a map.
[[nodiscard]] std::string_view iomem_name(E820Type type);

}  // namespace quire::phys
