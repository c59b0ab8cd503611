// One slab: 2^order pages cut into equal objects of one cache, and the descriptor that manages them.
//
//   on-slab  (small objects)   | colour | Slab | bufctl[num] | obj 0 | obj 1 | … | waste |
//   off-slab (objects ≥ 512)   | colour | obj 0 | obj 1 | … | waste |     Slab + bufctl[num] in cache "slab_mgmt"
//
// `bufctl` is the free list: bufctl[i] is the index of the free object after i, kEnd for the last, and kActive for an
// object that is not free, so that freeing an object twice is seen at once. `free` is the index of the first free one.
//
// Invariants: inuse + length of the free list == the cache's num; a slab is on `full` iff inuse == num, on `free` iff
// inuse == 0, else on `partial`; each of its pages bears PG_slab and points at the cache and the slab.
// Lock: the list_lock of the KmemCacheNode it belongs to.
// Differs from Linux 6.1, which lays struct slab over struct page: the descriptor is apart, as in 2.4 to 3.12.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/intrusive_list.h"
#include "quire/base/types.h"

namespace quire::phys {
struct Page;
}

namespace quire::slab {

class KmemCacheBase;

using BufCtl = std::uint16_t;
inline constexpr BufCtl kBufCtlEnd = 0xffff;
inline constexpr BufCtl kBufCtlActive = 0xfffe;
inline constexpr std::uint32_t kMaxObjectsPerSlab = 0xfffd;
inline constexpr std::uint32_t kMaxObjectsOffSlab = 32;  // for which "slab_mgmt" has room

struct Slab {
  ListNode link;  // one of the node's three lists
  KmemCacheBase* cache = nullptr;
  phys::Page* page = nullptr;    // first page
  std::byte* s_mem = nullptr;    // object 0
  std::uint32_t inuse = 0;       // objects not on the free list
  BufCtl free = kBufCtlEnd;      // first free object
  Nid nid{};                     // node of the pages
  std::uint64_t colour_off = 0;  // bytes before the first thing on the slab

  [[nodiscard]] BufCtl* bufctl() { return reinterpret_cast<BufCtl*>(this + 1); }
  [[nodiscard]] const BufCtl* bufctl() const { return reinterpret_cast<const BufCtl*>(this + 1); }
};
static_assert(sizeof(Slab) == 56);

using SlabList = List<Slab, &Slab::link>;

}  // namespace quire::slab
