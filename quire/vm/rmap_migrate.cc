// Migration's half of the reverse map: mappings become migration entries, and those become mappings of the new frame.
//
//   PTE: present, frame A  ──try_to_migrate──▶  migration entry, frame A  ──remove_migration_ptes──▶  present, frame B
//
// The entry keeps what the mapping could do: whether it was writable, or the only one there may be (exclusive), young, dirty.
// Resident counts stay: the page is on its way, not gone.
#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/rmap.h"
#include "quire/vm/vm.h"

namespace quire::vm {

using phys::Folio;

AnonVma* Rmap::folio_get_anon_vma(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  if (!phys::folio_test_anon(folio) || !phys::folio_mapped(folio)) return nullptr;
  AnonVma* anon_vma = phys::folio_raw_mapping<AnonVma>(folio);
  ++anon_vma->refcount;
  return anon_vma;
}

bool Rmap::try_to_migrate(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  rmap_walk(folio, [&](Vma& vma, VirtAddr address) {
    try_to_migrate_one(folio, vma, address);
    return phys::folio_mapped(folio) ? Walk::kContinue : Walk::kStop;
  });
  return !phys::folio_mapped(folio);
}

void Rmap::try_to_migrate_one(Folio& folio, Vma& vma, VirtAddr address) {
  Mm& mm = *vma.vm_mm;
  sim::Scheduler& scheduler = vm_.parts_.scheduler;
  sim::SpinGuard guard(mm.page_table_lock);
  arch::Pte* pte = page_vma_mapped(folio, vma, address);
  if (pte == nullptr) return;
  scheduler.charge(scheduler.costs().reclaim_unmap_page);
  const arch::Pte old = vm_.shootdown_.ptep_clear_flush(mm, pte, address, FlushSite::kMigrate);
  if (arch::pte_dirty(old)) vm_.parts_.vfs.filemap().folio_mark_dirty(folio);
  mm.update_hiwater_rss();

  // Nobody may share the page while it is away without noticing: the mark moves into the entry.
  const bool exclusive = phys::folio_test_anon(folio) && folio.test(phys::PageFlag::kAnonExclusive);
  if (exclusive && !page_try_share_anon_rmap(folio)) {
    *pte = old;
    return;
  }
  arch::MigrationKind kind = arch::MigrationKind::kRead;
  if (arch::pte_write(old)) {
    kind = arch::MigrationKind::kWrite;
  } else if (exclusive) {
    kind = arch::MigrationKind::kReadExclusive;
  }
  arch::SwapEntry entry = arch::make_migration_entry(kind, vm_.parts_.phys.page_to_pfn(folio));
  if (arch::pte_young(old)) entry = arch::make_migration_entry_young(entry);
  if (arch::pte_dirty(old)) entry = arch::make_migration_entry_dirty(entry);
  arch::Pte swap_pte = arch::swp_entry_to_pte(entry);
  if (arch::pte_soft_dirty(old)) swap_pte = arch::pte_swp_mksoft_dirty(swap_pte);
  if (arch::pte_uffd_wp(old)) swap_pte = arch::pte_swp_mkuffd_wp(swap_pte);
  *pte = swap_pte;
  page_remove_rmap(folio, vma);
  vm_.parts_.lru.folio_put(folio);
}

void Rmap::remove_migration_ptes(Folio& from, Folio& to) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  const auto map_again = [&](Vma& vma, VirtAddr address) {
    remove_migration_pte(from, to, vma, address);
    return Walk::kContinue;
  };
  if (!phys::folio_test_anon(to)) return rmap_walk(to, map_again);
  AnonVma& anon_vma = *phys::folio_raw_mapping<AnonVma>(to);
  sim::ReadGuard guard(anon_vma.root->rwsem);
  walk_anon_vma(anon_vma, Pgoff(to.index), map_again);
}

void Rmap::remove_migration_pte(Folio& from, Folio& to, Vma& vma, VirtAddr address) {
  Mm& mm = *vma.vm_mm;
  vm_.parts_.scheduler.charge(vm_.parts_.scheduler.costs().rmap_walk_pte);
  sim::SpinGuard guard(mm.page_table_lock);
  arch::Pte* pte = vm_.pgtable_.pte_offset(mm, address);
  if (pte == nullptr || !arch::is_swap_pte(*pte)) return;
  const arch::SwapEntry entry = arch::pte_to_swp_entry(*pte);
  if (!arch::is_migration_entry(entry) || &vm_.migration_entry_folio(entry) != &from) return;

  arch::Pte fresh = arch::mk_pte(vm_.parts_.phys.page_to_pfn(to), vm_.vma_page_prot(vma));
  fresh = arch::is_migration_entry_young(entry) ? arch::pte_mkyoung(fresh) : arch::pte_mkold(fresh);
  if (phys::folio_test_dirty(to) && arch::is_migration_entry_dirty(entry)) fresh = arch::pte_mkdirty(fresh);
  if (arch::is_writable_migration_entry(entry)) fresh = maybe_mkwrite(fresh, vma);
  if (arch::pte_swp_soft_dirty(*pte)) fresh = arch::pte_mksoft_dirty(fresh);
  if (arch::pte_swp_uffd_wp(*pte)) fresh = arch::pte_mkuffd_wp(fresh);
  phys::folio_get(to);
  if (phys::folio_test_anon(to)) {
    const bool exclusive = !arch::is_readable_migration_entry(entry);
    page_add_anon_rmap(to, vma, address, exclusive ? RmapExclusive::kYes : RmapExclusive::kNo);
  } else {
    page_add_file_rmap(to, vma);
  }
  *pte = fresh;
}

}  // namespace quire::vm
