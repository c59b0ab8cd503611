// The classic slab layout behind a cache: making and taking apart slabs, moving objects between a node's slabs and a
// CPU's array. Internal to the slab floor; stateless, a friend of the cache it is handed.
#pragma once

#include <cstdint>
#include <span>

#include "quire/phys/phys_mem.h"
#include "quire/slab/kmem_cache_base.h"

namespace quire::slab {

class SlabLayout {
 public:
  explicit SlabLayout(KmemCacheBase& cache) : cache_(cache) {}

  // New slab from the buddy, on the free list of its node; nullptr when there is no memory. May sleep if gfp allows.
  Slab* grow(phys::Gfp gfp, Nid nid);

  // Fills this CPU's array with up to a batch from the node's partial slabs, then its free ones, and takes one of them;
  // nullptr when the node has none.
  void* refill(KmemCacheNode& node);
  // One object, past the array.
  void* take_one(KmemCacheNode& node);

  // Puts objects back on their slabs, whatever their node; slabs beyond a node's free_limit go back to the buddy.
  void put(std::span<void* const> objects);

  // Gives up to `max_slabs` free slabs of the node back to the buddy (drain_freelist). Returns slabs freed.
  std::uint64_t drain_free_list(KmemCacheNode& node, std::uint64_t max_slabs);

  // Where an object of this cache stands; QUIRE_BUGs with a sentence when the address is none.
  struct Place {
    Slab* slab;
    std::uint32_t index;
  };
  [[nodiscard]] Place place_of(const void* object) const;
  // The same, but nothing (slab == nullptr) for an address that is no object of this cache.
  [[nodiscard]] Place find_place(const void* object) const;

  // The same, on a page known to be a slab of this cache.
  [[nodiscard]] Place place_on(const phys::Page& head, const void* object) const {
    Slab* slab = page_slab(head);
    const auto* p = static_cast<const std::byte*>(object);
    if (p < slab->s_mem) return {};
    const auto offset = static_cast<std::uint64_t>(p - slab->s_mem);
    const auto index = static_cast<std::uint32_t>((offset * cache_.reciprocal_size_) >> 32);
    if (index >= cache_.geometry_.num || index * cache_.geometry_.size != offset) return {};
    return {slab, index};
  }

  [[noreturn, gnu::cold, gnu::noinline]] void report_foreign(const void* object) const;

  // The slab a page belongs to, by its head page.
  [[nodiscard]] static KmemCacheBase* page_cache(const phys::Page& head) {
    return static_cast<KmemCacheBase*>(head.owner_word[0]);
  }
  [[nodiscard]] static Slab* page_slab(const phys::Page& head) { return static_cast<Slab*>(head.owner_word[1]); }

 private:
  Slab* make_slab(phys::Page& page, phys::Gfp gfp);
  void init_objects(Slab& slab);
  void destroy_slab(Slab& slab);
  void account(const phys::Page& page, int sign);
  std::size_t take_locked(KmemCacheNode& node, std::span<void*> objects);
  void put_object_locked(KmemCacheNode& node, const Place& place, SlabList& doomed);
  [[nodiscard]] phys::Gfp page_gfp(phys::Gfp gfp) const;

  KmemCacheBase& cache_;
};

}  // namespace quire::slab
