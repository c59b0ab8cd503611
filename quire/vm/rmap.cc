// Map counts, and the walk from a folio to its mappings.
#include "quire/vm/rmap.h"
#include "quire/vm/gup.h"

#include "quire/base/container_of.h"
#include "quire/file/address_space.h"
#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

using phys::Folio;
using phys::NodeStat;
using phys::Page;
using phys::PageFlag;

namespace {

std::uint64_t anon_mapping(const AnonVma& anon_vma) { return reinterpret_cast<std::uintptr_t>(&anon_vma) | phys::kMappingAnon; }

// Shared pages of a family belong to its oldest member, which every descendant's area is linked to; a page that only one
// process has belongs to that area's own AnonVma, so that later walks are short.
AnonVma& owner_of(const Vma& vma, RmapExclusive exclusive) {
  QUIRE_BUG_ON(vma.anon_vma == nullptr);
  return exclusive == RmapExclusive::kYes ? *vma.anon_vma : *vma.anon_vma->root;
}

}  // namespace

Vma& Rmap::vma_of(file::MappingNode& node) { return *container_of(&node, &Vma::mapping_node); }

void Rmap::page_add_new_anon_rmap(Page& page, Vma& vma, VirtAddr address) {
  QUIRE_BUG_ON(page.mapcount != 0);
  page.set(vma.has(VmFlags::kDroppable) ? PageFlag::kAnonExclusive : PageFlag::kSwapBacked | PageFlag::kAnonExclusive);
  page.mapping = anon_mapping(owner_of(vma, RmapExclusive::kYes));
  page.index = vma.linear_page_index(address).value();
  page.mapcount = 1;
  vm_.parts_.phys.page_node(page).stats.add(NodeStat::kNrAnonPages);
}

void Rmap::page_add_anon_rmap(Page& page, Vma& vma, VirtAddr address, RmapExclusive exclusive) {
  if (++page.mapcount == 1) vm_.parts_.phys.page_node(page).stats.add(NodeStat::kNrAnonPages);
  if ((page.mapping & phys::kMappingAnon) == 0) {
    page.mapping = anon_mapping(owner_of(vma, exclusive));
    page.index = vma.linear_page_index(address).value();
  }
  if (exclusive == RmapExclusive::kYes) page.set(PageFlag::kAnonExclusive);
  if (vma_mlocks_folios(vma)) vm_.parts_.lru.mlock_folio(phys::page_folio(page));
}

bool Rmap::page_try_share_anon_rmap(Page& page) {
  if (folio_maybe_dma_pinned(phys::page_folio(page))) return false;
  page.clear(PageFlag::kAnonExclusive);
  return true;
}

bool Rmap::page_try_dup_anon_rmap(Page& page, const Mm& parent) {
  const bool pinned = any(parent.flags, MmFlags::kHasPinned) && folio_maybe_dma_pinned(phys::page_folio(page));
  if (page.test(PageFlag::kAnonExclusive) && pinned) return false;
  page.clear(PageFlag::kAnonExclusive);
  ++page.mapcount;
  return true;
}

void Rmap::page_add_file_rmap(Page& page, Vma& vma) {
  if (++page.mapcount == 1) vm_.parts_.phys.page_node(page).stats.add(NodeStat::kNrMapped);
  if (vma_mlocks_folios(vma)) vm_.parts_.lru.mlock_folio(phys::page_folio(page));
}

void Rmap::page_remove_rmap(Page& page, Vma& vma) {
  QUIRE_BUG_ON(page.mapcount <= 0);
  if (--page.mapcount == 0) {
    const bool anon = (page.mapping & phys::kMappingAnon) != 0;
    vm_.parts_.phys.page_node(page).stats.sub(anon ? NodeStat::kNrAnonPages : NodeStat::kNrMapped);
  }
  if (vma_mlocks_folios(vma)) vm_.parts_.lru.munlock_folio(phys::page_folio(page));
}

void Rmap::page_move_anon_rmap(Page& page, Vma& vma) {
  page.mapping = anon_mapping(owner_of(vma, RmapExclusive::kYes));
  page.set(PageFlag::kAnonExclusive);
}

arch::Pte* Rmap::page_vma_mapped(Folio& folio, Vma& vma, VirtAddr address) {
  arch::Pte* pte = vm_.pgtable_.pte_offset(*vma.vm_mm, address);
  if (pte == nullptr || !pte->present() || pte->pfn() != vm_.parts_.phys.page_to_pfn(folio)) return nullptr;
  return pte;
}

// Root rwsem held. Areas that compare equal come in the order in which they joined, so that a child comes after the parent it
// was forked from: an entry that fork copies while the walk is under way is seen in the one or the other.
void Rmap::walk_anon_vma(AnonVma& anon_vma, Pgoff index, FunctionRef<Walk(Vma&, VirtAddr)> f) {
  const std::uint64_t at = index.value();
  for (AnonVmaChain* avc = anon_vma.rb_root.iter_first(at, at); avc != nullptr;) {
    AnonVmaChain* next = decltype(anon_vma.rb_root)::iter_next(*avc, at, at);
    Vma& vma = *avc->vma;
    if (f(vma, vma.address_of(index)) == Walk::kStop) break;
    avc = next;
  }
}

Rmap::WalkEnd Rmap::walk_anon(Folio& folio, LockHow how, FunctionRef<Walk(Vma&, VirtAddr)> f) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  // A mapped folio's AnonVma lives; the reference keeps it while we wait for its lock (folio_lock_anon_vma_read).
  if (!phys::folio_mapped(folio)) return WalkEnd::kDone;
  AnonVma& anon_vma = *phys::folio_raw_mapping<AnonVma>(folio);
  sim::RwSemaphore& rwsem = anon_vma.root->rwsem;
  ++anon_vma.refcount;
  if (how == LockHow::kTry && !rwsem.down_read_trylock()) {  // others may run here, too
    put_anon_vma(anon_vma);
    return WalkEnd::kContended;
  }
  if (how == LockHow::kWait) rwsem.down_read();
  if (phys::folio_mapped(folio)) {
    walk_anon_vma(anon_vma, Pgoff(folio.index), f);
  }
  rwsem.up_read();
  put_anon_vma(anon_vma);
  return WalkEnd::kDone;
}

Rmap::WalkEnd Rmap::walk_file(Folio& folio, LockHow how, FunctionRef<Walk(Vma&, VirtAddr)> f) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  file::AddressSpace* mapping = file::AddressSpace::of(folio);
  if (mapping == nullptr) return WalkEnd::kDone;
  sim::RwSemaphore& rwsem = mapping->i_mmap_rwsem();
  if (how == LockHow::kTry) {
    if (!rwsem.down_read_trylock()) return WalkEnd::kContended;
  } else {
    rwsem.down_read();
  }
  const Pgoff index(folio.index);
  Walk state = Walk::kContinue;
  mapping->i_mmap_for_each(index, index, [&](file::MappingNode& node) {
    if (state == Walk::kStop) return;
    Vma& vma = vma_of(node);
    state = f(vma, vma.address_of(index));
  });
  rwsem.up_read();
  return WalkEnd::kDone;
}

Rmap::WalkEnd Rmap::walk(Folio& folio, LockHow how, FunctionRef<Walk(Vma&, VirtAddr)> f) {
  return phys::folio_test_anon(folio) ? walk_anon(folio, how, f) : walk_file(folio, how, f);
}

void Rmap::rmap_walk(Folio& folio, FunctionRef<Walk(Vma&, VirtAddr)> f) { static_cast<void>(walk(folio, LockHow::kWait, f)); }

FolioReferenced Rmap::folio_referenced(Folio& folio) {
  FolioReferenced result;
  if (!phys::folio_mapped(folio)) return result;
  const sim::Nanos cost = vm_.parts_.scheduler.costs().rmap_walk_pte;
  const WalkEnd end = walk(folio, LockHow::kTry, [&](Vma& vma, VirtAddr address) {
    vm_.parts_.scheduler.charge(cost);
    sim::SpinGuard guard(vma.vm_mm->page_table_lock);
    arch::Pte* pte = page_vma_mapped(folio, vma, address);
    if (pte == nullptr) return Walk::kContinue;
    if (vma.has(VmFlags::kLocked)) {
      result.vm_flags |= VmFlags::kLocked;
      return Walk::kStop;
    }
    // A use that was announced as sequential says nothing about another one to come.
    if (arch::ptep_test_and_clear_young(pte) && !vma.has(VmFlags::kSeqRead)) {
      ++result.referenced;
      result.vm_flags |= vma.vm_flags & ~VmFlags::kLocked;
    }
    return Walk::kContinue;
  });
  result.contended = end == WalkEnd::kContended;
  return result;
}

int Rmap::folio_mkclean(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  if (!phys::folio_mapped(folio) || phys::folio_test_anon(folio)) return 0;
  int cleaned = 0;
  static_cast<void>(walk(folio, LockHow::kWait, [&](Vma& vma, VirtAddr address) {
    if (!vma.has(VmFlags::kShared)) return Walk::kContinue;
    sim::SpinGuard guard(vma.vm_mm->page_table_lock);
    arch::Pte* pte = page_vma_mapped(folio, vma, address);
    if (pte == nullptr || (!arch::pte_dirty(*pte) && !arch::pte_write(*pte))) return Walk::kContinue;
    const arch::Pte old = vm_.shootdown_.ptep_clear_flush(*vma.vm_mm, pte, address, FlushSite::kMkclean);
    *pte = arch::pte_mkclean(arch::pte_wrprotect(old));
    ++cleaned;
    return Walk::kContinue;
  }));
  return cleaned;
}

}  // namespace quire::vm
