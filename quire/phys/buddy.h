// The buddy allocator of the machine's zones: free blocks of 2^0 … 2^10 pages by migrate type, split on allocation and
// merged on free, with Linux's rules for falling back to another type's blocks.
//
//   free_area[10]  Unmovable ⇄ ..   Movable ⇄ [4 MiB] ⇄ [4 MiB]   Reclaimable ⇄ ..
//   ...
//   free_area[0]   Unmovable ⇄ [4 KiB] ...
//
// A free block's head page has PageFlag::kBuddy, private_ = order, and is linked by lru.
// Locking: every function needs Zone::lock. NR_FREE_PAGES is kept by free_one_page (adds) and by the caller of rmqueue
// (subtracts), as in Linux, because per-CPU refills subtract once for a batch.
#pragma once

#include <cstdint>

#include "quire/base/types.h"
#include "quire/phys/alloc_flags.h"
#include "quire/phys/sparse.h"
#include "quire/phys/trace_events.h"
#include "quire/phys/zone.h"

namespace quire::phys {

enum class FreeHint : std::uint8_t { kNone, kToTail };

class Buddy {
 public:
  // Initialises the struct Pages of a section and says so; true when something became free (deferred boot).
  class DeferredSource {
   public:
    virtual ~DeferredSource() = default;
    virtual bool grow_zone(Zone& zone) = 0;
  };

  Buddy(Page* vmemmap, SparseMemory& sparse, PhysTracepoints& trace, DeferredSource& deferred,
        std::uint32_t watermark_boost_factor)
      : vmemmap_(vmemmap), sparse_(sparse), trace_(trace), deferred_(deferred), boost_factor_(watermark_boost_factor) {}

  // A block of exactly 2^order pages from the lists of `type` only, the smallest that does.
  Page* rmqueue_smallest(Zone& zone, Order order, MigrateType type);
  // The same, falling back to other types' blocks (__rmqueue).
  Page* rmqueue(Zone& zone, Order order, MigrateType type, AllocFlags flags);

  // Takes a whole free block off its list; the caller keeps the counters.
  void take_block(Zone& zone, Page& page) { del_page_from_free_list(zone, page, Order(static_cast<unsigned>(page.private_))); }

  // Puts a block back and merges it with its free buddies (__free_one_page).
  void free_one_page(Zone& zone, Page& page, Order order, MigrateType type, FreeHint hint = FreeHint::kNone);

  // Moves the free pages of the pageblock around `page` to the lists of `type`; gives how many, and through `movable`
  // (may be null) how many pages of it that are in use look movable.
  std::uint64_t move_freepages_block(Zone& zone, Page& page, MigrateType type, std::uint64_t* movable);

  // Reserves the pageblock for high-order atomic requests (reserve_highatomic_pageblock), within 1 % of the zone.
  void reserve_highatomic_pageblock(Zone& zone, Page& page);
  // Gives one reserved pageblock back to `type`; true when pages moved.
  bool unreserve_highatomic_pageblock(Zone& zone, MigrateType type);

  // Turns the pageblock over to isolation: its free pages leave NR_FREE_PAGES and go to the Isolate list. What it was is
  // remembered. Precondition: it is not isolated yet.
  void isolate_pageblock(Zone& zone, Page& page);
  // Ends that: the pageblock becomes `type`, its free pages count again and merge with those beside it.
  void unisolate_pageblock(Zone& zone, Page& page, MigrateType type);
  // Cuts a free block in two, `offset` pages from its start; the parts go to the lists of their own pageblocks.
  void split_free_page(Zone& zone, Page& page, std::uint64_t offset);

  // A free block of at least 2^order pages for a request of no special rights.
  [[nodiscard]] static bool has_block(const Zone& zone, Order order, AllocFlags flags);
  // A free block of at least 2^order pages on the lists of `type`, or one of another type that it may take with its pageblock
  // (what compaction works for).
  [[nodiscard]] static bool has_block_of(const Zone& zone, Order order, MigrateType type);

  [[nodiscard]] Pfn page_to_pfn(const Page& page) const { return Pfn(static_cast<std::uint64_t>(&page - vmemmap_)); }

 private:
  struct Fallback {
    MigrateType type;
    bool found;
    bool can_steal;
  };
  static Fallback find_suitable_fallback(const FreeArea& area, Order order, MigrateType start);
  bool rmqueue_fallback(Zone& zone, Order order, MigrateType start, AllocFlags flags);
  void steal_suitable_fallback(Zone& zone, Page& page, AllocFlags flags, MigrateType start, const Fallback& fallback);
  bool boost_watermark(Zone& zone) const;

  static void mod_freepage_state(Zone& zone, std::int64_t pages, MigrateType type);
  void add_to_free_list(Zone& zone, Page& page, Order order, MigrateType type);
  void add_to_free_list_tail(Zone& zone, Page& page, Order order, MigrateType type);
  void del_page_from_free_list(Zone& zone, Page& page, Order order);
  void expand(Zone& zone, Page& page, Order low, unsigned high, MigrateType type);
  Page* find_buddy_page(Page& page, Pfn pfn, unsigned order);

  Page* vmemmap_;
  SparseMemory& sparse_;
  PhysTracepoints& trace_;
  DeferredSource& deferred_;
  std::uint32_t boost_factor_;
};

}  // namespace quire::phys
