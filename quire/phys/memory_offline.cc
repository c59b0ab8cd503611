// Taking memory blocks out of use.
#include <fmt/format.h>

#include <algorithm>

#include "quire/phys/memory_hotplug.h"
#include "quire/phys/page_isolation.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

// Rounds in which nothing moved before a page counts as one that stays. (Linux goes on until a signal comes.)
constexpr int kRoundsWithoutProgress = 5;
// What holds a page for a moment (I/O, a batch, a fault) is given this long to let go, longer in each such round.
constexpr sim::Nanos kIdleRoundPause = 1 * sim::kMillisecond;

bool movable_in_use(const Page& page) { return page.test(PageFlag::kLru) || (page.mapping & kMappingFlags) == kMappingMovable; }

}  // namespace

Status MemoryHotplug::offline(PhysAddr start, std::uint64_t size) {
  if (!whole_blocks(start, size)) return fail(Errno::kInval);
  const Range<std::uint64_t> ids = block_ids(start, size);
  const sim::MutexGuard guard(lock_);
  if (!all_in_state(ids, MemoryState::kOnline)) return fail(Errno::kInval);
  const Marks before = marks();
  Offlined done;
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) {
    Zone* zone = blocks_.at(id).zone;
    if (Status status = offline_block(id, Undo::kNo); !status) {
      put_back(done, before);
      return status;
    }
    done.emplace_back(id, zone);
  }
  return {};
}

// Blocks that just went offline come back, last first, each to the zone it was in: that zone may have lost its end with
// them, so that nothing else tells any more whose they were.
void MemoryHotplug::put_back(const Offlined& blocks, const Marks& before) {
  if (blocks.empty()) return;
  for (std::size_t i = blocks.size(); i-- > 0;) {
    const Status status = online_block(blocks[i].first, *blocks[i].second, Undo::kYes);
    QUIRE_BUG_ON(!status);  // nobody may refuse it
  }
  restore(before);
}

Status MemoryHotplug::offline_block(std::uint64_t id, Undo undo) {
  lock_.assert_held();
  MemoryBlock& block = blocks_.at(id);
  const Range<Pfn> pfns = block_pfns(id);
  const auto refuse = [this](Errno e, std::string_view why) {
    reason_ = why;
    return fail(e);
  };
  if (block.zone == nullptr) return refuse(Errno::kInval, "multizone range");
  const Range<PhysAddr> range{pfn_to_phys(pfns.begin), pfn_to_phys(pfns.end)};
  if (mem_.iomem().busy_bytes(range, "System RAM") != range.size()) return refuse(Errno::kInval, "memory holes");
  Zone& zone = *block.zone;
  MemoryNotify what{pfns, block.nid, &zone, zone.node().present_pages() == pfns.size() ? block.nid : kNoNode};

  block.state = MemoryState::kGoingOffline;
  zone_pcp_disable(zone);
  const Status status = empty_range(zone, pfns, what, undo);
  if (!status) {
    zone_pcp_enable(zone);
    block.state = MemoryState::kOnline;
    return status;
  }
  offline_isolated_pages(zone, pfns);
  zone_pcp_enable(zone);
  mem_.init_per_zone_wmark_min();
  if (!zone.populated()) static_cast<void>(mem_.build_all_zonelists(PhysMem::CpusOnNodes::kKnown));
  block.state = MemoryState::kOffline;
  block.zone = nullptr;
  tell(&HotplugListener::offline, what);
  remove_pfn_range_from_zone(zone, pfns);
  return {};
}

// Isolates the range and moves everything in it away; on failure the pageblocks are what they were.
Status MemoryHotplug::empty_range(Zone& zone, Range<Pfn> pfns, const MemoryNotify& what, Undo undo) {
  if (mem_.page_mover() != nullptr) mem_.page_mover()->lru_add_drain_all();
  mem_.drain_all_pages();
  PageIsolation isolation(mem_);
  if (Status status = isolation.start_isolate_page_range(pfns, MigrateType::kMovable, IsolateFlags::kMemoryOffline); !status) {
    reason_ = "failure to isolate range";
    if (const Page* page = isolation.unmovable(); page != nullptr) {
      reason_ += "\n" + mem_.dump_page(*page, "unmovable page");
    }
    return status;
  }
  Status status = notify(&HotplugListener::going_offline, &HotplugListener::cancel_offline, what, undo);
  if (!status) {
    reason_ = "notifier failure";
  } else {
    status = migrate_until_free(pfns);
    if (!status) tell(&HotplugListener::cancel_offline, what);
  }
  if (!status) isolation.cancel_isolate_page_range(pfns);
  QUIRE_BUG_ON(status && zone.nr_isolate_pageblock() < pfns.size() / kPageblockPages);
  return status;
}

Status MemoryHotplug::migrate_until_free(Range<Pfn> pfns) {
  PageIsolation isolation(mem_);
  std::uint64_t fewest = pfns.size() + 1;
  for (int idle = 0; idle < kRoundsWithoutProgress; ++idle) {
    if (task_test(mem_.scheduler(), TaskFlag::kOomVictim)) {
      reason_ = "signal backoff";
      return fail(Errno::kIntr);
    }
    std::uint64_t in_use = 0;
    Range<Pfn> movable{pfns.end, pfns.end};
    for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
      const Page& page = mem_.pfn_to_page(pfn);
      if (page.test(PageFlag::kOffline) && page.refcount != 0) {
        reason_ = "unmovable page\n" + mem_.dump_page(page, "unmovable page");
        return fail(Errno::kBusy);
      }
      if (!movable_in_use(page)) continue;
      movable.begin = std::min(movable.begin, pfn);
      ++in_use;
    }
    if (in_use < fewest) idle = 0;
    fewest = std::min(fewest, in_use);
    if (in_use != 0 && mem_.page_mover() != nullptr) {
      mem_.page_mover()->lru_add_drain_all();  // what did not move in the last round waits in some CPU's batch
      mem_.page_mover()->migrate_range(movable, MigrateMode::kSync, MigrateReason::kMemoryHotplug);
    }
    mem_.drain_all_pages();
    if (isolation.test_pages_isolated(pfns, IsolateFlags::kMemoryOffline)) return {};
    const bool last = idle + 1 == kRoundsWithoutProgress;
    if (idle > 0 && !last && mem_.scheduler().current() != nullptr)
      mem_.scheduler().sleep_for(static_cast<sim::Nanos>(idle) * kIdleRoundPause);
  }
  reason_ = "unmovable page";
  return fail(Errno::kBusy);
}

// Takes the free pages off the buddy; what they were is forgotten.
void MemoryHotplug::offline_isolated_pages(Zone& zone, Range<Pfn> pfns) {
  const sim::SpinGuard guard(zone.lock);
  std::uint64_t unmanaged = 0;
  for (Pfn pfn = pfns.begin; pfn < pfns.end;) {
    Page& page = mem_.pfn_to_page(pfn);
    if (!page.test(PageFlag::kBuddy)) {                // poisoned, or given away before
      if (page.test(PageFlag::kOffline)) ++unmanaged;  // whoever gave it away took it out of the count
      ++pfn;
      continue;
    }
    const Order order(static_cast<unsigned>(page.private_));
    mem_.buddy_.take_block(zone, page);
    pfn += order.pages();
  }
  for (Pfn block = pfns.begin; block < pfns.end; block += kPageblockPages) {
    if (mem_.sparse_.pageblock_own_type(block) != MigrateType::kHighAtomic) continue;
    zone.nr_reserved_highatomic_ -= std::min(kPageblockPages, zone.nr_reserved_highatomic_);
  }
  zone.nr_isolate_pageblock_ -= pfns.size() / kPageblockPages;
  zone.managed_pages_ -= pfns.size() - unmanaged;
  zone.present_pages_ -= pfns.size();
  zone.node().present_pages_ -= pfns.size();
}

// zone_pcp_disable: nothing stays on the zone's per-CPU lists from now on.
void MemoryHotplug::zone_pcp_disable(Zone& zone) {
  for (unsigned cpu = 0; cpu < zone.cpus_; ++cpu) {
    zone.pcp_[cpu].high = 0;
    zone.pcp_[cpu].batch = 1;
  }
  mem_.drain_all_pages();
}

void MemoryHotplug::zone_pcp_enable(Zone& zone) {
  for (unsigned cpu = 0; cpu < zone.cpus_; ++cpu) {
    zone.pcp_[cpu].high = zone.pageset_high_;
    zone.pcp_[cpu].batch = zone.pageset_batch_;
  }
}

void MemoryHotplug::remove_pfn_range_from_zone(Zone& zone, Range<Pfn> pfns) {
  set_sections(pfns, false);
  {
    const sim::SpinGuard guard(zone.lock);
    shrink_zone_span(zone, pfns);
  }
  update_pgdat_span(zone.node());
}

// A zone that loses an end of its span begins (ends) with the next 2 MiB of its own that are online.
void MemoryHotplug::shrink_zone_span(Zone& zone, Range<Pfn> pfns) {
  const auto own = [&](Pfn pfn) {
    const Page* page = mem_.pfn_to_online_page(pfn);
    const bool waiting = page == nullptr && mem_.sparse_.online(pfn);  // deferred boot
    return waiting || (page != nullptr && &mem_.page_zone(*page) == &zone);
  };
  const Pfn end = zone.end_pfn();
  if (zone.start_pfn() == pfns.begin) {
    Pfn pfn = pfns.end;
    while (pfn < end && !own(pfn)) pfn += kPageblockPages;
    zone.start_pfn_ = pfn < end ? pfn : Pfn{};
    zone.spanned_pages_ = pfn < end ? end - pfn : 0;
  } else if (end == pfns.end) {
    Pfn last = pfns.begin - 1;
    while (last > zone.start_pfn() && !own(last)) last -= std::min(kPageblockPages, last - zone.start_pfn());
    const bool any = own(last);
    zone.spanned_pages_ = any ? last - zone.start_pfn() + 1 : 0;
    if (!any) zone.start_pfn_ = Pfn{};
  }
}

void MemoryHotplug::update_pgdat_span(Node& node) {
  Range<Pfn> span{};
  node.for_each_zone([&](const Zone& zone) {
    if (zone.spanned_pages() == 0) return;
    if (span.empty()) span = {zone.start_pfn(), zone.end_pfn()};
    span = {std::min(span.begin, zone.start_pfn()), std::max(span.end, zone.end_pfn())};
  });
  node.start_pfn_ = span.begin;
  node.spanned_pages_ = span.size();
}

}  // namespace quire::phys
