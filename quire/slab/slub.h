// Slub (CONFIG_SLUB): no descriptors and no queues. A slab's free objects are linked through themselves, what is known of
// the slab stands in its first struct Page, and each CPU owns the slab that it allocates from.
//
//   SlubCpu   freelist ──▶ o ─▶ o ─▶ o          objects of `slab`, this CPU's alone: no lock
//             slab     ──▶ Page                 its own freelist: what other CPUs have freed to it meanwhile
//             partial  ──▶ Page ─▶ Page         frozen slabs with free objects; the next to be `slab`
//                │ too many: unfreeze
//                ▼
//   SlubNode  partial  ⇄ Page ⇄ Page            list_lock
//                │ empty, and more than min_partial of them
//                ▼
//             phys::free_pages
//
// A full slab is on no list; the first free of one of its objects puts it on the freeing CPU's partial list. A frozen slab
// belongs to a CPU: others push to its freelist, and take it off nothing.
//
// Page of a slab:  mapping cache   index freelist   private_ SlubCounters
//                  lru on the node's partial list; on a CPU's: owner_word[0] the next, owner_word[1] how many from here on
//
// Invariants (validate): inuse + length of the page's freelist == objects, where what is on a CPU's freelist is in use;
// a slab is on its node's partial list iff it is not frozen and has a free object (or is empty and just being given back).
// Caches under debugging have neither CPU slabs nor CPU partial lists: each object comes from the node under list_lock.
//
// Differs from Linux 6.1: the order of objects on a new slab is not shuffled; the hardened free pointer is mixed with the
// cache's random number only; partial slabs of other nodes are taken always, there 98 times in 100.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

#include "quire/phys/page.h"
#include "quire/sim/lock_guards.h"
#include "quire/slab/array_cache.h"
#include "quire/slab/kmem_cache_base.h"
#include "quire/slab/slab_layout.h"

namespace quire::slab {

// What a slab's page says of it.
struct SlubCounters {
  std::uint32_t inuse = 0;  // objects not on the page's freelist
  std::uint16_t objects = 0;
  std::uint16_t frozen = 0;  // 1: a CPU's

  [[nodiscard]] static SlubCounters of(const phys::Page& page) { return std::bit_cast<SlubCounters>(page.private_); }
  void store(phys::Page& page) const { page.private_ = std::bit_cast<std::uint64_t>(*this); }
};

// A CPU's piece of a cache (kmem_cache_cpu).
struct SlubCpu {
  ArrayCache none;  // without room, so that the inline paths lead here
  void* freelist = nullptr;
  phys::Page* slab = nullptr;
  phys::Page* partial = nullptr;
};

// The slabs of one cache on one node (kmem_cache_node).
struct SlubNode {
  SlubNode(sim::Scheduler& scheduler, sim::LockClass& lock_class) : list_lock(scheduler, lock_class) {}

  sim::SpinLock list_lock;
  phys::PageList partial;
  std::uint64_t nr_partial = 0;
  std::uint64_t nr_slabs = 0;
  std::uint64_t nr_pages = 0;
  std::uint64_t total_objects = 0;
};

class Slub final : public SlabLayout {
 public:
  explicit Slub(SlabSystem& system) : system_(system) {}

  [[nodiscard]] SlabLayoutKind kind() const override { return SlabLayoutKind::kSlub; }
  [[nodiscard]] Result<SlabGeometry> calculate(const GeometryRequest& request) const override;
  [[nodiscard]] std::size_t node_bytes() const override { return sizeof(SlubNode); }
  [[nodiscard]] std::size_t cpu_bytes(const SlabGeometry& /*geometry*/, SlabFlags /*flags*/) const override {
    return sizeof(SlubCpu);
  }
  Status open(KmemCacheBase& cache) override;
  void close(KmemCacheBase& cache) override;

  [[nodiscard]] void* alloc(KmemCacheBase& cache, phys::Gfp gfp, Nid nid, const void* caller) override;
  void free(KmemCacheBase& cache, void* object) override;
  [[nodiscard]] std::size_t alloc_bulk(KmemCacheBase& cache, phys::Gfp gfp, std::span<void*> objects,
                                       const void* caller) override;
  void free_bulk(KmemCacheBase& cache, std::span<void* const> objects) override;
  // Empties CPU slabs and lists, gives empty slabs back, and sorts the partial lists: the fullest first, so that the
  // emptiest are left alone and may run empty.
  std::uint64_t shrink(KmemCacheBase& cache) override;
  // Nothing: an empty slab that a node has no use for has gone already.
  std::uint64_t reap(KmemCacheBase& /*cache*/) override { return 0; }

  [[nodiscard]] SlabCounts counts(const KmemCacheBase& cache) const override;
  // An object on a CPU's freelist is kFree. Walks the free lists of the slab.
  [[nodiscard]] ObjectPlace find(const KmemCacheBase& cache, const phys::Page& head, const void* p) const override;
  void for_each_object(const KmemCacheBase& cache, ObjectVisitor visit, void* context) const override;
  void validate(const KmemCacheBase& cache) const override;

  // The fast path: an object of this CPU's freelist, or nullptr. Not for caches under debugging.
  [[nodiscard]] static void* pop(KmemCacheBase& cache) {
    SlubCpu& c = cpu_of(cache, cache.scheduler_->cpu());
    void* object = c.freelist;
    if (object != nullptr) [[likely]]
      c.freelist = next_free(cache, object);
    return object;
  }

  // The fast path of a free: a push onto this CPU's freelist; false when it cannot be that. What is wrong with an object is
  // left to free() to say. `page` is the one that it lies in.
  [[nodiscard]] static bool free_fast(KmemCacheBase& cache, const phys::Page& page, void* object) {
    SlubCpu& c = cpu_of(cache, cache.scheduler_->cpu());
    const phys::Page& slab = phys::compound_head(page);
    if (&slab != c.slab || c.freelist == object || !is_object(cache, slab, page, object)) [[unlikely]]
      return false;
    set_next_free(cache, object, c.freelist);
    c.freelist = object;
    return true;
  }

  [[nodiscard]] static SlubCpu& cpu_of(const KmemCacheBase& cache, unsigned cpu) {
    return *reinterpret_cast<SlubCpu*>(cache.cpu_caches_ + (std::size_t{cpu} << cache.cpu_cache_shift_));
  }
  [[nodiscard]] static SlubNode& node_of(const KmemCacheBase& cache, Nid nid) {
    return reinterpret_cast<SlubNode*>(cache.nodes())[nid.value()];
  }

 private:
  using Page = phys::Page;
  struct FreeList {  // some objects of one slab, linked
    void* head;
    void* tail;
    std::uint32_t count;
  };
  enum class Drain : std::uint8_t { kNo, kYes };

  [[nodiscard]] SlubCpu& this_cpu(const KmemCacheBase& cache) const { return cpu_of(cache, cache.scheduler_->cpu()); }

  // The free pointer of a free object; mixed with a random number, so that an overwritten one leads nowhere useful.
  [[nodiscard]] static void* next_free(const KmemCacheBase& cache, const void* object) {
    std::uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(object) + cache.free_pointer_, sizeof word);
    return reinterpret_cast<void*>(word ^ cache.random_);
  }
  static void set_next_free(const KmemCacheBase& cache, void* object, const void* next) {
    const std::uint64_t word = reinterpret_cast<std::uint64_t>(next) ^ cache.random_;
    std::memcpy(static_cast<std::byte*>(object) + cache.free_pointer_, &word, sizeof word);
  }
  [[nodiscard]] static void* freelist_of(const Page& slab) { return reinterpret_cast<void*>(slab.index); }
  static void set_freelist(Page& slab, const void* object) { slab.index = reinterpret_cast<std::uint64_t>(object); }
  [[nodiscard]] static Page* next_partial(const Page& slab) { return static_cast<Page*>(slab.owner_word[0]); }

  // Does an object of the slab start at `object`, which lies in its page `page`? What comes before the first one has an
  // index beyond all.
  [[nodiscard]] static bool is_object(const KmemCacheBase& cache, const Page& slab, const Page& page, const void* object) {
    const SlabGeometry& g = cache.geometry_;
    const std::uint64_t in_page = reinterpret_cast<std::uintptr_t>(object) & (kPageSize - 1);
    const std::uint64_t offset = static_cast<std::uint64_t>(&page - &slab) * kPageSize + in_page - g.left_red_zone;
    const std::uint64_t index = (offset * cache.reciprocal_size_) >> 32;
    return index < SlubCounters::of(slab).objects && index * g.size == offset;
  }

  // slub.cc: alloc
  [[nodiscard]] void* slab_alloc(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  [[nodiscard]] void* alloc_single(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  [[nodiscard]] void* take_single(KmemCacheBase& cache, SlubNode& node);
  // Takes over what others have freed to the CPU's slab; lets go of a slab that is full.
  static void get_freelist(KmemCacheBase& cache, SlubCpu& c);
  // Gives this CPU partial slabs of the node (of any, for kNoNode); false: there are none.
  bool get_partial(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  bool get_partial_node(KmemCacheBase& cache, SlubNode& node);
  // A new slab, frozen, all its objects on its freelist; nullptr when there is no memory. May sleep if gfp allows.
  [[nodiscard]] Page* new_slab(KmemCacheBase& cache, phys::Gfp gfp, Nid nid);
  void init_slab(KmemCacheBase& cache, Page& slab, std::uint32_t objects);

  // slub_free.cc
  // The slab of an object of the cache; a bug when no object of it starts there.
  [[nodiscard]] Page& slab_of(const KmemCacheBase& cache, const void* object) const;
  void free_list(KmemCacheBase& cache, Page& slab, const FreeList& list);
  void free_to_slab(KmemCacheBase& cache, Page& slab, const FreeList& list);
  void free_to_slab_locked(KmemCacheBase& cache, Page& slab, const FreeList& list);
  static SlubCounters push(KmemCacheBase& cache, Page& slab, const FreeList& list);
  void put_cpu_partial(KmemCacheBase& cache, Page& slab, Drain drain);
  // Slabs that went back to the buddy, as in flush_cpu and shrink_node.
  std::uint64_t unfreeze_partials(KmemCacheBase& cache, Page* chain);
  // Takes the CPU's slab from it: to its node's list, or to the buddy (true).
  bool deactivate_slab(KmemCacheBase& cache, SlubCpu& c);
  // Where a slab belongs that is no CPU's any more; true: nowhere, it is to be discarded.
  enum class End : std::uint8_t { kHead, kTail };
  [[nodiscard]] bool settle_locked(KmemCacheBase& cache, SlubNode& node, Page& slab, End end);
  static void add_partial(SlubNode& node, Page& slab, End end);
  static void remove_partial(SlubNode& node, Page& slab);
  void discard_slab(KmemCacheBase& cache, Page& slab);
  std::uint64_t flush_cpu(KmemCacheBase& cache, SlubCpu& c);
  std::uint64_t shrink_node(KmemCacheBase& cache, SlubNode& node);

  // slub_validate.cc
  template <class Visit>
  void for_each_slab(const KmemCacheBase& cache, Visit&& visit) const;

  SlabSystem& system_;
};

}  // namespace quire::slab
