#include "quire/phys/buddy.h"

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::phys {

namespace {

bool migratetype_is_mergeable(MigrateType type) { return static_cast<unsigned>(type) < kMigratePcpTypes; }

bool page_is_buddy(const Page& page, unsigned order, const Page& of) {
  return page.test(PageFlag::kBuddy) && page.private_ == order && page.nid() == of.nid() && page.zone_type() == of.zone_type();
}

void set_buddy_order(Page& page, unsigned order) {
  page.private_ = order;
  page.set(PageFlag::kBuddy);
}

}  // namespace

void Buddy::add_to_free_list(Zone& zone, Page& page, Order order, MigrateType type) {
  FreeArea& area = zone.free_area_[order.value()];
  area.list(type).push_front(page);
  ++area.nr_free;
}

void Buddy::add_to_free_list_tail(Zone& zone, Page& page, Order order, MigrateType type) {
  FreeArea& area = zone.free_area_[order.value()];
  area.list(type).push_back(page);
  ++area.nr_free;
}

void Buddy::del_page_from_free_list(Zone& zone, Page& page, Order order) {
  list_detail::unlink(&page.lru);
  page.clear(PageFlag::kBuddy | PageFlag::kReported);
  page.private_ = 0;
  --zone.free_area_[order.value()].nr_free;
}

// Splits a block of 2^high that was taken from its list down to 2^low; the upper halves become free.
void Buddy::expand(Zone& zone, Page& page, Order low, unsigned high, MigrateType type) {
  while (high > low.value()) {
    --high;
    Page& upper = (&page)[std::uint64_t{1} << high];
    add_to_free_list(zone, upper, Order(high), type);
    set_buddy_order(upper, high);
  }
}

Page* Buddy::rmqueue_smallest(Zone& zone, Order order, MigrateType type) {
  for (unsigned current = order.value(); current < kNrOrders; ++current) {
    Page* page = zone.free_area_[current].list(type).front_or_null();
    if (page == nullptr) continue;
    del_page_from_free_list(zone, *page, Order(current));
    expand(zone, *page, order, current, type);
    page->index = static_cast<std::uint64_t>(type);
    trace_.mm_page_alloc_zone_locked([&] {
      const bool pcp = PerCpuPages::order_allowed(order) && static_cast<unsigned>(type) < kMigratePcpTypes;
      return MmPageAllocZoneLocked{page_to_pfn(*page), order.value(), type, pcp ? 1u : 0u};
    });
    return page;
  }
  return nullptr;
}

Page* Buddy::rmqueue(Zone& zone, Order order, MigrateType type, AllocFlags flags) {
  // Movable pages fill CMA areas as soon as these hold more than half of what is free, so that they do not stand empty
  // while the rest runs short.
  const bool cma = any(flags, AllocFlags::kCma);
  if (cma && zone.stats[ZoneStat::kNrFreeCma] > zone.stats[ZoneStat::kNrFreePages] / 2) {
    if (Page* page = rmqueue_smallest(zone, order, MigrateType::kCma)) return page;
  }
  for (;;) {
    if (Page* page = rmqueue_smallest(zone, order, type)) return page;
    // Memory that is still to be initialised comes before another type's smaller blocks: to Linux it would be there already,
    // as movable blocks of the largest order.
    const bool all_cut = zone.free_area_[kMaxOrder.value()].list(MigrateType::kMovable).empty();
    if (zone.deferred_pages_ != 0 && all_cut && deferred_.grow_zone(zone)) continue;
    if (cma) {
      if (Page* page = rmqueue_smallest(zone, order, MigrateType::kCma)) return page;
    }
    if (!rmqueue_fallback(zone, order, type, flags)) return nullptr;
  }
}

Page* Buddy::find_buddy_page(Page& page, Pfn pfn, unsigned order) {
  Page& buddy = vmemmap_[pfn.value() ^ (std::uint64_t{1} << order)];
  return page_is_buddy(buddy, order, page) ? &buddy : nullptr;
}

void Buddy::free_one_page(Zone& zone, Page& page, Order block, MigrateType type, FreeHint hint) {
  zone.lock.assert_held();
  if (type != MigrateType::kIsolate) mod_freepage_state(zone, static_cast<std::int64_t>(block.pages()), type);

  Pfn pfn = page_to_pfn(page);
  Page* head = &page;
  unsigned order = block.value();
  while (order < kMaxOrder.value()) {
    Page* buddy = find_buddy_page(*head, pfn, order);
    if (buddy == nullptr) break;
    if (order >= kPageblockOrder.value()) {
      // Blocks of a pageblock and more join only where mixing types does no harm.
      const MigrateType other = sparse_.pageblock_type(page_to_pfn(*buddy));
      if (other != type && !(migratetype_is_mergeable(type) && migratetype_is_mergeable(other))) break;
    }
    del_page_from_free_list(zone, *buddy, Order(order));
    const Pfn combined(pfn.value() & ~(std::uint64_t{1} << order));
    head = &vmemmap_[combined.value()];
    pfn = combined;
    ++order;
  }

  set_buddy_order(*head, order);
  // A block whose upper neighbour is free soon merges if it is left alone: it goes to the tail.
  bool to_tail = hint == FreeHint::kToTail;
  if (!to_tail && order + 1 < kMaxOrder.value()) {
    const Pfn higher(pfn.value() & ~(std::uint64_t{1} << order));
    to_tail = find_buddy_page(vmemmap_[higher.value()], higher, order + 1) != nullptr;
  }
  if (to_tail) {
    add_to_free_list_tail(zone, *head, Order(order), type);
  } else {
    add_to_free_list(zone, *head, Order(order), type);
  }
}

bool Buddy::has_block(const Zone& zone, Order order, AllocFlags flags) {
  const bool harder = any(flags, AllocFlags::kHarder | AllocFlags::kOom);
  if (zone.deferred_pages_ != 0) return true;
  for (unsigned o = order.value(); o < kNrOrders; ++o) {
    const FreeArea& area = zone.free_area_[o];
    if (area.nr_free == 0) continue;
    for (unsigned type = 0; type < kMigratePcpTypes; ++type) {
      if (!area.free_list[type].empty()) return true;
    }
    if (any(flags, AllocFlags::kCma) && !area.list(MigrateType::kCma).empty()) return true;
    if (harder && !area.list(MigrateType::kHighAtomic).empty()) return true;
  }
  return false;
}

}  // namespace quire::phys
