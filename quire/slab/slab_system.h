// All caches of a machine: creation and destruction, statistics, giving memory back; and kmalloc (kmalloc.h) on them.
//
// The cache of caches (`kmem_cache`) and that of off-slab descriptors (`slab_mgmt`) are made by hand at boot; then the
// first allocates every further KmemCacheBase, itself an object in the machine's RAM. CPU arrays come from a PercpuArea
// (Linux: the percpu allocator).
//
// Lock: slab_mutex for the list of caches, held while one is made or destroyed, which may sleep for memory and reach sync
// points half-way, and while cache_reap walks the list; then list_lock per cache and node. Allocation and free take no
// slab_mutex. Reclaim may run under it (a creation allocates), so cache_reap gives up when it is taken.
// The cache of caches has Linux 6.1's name, kmem_cache (cache_cache in 2.4).
// Differs from Linux: creations under one name share a cache even where like caches are not merged.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/intrusive_list.h"
#include "quire/base/result.h"
#include "quire/base/rng.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/fault_injection.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/kmalloc.h"
#include "quire/slab/kmem_cache_base.h"
#include "quire/slab/object_report.h"
#include "quire/slab/percpu_area.h"
#include "quire/slab/shrinker.h"

namespace quire::slab {

// One row of /proc/slabinfo.
struct SlabInfo {
  std::string_view name;
  std::uint64_t active_objs = 0;  // not on a slab's free list (objects in CPU arrays count as active, as in Linux)
  std::uint64_t num_objs = 0;
  std::uint64_t objsize = 0;
  std::uint64_t objperslab = 0;
  std::uint64_t pagesperslab = 0;
  std::uint64_t limit = 0;  // tunables
  std::uint64_t batchcount = 0;
  std::uint64_t sharedfactor = 0;
  std::uint64_t active_slabs = 0;  // slabdata
  std::uint64_t num_slabs = 0;
  std::uint64_t sharedavail = 0;     // objects in the arrays that the CPUs of each node share
  std::uint64_t objects_in_use = 0;  // exact: without those in CPU arrays (not in Linux's table)
};

class SlabSystem : public Kmalloc {
 public:
  // The allocator that `config` names; it must be a valid one (check_slab_config).
  SlabSystem(phys::PhysMem& phys, sim::Scheduler& scheduler, const SlabConfig& config = {});
  ~SlabSystem();
  SlabSystem(const SlabSystem&) = delete;
  SlabSystem& operator=(const SlabSystem&) = delete;

  // A cache of that name and of the same objects (size, flags, no constructor) is shared: each creation wants a destruction.
  // So is, where the machine merges (SlabConfig::merge), a like one of another name. A failure with kPanic is a bug.
  // kInval: empty name, name too long (31 bytes), size 0 or beyond 4 MiB, bad alignment. kExist: the name belongs to a
  // cache of other objects, or to one whose destruction failed. kNoMem: no memory. May sleep.
  [[nodiscard]] Result<KmemCacheBase*> kmem_cache_create(std::string_view name, std::size_t size, std::size_t align,
                                                         SlabFlags flags, SlabConstructor constructor = nullptr);
  // kBusy when objects are alive: CPU arrays and free slabs are given back, and the cache stays for its objects and for
  // another try, but no creation shares it any more. May sleep.
  Status kmem_cache_destroy(KmemCacheBase& cache);
  // Empties the CPU arrays and gives every free slab back. Returns slabs freed.
  std::uint64_t kmem_cache_shrink(KmemCacheBase& cache);
  [[nodiscard]] KmemCacheBase* find_cache(std::string_view name);

  // cache_reap: drains idle CPU arrays and gives back a fifth of each node's free slabs (all under `kAll`). Returns
  // pages freed; none when a cache is just being made or destroyed. Called by reclaim and drop_caches; no task
  // runs it now and then.
  enum class ReapMode : std::uint8_t { kPeriodic, kAll };
  std::uint64_t cache_reap(ReapMode mode);

  [[nodiscard]] ShrinkerRegistry& shrinkers() { return shrinkers_; }
  // What the debugging of objects has found.
  [[nodiscard]] ObjectReports& object_reports() { return object_reports_; }

  // Calls visit(KmemCacheBase&) for each cache, oldest first.
  template <class Visit>
  void for_each_cache(Visit&& visit) {
    for (KmemCacheBase& cache : caches_) visit(cache);
  }
  [[nodiscard]] SlabInfo slabinfo(const KmemCacheBase& cache) const;
  [[nodiscard]] std::vector<SlabInfo> slabinfo() const;
  // Pages that hold the CPU arrays; used again, but never given back before the end.
  [[nodiscard]] std::uint64_t percpu_pages() const { return percpu_.pages(); }
  // The same for people: each such cache with the first of the objects that are left, a line each; "" when there is none.
  [[nodiscard]] std::string leak_report() const;
  // Rows of caches that somebody failed to destroy because objects were alive.
  [[nodiscard]] std::vector<SlabInfo> leaks() const;

  // Allocations fail as FaultPoint::kSlabAlloc says (failslab); nullptr ends it. Takes the fast paths away meanwhile.
  void set_fault_injection(sim::FaultInjection* faults);

  [[nodiscard]] const SlabConfig& config() const { return config_; }
  [[nodiscard]] SlabLayout& layout() const { return *layout_; }
  [[nodiscard]] phys::PhysMem& phys() const { return phys_; }
  [[nodiscard]] sim::Scheduler& scheduler() const { return scheduler_; }

  void validate() const;

 private:
  friend class KmemCacheBase;
  friend class SlabLayout;
  friend class ClassicSlab;
  friend class Slub;
  using CacheChain = List<KmemCacheBase, &KmemCacheBase::chain>;

  [[nodiscard]] KmemCacheBase* find_mergeable(std::string_view name, std::size_t size, std::size_t align, SlabFlags flags,
                                              SlabConstructor constructor);
  Result<KmemCacheBase*> create_locked(std::string_view name, std::size_t size, std::size_t align, SlabFlags flags,
                                       SlabConstructor constructor);
  Result<KmemCacheBase*> kmem_cache_alias(KmemCacheBase& same, std::size_t size, std::size_t align, SlabFlags flags,
                                          SlabConstructor constructor);
  Result<KmemCacheBase*> setup_cache(void* room, std::string_view name, std::size_t size, std::size_t align, SlabFlags flags,
                                     SlabConstructor constructor);
  [[nodiscard]] SlabFlags kmem_cache_flags(std::string_view name, SlabFlags flags) const;
  [[nodiscard]] std::uint32_t slow_mask() const;
  void drop_stocks();
  void release_cache(KmemCacheBase& cache);
  void tear_down(KmemCacheBase& cache);

  phys::PhysMem& phys_;
  sim::Scheduler& scheduler_;
  SlabConfig config_;
  std::unique_ptr<SlabLayout> layout_;
  sim::Mutex slab_mutex_;
  sim::LockClass& list_lock_class_;
  PercpuArea percpu_;
  CacheChain caches_;
  std::unique_ptr<std::byte[]> boot_caches_;  // room of the first two; static data in Linux's kernel image
  KmemCacheBase* cache_cache_ = nullptr;
  KmemCacheBase* slab_mgmt_ = nullptr;  // off-slab descriptors; classic layout only
  ShrinkerRegistry shrinkers_;
  ObjectReports object_reports_;
  Order max_waste_order_{1};
  Rng random_;  // of free pointers
  sim::FaultInjection* fault_injection_ = nullptr;
};

}  // namespace quire::slab
