// What a slab allocator is behind a cache: the interface of the two layouts, ClassicSlab and Slub.
//
//   KmemCacheBase::alloc, free      inline; pop and push of this CPU's ArrayCache
//        │ when that cannot serve (always, if the array has no room: slub, and caches under debugging)
//        ▼
//   SlabLayout                      one object a machine, without state of its own: the state is the cache's
//        ├── ClassicSlab            arrays, slabs with a descriptor and an index free list, lists per node
//        └── Slub                   the CPU's own slab, free list in the objects, lists of partial slabs
//
// Both mark the Page of each page of a slab the same way: PG_slab, and `mapping` is the cache. A layout is a friend of the caches that
// it is handed. The debugging hooks (object_debug.h) are called by the layouts, for caches with kSlabDebugFlags.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/gfp.h"
#include "quire/phys/page.h"
#include "quire/slab/slab_config.h"
#include "quire/slab/slab_geometry.h"

namespace quire::slab {

class KmemCacheBase;

// Which object of a cache an address belongs to.
struct ObjectPlace {
  enum class State : std::uint8_t {
    kNone,       // no object: before the first, behind the last, or not in a slab of the cache
    kInside,     // in an object or its surroundings, but not at its start
    kFree,       // the start of an object on its slab's free list
    kAllocated,  // the start of one that is not: in a user's hands, or in a CPU's array
  };
  State state = State::kNone;
  std::uint32_t index = 0;      // of the object in its slab
  std::byte* object = nullptr;  // its start
  std::byte* slab = nullptr;    // address of the slab's first page
};

// Sums over the nodes of a cache.
struct SlabCounts {
  std::uint64_t slabs = 0;
  std::uint64_t pages = 0;         // of all slabs
  std::uint64_t objects = 0;       // that the slabs have
  std::uint64_t free_slabs = 0;    // slabs of which no object is in use
  std::uint64_t free_objects = 0;  // on slabs' free lists
  std::uint64_t cached = 0;        // free too, but in CPU arrays or other stocks above the slabs
  std::uint64_t shared = 0;        // of those, in the nodes' shared arrays (sharedavail)
};

class SlabLayout {
 public:
  virtual ~SlabLayout() = default;

  [[nodiscard]] virtual SlabLayoutKind kind() const = 0;

  // How a cache of these objects cuts its slabs; kInval as calculate_geometry.
  [[nodiscard]] virtual Result<SlabGeometry> calculate(const GeometryRequest& request) const = 0;
  // Room that a node takes behind the cache, and a CPU in the percpu area.
  [[nodiscard]] virtual std::size_t node_bytes() const = 0;
  [[nodiscard]] virtual std::size_t cpu_bytes(const SlabGeometry& geometry, SlabFlags flags) const = 0;
  // Makes nodes and CPU pieces of a new cache, and takes them apart when it has no slab left. kNoMem: nothing was made.
  virtual Status open(KmemCacheBase& cache) = 0;
  virtual void close(KmemCacheBase& cache) = 0;

  // The slow paths. `nid` kNoNode: the local node. `caller` is whom owner tracking names. alloc does not zero; free comes
  // after free_checks.
  [[nodiscard]] virtual void* alloc(KmemCacheBase& cache, phys::Gfp gfp, Nid nid, const void* caller) = 0;
  virtual void free(KmemCacheBase& cache, void* object) = 0;
  // As many as can be had, from the front; the number.
  [[nodiscard]] virtual std::size_t alloc_bulk(KmemCacheBase& cache, phys::Gfp gfp, std::span<void*> objects,
                                               const void* caller) = 0;
  virtual void free_bulk(KmemCacheBase& cache, std::span<void* const> objects) = 0;

  // What the cache's stocks of objects themselves take in other caches goes back; they are made again when wanted.
  virtual void drop_stocks(KmemCacheBase& cache);
  // Everything that can go back to the buddy goes; slabs freed.
  virtual std::uint64_t shrink(KmemCacheBase& cache) = 0;
  // What the periodic cache_reap takes; slabs freed.
  virtual std::uint64_t reap(KmemCacheBase& cache) = 0;

  [[nodiscard]] virtual SlabCounts counts(const KmemCacheBase& cache) const = 0;
  // `head` is a slab of the cache (PG_slab, page_cache).
  [[nodiscard]] virtual ObjectPlace find(const KmemCacheBase& cache, const phys::Page& head, const void* p) const = 0;
  // Calls visit(place) for each object of each slab.
  using ObjectVisitor = void (*)(void* context, const ObjectPlace& place);
  virtual void for_each_object(const KmemCacheBase& cache, ObjectVisitor visit, void* context) const = 0;
  // QUIRE_BUGs at the first disagreement.
  virtual void validate(const KmemCacheBase& cache) const = 0;

  // The cache in whose slab a page with PG_slab lies.
  [[nodiscard]] static KmemCacheBase* page_cache(const phys::Page& page) {
    return reinterpret_cast<KmemCacheBase*>(page.mapping);
  }

 protected:
  // A slab's pages, accounted and marked as the cache's, from the buddy and back. May sleep if gfp allows.
  [[nodiscard]] static phys::Page* alloc_slab_page(KmemCacheBase& cache, phys::Gfp gfp, Order order, Nid nid);
  static void free_slab_page(KmemCacheBase& cache, phys::Page& page);
};

}  // namespace quire::slab
