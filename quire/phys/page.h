// struct Page: what the machine knows of one page frame. 64 bytes each, kept in the arena (the memmap) in frames taken
// from memblock, virtually contiguous in the vmemmap, so pfn ↔ Page is one addition.
//
//   offset 0   flags      PageFlag bits, zone and node
//          8   lru        list links: LRU, buddy free list, per-CPU list or slab, by the owner of the moment;
//                         in the tail of a compound page: compound_head (head address | 1), and in the first tail its order
//         24   mapping    AddressSpace, or AnonVma with bit 0 set (kMappingAnon)
//         32   index      page offset in the mapping; on a per-CPU list: the migrate type
//         40   private_   buddy: order of the block; swap cache: the swap entry
//         48   mapcount   how many page-table entries map it
//         52   refcount
//         56   memcg_data
//
// Invariants: a free page has refcount 0, mapcount 0, mapping 0. A page of all zero bytes is valid (never touched).
// Locking: flags and counts follow Linux's rules (PG_locked for mapping and index; lru by the owner's lock).
// Differs from Linux: mapcount starts at 0, not -1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/bug.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/types.h"
#include "quire/phys/page_flags.h"

namespace quire::phys {

// Of all architectures, lowest first. x86-64 has all but HighMem, i386 all but DMA32 and Device (zone.h: has_zone); a zone
// that an architecture does not have stays empty and is shown to nobody.
enum class ZoneType : std::uint8_t { kDma, kDma32, kNormal, kHighMem, kMovable, kDevice, kCount };

inline constexpr std::uint64_t kMappingAnon = 1;
inline constexpr std::uint64_t kMappingMovable = 2;
inline constexpr std::uint64_t kMappingKsm = 3;
inline constexpr std::uint64_t kMappingFlags = 3;

// What a tail page of a compound page holds in place of its list links.
struct CompoundTail {
  std::uint64_t head;  // address of the head | 1
  std::uint8_t order;  // in the first tail only, like the rest
  std::uint8_t dtor;
  std::uint16_t reserved;
  std::int32_t mapcount;
};

struct Page {
  std::uint64_t flags = 0;
  union {
    ListNode lru = {};
    CompoundTail tail;
    void* owner_word[2];  // for the owner of a page that is on no list
  };
  std::uint64_t mapping = 0;
  std::uint64_t index = 0;
  std::uint64_t private_ = 0;
  std::int32_t mapcount = 0;
  std::int32_t refcount = 0;
  std::uint64_t memcg_data = 0;

  [[nodiscard]] bool test(PageFlag f) const { return (flags & bits(f)) != 0; }
  void set(PageFlag f) { flags |= bits(f); }
  void clear(PageFlag f) { flags &= ~bits(f); }
  // Sets (clears) the bit and gives its old value.
  bool test_and_set(PageFlag f) {
    const bool old = test(f);
    set(f);
    return old;
  }
  bool test_and_clear(PageFlag f) {
    const bool old = test(f);
    clear(f);
    return old;
  }

  [[nodiscard]] Nid nid() const { return Nid(static_cast<int>((flags >> kNodesPageShift) & kNodesPageMask)); }
  [[nodiscard]] ZoneType zone_type() const { return static_cast<ZoneType>((flags >> kZonesPageShift) & kZonesPageMask); }

  // A tail page of a compound page keeps no flags of its own that matter; ask its head.
  [[nodiscard]] bool is_tail() const { return (tail.head & 1) != 0; }
  [[nodiscard]] bool is_head() const { return test(PageFlag::kHead); }
  [[nodiscard]] bool is_compound() const { return is_head() || is_tail(); }
};

static_assert(sizeof(Page) == 64);
static_assert(offsetof(Page, flags) == 0);
static_assert(offsetof(Page, lru) == 8);
static_assert(offsetof(Page, mapping) == 24);
static_assert(offsetof(Page, index) == 32);
static_assert(offsetof(Page, private_) == 40);
static_assert(offsetof(Page, mapcount) == 48);
static_assert(offsetof(Page, refcount) == 52);

using PageList = List<Page, &Page::lru>;

// The head of the compound page that `page` belongs to, or the page itself.
[[nodiscard]] inline Page& compound_head(Page& page) {
  if (!page.is_tail()) [[likely]]
    return page;
  return *reinterpret_cast<Page*>(page.tail.head - 1);
}
[[nodiscard]] inline const Page& compound_head(const Page& page) { return compound_head(const_cast<Page&>(page)); }
[[nodiscard]] inline Order compound_order(const Page& head) { return head.is_head() ? Order((&head)[1].tail.order) : Order(0); }

[[nodiscard]] inline int page_count(const Page& page) { return compound_head(page).refcount; }
[[nodiscard]] inline int page_mapcount(const Page& page) { return page.mapcount; }

inline void set_page_links(Page& page, ZoneType zone, Nid nid) {
  page.flags = (page.flags & kPageFlagsMask) | (static_cast<std::uint64_t>(zone) << kZonesPageShift) |
               (static_cast<std::uint64_t>(nid.value()) << kNodesPageShift);
}

}  // namespace quire::phys
