#include "quire/phys/page_isolation.h"

#include <algorithm>

#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr int kMigrateTries = 5;

bool movable_by_driver(const Page& page) { return (page.mapping & kMappingFlags) == kMappingMovable; }

Pfn pageblock_start(Pfn pfn) { return align_down(pfn, kPageblockPages); }
Pfn pageblock_align(Pfn pfn) { return align_up(pfn, kPageblockPages); }

}  // namespace

bool PageIsolation::one_online_zone(Range<Pfn> pfns) const {
  const Zone* zone = nullptr;
  for (Pfn block = pfns.begin; block < pfns.end; block = pageblock_start(block) + kPageblockPages) {
    const Pfn last = std::min(pfns.end, pageblock_start(block) + kPageblockPages) - 1;
    for (const Pfn pfn : {block, last}) {
      const Page* page = mem_.pfn_to_online_page(pfn);
      if (page == nullptr) return false;
      if (zone == nullptr) zone = &mem_.page_zone(*page);
      if (zone != &mem_.page_zone(*page)) return false;
    }
  }
  return zone != nullptr;
}

const Page* PageIsolation::has_unmovable_pages(Range<Pfn> pfns, MigrateType type, IsolateFlags flags) const {
  const Page& first = mem_.pfn_to_page(pfns.begin);
  if (mem_.pageblock_migratetype(pfns.begin) == MigrateType::kCma) return type == MigrateType::kCma ? nullptr : &first;
  const bool offline = any(flags, IsolateFlags::kMemoryOffline);
  for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
    const Page& page = mem_.pfn_to_page(pfn);
    if (page.test(PageFlag::kReserved)) return &page;
    if (page.zone_type() == ZoneType::kMovable) continue;  // nothing else lives there
    if (page.is_compound()) {
      const Page& head = compound_head(page);
      if (!head.test(PageFlag::kLru) && !movable_by_driver(head)) return &page;
      pfn = mem_.page_to_pfn(head) + compound_order(head).pages() - 1;
      continue;
    }
    if (page.refcount == 0) {
      if (page.test(PageFlag::kBuddy)) pfn += (std::uint64_t{1} << page.private_) - 1;
      continue;
    }
    if (offline && (page.test(PageFlag::kHwPoison) || page.test(PageFlag::kOffline))) continue;
    if (page.test(PageFlag::kLru) || movable_by_driver(page)) continue;
    return &page;
  }
  return nullptr;
}

Status PageIsolation::set_migratetype_isolate(Pfn block, Range<Pfn> check, MigrateType type, IsolateFlags flags) {
  Page& page = mem_.pfn_to_page(block);
  Zone& zone = mem_.page_zone(page);
  const sim::SpinGuard guard(zone.lock);
  if (mem_.pageblock_migratetype(block) == MigrateType::kIsolate) return fail(Errno::kBusy);
  const Page* unmovable = has_unmovable_pages(check.intersect({block, block + kPageblockPages}), type, flags);
  if (unmovable != nullptr) {
    unmovable_ = unmovable;
    return fail(Errno::kBusy);
  }
  mem_.buddy_.isolate_pageblock(zone, page);
  return {};
}

void PageIsolation::unset(Pfn block, const MigrateType* type) {
  Page& page = mem_.pfn_to_page(block);
  Zone& zone = mem_.page_zone(page);
  const sim::SpinGuard guard(zone.lock);
  if (mem_.pageblock_migratetype(block) != MigrateType::kIsolate) return;
  mem_.buddy_.unisolate_pageblock(zone, page, type != nullptr ? *type : mem_.sparse_.pageblock_own_type(block));
}

void PageIsolation::unset_range(Range<Pfn> pfns, const MigrateType* type) {
  for (Pfn block = pageblock_start(pfns.begin); block < pfns.end; block += kPageblockPages) {
    if (mem_.pfn_to_online_page(block) != nullptr) unset(block, type);
  }
}

void PageIsolation::undo_isolate_page_range(Range<Pfn> pfns, MigrateType type) { unset_range(pfns, &type); }
void PageIsolation::cancel_isolate_page_range(Range<Pfn> pfns) { unset_range(pfns, nullptr); }

// Makes sure that no block reaches over `boundary`: a free one is cut, a compound page in use is moved away first
// (the second half of isolate_single_pageblock).
Status PageIsolation::cut_at(Pfn boundary) {
  if (mem_.pfn_to_online_page(boundary) == nullptr || boundary == Pfn{} || mem_.pfn_to_online_page(boundary - 1) == nullptr) {
    return {};  // nothing can reach over
  }
  Zone& zone = mem_.page_zone(mem_.pfn_to_page(boundary));
  // Only what is aligned to its size and larger than a pageblock can: it starts at a multiple of the largest block.
  const Pfn start = align_down(boundary - 1, kMaxOrder.pages());
  if (start + kMaxOrder.pages() == boundary || !zone.spans(start)) return {};
  for (int tries = 0; tries < kMigrateTries; ++tries) {
    Range<Pfn> in_use{};
    {
      const sim::SpinGuard guard(zone.lock);
      Page& page = mem_.pfn_to_page(start);
      if (page.test(PageFlag::kBuddy)) {
        if (start + (std::uint64_t{1} << page.private_) > boundary) mem_.buddy_.split_free_page(zone, page, boundary - start);
        return {};
      }
      if (!page.is_head() || start + compound_order(page).pages() <= boundary) return {};
      if (!page.test(PageFlag::kLru) && !movable_by_driver(page)) return fail(Errno::kBusy);
      in_use = {start, start + compound_order(page).pages()};
    }
    if (mem_.page_mover() == nullptr) return fail(Errno::kBusy);
    if (Status moved = migrate_range(in_use, MigrateReason::kContigRange); !moved) return moved;
  }
  return fail(Errno::kBusy);
}

Status PageIsolation::start_isolate_page_range(Range<Pfn> pfns, MigrateType type, IsolateFlags flags) {
  unmovable_ = nullptr;
  if (pfns.empty()) return fail(Errno::kInval);
  const Range<Pfn> blocks{pageblock_start(pfns.begin), pageblock_align(pfns.end)};
  mem_.init_deferred(blocks);
  if (!one_online_zone(pfns)) return fail(Errno::kInval);

  Pfn block = blocks.begin;
  Status status;
  for (; block < blocks.end; block += kPageblockPages) {
    // The blocks at the ends are looked at whole: what lies beside the range in them stops being handed out too.
    const bool edge = block == blocks.begin || block + kPageblockPages == blocks.end;
    const Range<Pfn> check = edge ? Range<Pfn>{block, block + kPageblockPages} : pfns;
    status = set_migratetype_isolate(block, check, type, flags);
    if (!status) break;
  }
  if (status) status = cut_at(blocks.begin);
  if (status) status = cut_at(blocks.end);
  if (!status) cancel_isolate_page_range({blocks.begin, block});
  return status;
}

Status PageIsolation::test_pages_isolated(Range<Pfn> pfns, IsolateFlags flags) {
  if (pfns.empty() || !mem_.pfn_valid(pfns.begin)) return fail(Errno::kBusy);
  const sim::SpinGuard guard(mem_.page_zone(mem_.pfn_to_page(pfns.begin)).lock);
  return test_pages_isolated_locked(pfns, flags);
}

Status PageIsolation::test_pages_isolated_locked(Range<Pfn> pfns, IsolateFlags flags) const {
  if (pfns.empty()) return fail(Errno::kBusy);
  for (Pfn block = pageblock_start(pfns.begin); block < pfns.end; block += kPageblockPages) {
    if (!mem_.pfn_valid(block) || mem_.pageblock_migratetype(block) != MigrateType::kIsolate) return fail(Errno::kBusy);
  }
  const bool offline = any(flags, IsolateFlags::kMemoryOffline);
  for (Pfn pfn = pfns.begin; pfn < pfns.end;) {
    const Page& page = mem_.pfn_to_page(pfn);
    if (page.test(PageFlag::kBuddy)) {
      pfn += std::uint64_t{1} << page.private_;
    } else if (offline && (page.test(PageFlag::kHwPoison) || (page.test(PageFlag::kOffline) && page.refcount == 0))) {
      ++pfn;
    } else {
      return fail(Errno::kBusy);
    }
  }
  return {};
}

Status PageIsolation::migrate_range(Range<Pfn> pfns, MigrateReason reason) {
  PageMover* mover = mem_.page_mover();
  if (mover == nullptr) return {};
  for (int tries = 0; tries < kMigrateTries; ++tries) {
    mover->lru_add_drain_all();  // each time: what did not move waits in some CPU's batch, where nobody can take it
    if (task_test(mem_.scheduler(), TaskFlag::kOomVictim)) return fail(Errno::kIntr);
    if (mover->migrate_range(pfns, MigrateMode::kSync, reason) == 0) return {};
  }
  return fail(Errno::kBusy);
}

}  // namespace quire::phys
