// Getting pages back (Linux's mm/vmscan.c and mm/oom_kill.c).
//
//   phys: below low ── wakeup_kswapd ──▶ kswapd task ─ balance_pgdat ─┐
//   phys: below min ── try_to_free_pages ─ do_try_to_free_pages ──────┤ priority 12 … 0
//                                                                     ▼
//        shrink_node ─ shrink_lruvec ─ shrink_list ─┬ shrink_active_list     active → inactive
//              │                                    └ shrink_inactive_list ─ shrink_folio_list   unmap, write, free
//              └ shrink_slab
//   phys: no progress ── out_of_memory ─ select_bad_process ─ OomVictims
//
// Mechanism here, policy in ReclaimPolicy. One file for each verb: kswapd.cc, direct.cc, shrink_node.cc, shrink_active.cc,
// shrink_inactive.cc, shrink_folio_list.cc, throttle.cc, oom.cc, node_reclaim.cc, launder.cc (what linux-2.4's allocation asks).
//
// Locks: lru_lock while folios are taken from and given back to the lists; a folio's lock (tried, never waited for) while
// it is judged. An isolated folio belongs to the reclaimer that holds it: PG_lru is clear and NR_ISOLATED_* counts it.
// Reclaim's own allocations (swap slots, zram's store) run under MemallocScope and never enter reclaim again.
// Differs from Linux: no memory cgroups or demotion yet; a reclaimer throttled on writeback looks once a jiffy
// whether enough was written, where Linux is woken by the page that makes it enough.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "quire/base/thread_annotations.h"
#include "quire/compact/compaction.h"
#include "quire/lru/lru.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/memory_pressure.h"
#include "quire/phys/phys_mem.h"
#include "quire/reclaim/events.h"
#include "quire/reclaim/folio_actions.h"
#include "quire/reclaim/oom.h"
#include "quire/reclaim/reclaim_policy.h"
#include "quire/reclaim/scan_control.h"
#include "quire/sim/scheduler.h"
#include "quire/sim/wait_queue.h"
#include "quire/slab/slab_system.h"
#include "quire/swap/swap_system.h"

namespace quire::reclaim {

struct ReclaimParts {
  phys::PhysMem& phys;
  sim::Scheduler& scheduler;
  slab::SlabSystem& slab;
  lru::Lru& lru;
  swap::SwapSystem& swap;
  FolioActions& actions;
  TraceRegistry& traces;
};

struct ReclaimTunables {
  unsigned swappiness = 60;               // vm.swappiness, 0 … 200
  bool oom_kill_allocating_task = false;  // vm.oom_kill_allocating_task
  unsigned zone_reclaim_mode = 0;         // vm.zone_reclaim_mode: 1 on, 2 may write, 4 may unmap (RECLAIM_*)
  unsigned min_unmapped_ratio = 1;        // vm.min_unmapped_ratio, percent of a node: less page cache is left alone
  unsigned min_slab_ratio = 5;            // vm.min_slab_ratio, percent of a node
};

// VMSCAN_THROTTLE_*
enum class VmscanThrottle : std::uint8_t { kWriteback, kIsolated, kNoProgress, kCongested, kCount };
[[nodiscard]] std::string_view vmscan_throttle_name(VmscanThrottle reason);

// PGDAT_*: what reclaim has found out about a node.
enum class PgdatFlag : std::uint8_t {
  kNone = 0,
  kDirty = 1u << 0,          // nothing but dirty file pages at the tail: kswapd writes them itself
  kWriteback = 1u << 1,      // nothing but pages under writeback
  kReclaimLocked = 1u << 2,  // somebody reclaims it for a local request (PGDAT_RECLAIM_LOCKED)
};

}  // namespace quire::reclaim

template <>
inline constexpr bool quire::kIsFlags<quire::reclaim::PgdatFlag> = true;

namespace quire::reclaim {

// Reclaim's part of a pg_data_t.
struct NodeReclaim {
  NodeReclaim(sim::Scheduler& scheduler, phys::Node& node_of);

  phys::Node& node;
  sim::Task* kswapd = nullptr;
  sim::WaitQueue kswapd_wait;
  sim::WaitQueue pfmemalloc_wait;  // direct reclaimers throttled until the reserves recover
  sim::WaitQueue kswapd_done;      // linux-2.4's callers, until kswapd has been over the node once more
  std::array<std::unique_ptr<sim::WaitQueue>, static_cast<std::size_t>(VmscanThrottle::kCount)> reclaim_wait;
  std::uint64_t nr_writeback_throttled = 0;
  Order kswapd_order{};
  phys::ZoneType kswapd_highest_zoneidx = phys::ZoneType::kCount;  // kCount: nothing asked for
  unsigned kswapd_failures = 0;
  PgdatFlag flags = PgdatFlag::kNone;
};

class Reclaim final : public phys::MemoryPressure, private phys::HotplugListener {
 public:
  Reclaim(const ReclaimParts& parts, std::unique_ptr<ReclaimPolicy> policy);
  ~Reclaim() override;

  // Spawns a kswapd (a daemon task) for each node with memory, and plugs this into phys and lru. At boot. A node that gets its
  // first memory later gets its kswapd then; one that loses its last keeps a kswapd that finds nothing to do.
  void start();
  void set_oom_victims(OomVictims* victims) { victims_ = victims; }
  // Without it no block is ever made by moving pages.
  void set_compaction(compact::Compaction* compaction) { compaction_ = compaction; }

  // --- phys::MemoryPressure ---
  void wakeup_kswapd(phys::Zone& zone, phys::Gfp gfp, Order order, phys::ZoneType highest_zoneidx) override;
  std::uint64_t try_to_free_pages(phys::ZoneList& zonelist, Order order, phys::Gfp gfp) override;
  bool out_of_memory(phys::Gfp gfp, Order order) override;
  [[nodiscard]] bool compaction_enabled() const override { return compaction_ != nullptr; }
  phys::CompactResult try_to_compact_pages(phys::ZoneList& zonelist, Order order, phys::Gfp gfp, phys::AllocFlags flags,
                                           phys::CompactPriority priority) override;
  void compaction_succeeded(phys::Zone& zone, Order order) override;
  [[nodiscard]] std::uint64_t zone_reclaimable_pages(const phys::Zone& zone) const override;
  [[nodiscard]] bool node_reclaim_enabled() const override { return tunables_.zone_reclaim_mode != 0; }
  phys::NodeReclaimResult node_reclaim(phys::Zone& zone, phys::Gfp gfp, Order order) override;
  void wakeup_bdflush() override;
  [[nodiscard]] std::uint64_t nr_inactive_clean_pages(const phys::Zone& zone) const override;
  [[nodiscard]] std::uint64_t nr_inactive_dirty_pages() const override;
  bool reclaim_page(phys::Zone& zone) override;
  std::uint64_t page_launder(phys::Gfp gfp) override;
  bool wait_for_kswapd(phys::Node& node) override;

  // --- for madvise(MADV_PAGEOUT) and the like ---
  // Reclaims the folios of an isolated list whatever their references say; those left are put back. Pages reclaimed.
  // (reclaim_pages)
  std::uint64_t reclaim_folio_list(phys::FolioList& folios);
  // echo 2 > drop_caches
  void drop_slab();

  [[nodiscard]] ReclaimTunables& tunables() { return tunables_; }
  [[nodiscard]] const ReclaimPolicy& policy() const { return *policy_; }
  [[nodiscard]] const NodeReclaim& node_reclaim(Nid nid) const { return *nodes_[static_cast<std::size_t>(nid.value())]; }
  [[nodiscard]] std::uint64_t nr_oom_kills() const { return nr_oom_kills_; }
  [[nodiscard]] ReclaimEvents& events() { return events_; }

  // No folio is isolated, no reclaimer at work, counters are sane: for a machine at rest.
  void validate() const;

 private:
  enum class References : std::uint8_t { kCheck, kIgnore };
  enum class Verdict : std::uint8_t;
  struct FolioScan;

  void online(const phys::MemoryNotify& notify) override;
  void kswapd_run(NodeReclaim& node);
  [[nodiscard]] NodeReclaim& node_of(phys::Node& node) { return *nodes_[static_cast<std::size_t>(node.nid().value())]; }
  [[nodiscard]] ReclaimView view() const;

  // kswapd.cc
  void kswapd(NodeReclaim& node);
  void kswapd_try_to_sleep(NodeReclaim& node, Order alloc_order, Order reclaim_order, phys::ZoneType highest_zoneidx);
  [[nodiscard]] bool prepare_kswapd_sleep(NodeReclaim& node, Order order, phys::ZoneType highest_zoneidx);
  [[nodiscard]] Order balance_pgdat(NodeReclaim& node, Order order, phys::ZoneType highest_zoneidx);
  enum class Scanned : std::uint8_t { kTooLittle, kEnough };
  [[nodiscard]] Scanned kswapd_shrink_node(NodeReclaim& node, ScanControl& sc);
  void kswapd_age_node(NodeReclaim& node, ScanControl& sc);
  [[nodiscard]] bool pgdat_balanced(const phys::Node& node, Order order, phys::ZoneType highest_zoneidx) const;
  [[nodiscard]] static bool pgdat_watermark_boosted(const phys::Node& node, phys::ZoneType highest_zoneidx);

  // direct.cc
  [[nodiscard]] std::uint64_t do_try_to_free_pages(phys::ZoneList& zonelist, ScanControl& sc);
  void shrink_zones(phys::ZoneList& zonelist, ScanControl& sc);
  // True when the caller was killed while it waited.
  [[nodiscard]] bool throttle_direct_reclaim(phys::Gfp gfp, phys::ZoneList& zonelist);
  [[nodiscard]] bool allow_direct_reclaim(NodeReclaim& node);
  [[nodiscard]] bool compaction_ready(const phys::Zone& zone, const ScanControl& sc) const;
  [[nodiscard]] phys::CompactSuitable compaction_suitable(const phys::Zone& zone, const ScanControl& sc) const;

  // node_reclaim.cc
  [[nodiscard]] std::uint64_t node_pagecache_reclaimable(const phys::Node& node) const;
  [[nodiscard]] std::uint64_t do_node_reclaim(NodeReclaim& node, phys::Gfp gfp, Order order);

  // launder.cc
  [[nodiscard]] phys::Folio* isolate_inactive_file(NodeReclaim& node, lru::Lruvec& lruvec,
                                                   FunctionRef<bool(phys::Folio&)> wanted);
  void putback_inactive_file(NodeReclaim& node, lru::Lruvec& lruvec, phys::FolioList& folios);

  // shrink_node.cc
  void shrink_node(NodeReclaim& node, ScanControl& sc);
  void shrink_lruvec(NodeReclaim& node, lru::Lruvec& lruvec, ScanControl& sc);
  std::uint64_t shrink_list(lru::LruList list, std::uint64_t nr_to_scan, NodeReclaim& node, lru::Lruvec& lruvec,
                            ScanControl& sc);
  [[nodiscard]] bool should_continue_reclaim(const phys::Node& node, std::uint64_t nr_reclaimed, const ScanControl& sc) const;
  void shrink_slab(NodeReclaim& node, ScanControl& sc);
  void clear_congested(NodeReclaim& node);
  [[nodiscard]] static bool watermark_ok(const phys::Zone& zone, Order order, std::uint64_t mark, phys::ZoneType highest);
  void note_laundering(NodeReclaim& node, lru::Lruvec& lruvec, ScanControl& sc);
  [[nodiscard]] bool can_age_anon() const { return parts_.swap.total_swap_pages() > 0; }
  [[nodiscard]] bool can_reclaim_anon() const { return parts_.swap.get_nr_swap_pages() > 0; }

  // isolate.cc; lru_lock held
  [[nodiscard]] std::uint64_t isolate_lru_folios(std::uint64_t nr_to_scan, lru::Lruvec& lruvec, phys::FolioList& taken,
                                                 std::uint64_t& nr_scanned, const ScanControl& sc, lru::LruList list)
      QUIRE_REQUIRES(lruvec.lru_lock);
  // Gives isolated folios back to their lists; those whose last reference this was stay on `folios`, to be freed.
  std::uint64_t move_folios_to_lru(lru::Lruvec& lruvec, phys::FolioList& folios) QUIRE_REQUIRES(lruvec.lru_lock);
  [[nodiscard]] bool too_many_isolated(NodeReclaim& node, lru::AnonOrFile kind, const ScanControl& sc);

  // shrink_active.cc, shrink_inactive.cc
  void shrink_active_list(std::uint64_t nr_to_scan, NodeReclaim& node, lru::Lruvec& lruvec, ScanControl& sc, lru::LruList list);
  std::uint64_t shrink_inactive_list(std::uint64_t nr_to_scan, NodeReclaim& node, lru::Lruvec& lruvec, ScanControl& sc,
                                     lru::LruList list);

  // shrink_folio_list.cc
  std::uint64_t shrink_folio_list(phys::FolioList& folios, NodeReclaim& node, ScanControl& sc, ReclaimStat& stat,
                                  References references);
  Verdict shrink_folio(FolioScan& scan);
  Verdict check_writeback(FolioScan& scan);
  Verdict make_reclaimable(FolioScan& scan);
  Verdict unmap_folio(FolioScan& scan);
  Verdict write_folio(FolioScan& scan);
  Verdict free_folio(FolioScan& scan);
  void activate_folio(FolioScan& scan);

  // throttle.cc
  void reclaim_throttle(NodeReclaim& node, VmscanThrottle reason);
  void consider_reclaim_throttle(NodeReclaim& node, const ScanControl& sc);
  [[nodiscard]] bool skip_throttle_noprogress(const NodeReclaim& node) const;

  [[nodiscard]] bool fatal_signal_pending() const { return victims_ != nullptr && victims_->fatal_signal_pending(); }

  ReclaimParts parts_;
  std::unique_ptr<ReclaimPolicy> policy_;
  ReclaimTunables tunables_;
  ReclaimEvents events_;
  std::vector<std::unique_ptr<NodeReclaim>> nodes_;
  OomVictims* victims_ = nullptr;
  compact::Compaction* compaction_ = nullptr;
  std::uint64_t nr_oom_kills_ = 0;
};

}  // namespace quire::reclaim
