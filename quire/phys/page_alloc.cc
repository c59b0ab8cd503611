// Allocation: preparing a request, taking a block from one zone, watermark checks, and preparing the page for its user.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "quire/phys/alloc/flow_trace.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

// Contents of pages for user space and files are stored in data mode only; what the kernel asks to have zeroed is real.
bool is_user_data(Gfp gfp) { return any(gfp, Gfp::kMovable | Gfp::kHighmem); }

std::uint64_t unusable_free(const Zone& zone, Order order, AllocFlags flags) {
  std::uint64_t unusable = order.pages() - 1;
  if (!any(flags, AllocFlags::kHarder | AllocFlags::kOom)) unusable += zone.nr_reserved_highatomic();
  if (!any(flags, AllocFlags::kCma)) unusable += static_cast<std::uint64_t>(zone.state(ZoneStat::kNrFreeCma));
  return unusable;
}

// Asks for all lines of a page that is about to be overwritten at once, where the stores would wait for one after another.
// (Clearing 64 MiB page by page: 680 ns a page without, 390 with; 1 MiB, which is in the cache: 95 ns with or without.)
void prefetch_page(const std::byte* page) {
  constexpr std::size_t kLine = 64;
  for (std::size_t at = 0; at < kPageSize; at += kLine) __builtin_prefetch(page + at, 1);
}

void clear_bytes(std::byte* page) {
  prefetch_page(page);
  std::memset(page, 0, kPageSize);
}

}  // namespace

Page* PhysMem::alloc_pages_slow(Gfp gfp, Order order, Nid nid) {
  if (order > kMaxOrder) {
    // As WARN_ON_ONCE: the caller has a bug, but a harmless one.
    if (log_sink_ && !any(gfp, Gfp::kNoWarn) && !std::exchange(order_warned_, true)) {
      log_line(fmt::format("WARNING: alloc_pages: order:{} is above MAX_ORDER - 1 = {}, mode:{:#x}({})", order.value(),
                           kMaxOrder.value(), bits(gfp), gfp_names(gfp)));
    }
    return nullptr;
  }
  gfp &= kGfpBitsMask;
  if (nid == kNoNode) nid = numa_node_id();
  // current_gfp_context
  if (task_test(scheduler_, TaskFlag::kMemallocNoIo)) gfp &= ~(Gfp::kIo | Gfp::kFs);
  if (task_test(scheduler_, TaskFlag::kMemallocNoFs)) gfp &= ~Gfp::kFs;

  Node& on = node(nid);
  ZoneList& zonelist = any(gfp, Gfp::kThisNode) ? on.zonelist_thisnode() : on.zonelist();
  const ZoneType highest = gfp_zone(gfp);
  AllocContext ac{gfp, order, &zonelist, zonelist.first_zone(highest), highest, allocation_type(gfp), any(gfp, Gfp::kWrite)};
  if (gfpflags_allow_blocking(gfp)) scheduler_.sync_point();  // might_alloc
  Page* page = policy_->alloc_pages(*this, ac);
  if (trace_.mm_page_alloc.enabled()) [[unlikely]]
    trace_alloc(page, order, gfp);
  return page;
}

Page* PhysMem::finish_pcp_page(Page& page, Gfp gfp) {
  page.clear(PageFlag::kPcp);
  check_new_page(page);
  prep_new_page(page, Order(0), gfp);
  if (trace_.mm_page_alloc.enabled()) trace_pcp_alloc(page, gfp);
  return &page;
}

// The short cut in the words of the flow whose fast path it is.
void PhysMem::trace_pcp_alloc(const Page& page, Gfp gfp) {
  Zone& zone = page_zone(page);
  const ZoneType highest = gfp_zone(gfp);
  AllocContext ac{gfp, Order(0), nullptr, &zone, highest, gfp_migratetype(gfp), false};
  flow::begin(*this, policy_->name(), ac);
  flow::pass(*this, "fast path", AllocFlags::kWmarkLow);
  flow::zone(*this, zone, Order(0), Watermark::kLow, zone.wmark_pages(Watermark::kLow), zone.lowmem_reserve(highest), "ok");
  trace_.alloc_taken([&] { return AllocTaken{zone.node().nid().value(), zone.name(), page_to_pfn(page), "per-CPU list"}; });
  trace_alloc(&page, Order(0), gfp);
}

void PhysMem::trace_alloc(const Page* page, Order order, Gfp gfp) {
  trace_.mm_page_alloc([&] {
    const Pfn pfn = page != nullptr ? page_to_pfn(*page) : Pfn(kNoPfn);
    return MmPageAlloc{pfn, order.value(), gfp, gfp_migratetype(gfp)};
  });
}

Page* PhysMem::rmqueue(Zone& preferred, Zone& zone, Order order, AllocFlags flags, MigrateType type) {
  scheduler_.charge(alloc_cost_);
  Page* page = nullptr;
  bool from_pcp = false;
  if (PerCpuPages::order_allowed(order) && order <= pcp_max_order_) {
    page = rmqueue_pcplist(preferred, zone, order, flags, type);
    from_pcp = page != nullptr;
  }
  if (page == nullptr) page = rmqueue_buddy(preferred, zone, order, flags, type);
  trace_.alloc_taken([&] {
    const Pfn pfn = page != nullptr ? page_to_pfn(*page) : Pfn(kNoPfn);
    return AllocTaken{zone.node().nid().value(), zone.name(), pfn, from_pcp ? "per-CPU list" : "buddy"};
  });
  if (zone.test(ZoneFlag::kBoostedWatermark)) [[unlikely]] {
    zone.clear(ZoneFlag::kBoostedWatermark);
    if (pressure_ != nullptr) pressure_->wakeup_kswapd(zone, Gfp::kNone, Order(0), zone.type());
  }
  return page;
}

Page* PhysMem::rmqueue_buddy(Zone& preferred, Zone& zone, Order order, AllocFlags flags, MigrateType type) {
  Page* page = nullptr;
  {
    sim::SpinGuard guard(zone.lock);
    if (order.value() > 0 && any(flags, AllocFlags::kHarder)) {
      page = buddy_.rmqueue_smallest(zone, order, MigrateType::kHighAtomic);
    }
    if (page == nullptr) page = buddy_.rmqueue(zone, order, type, flags);
    if (page == nullptr) return nullptr;
    const auto pages = static_cast<std::int64_t>(order.pages());
    zone.stats.sub(ZoneStat::kNrFreePages, pages);
    if (static_cast<MigrateType>(page->index) == MigrateType::kCma) zone.stats.sub(ZoneStat::kNrFreeCma, pages);
  }
  check_new_page(*page);
#ifdef QUIRE_DEBUG
  for (std::uint64_t i = 1; i < order.pages(); ++i) check_new_page(page[i]);
#endif
  vmstat_.count_zid_vm_events(VmEvent::kPgallocDma, zone.type(), static_cast<std::int64_t>(order.pages()));
  zone_statistics(preferred, zone, 1);
  return page;
}

void PhysMem::zone_statistics(Zone& preferred, Zone& zone, std::int64_t n) {
  const bool local = zone.node().nid() == numa_node_id();
  if (zone.node().nid() == preferred.node().nid()) {
    zone.numa.add(NumaStat::kNumaHit, n);
  } else {
    zone.numa.add(NumaStat::kNumaMiss, n);
    preferred.numa.add(NumaStat::kNumaForeign, n);
  }
  zone.numa.add(local ? NumaStat::kNumaLocal : NumaStat::kNumaOther, n);
}

bool PhysMem::zone_watermark_ok(const Zone& zone, Order order, std::uint64_t mark, ZoneType highest, AllocFlags flags,
                                std::uint64_t free_pages) {
  const auto available = static_cast<std::int64_t>(free_pages) - static_cast<std::int64_t>(unusable_free(zone, order, flags));
  const bool harder = any(flags, AllocFlags::kHarder | AllocFlags::kOom);
  auto min = static_cast<std::int64_t>(mark);
  if (any(flags, AllocFlags::kHigh)) min -= min / 2;
  if (harder) min -= any(flags, AllocFlags::kOom) ? min / 2 : min / 4;
  if (available <= min + zone.lowmem_reserve(highest)) return false;
  return order.value() == 0 || Buddy::has_block(zone, order, flags);
}

bool PhysMem::zone_watermark_fast(const Zone& zone, Order order, std::uint64_t mark, ZoneType highest, AllocFlags flags,
                                  Gfp gfp) {
  const std::uint64_t free_pages = zone.free_pages();
  if (zone_watermark_ok(zone, order, mark, highest, flags, free_pages)) return true;
  // An atomic order-0 request may use what a boost holds back.
  const bool boosted_atomic = order.value() == 0 && any(gfp, Gfp::kBareAtomic) && zone.watermark_boost() != 0 &&
                              (flags & AllocFlags::kWmarkMask) == AllocFlags::kWmarkMin;
  return boosted_atomic && zone_watermark_ok(zone, order, zone.watermark(Watermark::kMin), highest, flags, free_pages);
}

void PhysMem::reserve_highatomic_pageblock(Zone& zone, Page& page) {
  sim::SpinGuard guard(zone.lock);
  buddy_.reserve_highatomic_pageblock(zone, page);
}

bool PhysMem::unreserve_highatomic_pageblock(const AllocContext& ac, Unreserve how) {
  const std::uint64_t keep = how == Unreserve::kKeepOne ? kPageblockPages : 0;
  bool moved = false;
  ac.zonelist->for_each_zone(ac.highest_zoneidx, [&](Zone& zone) {
    sim::SpinGuard guard(zone.lock);
    moved = zone.nr_reserved_highatomic() > keep && buddy_.unreserve_highatomic_pageblock(zone, ac.migratetype);
    return !moved;
  });
  return moved;
}

void PhysMem::check_new_page(const Page& page) const {
  const std::uint64_t state = page.flags & kPageFlagsCheckAtPrep & ~bits(PageFlag::kPcp);
  if (state != 0) [[unlikely]]
    bad_page(page, "PAGE_FLAGS_CHECK_AT_PREP flag set");
  if (page.refcount != 0) [[unlikely]]
    bad_page(page, "nonzero _refcount");
  if (page.mapcount != 0) [[unlikely]]
    bad_page(page, "nonzero mapcount");
  if (page.mapping != 0) [[unlikely]]
    bad_page(page, "non-NULL mapping");
}

void PhysMem::prep_new_page(Page& page, Order order, Gfp gfp) {
  page.private_ = 0;
  page.refcount = 1;
  if (any(gfp, Gfp::kZero)) zero_pages(page, order, gfp);
  if (order.value() != 0 && any(gfp, Gfp::kComp)) prep_compound_page(page, order);
}

void PhysMem::prep_compound_page(Page& head, Order order) {
  head.set(PageFlag::kHead);
  const std::uint64_t tag = reinterpret_cast<std::uintptr_t>(&head) | 1;
  for (std::uint64_t i = 1; i < order.pages(); ++i) (&head)[i].tail.head = tag;
  CompoundTail& first_tail = (&head)[1].tail;
  first_tail.order = static_cast<std::uint8_t>(order.value());
  first_tail.dtor = 0;
  first_tail.mapcount = 0;
}

void PhysMem::zero_pages(Page& page, Order order, Gfp gfp) {
  scheduler_.charge(scheduler_.costs().clear_page * order.pages());
  if (data_mode_ == DataMode::kDataless && is_user_data(gfp)) return;
  for (std::uint64_t i = 0; i < order.pages(); ++i) clear_bytes(page_address((&page)[i]));
}

void PhysMem::clear_page(Page& page) {
  scheduler_.charge(scheduler_.costs().clear_page);
  if (data_mode_ == DataMode::kData) clear_bytes(page_address(page));
}

void PhysMem::copy_page(Page& to, const Page& from) {
  scheduler_.charge(scheduler_.costs().copy_page);
  if (data_mode_ == DataMode::kDataless) return;
  prefetch_page(page_address(from));
  prefetch_page(page_address(to));
  std::memcpy(page_address(to), page_address(from), kPageSize);
}

Folio* PhysMem::folio_alloc(Gfp gfp, Order order, Nid nid) {
  return static_cast<Folio*>(alloc_pages(gfp | Gfp::kComp, order, nid));
}

Page* PhysMem::alloc_pages_exact(std::uint64_t bytes, Gfp gfp) {
  const std::uint64_t pages = bytes_to_pages_up(bytes);
  if (pages == 0) return nullptr;
  Order order(0);
  while (order.pages() < pages) {
    if (order == kMaxOrder) return nullptr;
    order = Order(order.value() + 1);
  }
  Page* page = alloc_pages(gfp & ~(Gfp::kComp | Gfp::kHighmem), order);
  if (page == nullptr) return nullptr;
  split_page(*page, order);
  for (std::uint64_t i = pages; i < order.pages(); ++i) free_page(page[i]);
  return page;
}

void PhysMem::free_pages_exact(Page& page, std::uint64_t bytes) {
  for (std::uint64_t i = 0; i < bytes_to_pages_up(bytes); ++i) free_page((&page)[i]);
}

std::uint64_t PhysMem::alloc_pages_bulk(Gfp gfp, std::span<Page*> pages, Nid nid) {
  std::uint64_t filled = 0;
  for (; filled < pages.size(); ++filled) {
    if (pages[filled] != nullptr) continue;
    pages[filled] = alloc_pages(gfp, Order(0), nid);
    if (pages[filled] == nullptr) break;
  }
  return filled;
}

void PhysMem::split_page(Page& page, Order order) {
  QUIRE_BUG_ON(page.is_compound() || page.refcount == 0);
  for (std::uint64_t i = 1; i < order.pages(); ++i) (&page)[i].refcount = 1;
}

}  // namespace quire::phys
