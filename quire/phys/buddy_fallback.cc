// When a migrate type has no block left: taking one from another type, and the reserve for high-order atomic requests.
#include <algorithm>
#include <array>

#include "quire/phys/buddy.h"

namespace quire::phys {

namespace {

using Types = std::array<MigrateType, 2>;

Types fallbacks(MigrateType start) {
  switch (start) {
    case MigrateType::kMovable: return {MigrateType::kReclaimable, MigrateType::kUnmovable};
    case MigrateType::kReclaimable: return {MigrateType::kUnmovable, MigrateType::kMovable};
    default: return {MigrateType::kReclaimable, MigrateType::kMovable};
  }
}

// Whether taking a block of this order may turn its whole pageblock over to `start`: large blocks, and requests whose
// pages would pollute other pageblocks one by one.
bool can_steal_fallback(Order order, MigrateType start) {
  return order.value() >= kPageblockOrder.value() / 2 || start == MigrateType::kReclaimable || start == MigrateType::kUnmovable;
}

}  // namespace

Buddy::Fallback Buddy::find_suitable_fallback(const FreeArea& area, Order order, MigrateType start) {
  if (area.nr_free != 0) {
    for (const MigrateType type : fallbacks(start)) {
      if (!area.list(type).empty()) return {type, true, can_steal_fallback(order, start)};
    }
  }
  return {start, false, false};
}

bool Buddy::has_block_of(const Zone& zone, Order order, MigrateType type) {
  for (unsigned o = order.value(); o < kNrOrders; ++o) {
    const FreeArea& area = zone.free_area_[o];
    if (!area.list(type).empty()) return true;
    if (type == MigrateType::kMovable && !area.list(MigrateType::kCma).empty()) return true;
    const Fallback fallback = find_suitable_fallback(area, Order(o), type);
    if (fallback.found && fallback.can_steal) return true;
  }
  return false;
}

bool Buddy::rmqueue_fallback(Zone& zone, Order order, MigrateType start, AllocFlags flags) {
  const bool spare_pageblocks = order < kPageblockOrder && any(flags, AllocFlags::kNoFragment);
  const unsigned min_order = spare_pageblocks ? kPageblockOrder.value() : order.value();

  // The largest block first: whoever must take from another type should not have to come back soon.
  unsigned current = kNrOrders;
  Fallback fallback{start, false, false};
  while (current-- > min_order) {
    fallback = find_suitable_fallback(zone.free_area_[current], Order(current), start);
    if (fallback.found) break;
  }
  if (!fallback.found) return false;

  if (!fallback.can_steal && start == MigrateType::kMovable && current > order.value()) {
    // A movable page harms nobody's pageblock for long: take the smallest block that serves.
    for (current = order.value(); current < kNrOrders; ++current) {
      fallback = find_suitable_fallback(zone.free_area_[current], Order(current), start);
      if (fallback.found) break;
    }
  }

  Page& page = zone.free_area_[current].list(fallback.type).front();
  steal_suitable_fallback(zone, page, flags, start, fallback);
  trace_.mm_page_alloc_extfrag([&] {
    return MmPageAllocExtfrag{page_to_pfn(page), order.value(),
                              current,           start,
                              fallback.type,     sparse_.pageblock_type(page_to_pfn(page)) == start ? 1u : 0u};
  });
  return true;
}

void Buddy::steal_suitable_fallback(Zone& zone, Page& page, AllocFlags flags, MigrateType start, const Fallback& fallback) {
  const unsigned order = static_cast<unsigned>(page.private_);
  const Pfn pfn = page_to_pfn(page);
  const MigrateType old_block = sparse_.pageblock_type(pfn);
  const auto take_block_only = [&] {
    FreeArea& area = zone.free_area_[order];
    list_detail::unlink(&page.lru);
    area.list(start).push_back(page);
  };

  if (old_block == MigrateType::kHighAtomic) return take_block_only();
  if (order >= kPageblockOrder.value()) {
    for (std::uint64_t i = 0; i < std::uint64_t{1} << order; i += kPageblockPages) {
      sparse_.set_pageblock_type(pfn + i, start);
    }
    return take_block_only();
  }

  // Mixing types in a pageblock is what fragments memory: ask for more free pages next time.
  if (boost_watermark(zone) && any(flags, AllocFlags::kKswapd)) zone.set(ZoneFlag::kBoostedWatermark);
  if (!fallback.can_steal) return take_block_only();

  std::uint64_t movable = 0;
  const std::uint64_t free_pages = move_freepages_block(zone, page, start, &movable);
  if (free_pages == 0) return take_block_only();
  std::uint64_t alike = 0;
  if (start == MigrateType::kMovable) {
    alike = movable;
  } else if (old_block == MigrateType::kMovable) {
    alike = kPageblockPages - (free_pages + movable);
  }
  if (free_pages + alike >= kPageblockPages / 2) sparse_.set_pageblock_type(pfn, start);
}

std::uint64_t Buddy::move_freepages_block(Zone& zone, Page& page, MigrateType type, std::uint64_t* movable) {
  const Pfn pfn = page_to_pfn(page);
  Pfn at = align_down(pfn, kPageblockPages);
  const Pfn end = at + kPageblockPages;
  if (!zone.spans(at)) at = pfn;
  if (!zone.spans(end - 1)) return 0;
  std::uint64_t moved = 0;
  while (at < end) {
    Page& p = vmemmap_[at.value()];
    if (!p.test(PageFlag::kBuddy)) {
      if (movable != nullptr && (p.test(PageFlag::kLru) || (p.mapping & kMappingFlags) == kMappingMovable)) ++*movable;
      ++at;
      continue;
    }
    const auto order = static_cast<unsigned>(p.private_);
    list_detail::unlink(&p.lru);
    zone.free_area_[order].list(type).push_back(p);
    at += std::uint64_t{1} << order;
    moved += std::uint64_t{1} << order;
  }
  return moved;
}

bool Buddy::boost_watermark(Zone& zone) const {
  if (boost_factor_ == 0 || kPageblockPages * 4 > zone.managed_pages_) return false;
  std::uint64_t max_boost = zone.watermark(Watermark::kHigh) * boost_factor_ / 10000;
  if (max_boost == 0) return false;  // too early in boot
  max_boost = std::max(kPageblockPages, max_boost);
  zone.watermark_boost_ = std::min(zone.watermark_boost_ + kPageblockPages, max_boost);
  return true;
}

void Buddy::reserve_highatomic_pageblock(Zone& zone, Page& page) {
  const std::uint64_t max = zone.managed_pages_ / 100 + kPageblockPages;
  if (zone.nr_reserved_highatomic_ >= max) return;
  const Pfn pfn = page_to_pfn(page);
  if (static_cast<unsigned>(sparse_.pageblock_type(pfn)) >= kMigratePcpTypes) return;
  zone.nr_reserved_highatomic_ += kPageblockPages;
  sparse_.set_pageblock_type(pfn, MigrateType::kHighAtomic);
  move_freepages_block(zone, page, MigrateType::kHighAtomic, nullptr);
}

bool Buddy::unreserve_highatomic_pageblock(Zone& zone, MigrateType type) {
  for (FreeArea& area : zone.free_area_) {
    Page* page = area.list(MigrateType::kHighAtomic).front_or_null();
    if (page == nullptr) continue;
    const Pfn pfn = page_to_pfn(*page);
    if (sparse_.pageblock_type(pfn) == MigrateType::kHighAtomic) {
      zone.nr_reserved_highatomic_ -= std::min(kPageblockPages, zone.nr_reserved_highatomic_);
    }
    sparse_.set_pageblock_type(pfn, type);
    if (move_freepages_block(zone, *page, type, nullptr) != 0) return true;
  }
  return false;
}

}  // namespace quire::phys
