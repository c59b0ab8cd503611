// Long-term pins (FOLL_LONGTERM): for who may keep a page for as long as the process lives, as RDMA does. Memory that has to stay
// movable must not lose a page for so long, so what is pinned there moves out first:
//
//   pin all ─ each in its right place? ── yes ─▶ done
//    ▲          │ no: take those off the LRU, give every pin back (a pinned page does not move)
//    └── moved ─┘ migrate_pages, to memory that is not movable ── one stays ─▶ kNoMem
#include "quire/phys/cma.h"
#include "quire/phys/task_flags.h"
#include "quire/vm/gup.h"
#include "quire/vm/vm.h"

namespace quire::vm {

using phys::Folio;
using phys::Gfp;
using phys::MigrateType;

// False in ZONE_MOVABLE, which memory hotplug empties, and in CMA areas, which a driver empties. A block that is isolated may be
// part of one (as far as Linux looks at all: only with CONFIG_CMA).
bool Vm::folio_is_longterm_pinnable(const Folio& folio) const {
  phys::PhysMem& phys = parts_.phys;
  if (!phys.cma().areas().empty()) {
    const MigrateType block = phys.pageblock_migratetype(phys.page_to_pfn(folio));
    if (block == MigrateType::kCma || block == MigrateType::kIsolate) return false;
  }
  return &folio == zero_page_ || folio.zone_type() != phys::ZoneType::kMovable;
}

// Takes those of the pages that may not stay off the LRU; gives how many there are, whether they could be taken or somebody else
// has them just now.
std::uint64_t Vm::collect_longterm_unpinnable_pages(std::span<phys::Page* const> pages, phys::FolioList& movable) {
  std::uint64_t collected = 0;
  bool drained = false;
  for (phys::Page* page : pages) {
    Folio& folio = phys::page_folio(*page);
    if (folio_is_longterm_pinnable(folio)) continue;
    ++collected;
    parts_.scheduler.charge(parts_.scheduler.costs().reclaim_scan_page);
    if (!phys::folio_test_lru(folio) && !drained) {
      parts_.lru.lru_add_drain_all();
      drained = true;
    }
    static_cast<void>(migration_.isolate(folio, movable));
  }
  return collected;
}

// kNoMem: one of them stays.
Status Vm::migrate_longterm_unpinnable_pages(phys::FolioList& movable) {
  const auto get = [this](Folio& from) {  // alloc_migration_target
    const bool high = from.zone_type() == phys::ZoneType::kMovable || from.zone_type() == phys::ZoneType::kHighMem;
    const Gfp gfp = Gfp::kUser | Gfp::kNoWarn | (high ? Gfp::kHighmem : Gfp::kNone);
    return parts_.phys.folio_alloc(gfp, Order(0), from.nid());
  };
  const auto put = [this](Folio& unused) { parts_.phys.free_page(unused); };
  const MigrateOutcome outcome =
      migration_.migrate_pages(movable, get, put, phys::MigrateMode::kSync, phys::MigrateReason::kLongtermPin);
  migration_.putback_movable_pages(movable);
  return outcome.failed == 0 ? Status() : fail(Errno::kNoMem);
}

// Either all of the pinned pages may stay, or every pin is given back: kAgain (pin anew), kNoMem.
Status Vm::check_and_migrate_movable_pages(std::span<phys::Page* const> pages) {
  phys::FolioList movable;
  if (collect_longterm_unpinnable_pages(pages, movable) == 0) return {};
  unpin_user_pages(pages);
  if (!movable.empty()) {
    if (Status moved = migrate_longterm_unpinnable_pages(movable); !moved) return moved;
  }
  return fail(Errno::kAgain);
}

Result<std::uint64_t> Vm::gup_longterm_locked(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind) {
  const phys::TaskFlagScope pin(parts_.scheduler, phys::TaskFlag::kMemallocPin);  // memalloc_pin_save
  while (true) {
    const Result<std::uint64_t> got = get_user_pages_locked(mm, start, pages, kind, FollowHow::kPin);
    if (!got || *got == 0) return got;
    const Status checked = check_and_migrate_movable_pages(pages.first(*got));
    if (checked) return got;
    if (checked.error() != Errno::kAgain) return fail(checked.error());
    parts_.scheduler.sync_point();  // who has one of them off the LRU must get his turn
  }
}

}  // namespace quire::vm
