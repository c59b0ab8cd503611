// The classic slab layout (CONFIG_SLAB): per-CPU arrays in front of slabs with a descriptor of their own.
//
//   ArrayCache of the CPU
//        ▲ │ batches of `batchcount`
//  refill│ ▼ flush
//   ArrayCache shared by the CPUs of the node: 8 batches       list_lock
//        ▲ │ what is not there; what does not fit
//        │ ▼
//   KmemCacheNode { partial, full, free lists of slabs }       list_lock
//        ▲  └ alien[nid]: objects of other nodes on their way home, twelve at a time
//        ▲ │ grow / destroy slab
//        │ ▼
//   phys::alloc_pages
//
// What is known of a slab stands in its first Page (slab.h).
// Caches under debugging have arrays without room: each object goes straight to and from its slab.
//
// Differs from Linux 6.1: a slab's free objects are a map (slab.h); an object of another node is told from the own ones when
// the array is flushed, not at each free; a node's shared array is made when a CPU's array first overflows there,
// not with the cache, and a shrink gives it back.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"
#include "quire/slab/kmem_cache_base.h"
#include "quire/slab/slab.h"
#include "quire/slab/slab_layout.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

using SlabList = phys::PageList;

// The slabs of one cache on one node.
struct KmemCacheNode {
  KmemCacheNode(sim::Scheduler& scheduler, sim::LockClass& lock_class) : list_lock(scheduler, lock_class) {}

  sim::SpinLock list_lock;
  SlabList slabs_partial;
  SlabList slabs_full;
  SlabList slabs_free;
  std::uint64_t total_slabs = 0;     // on the lists
  std::uint64_t unlisted_slabs = 0;  // their pages are had already, or still: being made, or taken apart
  std::uint64_t free_slabs = 0;
  std::uint64_t free_objects = 0;  // on slabs' free lists (not those in CPU arrays)
  std::uint64_t free_limit = 0;    // a slab that becomes free beyond this goes back to the buddy
  std::uint32_t colour_next = 0;
  std::uint32_t alien_next = 0;  // whose alien array the next reap empties
  // Objects of this node on their way from one of its CPUs to another; from kmalloc. None on machines of one CPU, for objects
  // beyond a page, under debugging, and until a CPU's array overflows.
  ArrayCache* shared = nullptr;
  bool shared_being_made = false;
};

// Freed on CPUs of one node, objects of another (alien_cache). Any CPU of the node; `lock`.
struct AlienCache {
  static constexpr std::uint32_t kLimit = 12;

  AlienCache(sim::Scheduler& scheduler, sim::LockClass& lock_class) : lock(scheduler, lock_class) {}

  sim::SpinLock lock;
  std::uint32_t avail = 0;
  std::array<void*, kLimit> objects{};
};

class ClassicSlab final : public SlabLayout {
 public:
  explicit ClassicSlab(SlabSystem& system);

  [[nodiscard]] SlabLayoutKind kind() const override { return SlabLayoutKind::kSlab; }
  [[nodiscard]] Result<SlabGeometry> calculate(const GeometryRequest& request) const override;
  [[nodiscard]] std::size_t node_bytes() const override { return node_bytes_; }
  [[nodiscard]] std::size_t cpu_bytes(const SlabGeometry& geometry, SlabFlags flags) const override;
  Status open(KmemCacheBase& cache) override;
  void close(KmemCacheBase& cache) override;

  [[nodiscard]] void* alloc(KmemCacheBase& cache, phys::Gfp gfp, Nid nid, const void* caller) override;
  void free(KmemCacheBase& cache, void* object) override;
  [[nodiscard]] std::size_t alloc_bulk(KmemCacheBase& cache, phys::Gfp gfp, std::span<void*> objects,
                                       const void* caller) override;
  void free_bulk(KmemCacheBase& cache, std::span<void* const> objects) override;
  void drop_stocks(KmemCacheBase& cache) override;
  std::uint64_t shrink(KmemCacheBase& cache) override;
  std::uint64_t reap(KmemCacheBase& cache) override;

  [[nodiscard]] SlabCounts counts(const KmemCacheBase& cache) const override;
  [[nodiscard]] ObjectPlace find(const KmemCacheBase& cache, const phys::Page& head, const void* p) const override;
  void for_each_object(const KmemCacheBase& cache, ObjectVisitor visit, void* context) const override;
  void validate(const KmemCacheBase& cache) const override;

  // Is the free map a word in the slab's Page?
  [[nodiscard]] static bool map_in_page(const SlabGeometry& g) {
    return g.num <= kMapBits && g.management == SlabManagement::kOnSlab;
  }
  // The map of a slab; where it is not in the Page, what goes with it.
  [[nodiscard]] static const std::uint64_t* free_map(const phys::Page& head, const SlabGeometry& g) {
    return map_in_page(g) ? &head.private_ : page_slab(head)->map();
  }
  [[nodiscard]] static Slab* page_slab(const phys::Page& head) { return reinterpret_cast<Slab*>(head.private_); }
  // Object 0 of a slab.
  [[nodiscard]] std::byte* s_mem(const phys::Page& head) const { return system_.phys().page_address(head) + head.mapcount; }
  [[nodiscard]] KmemCacheNode& node_of(const KmemCacheBase& cache, Nid nid) const {
    return *reinterpret_cast<KmemCacheNode*>(cache.nodes() + static_cast<std::size_t>(nid.value()) * node_bytes_);
  }
  // What CPUs of `nid` have freed of the objects of `home`. Only on machines of several nodes.
  [[nodiscard]] AlienCache& alien_of(const KmemCacheBase& cache, Nid nid, Nid home) const {
    return reinterpret_cast<AlienCache*>(&node_of(cache, nid) + 1)[home.value()];
  }

  // fn(alien array, home of its objects), for each pair of nodes.
  template <class Fn>
  void for_each_alien(const KmemCacheBase& cache, Fn&& fn) const {
    const auto& nodes = system_.phys().nodes();
    if (nodes.size() == 1) return;
    for (const auto& here : nodes) {
      for (const auto& home : nodes) fn(alien_of(cache, here->nid(), home->nid()), home->nid());
    }
  }

 private:
  using Page = phys::Page;
  struct Place {
    Page* slab;  // first page
    std::uint32_t index;
  };
  // The map of so many free objects, at most kMapBits.
  [[nodiscard]] static constexpr std::uint64_t full_map(std::uint32_t num) { return ~std::uint64_t{0} >> (kMapBits - num); }
  static constexpr std::uint32_t kMaxFlush = 64;  // objects that move at once

  // classic_slab.cc: objects
  void* alloc_once(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  // Fills this CPU's array with up to a batch from the node's shared array, or else its partial slabs, then its free ones, and
  // takes one of them; nullptr when the node has none.
  void* refill(KmemCacheBase& cache, KmemCacheNode& node);
  // One object, past the CPU's array.
  void* take_one(KmemCacheBase& cache, KmemCacheNode& node);
  [[nodiscard]] bool is_of(Nid nid, const void* object) const { return system_.page_of(object)->nid() == nid; }
  std::size_t take_locked(KmemCacheBase& cache, KmemCacheNode& node, std::span<void*> objects);
  // Where objects go that leave an array: to the shared and alien arrays first, or straight to their slabs.
  enum class Destination : std::uint8_t { kArrays, kSlabs };
  void flush(KmemCacheBase& cache, ArrayCache& ac, std::uint32_t count, Destination destination);
  // Objects of other nodes to alien arrays, own ones to the shared array, and to their slabs what does not fit there. Changes
  // the order of `objects`; at most kMaxFlush.
  void overflow(KmemCacheBase& cache, std::span<void*> objects);
  void free_alien(KmemCacheBase& cache, Nid home, void* object);
  void drain_alien(KmemCacheBase& cache, AlienCache& alien);
  // Puts objects back on their slabs (at most kMaxFlush), whatever their node; slabs beyond a node's free_limit go back to the buddy.
  void put(KmemCacheBase& cache, std::span<void* const> objects);
  void put_object_locked(KmemCacheBase& cache, KmemCacheNode& node, const Place& place, SlabList& doomed);
  // Where objects of the cache stand; a bug when an address is none of it. At most kMaxFlush.
  void locate(const KmemCacheBase& cache, std::span<void* const> objects, std::span<Place> places) const;

  // classic_slab_shared.cc: the array that the CPUs of a node share
  // Makes sure that the node has one, if the cache is to have them and there is memory. No list_lock held.
  void make_shared(KmemCacheBase& cache, KmemCacheNode& node, Nid nid);
  // The objects that it takes, from the front, or gives; their number. Under list_lock; there need not be an array.
  [[nodiscard]] static std::size_t push_shared_locked(KmemCacheNode& node, std::span<void* const> objects);
  [[nodiscard]] static std::size_t pop_shared_locked(KmemCacheNode& node, std::span<void*> objects);
  // Up to `count` of its coldest objects go to their slabs.
  void drain_shared(KmemCacheBase& cache, KmemCacheNode& node, std::uint32_t count);
  // Empties it and gives it back.
  void drop_shared(KmemCacheBase& cache, KmemCacheNode& node);

  // classic_slab_grow.cc: slabs
  // Makes sure that some node has free objects; gives that node, or kNoNode when there is no memory anywhere.
  Nid grow(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  // New slab from the buddy, on the free list of its node; nullptr when there is no memory. May sleep if gfp allows.
  Page* grow_node(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  // False: there is no memory for what is off the slab.
  bool make_slab(KmemCacheBase& cache, Page& page, phys::Gfp gfp);
  // The word that each page of a slab has: 0, or where its cache's arrays are.
  static void mark(Page& page, const SlabGeometry& g, std::uint64_t word);
  static void init_objects(KmemCacheBase& cache, std::byte* object);
  void destroy_slab(KmemCacheBase& cache, Page& page);
  // Gives up to `max_slabs` free slabs of the node back to the buddy (drain_freelist). Returns slabs freed.
  std::uint64_t drain_free_list(KmemCacheBase& cache, KmemCacheNode& node, std::uint64_t max_slabs);

  // While memory is given back, what overflows goes to its slabs where there is no shared array: none is made anew.
  class GivingBack {
   public:
    explicit GivingBack(ClassicSlab& layout) : layout_(layout) { ++layout_.giving_back_; }
    ~GivingBack() { --layout_.giving_back_; }
    GivingBack(const GivingBack&) = delete;
    GivingBack& operator=(const GivingBack&) = delete;

   private:
    ClassicSlab& layout_;
  };

  SlabSystem& system_;
  std::size_t node_bytes_;
  std::uint32_t giving_back_ = 0;  // tasks at it
};

}  // namespace quire::slab
