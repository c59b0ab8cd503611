#include "quire/vm/migrate.h"

#include "quire/file/vfs.h"
#include "quire/phys/page_wait.h"
#include "quire/phys/task_flags.h"
#include "quire/vm/vm.h"

namespace quire::vm {

using phys::Folio;
using phys::FolioList;
using phys::MigrateMode;
using phys::NodeStat;
using phys::VmEvent;

namespace {

constexpr int kPasses = 10;
constexpr int kPassesWithoutForce = 2;

// What a folio is to the floors above, apart from its place in a cache (folio_migrate_flags).
void migrate_flags(Folio& from, Folio& to) {
  constexpr phys::PageFlag kCopied[] = {
      phys::PageFlag::kError,   phys::PageFlag::kReferenced,   phys::PageFlag::kWorkingset,
      phys::PageFlag::kChecked, phys::PageFlag::kMappedToDisk, phys::PageFlag::kReadahead,
      phys::PageFlag::kYoung,   phys::PageFlag::kIdle,         phys::PageFlag::kUptodate,
  };
  for (const phys::PageFlag flag : kCopied) {
    if (from.test(flag)) to.set(flag);
  }
  if (phys::folio_test_clear_active(from)) {
    phys::folio_set_active(to);
  } else if (phys::folio_test_clear_unevictable(from)) {
    phys::folio_set_unevictable(to);
  }
}

}  // namespace

void Migration::count_isolated(Folio& folio, std::int64_t n) {
  const bool file = lru::folio_is_file_lru(folio);
  vm_.parts().phys.page_node(folio).stats.add(file ? NodeStat::kNrIsolatedFile : NodeStat::kNrIsolatedAnon, n);
}

bool Migration::isolate(Folio& folio, FolioList& folios) {
  count_isolated(folio, 1);  // before the list's lock is waited for: whoever asks whether the lists are at rest must see it
  if (!vm_.parts().lru.folio_isolate_lru(folio)) {
    count_isolated(folio, -1);
    return false;
  }
  folios.push_back(folio);
  return true;
}

void Migration::putback_movable_pages(FolioList& folios) {
  while (Folio* folio = folios.pop_front()) {
    count_isolated(*folio, -1);
    vm_.parts().lru.folio_putback_lru(*folio);
  }
}

MigrateOutcome Migration::migrate_pages(FolioList& folios, GetNewFolio get, PutNewFolio put, MigrateMode mode,
                                        phys::MigrateReason reason) {
  MigrateOutcome outcome;
  FolioList failed;  // for good
  bool again = true;
  for (int pass = 0; pass < kPasses && again && !outcome.no_memory; ++pass) {
    again = false;
    const Force force = pass > kPassesWithoutForce ? Force::kYes : Force::kNo;
    FolioList later;
    while (!outcome.no_memory) {
      Folio* folio = folios.pop_front();
      if (folio == nullptr) break;
      switch (unmap_and_move(*folio, get, put, mode, force)) {
        case Moved::kDone: ++outcome.succeeded; break;
        case Moved::kAgain:
          again = true;
          later.push_back(*folio);
          break;
        case Moved::kBusy: failed.push_back(*folio); break;
        case Moved::kNoMemory:
          outcome.no_memory = true;
          later.push_back(*folio);
          break;
      }
    }
    folios.splice_front(later);
    vm_.parts().scheduler.sync_point();  // cond_resched
  }
  folios.splice_back(failed);
  outcome.failed = folios.count();
  phys::VmStat& vmstat = vm_.parts().phys.vmstat();
  vmstat.count_vm_events(VmEvent::kPgmigrateSuccess, static_cast<std::int64_t>(outcome.succeeded));
  vmstat.count_vm_events(VmEvent::kPgmigrateFail, static_cast<std::int64_t>(outcome.failed));
  mm_migrate_pages_([&] { return MmMigratePages{outcome.succeeded, outcome.failed, mode, reason}; });
  return outcome;
}

Migration::Moved Migration::unmap_and_move(Folio& from, GetNewFolio get, PutNewFolio put, MigrateMode mode, Force force) {
  Moved moved = Moved::kDone;
  if (folio_ref_count(from) == 1) {  // freed by everybody else while it was isolated
    phys::folio_clear_active(from);
    phys::folio_clear_unevictable(from);
  } else {
    Folio* to = get(from);
    if (to == nullptr) return Moved::kNoMemory;
    moved = move(from, *to, mode, force);
    if (moved != Moved::kDone) put(*to);
  }
  if (moved == Moved::kDone) {
    count_isolated(from, -1);
    vm_.parts().lru.folio_put(from);
  }
  return moved;
}

bool Migration::lock_source(Folio& from, MigrateMode mode, Force force) {
  if (phys::folio_trylock(from)) return true;
  // A reclaimer that waited here might wait for itself: the lock may be held by who waits for its memory.
  if (force == Force::kNo || mode == MigrateMode::kAsync) return false;
  if (phys::task_test(vm_.parts().scheduler, phys::TaskFlag::kMemalloc)) return false;
  phys::folio_lock(vm_.parts().phys, from);
  return true;
}

// Both folios are unlocked again at the end. After kDone the reference on `to` belongs to those who used `from`.
Migration::Moved Migration::move(Folio& from, Folio& to, MigrateMode mode, Force force) {
  phys::PhysMem& phys = vm_.parts().phys;
  if (!lock_source(from, mode, force)) return Moved::kAgain;
  if (phys::folio_test_writeback(from)) {
    if (mode != MigrateMode::kSync || force == Force::kNo) {
      phys::folio_unlock(phys, from);
      return mode == MigrateMode::kSync ? Moved::kAgain : Moved::kBusy;
    }
    phys::folio_wait_writeback(phys, from);
  }
  AnonVma* anon_vma = vm_.rmap().folio_get_anon_vma(from);
  QUIRE_BUG_ON(!phys::folio_trylock(to));
  const bool was_mapped = phys::folio_mapped(from);
  bool done = false;
  // Without a mapping it was truncated, unless it is only just read into the swap cache, where nobody has mapped it yet.
  const bool has_place = from.mapping != 0 || phys::folio_test_swapcache(from);
  if (has_place && (!was_mapped || vm_.rmap().try_to_migrate(from))) done = move_to_new_folio(from, to);
  if (done) {
    vm_.parts().lru.folio_add_lru(to);
    if (was_mapped) vm_.parts().lru.lru_add_drain();  // so that a locked area finds it on its list
  }
  if (was_mapped) vm_.rmap().remove_migration_ptes(from, done ? to : from);
  phys::folio_unlock(phys, to);
  if (anon_vma != nullptr) vm_.rmap().put_anon_vma(*anon_vma);
  phys::folio_unlock(phys, from);
  if (!done) return Moved::kAgain;
  vm_.parts().lru.folio_put(to);
  return Moved::kDone;
}

bool Migration::migrate_mapping(Folio& from, Folio& to) {
  if (phys::folio_test_swapcache(from)) return vm_.parts().swap.migrate_swap_cache(from, to);
  if (!phys::folio_test_anon(from)) return vm_.parts().vfs.filemap().folio_migrate_mapping(from, to);
  if (folio_ref_count(from) != 1) return false;
  to.mapping = from.mapping;
  to.index = from.index;
  if (phys::folio_test_swapbacked(from)) phys::folio_set_swapbacked(to);
  if (phys::folio_test_clear_dirty(from)) phys::folio_set_dirty(to);
  return true;
}

bool Migration::move_to_new_folio(Folio& from, Folio& to) {
  if (!migrate_mapping(from, to)) return false;
  vm_.parts().phys.copy_page(to, from);
  migrate_flags(from, to);
  return true;
}

}  // namespace quire::vm
