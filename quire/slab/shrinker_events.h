// The tracepoints of shrinkers, with the names and fields of Linux 6.1's include/trace/events/vmscan.h. Where Linux prints a
// function, `shrink` is the shrinker's name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/tracepoint.h"

namespace quire::slab {

struct MmShrinkSlabStart {
  static constexpr std::string_view kName = "mm_shrink_slab_start";
  std::string_view shrink;
  int nid;
  std::uint64_t nr_objects_to_shrink;  // owed from before
  std::string gfp_flags;
  std::uint64_t cache_items;
  std::uint64_t delta;
  std::uint64_t total_scan;
  int priority;
  void fields(auto&& f) const {
    f("shrink", shrink);
    f("nid", nid);
    f("nr_objects_to_shrink", nr_objects_to_shrink);
    f("gfp_flags", std::string_view(gfp_flags));
    f("cache_items", cache_items);
    f("delta", delta);
    f("total_scan", total_scan);
    f("priority", priority);
  }
};

struct MmShrinkSlabEnd {
  static constexpr std::string_view kName = "mm_shrink_slab_end";
  std::string_view shrink;
  int nid;
  std::uint64_t unused_scan;  // owed before
  std::uint64_t new_scan;     // owed now
  std::uint64_t retval;       // freed
  std::uint64_t total_scan;   // left of this call's
  void fields(auto&& f) const {
    f("shrink", shrink);
    f("nid", nid);
    f("unused_scan", unused_scan);
    f("new_scan", new_scan);
    f("retval", retval);
    f("total_scan", total_scan);
  }
};

struct ShrinkerEvents {
  explicit ShrinkerEvents(TraceRegistry& traces) : start(traces), end(traces) {}
  Tracepoint<MmShrinkSlabStart> start;
  Tracepoint<MmShrinkSlabEnd> end;
};

}  // namespace quire::slab
