// One slab of the classic layout: 2^order pages cut into equal objects of one cache. What is known of it stands in its first
// struct Page, as since Linux 3.12; only a free map that is longer than a word, or off the slab, has a place of its own.
//
//   on-slab  (small objects)   | colour | Slab, map | obj 0 | obj 1 | … | waste |
//   off-slab (objects ≥ 512)   | colour | obj 0 | obj 1 | … | waste |     Slab, map in cache "slab_mgmt"
//
//   Page of a slab:  mapping   the cache                 each page's
//                    index     KmemCacheBase::array_word each page's; 0 while the slab is being made or taken apart
//                    lru       one of the node's three lists
//                    private_  the free map (on the slab, at most 64 objects), or the Slab
//                    mapcount  bytes from the slab's first to object 0
//
// A bit of the free map is set when the object of that index is free, so that freeing one twice is seen at once. Objects are
// taken lowest index first. A map in the Page leaves the room on the slab unused: freeing an object and taking an empty slab
// apart touch nothing but the Page, and the slab's own lines are likely in no cache.
//
// Invariants: a slab is on `full` iff its map is empty, on `free` iff all num bits are set, else on `partial`; each of its
// pages bears PG_slab and names the cache.
// Lock: the list_lock of the KmemCacheNode it belongs to.
// Differs from Linux 6.1: a map instead of a stack of indices, so the lowest free object is taken and not the one freed last.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/types.h"
#include "quire/phys/page.h"

namespace quire::slab {

inline constexpr std::uint32_t kMapBits = 64;  // of a word of a free map
inline constexpr std::uint32_t kMaxObjectsPerSlab = 0xfffd;
inline constexpr std::uint32_t kMaxObjectsOffSlab = 32;  // for which "slab_mgmt" has room

// What a slab's management counts in the choice of its order and number of objects: a descriptor and a list of two-byte
// indices, as in 2.4 to 3.12. The map takes less.
[[nodiscard]] constexpr std::size_t management_bytes(std::uint32_t num) { return 56 + std::size_t{2} * num; }

// A free map that is not in the Page.
struct Slab {
  phys::Page* page = nullptr;  // first page
  std::uint32_t free = 0;      // bits set
  std::uint32_t first = 0;     // the words before this one are empty

  [[nodiscard]] std::uint64_t* map() { return reinterpret_cast<std::uint64_t*>(this + 1); }
  [[nodiscard]] const std::uint64_t* map() const { return reinterpret_cast<const std::uint64_t*>(this + 1); }
};
static_assert(sizeof(Slab) + 2 * sizeof(std::uint64_t) <= management_bytes(1));

}  // namespace quire::slab
