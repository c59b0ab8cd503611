// The tracepoints of reclaim, with the names and fields of Linux 6.1's include/trace/events/vmscan.h and oom.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/tracepoint.h"
#include "quire/base/types.h"
#include "quire/lru/lruvec.h"
#include "quire/phys/gfp.h"
#include "quire/reclaim/scan_control.h"

namespace quire::reclaim {

// RECLAIM_WB_*: what kind of pages a pass is about.
inline constexpr unsigned kReclaimWbAnon = 0x1;
inline constexpr unsigned kReclaimWbFile = 0x2;
inline constexpr unsigned kReclaimWbMixed = 0x10;
inline constexpr unsigned kReclaimWbAsync = 0x8;
[[nodiscard]] constexpr unsigned trace_shrink_flags(lru::AnonOrFile kind) {
  return (kind == lru::AnonOrFile::kFile ? kReclaimWbFile : kReclaimWbAnon) | kReclaimWbAsync;
}

struct MmVmscanKswapdSleep {
  static constexpr std::string_view kName = "mm_vmscan_kswapd_sleep";
  int nid;
  void fields(auto&& f) const { f("nid", nid); }
};
struct MmVmscanKswapdWake {
  static constexpr std::string_view kName = "mm_vmscan_kswapd_wake";
  int nid;
  int zid;
  int order;
  void fields(auto&& f) const {
    f("nid", nid);
    f("zid", zid);
    f("order", order);
  }
};
struct MmVmscanWakeupKswapd {
  static constexpr std::string_view kName = "mm_vmscan_wakeup_kswapd";
  int nid;
  int zid;
  int order;
  std::string gfp_flags;
  void fields(auto&& f) const {
    f("nid", nid);
    f("zid", zid);
    f("order", order);
    f("gfp_flags", std::string_view(gfp_flags));
  }
};
struct MmVmscanDirectReclaimBegin {
  static constexpr std::string_view kName = "mm_vmscan_direct_reclaim_begin";
  int order;
  std::string gfp_flags;
  void fields(auto&& f) const {
    f("order", order);
    f("gfp_flags", std::string_view(gfp_flags));
  }
};
struct MmVmscanDirectReclaimEnd {
  static constexpr std::string_view kName = "mm_vmscan_direct_reclaim_end";
  std::uint64_t nr_reclaimed;
  void fields(auto&& f) const { f("nr_reclaimed", nr_reclaimed); }
};
struct MmVmscanNodeReclaimBegin {
  static constexpr std::string_view kName = "mm_vmscan_node_reclaim_begin";
  int nid;
  int order;
  std::string gfp_flags;
  void fields(auto&& f) const {
    f("nid", nid);
    f("order", order);
    f("gfp_flags", std::string_view(gfp_flags));
  }
};
struct MmVmscanNodeReclaimEnd {
  static constexpr std::string_view kName = "mm_vmscan_node_reclaim_end";
  std::uint64_t nr_reclaimed;
  void fields(auto&& f) const { f("nr_reclaimed", nr_reclaimed); }
};
struct MmVmscanLruIsolate {
  static constexpr std::string_view kName = "mm_vmscan_lru_isolate";
  unsigned isolate_mode;
  int highest_zoneidx;
  int order;
  std::uint64_t nr_requested;
  std::uint64_t nr_scanned;
  std::uint64_t nr_skipped;
  std::uint64_t nr_taken;
  lru::LruList lru;
  void fields(auto&& f) const {
    f("isolate_mode", isolate_mode);
    f("classzone", highest_zoneidx);
    f("order", order);
    f("nr_requested", nr_requested);
    f("nr_scanned", nr_scanned);
    f("nr_skipped", nr_skipped);
    f("nr_taken", nr_taken);
    f("lru", lru::lru_list_name(lru));
  }
};
struct MmVmscanWriteFolio {
  static constexpr std::string_view kName = "mm_vmscan_write_folio";
  Pfn pfn;
  unsigned flags;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("flags", flags);
  }
};
struct MmVmscanLruShrinkInactive {
  static constexpr std::string_view kName = "mm_vmscan_lru_shrink_inactive";
  int nid;
  std::uint64_t nr_scanned;
  std::uint64_t nr_reclaimed;
  ReclaimStat stat;
  int priority;
  unsigned flags;
  void fields(auto&& f) const {
    f("nid", nid);
    f("nr_scanned", nr_scanned);
    f("nr_reclaimed", nr_reclaimed);
    f("nr_dirty", stat.nr_dirty);
    f("nr_writeback", stat.nr_writeback);
    f("nr_congested", stat.nr_congested);
    f("nr_immediate", stat.nr_immediate);
    f("nr_activate_anon", stat.nr_activate[0]);
    f("nr_activate_file", stat.nr_activate[1]);
    f("nr_ref_keep", stat.nr_ref_keep);
    f("nr_unmap_fail", stat.nr_unmap_fail);
    f("priority", priority);
    f("flags", flags);
  }
};
struct MmVmscanLruShrinkActive {
  static constexpr std::string_view kName = "mm_vmscan_lru_shrink_active";
  int nid;
  std::uint64_t nr_taken;
  std::uint64_t nr_active;
  std::uint64_t nr_deactivated;
  std::uint64_t nr_referenced;
  int priority;
  unsigned flags;
  void fields(auto&& f) const {
    f("nid", nid);
    f("nr_taken", nr_taken);
    f("nr_active", nr_active);
    f("nr_deactivated", nr_deactivated);
    f("nr_referenced", nr_referenced);
    f("priority", priority);
    f("flags", flags);
  }
};
struct MmVmscanThrottled {
  static constexpr std::string_view kName = "mm_vmscan_throttled";
  int nid;
  std::uint64_t usec_timeout;
  std::uint64_t usec_delayed;
  std::string_view reason;
  void fields(auto&& f) const {
    f("nid", nid);
    f("usec_timeout", usec_timeout);
    f("usec_delayed", usec_delayed);
    f("reason", reason);
  }
};
struct MarkVictim {
  static constexpr std::string_view kName = "mark_victim";
  std::uint64_t pid;
  void fields(auto&& f) const { f("pid", pid); }
};

// The tracepoints of one machine's reclaim.
struct ReclaimEvents {
  explicit ReclaimEvents(TraceRegistry& registry)
      : kswapd_sleep(registry),
        kswapd_wake(registry),
        wakeup_kswapd(registry),
        direct_reclaim_begin(registry),
        direct_reclaim_end(registry),
        node_reclaim_begin(registry),
        node_reclaim_end(registry),
        lru_isolate(registry),
        write_folio(registry),
        lru_shrink_inactive(registry),
        lru_shrink_active(registry),
        throttled(registry),
        mark_victim(registry) {}
  Tracepoint<MmVmscanKswapdSleep> kswapd_sleep;
  Tracepoint<MmVmscanKswapdWake> kswapd_wake;
  Tracepoint<MmVmscanWakeupKswapd> wakeup_kswapd;
  Tracepoint<MmVmscanDirectReclaimBegin> direct_reclaim_begin;
  Tracepoint<MmVmscanDirectReclaimEnd> direct_reclaim_end;
  Tracepoint<MmVmscanNodeReclaimBegin> node_reclaim_begin;
  Tracepoint<MmVmscanNodeReclaimEnd> node_reclaim_end;
  Tracepoint<MmVmscanLruIsolate> lru_isolate;
  Tracepoint<MmVmscanWriteFolio> write_folio;
  Tracepoint<MmVmscanLruShrinkInactive> lru_shrink_inactive;
  Tracepoint<MmVmscanLruShrinkActive> lru_shrink_active;
  Tracepoint<MmVmscanThrottled> throttled;
  Tracepoint<MarkVictim> mark_victim;
};

}  // namespace quire::reclaim
