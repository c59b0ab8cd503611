#include "quire/sim/fault_injection.h"

#include "quire/base/bug.h"

namespace quire::sim {

std::string_view fault_point_name(FaultPoint point) {
  switch (point) {
    case FaultPoint::kPageAlloc: return "fail_page_alloc";
    case FaultPoint::kSlabAlloc: return "failslab";
    case FaultPoint::kIoRead: return "fail_io_read";
    case FaultPoint::kIoWrite: return "fail_io_write";
    case FaultPoint::kIoSlow: return "slow_io";
    case FaultPoint::kSwapFull: return "fail_swap_slot";
    case FaultPoint::kHotplug: return "fail_hotplug";
    case FaultPoint::kCount: break;
  }
  bug("no such fault point");
}

Result<FaultPoint> fault_point_by_name(std::string_view name) {
  for (unsigned i = 0; i < static_cast<unsigned>(FaultPoint::kCount); ++i) {
    if (fault_point_name(static_cast<FaultPoint>(i)) == name) return static_cast<FaultPoint>(i);
  }
  return fail(Errno::kNoEnt);
}

void FaultInjection::set(FaultPoint point, const FaultAttr& attr) {
  states_[static_cast<std::size_t>(point)] = State{.attr = attr};
  const bool armed = attr.nth != 0 || (attr.probability != 0 && attr.times != 0);
  armed_ = armed ? armed_ | bit(point) : armed_ & ~bit(point);
}

bool FaultInjection::should_fail_slow(FaultPoint point, std::uint64_t size) {
  State& s = states_[static_cast<std::size_t>(point)];
  FaultAttr& attr = s.attr;
  ++s.calls;
  if (attr.nth != 0 && --attr.nth == 0) {
    ++s.failures;
    return true;
  }
  if (attr.probability == 0 || attr.times == 0) return false;
  if (attr.space > size) {
    attr.space -= size;
    return false;
  }
  attr.space = 0;
  if (attr.interval > 1 && s.calls % attr.interval != 0) return false;
  if (attr.probability < 100 && !rng_.chance(attr.probability, 100)) return false;
  if (attr.times > 0) --attr.times;
  ++s.failures;
  return true;
}

}  // namespace quire::sim
