// Per-CPU page lists: refilled from the buddy in batches, drained to it when they grow past `high`.
//
// A list belongs to its CPU. The zone's lock is taken before a list is touched, so a task that waits for the lock (and may
// lose its CPU there) holds no half-changed list.
#include <algorithm>

#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr Order pindex_to_order(unsigned pindex) {
  return pindex == kNrLowOrderPcpLists ? kPageblockOrder : Order(pindex / kMigratePcpTypes);
}

MigrateType pcppage_migratetype(const Page& page) { return static_cast<MigrateType>(page.index); }

// Up to how many pages a list may hold now (nr_pcp_high).
enum class FreeHigh : bool { kNo, kYes };
std::int32_t nr_pcp_high(const PerCpuPages& pcp, const Zone& zone, FreeHigh free_high) {
  if (pcp.high == 0 || free_high == FreeHigh::kYes) return 0;
  if (!zone.test(ZoneFlag::kReclaimActive)) return pcp.high;
  return std::min(pcp.batch << 2, pcp.high);
}

// How many pages to give back at once: more each time as long as nothing is allocated in between (nr_pcp_free).
std::int32_t nr_pcp_free(PerCpuPages& pcp, std::int32_t high, FreeHigh free_high) {
  if (free_high == FreeHigh::kYes) return pcp.count;
  if (high < pcp.batch) return 1;
  const std::int32_t most = high - pcp.batch;
  const std::int32_t batch = pcp.batch << pcp.free_factor;
  if (batch < most) ++pcp.free_factor;
  return std::min(std::max(batch, pcp.batch), most);  // as clamp(), whose upper bound wins when the two have crossed
}

}  // namespace

// Moves up to `count` blocks from the buddy to the running CPU's list.
std::uint32_t PhysMem::rmqueue_bulk(Zone& zone, Order order, std::uint32_t count, MigrateType type, AllocFlags flags) {
  sim::SpinGuard guard(zone.lock);
  PageList& list = zone.pcp_[scheduler_.cpu()].lists[PerCpuPages::index(order, type)];
  std::uint32_t n = 0;
  for (; n < count; ++n) {
    Page* page = buddy_.rmqueue(zone, order, type, flags);
    if (page == nullptr) break;
    check_new_page(*page);
    page->set(PageFlag::kPcp);
    list.push_back(*page);
    if (pcppage_migratetype(*page) == MigrateType::kCma) {
      zone.stats.sub(ZoneStat::kNrFreeCma, static_cast<std::int64_t>(order.pages()));
    }
  }
  zone.stats.sub(ZoneStat::kNrFreePages, static_cast<std::int64_t>(n << order.value()));
  zone.pcp_[scheduler_.cpu()].count += static_cast<std::int32_t>(n << order.value());
  return n;
}

Page* PhysMem::rmqueue_pcplist(Zone& preferred, Zone& zone, Order order, AllocFlags flags, MigrateType type) {
  const unsigned index = PerCpuPages::index(order, type);
  PerCpuPages* pcp = &zone.pcp_[scheduler_.cpu()];
  pcp->free_factor >>= 1;
  if (pcp->lists[index].empty()) {
    // Small zones have a batch of one: nothing is stored on their lists.
    std::uint32_t batch = static_cast<std::uint32_t>(pcp->batch);
    if (batch > 1) batch = std::max(batch >> order.value(), 2u);
    rmqueue_bulk(zone, order, batch, type, flags);
    pcp = &zone.pcp_[scheduler_.cpu()];  // the task may have moved while it waited for the lock
  }
  Page* page = pcp->lists[index].pop_front();
  if (page == nullptr) return nullptr;
  pcp->count -= static_cast<std::int32_t>(order.pages());
  page->clear(PageFlag::kPcp);
  check_new_page(*page);
  vmstat_.count_zid_vm_events(VmEvent::kPgallocDma, zone.type(), static_cast<std::int64_t>(order.pages()));
  zone_statistics(preferred, zone, 1);
  return page;
}

// Puts a checked page on the running CPU's list and drains the list when it is long enough.
void PhysMem::free_unref_page_commit(Zone& zone, Page& page, MigrateType type, Order order) {
  const unsigned cpu = scheduler_.cpu();
  PerCpuPages& pcp = zone.pcp_[cpu];
  vmstat_.count_vm_events(VmEvent::kPgfree, static_cast<std::int64_t>(order.pages()));
  // The atomic reserve has no list of its own here, but its pages go back to it when they are drained.
  const bool has_list = static_cast<unsigned>(type) < kMigratePcpTypes;
  const unsigned pindex = PerCpuPages::index(order, has_list ? type : MigrateType::kMovable);
  page.set(PageFlag::kPcp);
  page.index = static_cast<std::uint64_t>(type);
  pcp.lists[pindex].push_front(page);
  pcp.count += static_cast<std::int32_t>(order.pages());

  // High-order pages freed in a row are given back at once: contiguous memory is worth more in the buddy.
  const bool high_order = pcp.free_factor != 0 && order.value() != 0 && order <= kPageAllocCostlyOrder;
  const FreeHigh free_high = high_order ? FreeHigh::kYes : FreeHigh::kNo;
  const std::int32_t high = nr_pcp_high(pcp, zone, free_high);
  if (pcp.count >= high) free_pcppages_bulk(zone, cpu, nr_pcp_free(pcp, high, free_high), pindex);
}

// Gives `count` pages of one CPU's lists back, round robin over the lists, `pindex` first.
void PhysMem::free_pcppages_bulk(Zone& zone, unsigned cpu, std::int32_t count, unsigned pindex) {
  sim::SpinGuard guard(zone.lock);
  PerCpuPages& pcp = zone.pcp_[cpu];
  count = std::min(pcp.count, count);
  unsigned min_pindex = 0;
  unsigned max_pindex = kNrPcpLists - 1;
  --pindex;  // so that the caller's list comes first; wraps to the top for list 0
  while (count > 0) {
    PageList* list = nullptr;
    do {
      if (++pindex > max_pindex) pindex = min_pindex;
      list = &pcp.lists[pindex];
      if (!list->empty()) break;
      if (pindex == max_pindex) --max_pindex;
      if (pindex == min_pindex) ++min_pindex;
    } while (true);
    const Order order = pindex_to_order(pindex);
    const auto pages = static_cast<std::int32_t>(order.pages());
    do {
      Page& page = *list->pop_back();
      page.clear(PageFlag::kPcp);
      count -= pages;
      pcp.count -= pages;
      MigrateType type = pcppage_migratetype(page);
      // The block may have been isolated since the page was freed.
      if (zone.has_isolate_pageblock()) type = sparse_.pageblock_type(page_to_pfn(page));
      buddy_.free_one_page(zone, page, order, type);
      trace_.mm_page_pcpu_drain([&] { return MmPagePcpuDrain{page_to_pfn(page), order.value(), type}; });
    } while (count > 0 && !list->empty());
  }
}

void PhysMem::drain_pages(unsigned cpu) {
  for_each_populated_zone([&](Zone& zone) {
    if (zone.pcp_[cpu].count != 0) free_pcppages_bulk(zone, cpu, zone.pcp_[cpu].count, 0);
  });
}

void PhysMem::drain_local_pages() { drain_pages(scheduler_.cpu()); }

void PhysMem::drain_all_pages() {
  for (unsigned cpu = 0; cpu < config_.cpus; ++cpu) {
    bool has_pages = false;
    for_each_populated_zone([&](Zone& zone) { has_pages = has_pages || zone.pcp_[cpu].count != 0; });
    if (!has_pages) continue;
    if (cpu != scheduler_.cpu()) scheduler_.charge(scheduler_.costs().ipi);
    drain_pages(cpu);
  }
}

}  // namespace quire::phys
