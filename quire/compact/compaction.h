// Compaction: makes large free blocks by moving pages that are in use together (Linux's mm/compaction.c).
//
//   zone  | used . used used .. used . . used ........ |
//           ▲ migrate scanner, upwards:    ▲ free scanner, downwards:
//             movable pages to take          free frames to put them into       until they meet, or a block has come free
//
//   allocation ── try_to_compact_pages ── compact_zone, unless the zone's past failures defer it
//   kswapd ────── wakeup_kcompactd ────── kcompactd task of the node ── compact_zone
//   write to compact_memory ──────────── compact_nodes
//
// One file for each part: isolate_migratepages.cc, isolate_freepages.cc (the scanners), compact_zone.cc (a run), defer.cc (when
// not to run), kcompactd.cc. Also the machine's phys::PageMover, for isolation of a range and hotplug.
//
// Locks: Zone::lock while the free scanner takes blocks; lru_lock a folio; no lock over a whole run. Two runs in one zone are
// harmless: they share only the cached positions.
// Differs from Linux: the shortcuts into the free lists (fast_isolate_freepages, fast_find_migrateblock) and the capture of the
// freed block by the compacting task are left out: scanners scan, and the block is found on the free list.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/compact/compact_control.h"
#include "quire/compact/events.h"
#include "quire/phys/fragmentation.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/memory_pressure.h"
#include "quire/phys/page_mover.h"
#include "quire/sim/scheduler.h"
#include "quire/sim/wait_queue.h"
#include "quire/vm/migrate.h"
#include "quire/vm/vm.h"

namespace quire::compact {

struct CompactionTunables {
  unsigned compaction_proactiveness = 20;   // vm.compaction_proactiveness, 0 … 100; 0: never of its own accord
  bool compact_unevictable_allowed = true;  // vm.compact_unevictable_allowed
};

// Compaction's part of a pg_data_t.
struct NodeCompaction {
  NodeCompaction(sim::Scheduler& scheduler, phys::Node& node_of)
      : node(node_of), kcompactd_wait(scheduler, "kcompactd_wait", sim::Sleep::kInterruptible) {}

  phys::Node& node;
  sim::Task* kcompactd = nullptr;
  sim::WaitQueue kcompactd_wait;
  Order kcompactd_max_order{};
  phys::ZoneType kcompactd_highest_zoneidx = phys::ZoneType::kMovable;
  unsigned proactive_defer = 0;  // wake-ups that proactive compaction still sits out
};

class Compaction final : public phys::PageMover, private phys::HotplugListener {
 public:
  Compaction(vm::Vm& vm, TraceRegistry& traces);
  ~Compaction() override;

  // Spawns a kcompactd (a daemon task) for each node with memory, and plugs this into phys as page mover. At boot. A node that
  // gets its first memory later gets its kcompactd then.
  void start();

  // Direct compaction for a request that found no block. The best that was reached in any zone of the list.
  phys::CompactResult try_to_compact_pages(phys::ZoneList& zonelist, Order order, phys::Gfp gfp, phys::AllocFlags flags,
                                           phys::CompactPriority priority);
  // The block was got: the zone's failures are forgotten.
  void compaction_succeeded(phys::Zone& zone, Order order);
  // kswapd, before it sleeps: order-0 pages there are, now somebody has to make blocks of them. Does not sleep.
  void wakeup_kcompactd(phys::Node& node, Order order, phys::ZoneType highest_zoneidx);
  // Pageblocks marked as hopeless get another chance after both scanners met (kswapd, before it sleeps).
  void reset_isolation_suitable(phys::Node& node);
  // Every zone from end to end (echo 1 > /proc/sys/vm/compact_memory). A task calls it.
  void compact_nodes();

  // --- phys::PageMover ---
  void lru_add_drain_all() override;
  std::uint64_t migrate_range(Range<Pfn> pfns, phys::MigrateMode mode, phys::MigrateReason reason) override;

  [[nodiscard]] CompactionTunables& tunables() { return tunables_; }
  // How fragmented the node is for huge pages, 0 … 100 (fragmentation_score_node).
  [[nodiscard]] static unsigned fragmentation_score_node(const phys::Node& node);
  [[nodiscard]] static unsigned fragmentation_score_zone(const phys::Zone& zone);

 private:
  enum class Isolated : std::uint8_t { kAbort, kNone, kSuccess };

  // compact_zone.cc
  phys::CompactResult compact_zone(CompactControl& cc);
  void set_up_scanners(CompactControl& cc);
  [[nodiscard]] bool compact_step(CompactControl& cc, phys::CompactResult& result, Pfn& last_migrated);
  void drain_for_block(const CompactControl& cc, Pfn& last_migrated);
  void release_freepages(CompactControl& cc);
  [[nodiscard]] phys::CompactResult compact_finished(CompactControl& cc);
  [[nodiscard]] phys::CompactResult finished_reason(CompactControl& cc);
  [[nodiscard]] bool zone_has_block(const CompactControl& cc) const;

  // isolate_migratepages.cc
  [[nodiscard]] Isolated isolate_migratepages(CompactControl& cc);
  [[nodiscard]] bool isolate_migratepages_block(CompactControl& cc, Pfn low, Pfn end);
  [[nodiscard]] bool suitable_migration_source(const CompactControl& cc, Pfn pfn) const;
  [[nodiscard]] bool may_isolate(const CompactControl& cc, phys::Folio& folio) const;
  [[nodiscard]] bool wait_while_too_many_isolated(const CompactControl& cc);
  static void update_cached_migrate(CompactControl& cc, Pfn pfn);

  // isolate_freepages.cc
  void isolate_freepages(CompactControl& cc);
  std::uint64_t isolate_freepages_block(CompactControl& cc, Pfn& start, Pfn end, std::uint64_t stride);
  [[nodiscard]] bool suitable_migration_target(const CompactControl& cc, Pfn pfn);
  [[nodiscard]] bool isolation_suitable(const CompactControl& cc, Pfn pfn) const;
  [[nodiscard]] phys::Folio* compaction_alloc(CompactControl& cc);

  // defer.cc
  [[nodiscard]] bool compaction_deferred(phys::Zone& zone, Order order);
  void defer_compaction(phys::Zone& zone, Order order);
  enum class AllocSuccess : std::uint8_t { kNo, kYes };
  void compaction_defer_reset(phys::Zone& zone, Order order, AllocSuccess success);
  [[nodiscard]] static bool compaction_restarting(const phys::Zone& zone, Order order);
  void reset_zone_isolation_suitable(phys::Zone& zone);
  template <class Event>
  [[nodiscard]] static Event defer_event(const phys::Zone& zone, Order order);

  // kcompactd.cc
  void online(const phys::MemoryNotify& notify) override;
  void kcompactd_run(NodeCompaction& node);
  void kcompactd(NodeCompaction& node);
  void kcompactd_do_work(NodeCompaction& node);
  [[nodiscard]] bool kcompactd_node_suitable(const NodeCompaction& node);
  [[nodiscard]] bool should_proactive_compact_node(const NodeCompaction& node) const;
  void proactive_compact_node(NodeCompaction& node);
  [[nodiscard]] unsigned fragmentation_score_wmark(bool low) const;

  [[nodiscard]] phys::CompactSuitable suitable(const phys::Zone& zone, Order order, phys::AllocFlags flags,
                                               phys::ZoneType highest);
  [[nodiscard]] bool fatal_signal_pending() const { return phys::task_test(parts_.scheduler, phys::TaskFlag::kOomVictim); }

  const vm::VmParts& parts_;
  vm::Migration& migration_;
  CompactionTunables tunables_;
  CompactionEvents events_;
  std::vector<std::unique_ptr<NodeCompaction>> nodes_;
};

}  // namespace quire::compact
