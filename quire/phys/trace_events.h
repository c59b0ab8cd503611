// The page allocator's tracepoints, with ftrace's names and fields (include/trace/events/kmem.h).
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/tracepoint.h"
#include "quire/base/types.h"
#include "quire/phys/gfp.h"

namespace quire::phys {

inline constexpr std::uint64_t kNoPfn = ~std::uint64_t{0};  // of a failed allocation

struct MmPageAlloc {
  static constexpr std::string_view kName = "mm_page_alloc";
  Pfn pfn;
  unsigned order;
  Gfp gfp_flags;
  MigrateType migratetype;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("order", order);
    f("gfp_flags", bits(gfp_flags));
    f("migratetype", static_cast<unsigned>(migratetype));
  }
};

struct MmPageFree {
  static constexpr std::string_view kName = "mm_page_free";
  Pfn pfn;
  unsigned order;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("order", order);
  }
};

struct MmPageAllocZoneLocked {
  static constexpr std::string_view kName = "mm_page_alloc_zone_locked";
  Pfn pfn;
  unsigned order;
  MigrateType migratetype;
  unsigned percpu_refill;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("order", order);
    f("migratetype", static_cast<unsigned>(migratetype));
    f("percpu_refill", percpu_refill);
  }
};

struct MmPagePcpuDrain {
  static constexpr std::string_view kName = "mm_page_pcpu_drain";
  Pfn pfn;
  unsigned order;
  MigrateType migratetype;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("order", order);
    f("migratetype", static_cast<unsigned>(migratetype));
  }
};

struct MmPageAllocExtfrag {
  static constexpr std::string_view kName = "mm_page_alloc_extfrag";
  Pfn pfn;
  unsigned alloc_order;
  unsigned fallback_order;
  MigrateType alloc_migratetype;
  MigrateType fallback_migratetype;
  unsigned change_ownership;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("alloc_order", alloc_order);
    f("fallback_order", fallback_order);
    f("alloc_migratetype", static_cast<unsigned>(alloc_migratetype));
    f("fallback_migratetype", static_cast<unsigned>(fallback_migratetype));
    f("fragmenting", fallback_order < 9u ? 1u : 0u);
    f("change_ownership", change_ownership);
  }
};

struct PhysTracepoints {
  explicit PhysTracepoints(TraceRegistry& registry)
      : mm_page_free(registry),
        mm_page_alloc(registry),
        mm_page_alloc_zone_locked(registry),
        mm_page_pcpu_drain(registry),
        mm_page_alloc_extfrag(registry) {}

  Tracepoint<MmPageFree> mm_page_free;
  Tracepoint<MmPageAlloc> mm_page_alloc;
  Tracepoint<MmPageAllocZoneLocked> mm_page_alloc_zone_locked;
  Tracepoint<MmPagePcpuDrain> mm_page_pcpu_drain;
  Tracepoint<MmPageAllocExtfrag> mm_page_alloc_extfrag;
};

}  // namespace quire::phys
