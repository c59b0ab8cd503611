#include "quire/slab/slab_layout.h"

#include "quire/slab/slab_system.h"

namespace quire::slab {
namespace {

using phys::Gfp;
using phys::Page;
using phys::PageFlag;

Gfp page_gfp(const KmemCacheBase& cache, Gfp gfp, Order order) {
  Gfp flags = gfp & ~(Gfp::kZero | Gfp::kMovable | Gfp::kHighmem | Gfp::kBareDma | Gfp::kBareDma32 | Gfp::kReclaimable);
  if (any(cache.flags(), SlabFlags::kReclaimAccount)) flags |= Gfp::kReclaimable;
  if (any(cache.flags(), SlabFlags::kCacheDma)) flags |= Gfp::kBareDma;
  if (any(cache.flags(), SlabFlags::kCacheDma32)) flags |= Gfp::kBareDma32;
  if (order.value() > 0) flags |= Gfp::kComp;
  return flags;
}

void account(KmemCacheBase& cache, const Page& page, std::int64_t pages) {
  const auto which = any(cache.flags(), SlabFlags::kReclaimAccount) ? phys::NodeStat::kNrSlabReclaimable
                                                                    : phys::NodeStat::kNrSlabUnreclaimable;
  cache.system().phys().node(page.nid()).stats.add(which, pages);
}

}  // namespace

void SlabLayout::drop_stocks(KmemCacheBase& /*cache*/) {}

Page* SlabLayout::alloc_slab_page(KmemCacheBase& cache, Gfp gfp, Order order, Nid nid) {
  Page* page = cache.system().phys().alloc_pages(page_gfp(cache, gfp, order), order, nid);
  if (page == nullptr) return nullptr;
  for (Page& part : std::span(page, order.pages())) {
    part.set(PageFlag::kSlab);
    part.mapping = reinterpret_cast<std::uint64_t>(&cache);
  }
  cache.system().count_slab_pages(*page, order, SlabSystem::SlabPages::kCome);
  account(cache, *page, static_cast<std::int64_t>(order.pages()));
  return page;
}

void SlabLayout::free_slab_page(KmemCacheBase& cache, Page& page) {
  const Order order = phys::compound_order(page);
  account(cache, page, -static_cast<std::int64_t>(order.pages()));
  cache.system().count_slab_pages(page, order, SlabSystem::SlabPages::kGo);
  cache.system().scheduler().context().reclaimed_slab += order.pages();
  for (Page& part : std::span(&page, order.pages())) {
    part.clear(PageFlag::kSlab);
    part.mapping = 0;
  }
  cache.system().phys().free_pages(page, order);
}

}  // namespace quire::slab
