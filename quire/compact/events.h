// The tracepoints of compaction, with the names and fields of Linux 6.1's include/trace/events/compaction.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/tracepoint.h"
#include "quire/base/types.h"
#include "quire/phys/memory_pressure.h"
#include "quire/phys/page_mover.h"

namespace quire::compact {

// What a scanner looked at and took from one pageblock.
struct CompactionIsolateEvent {
  Pfn start_pfn;
  Pfn end_pfn;
  std::uint64_t nr_scanned;
  std::uint64_t nr_taken;
  void fields(auto&& f) const {
    f("start_pfn", start_pfn.value());
    f("end_pfn", end_pfn.value());
    f("nr_scanned", nr_scanned);
    f("nr_taken", nr_taken);
  }
};
struct MmCompactionIsolateMigratepages : CompactionIsolateEvent {
  static constexpr std::string_view kName = "mm_compaction_isolate_migratepages";
};
struct MmCompactionIsolateFreepages : CompactionIsolateEvent {
  static constexpr std::string_view kName = "mm_compaction_isolate_freepages";
};
struct MmCompactionMigratepages {
  static constexpr std::string_view kName = "mm_compaction_migratepages";
  std::uint64_t nr_migrated;
  std::uint64_t nr_failed;
  void fields(auto&& f) const {
    f("nr_migrated", nr_migrated);
    f("nr_failed", nr_failed);
  }
};
struct MmCompactionBegin {
  static constexpr std::string_view kName = "mm_compaction_begin";
  Pfn zone_start;
  Pfn migrate_pfn;
  Pfn free_pfn;
  Pfn zone_end;
  bool sync;
  void fields(auto&& f) const {
    f("zone_start", zone_start.value());
    f("migrate_pfn", migrate_pfn.value());
    f("free_pfn", free_pfn.value());
    f("zone_end", zone_end.value());
    f("sync", sync ? 1u : 0u);
  }
};
struct MmCompactionEnd {
  static constexpr std::string_view kName = "mm_compaction_end";
  Pfn zone_start;
  Pfn migrate_pfn;
  Pfn free_pfn;
  Pfn zone_end;
  bool sync;
  phys::CompactResult status;
  void fields(auto&& f) const {
    f("zone_start", zone_start.value());
    f("migrate_pfn", migrate_pfn.value());
    f("free_pfn", free_pfn.value());
    f("zone_end", zone_end.value());
    f("sync", sync ? 1u : 0u);
    f("status", compact_result_name(status));
  }
};
struct MmCompactionTryToCompactPages {
  static constexpr std::string_view kName = "mm_compaction_try_to_compact_pages";
  unsigned order;
  std::string gfp_mask;
  phys::CompactPriority prio;
  void fields(auto&& f) const {
    f("order", order);
    f("gfp_mask", std::string_view(gfp_mask));
    f("prio", static_cast<unsigned>(prio));
  }
};
// Of one zone: finished and suitable, the three of deferral, and kcompactd's wake-up share a shape.
struct CompactionZoneEvent {
  int nid;
  std::string_view zone;
  unsigned order;
  void zone_fields(auto&& f) const {
    f("nid", nid);
    f("zone", zone);
    f("order", order);
  }
};
struct MmCompactionFinished : CompactionZoneEvent {
  static constexpr std::string_view kName = "mm_compaction_finished";
  phys::CompactResult ret;
  void fields(auto&& f) const {
    zone_fields(f);
    f("ret", compact_result_name(ret));
  }
};
struct MmCompactionSuitable : CompactionZoneEvent {
  static constexpr std::string_view kName = "mm_compaction_suitable";
  phys::CompactResult ret;
  void fields(auto&& f) const {
    zone_fields(f);
    f("ret", compact_result_name(ret));
  }
};
struct CompactionDeferEvent : CompactionZoneEvent {
  std::uint32_t considered;
  std::uint32_t defer_shift;
  std::uint32_t order_failed;
  void fields(auto&& f) const {
    zone_fields(f);
    f("considered", considered);
    f("limit", std::uint64_t{1} << defer_shift);
    f("order_failed", order_failed);
  }
};
struct MmCompactionDeferred : CompactionDeferEvent {
  static constexpr std::string_view kName = "mm_compaction_deferred";
};
struct MmCompactionDeferCompaction : CompactionDeferEvent {
  static constexpr std::string_view kName = "mm_compaction_defer_compaction";
};
struct MmCompactionDeferReset : CompactionDeferEvent {
  static constexpr std::string_view kName = "mm_compaction_defer_reset";
};
struct MmCompactionKcompactdSleep {
  static constexpr std::string_view kName = "mm_compaction_kcompactd_sleep";
  int nid;
  void fields(auto&& f) const { f("nid", nid); }
};
struct KcompactdWakeEvent {
  int nid;
  unsigned order;
  unsigned highest_zoneidx;
  void fields(auto&& f) const {
    f("nid", nid);
    f("order", order);
    f("highest_zoneidx", highest_zoneidx);
  }
};
struct MmCompactionWakeupKcompactd : KcompactdWakeEvent {
  static constexpr std::string_view kName = "mm_compaction_wakeup_kcompactd";
};
struct MmCompactionKcompactdWake : KcompactdWakeEvent {
  static constexpr std::string_view kName = "mm_compaction_kcompactd_wake";
};

struct CompactionEvents {
  explicit CompactionEvents(TraceRegistry& r)
      : isolate_migratepages(r),
        isolate_freepages(r),
        migratepages(r),
        begin(r),
        end(r),
        try_to_compact_pages(r),
        finished(r),
        suitable(r),
        deferred(r),
        defer_compaction(r),
        defer_reset(r),
        kcompactd_sleep(r),
        wakeup_kcompactd(r),
        kcompactd_wake(r) {}

  Tracepoint<MmCompactionIsolateMigratepages> isolate_migratepages;
  Tracepoint<MmCompactionIsolateFreepages> isolate_freepages;
  Tracepoint<MmCompactionMigratepages> migratepages;
  Tracepoint<MmCompactionBegin> begin;
  Tracepoint<MmCompactionEnd> end;
  Tracepoint<MmCompactionTryToCompactPages> try_to_compact_pages;
  Tracepoint<MmCompactionFinished> finished;
  Tracepoint<MmCompactionSuitable> suitable;
  Tracepoint<MmCompactionDeferred> deferred;
  Tracepoint<MmCompactionDeferCompaction> defer_compaction;
  Tracepoint<MmCompactionDeferReset> defer_reset;
  Tracepoint<MmCompactionKcompactdSleep> kcompactd_sleep;
  Tracepoint<MmCompactionWakeupKcompactd> wakeup_kcompactd;
  Tracepoint<MmCompactionKcompactdWake> kcompactd_wake;
};

}  // namespace quire::compact
