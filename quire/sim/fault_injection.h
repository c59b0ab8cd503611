// Seeded failures, set by the attributes of Linux's fault injection (Documentation/fault-injection): at each point the
// n-th call fails, or every `interval`-th with `probability` percent, at most `times` times, after `space` bytes.
//
// Has random numbers of its own, so that arming a point does not change the order in which tasks run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/base/result.h"
#include "quire/base/rng.h"

namespace quire::sim {

enum class FaultPoint : std::uint8_t {
  kPageAlloc,  // fail_page_alloc
  kSlabAlloc,  // failslab
  kIoRead,     // fail_make_request, reads
  kIoWrite,    // fail_make_request, writes
  kIoSlow,     // a disk request takes DiskConfig::slow_factor times as long
  kSwapFull,   // no swap slot
  kHotplug,    // a step of adding, onlining, offlining or removing memory
  kCount,
};
[[nodiscard]] std::string_view fault_point_name(FaultPoint point);
// kNoEnt: no point of that name.
[[nodiscard]] Result<FaultPoint> fault_point_by_name(std::string_view name);

struct FaultAttr {
  unsigned probability = 0;    // percent of the calls considered
  std::uint64_t interval = 1;  // only each interval-th call is considered
  std::int64_t times = -1;     // how many failures at most; -1 without limit
  std::uint64_t space = 0;     // bytes that succeed first
  std::uint64_t nth = 0;       // this call fails (1: the next), whatever the rest says; 0: none
};

class FaultInjection {
 public:
  explicit FaultInjection(std::uint64_t seed) : rng_(seed ^ kStream) {}

  void set(FaultPoint point, const FaultAttr& attr);
  [[nodiscard]] const FaultAttr& attr(FaultPoint point) const { return state(point).attr; }

  // True when this call is to fail; `size` in bytes is what `space` is spent on.
  [[nodiscard]] bool should_fail(FaultPoint point, std::uint64_t size = 1) {
    if ((armed_ & bit(point)) == 0) [[likely]]
      return false;
    return should_fail_slow(point, size);
  }

  [[nodiscard]] std::uint64_t calls(FaultPoint point) const { return state(point).calls; }  // while armed
  [[nodiscard]] std::uint64_t failures(FaultPoint point) const { return state(point).failures; }

 private:
  static constexpr std::uint64_t kStream = 0x6661756c74;
  struct State {
    FaultAttr attr;
    std::uint64_t calls = 0;
    std::uint64_t failures = 0;
  };
  static constexpr std::uint32_t bit(FaultPoint point) { return 1u << static_cast<unsigned>(point); }
  [[nodiscard]] const State& state(FaultPoint point) const { return states_[static_cast<std::size_t>(point)]; }
  bool should_fail_slow(FaultPoint point, std::uint64_t size);

  std::uint32_t armed_ = 0;
  std::array<State, static_cast<std::size_t>(FaultPoint::kCount)> states_{};
  Rng rng_;
};

}  // namespace quire::sim
