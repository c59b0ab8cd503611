// Shrinkers: how a cache of reclaimable objects (dentries, inodes, shadow nodes) is asked to give some back.
//
// A subsystem implements Shrinker and registers it; reclaim calls ShrinkerRegistry::shrink_slab once per node and
// priority, and each shrinker is asked to scan objects in proportion: freeable >> priority, times 4 / seeks, in batches,
// with what was not done carried over to the next call (Linux's do_shrink_slab).
// Lock: none (Linux's shrinker_rwsem guards only registration; here that happens at boot).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/gfp.h"

namespace quire::slab {

inline constexpr unsigned kDefaultSeeks = 2;
inline constexpr std::uint64_t kShrinkBatch = 128;
inline constexpr std::uint64_t kShrinkStop = ~std::uint64_t{0};  // SHRINK_STOP: no progress can be made now

struct ShrinkControl {
  phys::Gfp gfp{};
  Nid nid{};
  std::uint64_t nr_to_scan = 0;
  std::uint64_t nr_scanned = 0;  // set by scan_objects when it differs from nr_to_scan
};

class Shrinker {
 public:
  virtual ~Shrinker() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // Objects that could be freed on the node (0: none, or unknown).
  virtual std::uint64_t count_objects(const ShrinkControl& control) = 0;
  // Tries to free control.nr_to_scan objects; returns how many it freed, or kShrinkStop.
  virtual std::uint64_t scan_objects(ShrinkControl& control) = 0;
  // Cost of making an object again, in disk seeks; 0: free to recreate.
  [[nodiscard]] virtual unsigned seeks() const { return kDefaultSeeks; }
  [[nodiscard]] virtual std::uint64_t batch() const { return kShrinkBatch; }
};

class ShrinkerRegistry {
 public:
  explicit ShrinkerRegistry(unsigned nodes) : nodes_(nodes) {}

  void register_shrinker(Shrinker& shrinker);
  void unregister_shrinker(Shrinker& shrinker);

  // One round over all shrinkers for the node at a scan priority (12 … 0). Others may be at it in between: what this round
  // did is what it returns, and the pages that came of it are in Task::reclaimed_slab.
  struct Shrunk {
    std::uint64_t freed = 0;    // objects
    std::uint64_t scanned = 0;  // objects (vmstat's slabs_scanned)
  };
  Shrunk shrink_slab(phys::Gfp gfp, Nid nid, int priority);

 private:
  struct Entry {
    Shrinker* shrinker;
    std::vector<std::uint64_t> nr_deferred;  // per node; fixed at registration
  };
  Shrunk do_shrink_slab(Entry& entry, phys::Gfp gfp, Nid nid, int priority);

  unsigned nodes_;
  std::vector<Entry> entries_;
};

}  // namespace quire::slab
