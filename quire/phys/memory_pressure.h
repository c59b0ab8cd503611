// What the allocator asks of the floors above when pages run short. `reclaim` implements it and the machine plugs it in
// (PhysMem::set_memory_pressure); without one, an allocation that finds nothing simply fails.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/phys/alloc_flags.h"
#include "quire/phys/gfp.h"
#include "quire/phys/zone.h"

namespace quire::phys {

enum class CompactResult : std::uint8_t {
  kNotSuitable,
  kSkipped,
  kDeferred,
  kNoSuitablePage,
  kContinue,
  kComplete,
  kPartialSkipped,
  kContended,
  kSuccess
};
enum class CompactPriority : std::uint8_t { kSyncFull, kSyncLight, kAsync };
[[nodiscard]] std::string_view compact_result_name(CompactResult result);  // "deferred"

// What reclaim of one node on behalf of a local request came to (Linux's NODE_RECLAIM_*).
enum class NodeReclaimResult : std::uint8_t {
  kNoScan,   // not tried: the caller may not wait, or somebody is at it
  kFull,     // too little there that may be reclaimed
  kSome,     // fewer pages than asked for
  kSuccess,  // as many as asked for
};
[[nodiscard]] std::string_view node_reclaim_result_name(NodeReclaimResult result);

class MemoryPressure {
 public:
  virtual ~MemoryPressure() = default;

  // Wakes the zone's node's kswapd if it sleeps and the node is not balanced for this request. Does not sleep.
  virtual void wakeup_kswapd(Zone& zone, Gfp gfp, Order order, ZoneType highest_zoneidx) = 0;

  // Direct reclaim on behalf of the caller, which may sleep. Gives the number of pages reclaimed.
  virtual std::uint64_t try_to_free_pages(ZoneList& zonelist, Order order, Gfp gfp) = 0;

  // Reclaim has failed for good: kill somebody. True when something was killed or memory is about to come free.
  virtual bool out_of_memory(Gfp gfp, Order order) = 0;

  // Moves pages together so that a block of `order` comes free; `flags` are those of the request that wants it.
  virtual CompactResult try_to_compact_pages(ZoneList&, Order, Gfp, AllocFlags /*flags*/, CompactPriority) {
    return CompactResult::kSkipped;
  }
  // A request of `order` got its block from the zone after compaction: the zone's failures are forgotten.
  virtual void compaction_succeeded(Zone&, Order) {}

  // --- reclaim of a near node before a far one is used (vm.zone_reclaim_mode); linux-4.0, linux-6 ---
  [[nodiscard]] virtual bool node_reclaim_enabled() const { return false; }
  virtual NodeReclaimResult node_reclaim(Zone&, Gfp, Order) { return NodeReclaimResult::kNoScan; }

  // --- what linux-2.4 asks for; its inactive-clean pages are those that reclaim_page could free at once ---
  virtual void wakeup_bdflush() {}
  [[nodiscard]] virtual std::uint64_t nr_inactive_clean_pages(const Zone&) const { return 0; }
  [[nodiscard]] virtual std::uint64_t nr_inactive_dirty_pages() const { return 0; }
  // Frees one inactive-clean page of the zone; false: it has none.
  virtual bool reclaim_page(Zone&) { return false; }
  // Writes inactive-dirty pages out and waits for them; gives how many became clean. May sleep.
  virtual std::uint64_t page_launder(Gfp) { return 0; }
  // Sleeps until kswapd has been over the node once more. False: kswapd has given up, waiting longer is no use.
  virtual bool wait_for_kswapd(Node&) { return false; }

  // False when the node holds its share of dirty pages: __GFP_WRITE requests then look elsewhere.
  [[nodiscard]] virtual bool node_dirty_ok(const Node&) { return true; }

  // Pages that reclaim could still get back from the zone (zone_reclaimable_pages), for should_reclaim_retry.
  [[nodiscard]] virtual std::uint64_t zone_reclaimable_pages(const Zone& zone) const {
    return static_cast<std::uint64_t>(zone.state(ZoneStat::kNrZoneInactiveFile) + zone.state(ZoneStat::kNrZoneActiveFile));
  }
};

}  // namespace quire::phys
