// A set of physical addresses as sorted, disjoint ranges. On the host, so of any number (Memblock's arrays lie in the machine).
#pragma once

#include <algorithm>
#include <vector>

#include "quire/base/types.h"

namespace quire::phys {

class RangeSet {
 public:
  void add(Range<PhysAddr> range) {
    if (range.empty()) return;
    std::vector<Range<PhysAddr>> out;
    for (const Range<PhysAddr>& r : ranges_) {
      if (r.end < range.begin || range.end < r.begin) {
        out.push_back(r);
      } else {
        range = {std::min(r.begin, range.begin), std::max(r.end, range.end)};
      }
    }
    out.insert(std::ranges::upper_bound(out, range.begin, {}, &Range<PhysAddr>::begin), range);
    ranges_ = std::move(out);
  }
  void remove(Range<PhysAddr> range) {
    std::vector<Range<PhysAddr>> out;
    for (const Range<PhysAddr>& r : ranges_) {
      if (!r.overlaps(range)) {
        out.push_back(r);
        continue;
      }
      if (r.begin < range.begin) out.push_back({r.begin, range.begin});
      if (range.end < r.end) out.push_back({range.end, r.end});
    }
    ranges_ = std::move(out);
  }
  [[nodiscard]] const std::vector<Range<PhysAddr>>& ranges() const { return ranges_; }
  // The parts of `within` that are not in the set, ascending.
  [[nodiscard]] std::vector<Range<PhysAddr>> gaps(Range<PhysAddr> within) const {
    RangeSet rest;
    rest.add(within);
    for (const Range<PhysAddr>& r : ranges_) rest.remove(r);
    return rest.ranges();
  }

 private:
  std::vector<Range<PhysAddr>> ranges_;
};

}  // namespace quire::phys
