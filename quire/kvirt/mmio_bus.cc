#include "quire/kvirt/mmio_device.h"

#include <algorithm>

namespace quire::kvirt {

Status MmioBus::add(Range<PhysAddr> range, MmioDevice& device) {
  if (range.empty() || range.begin.value() % 8 != 0 || range.end.value() % 8 != 0) return fail(Errno::kInval);
  if (range.size() > device.bytes()) return fail(Errno::kInval);
  const auto after = std::ranges::find_if(targets_, [&](const Target& t) { return t.range.end > range.begin; });
  if (after != targets_.end() && after->range.overlaps(range)) return fail(Errno::kBusy);
  targets_.insert(after, {.device = &device, .range = range});
  return {};
}

Status MmioBus::remove(MmioDevice& device) {
  const std::size_t gone = std::erase_if(targets_, [&](const Target& t) { return t.device == &device; });
  if (gone == 0) return fail(Errno::kNoEnt);
  return {};
}

MmioBus::Target MmioBus::find(PhysAddr pa) const {
  const auto at = std::ranges::find_if(targets_, [&](const Target& t) { return t.range.contains(pa); });
  return at == targets_.end() ? Target{} : *at;
}

}  // namespace quire::kvirt
