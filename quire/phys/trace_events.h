// The page allocator's tracepoints, with ftrace's names and fields (include/trace/events/kmem.h, oom.h).
// Those named alloc_* are ours: Linux has none for the single steps of an allocation.
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

// --- what the flows tell on their way (ours) ------------------------------------------------------------------------------

// A request enters its flow.
struct AllocBegin {
  static constexpr std::string_view kName = "alloc_begin";
  std::string_view policy;
  unsigned order;
  Gfp gfp_flags;
  MigrateType migratetype;
  int nid;                // where it would like to be served; -1: no zone is low enough
  std::string_view zone;  // "Normal"
  void fields(auto&& f) const {
    f("policy", policy);
    f("order", order);
    f("gfp_flags", bits(gfp_flags));
    f("migratetype", static_cast<unsigned>(migratetype));
    f("nid", nid);
    f("zone", zone);
  }
};

// It walks the zonelist.
struct AllocPass {
  static constexpr std::string_view kName = "alloc_pass";
  std::string_view why;
  unsigned alloc_flags;
  void fields(auto&& f) const {
    f("why", why);
    f("alloc_flags", alloc_flags);
  }
};

// It looks at one zone. How far the caller's rights lower the mark is in the pass's flags.
struct AllocZone {
  static constexpr std::string_view kName = "alloc_zone";
  int nid;
  std::string_view zone;
  unsigned order;
  std::uint64_t free;
  std::string_view mark_name;  // "low"
  std::uint64_t mark;          // pages, with the boost
  std::int64_t protection;
  std::string_view verdict;
  void fields(auto&& f) const {
    f("nid", nid);
    f("zone", zone);
    f("order", order);
    f("free", free);
    f("mark_name", mark_name);
    f("mark", mark);
    f("protection", protection);
    f("verdict", verdict);
  }
};

// A zone gave the block, or had none after all.
struct AllocTaken {
  static constexpr std::string_view kName = "alloc_taken";
  int nid;
  std::string_view zone;
  Pfn pfn;                  // kNoPfn: nothing
  std::string_view source;  // "per-CPU list", "buddy"
  void fields(auto&& f) const {
    f("nid", nid);
    f("zone", zone);
    f("pfn", pfn.value());
    f("source", source);
  }
};

// It turned to somebody (kswapd, bdflush, reclaim, compaction, the OOM killer), and what came of it.
struct AllocStep {
  static constexpr std::string_view kName = "alloc_step";
  std::string_view step;
  std::string_view result;  // empty: nothing to tell
  std::uint64_t pages;      // that the step gave back, where it gives any
  void fields(auto&& f) const {
    f("step", step);
    f("result", result);
    f("pages", pages);
  }
};

// Another round, and why.
struct AllocRetry {
  static constexpr std::string_view kName = "alloc_retry";
  std::string_view why;
  void fields(auto&& f) const { f("why", why); }
};

// It gives up.
struct AllocGaveUp {
  static constexpr std::string_view kName = "alloc_gave_up";
  std::string_view why;
  void fields(auto&& f) const { f("why", why); }
};

// --- oom.h ------------------------------------------------------------------------------------------------------------------

struct ReclaimRetryZone {
  static constexpr std::string_view kName = "reclaim_retry_zone";
  int node;
  int zone_idx;
  unsigned order;
  std::uint64_t reclaimable;
  std::uint64_t available;
  std::uint64_t min_wmark;
  int no_progress_loops;
  bool wmark_check;
  void fields(auto&& f) const {
    f("node", node);
    f("zone_idx", zone_idx);
    f("order", order);
    f("reclaimable", reclaimable);
    f("available", available);
    f("min_wmark", min_wmark);
    f("no_progress_loops", no_progress_loops);
    f("wmark_check", static_cast<unsigned>(wmark_check));
  }
};

struct CompactRetry {
  static constexpr std::string_view kName = "compact_retry";
  unsigned order;
  unsigned priority;
  std::string_view result;  // "failed", "withdrawn", "progress"
  int retries;
  int max_retries;
  bool ret;
  void fields(auto&& f) const {
    f("order", order);
    f("priority", priority);
    f("result", result);
    f("retries", retries);
    f("max_retries", max_retries);
    f("ret", static_cast<unsigned>(ret));
  }
};

struct PhysTracepoints {
  explicit PhysTracepoints(TraceRegistry& registry)
      : mm_page_free(registry),
        mm_page_alloc(registry),
        mm_page_alloc_zone_locked(registry),
        mm_page_pcpu_drain(registry),
        mm_page_alloc_extfrag(registry),
        reclaim_retry_zone(registry),
        compact_retry(registry),
        alloc_begin(registry),
        alloc_pass(registry),
        alloc_zone(registry),
        alloc_taken(registry),
        alloc_step(registry),
        alloc_retry(registry),
        alloc_gave_up(registry) {}

  Tracepoint<MmPageFree> mm_page_free;
  Tracepoint<MmPageAlloc> mm_page_alloc;
  Tracepoint<MmPageAllocZoneLocked> mm_page_alloc_zone_locked;
  Tracepoint<MmPagePcpuDrain> mm_page_pcpu_drain;
  Tracepoint<MmPageAllocExtfrag> mm_page_alloc_extfrag;
  Tracepoint<ReclaimRetryZone> reclaim_retry_zone;
  Tracepoint<CompactRetry> compact_retry;
  Tracepoint<AllocBegin> alloc_begin;
  Tracepoint<AllocPass> alloc_pass;
  Tracepoint<AllocZone> alloc_zone;
  Tracepoint<AllocTaken> alloc_taken;
  Tracepoint<AllocStep> alloc_step;
  Tracepoint<AllocRetry> alloc_retry;
  Tracepoint<AllocGaveUp> alloc_gave_up;
};

}  // namespace quire::phys
