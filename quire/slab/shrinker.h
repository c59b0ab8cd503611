// Shrinkers: how a cache of reclaimable objects (dentries, inodes, shadow nodes) is asked to give some back.
//
// A subsystem implements Shrinker and registers it under its name; reclaim calls ShrinkerRegistry::shrink_slab once per
// node and priority, and each shrinker is asked to scan objects in proportion: freeable >> priority, times 4 / seeks, in
// batches, with what was not done carried over to the next call on that node (Linux's do_shrink_slab).
//
// A shrinker that is not NUMA aware is called for every node as well, but has one debt for all of them, that of node 0.
//
// Lock: shrinker_rwsem, for writing while one is registered or unregistered, which therefore waits for rounds that are under
// way. A round takes it for reading, or is none if it cannot be had, and ends early when somebody wants to register.
// Differs from Linux 6.1: no memory cgroups, so no SHRINKER_MEMCG_AWARE.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/flags.h"
#include "quire/base/types.h"
#include "quire/phys/gfp.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/rw_semaphore.h"
#include "quire/slab/shrinker_events.h"

namespace quire::slab {

inline constexpr unsigned kDefaultSeeks = 2;
inline constexpr std::uint64_t kShrinkBatch = 128;
inline constexpr std::uint64_t kShrinkStop = ~std::uint64_t{0};       // SHRINK_STOP: no progress can be made now
inline constexpr std::uint64_t kShrinkEmpty = ~std::uint64_t{0} - 1;  // SHRINK_EMPTY: there is no object at all

struct ShrinkControl {
  phys::Gfp gfp{};
  Nid nid{};
  std::uint64_t nr_to_scan = 0;
  std::uint64_t nr_scanned = 0;  // set by scan_objects when it differs from nr_to_scan
};

enum class ShrinkerFlags : std::uint8_t {
  kNone = 0,
  kNumaAware = 1u << 0,  // SHRINKER_NUMA_AWARE: counts and scans the objects of control.nid only
};

}  // namespace quire::slab
template <>
inline constexpr bool quire::kIsFlags<quire::slab::ShrinkerFlags> = true;

namespace quire::slab {

class Shrinker {
 public:
  virtual ~Shrinker() = default;
  // As /sys/kernel/debug/shrinker shows it.
  [[nodiscard]] virtual std::string_view name() const = 0;
  // Objects that could be freed (on the node, if NUMA aware); 0: none, or unknown; kShrinkEmpty: nothing there.
  virtual std::uint64_t count_objects(const ShrinkControl& control) = 0;
  // Tries to free control.nr_to_scan objects; returns how many it freed, or kShrinkStop. May sleep if control.gfp allows.
  virtual std::uint64_t scan_objects(ShrinkControl& control) = 0;
  // Cost of making an object again, in disk seeks; 0: free to recreate.
  [[nodiscard]] virtual unsigned seeks() const { return kDefaultSeeks; }
  // Objects that one call of scan_objects is asked for; 0: kShrinkBatch.
  [[nodiscard]] virtual std::uint64_t batch() const { return 0; }
  [[nodiscard]] virtual ShrinkerFlags flags() const { return ShrinkerFlags::kNone; }
};

class ShrinkerRegistry {
 public:
  // `phys` has the nodes, and the vmstat that slabs_scanned is counted in.
  ShrinkerRegistry(phys::PhysMem& phys, sim::Scheduler& scheduler);

  // Tells mm_shrink_slab_start and _end to `traces` from now on; the first call counts.
  void trace_to(TraceRegistry& traces) {
    if (!events_) events_.emplace(traces);
  }

  // May sleep. A shrinker is registered once and lives until it is unregistered.
  void register_shrinker(Shrinker& shrinker);
  void unregister_shrinker(Shrinker& shrinker);

  // One round over all shrinkers for the node at a scan priority (12 … 0), counted in slabs_scanned. Others may be at it in
  // between: what this round did is what it returns, and the pages that came of it are in Task::reclaimed_slab. May sleep
  // if a shrinker does.
  struct Shrunk {
    std::uint64_t freed = 0;    // objects
    std::uint64_t scanned = 0;  // objects
  };
  Shrunk shrink_slab(phys::Gfp gfp, Nid nid, int priority);

  // What the node still owes: objects that should have been scanned and were not (nr_deferred).
  [[nodiscard]] std::uint64_t nr_deferred(const Shrinker& shrinker, Nid nid) const;
  // Calls visit(const Shrinker&) for each, oldest first.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const auto& entry : entries_) visit(static_cast<const Shrinker&>(*entry->shrinker));
  }

 private:
  struct Entry {
    Shrinker* shrinker;
    std::vector<std::uint64_t> nr_deferred;  // per node, or one
  };
  Shrunk do_shrink_slab(Entry& entry, phys::Gfp gfp, Nid nid, int priority);
  [[nodiscard]] static std::size_t slot(const Shrinker& shrinker, Nid nid) {
    return any(shrinker.flags(), ShrinkerFlags::kNumaAware) ? static_cast<std::size_t>(nid.value()) : 0;
  }

  phys::PhysMem& phys_;
  sim::RwSemaphore shrinker_rwsem_;
  unsigned registering_ = 0;  // tasks that are about to write
  std::vector<std::unique_ptr<Entry>> entries_;
  std::optional<ShrinkerEvents> events_;
};

}  // namespace quire::slab
