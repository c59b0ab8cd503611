// Freeing: checks, breaking up compound pages, and the way to the per-CPU list or the buddy.
#include <fmt/format.h>

#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

void PhysMem::trace_free(const Page& page, Order order) {
  trace_.mm_page_free([&] { return MmPageFree{page_to_pfn(page), order.value()}; });
}

namespace {

// Nothing to complain of and nothing to clear in any page of the block but its head: the common case, in one pass that only
// reads.
bool tails_are_clean(const Page& page, Order order) {
  std::uint64_t found = 0;
  for (std::uint64_t i = 1; i < order.pages(); ++i) {
    const Page& tail = (&page)[i];
    found |= (tail.flags & kPageFlagsMask) | tail.mapping | tail.memcg_data | tail.tail.head % 2 |
             static_cast<std::uint32_t>(tail.mapcount) | static_cast<std::uint32_t>(tail.refcount);
  }
  return found == 0;
}

}  // namespace

// Aborts on a page that must not be freed; else clears what a free page does not carry (free_pages_prepare).
void PhysMem::free_pages_prepare(Page& page, Order order) {
  if (trace_.mm_page_free.enabled()) [[unlikely]]
    trace_free(page, order);
  if (page.is_tail()) bad_page(page, "a tail page was freed instead of its head");
  const bool compound = page.is_head();
  if (compound && compound_order(page) != order) bad_page(page, "freed with another order than it was allocated with");
  const bool look_at_tails = compound || !tails_are_clean(page, order);
  for (std::uint64_t i = 1; look_at_tails && i < order.pages(); ++i) {
    Page& tail = (&page)[i];
    if (compound) {
      if (tail.tail.head != (reinterpret_cast<std::uintptr_t>(&page) | 1)) {
        bad_page(tail, "compound_head not consistent");
      }
      tail.lru = ListNode{};
    }
    if (!page_free_is_sane(tail)) bad_page(tail, "bad state of a page inside a freed block");
    tail.mapping = 0;
    tail.flags &= kZoneAndNode;
  }
  page.clear(PageFlag::kHead);
  if (!page_free_is_sane(page)) {
    const char* why = "PAGE_FLAGS_CHECK_AT_FREE flag(s) set";
    if (page.test(PageFlag::kBuddy) || page.test(PageFlag::kPcp))
      why = "freed while it is free (double free)";
    else if (page.mapcount != 0)
      why = "nonzero mapcount";
    else if (page.refcount != 0)
      why = "nonzero _refcount";
    else if (page.mapping != 0 && (page.mapping & kMappingFlags) == 0)
      why = "non-NULL mapping";
    bad_page(page, why);
  }
  page.mapping = 0;
  page.flags &= kZoneAndNode;
}

void PhysMem::free_unref_page_slow(Page& page, Order order) {
  free_pages_prepare(page, order);
  scheduler_.charge(free_cost_);
  Zone& zone = page_zone(page);
  const MigrateType type = sparse_.pageblock_type(page_to_pfn(page));
  if (!PerCpuPages::order_allowed(order) || order > pcp_max_order_ || type == MigrateType::kIsolate) {
    vmstat_.count_vm_events(VmEvent::kPgfree, static_cast<std::int64_t>(order.pages()));
    return free_one_page(zone, page, order, type);
  }
  free_unref_page_commit(zone, page, type, order);
}

void PhysMem::free_one_page(Zone& zone, Page& page, Order order, MigrateType type) {
  sim::SpinGuard guard(zone.lock);
  buddy_.free_one_page(zone, page, order, type);
}

std::string PhysMem::dump_page(const Page& page) const {
  return fmt::format(
      "page: refcount:{} mapcount:{} mapping:{:#x} index:{:#x} pfn:{:#x} node:{} zone:{} flags:({}) private:{:#x} order:{}",
      page.refcount, page.mapcount, page.mapping, page.index, page_to_pfn(page).value(), page.nid().value(),
      zone_name(page.zone_type()), page_flag_names(page.flags & kPageFlagsMask), page.private_, compound_order(page).value());
}

void PhysMem::bad_page(const Page& page, std::string_view why) const {
  bug(fmt::format("Bad page state: {}\n{}", why, dump_page(page)));
}

}  // namespace quire::phys
