// Reverse mapping: from a folio to the page-table entries that map it, and what reclaim and writeback do with those.
//
// Anonymous folios find their areas through their AnonVma's interval tree, file folios through their mapping's i_mmap tree;
// rmap_walk visits each area that may map the folio. Map counts live in Page::mapcount (0 = not mapped); the first map and
// the last unmap keep NR_ANON_MAPPED and NR_FILE_MAPPED of the folio's node.
// anon_vma.cc: families; rmap.cc: map counts, walks; try_to_unmap.cc: reclaim's unmapping; rmap_migrate.cc: migration's.
//
// Locks: the folio lock or a stable folio (isolated, referenced); then AnonVma root rwsem or i_mmap_rwsem (read), then the
// Mm's page_table_lock. Functions named page_… are called with the page-table lock held.
#pragma once

#include <cstdint>

#include "quire/base/function_ref.h"
#include "quire/base/result.h"
#include "quire/phys/folio.h"
#include "quire/vm/anon_vma.h"
#include "quire/vm/vma.h"

namespace quire::vm {

class Vm;

// TTU_*
enum class TtuFlags : std::uint32_t {
  kNone = 0,
  kBatchFlush = 0x40,  // leave the TLB flush to try_to_unmap_flush()
};

// Is the one mapping of this anonymous page the only one there will be, as far as is known (PageAnonExclusive)?
enum class RmapExclusive : std::uint8_t { kNo, kYes };

struct FolioReferenced {
  int referenced = 0;                 // page-table entries whose Accessed bit was set (and is now clear)
  VmFlags vm_flags = VmFlags::kNone;  // flags of the areas that referenced it; kLocked when an mlocked area maps it
  bool contended = false;             // a lock was not free: nothing is known (Linux's -1)
};

class Rmap {
 public:
  explicit Rmap(Vm& vm) : vm_(vm) {}
  Rmap(const Rmap&) = delete;
  Rmap& operator=(const Rmap&) = delete;

  // --- AnonVma families; mmap_lock of the area(s) held for writing, but for anon_vma_prepare (reading is enough) -------
  // Gives the area an AnonVma: a neighbour's when the two could merge, else a new one.
  Status anon_vma_prepare(Vma& vma) {
    if (vma.anon_vma != nullptr) [[likely]]
      return {};
    return anon_vma_prepare_slow(vma);
  }
  // Links dst to every AnonVma of src. May reuse one when dst has none (fork).
  Status anon_vma_clone(Vma& dst, const Vma& src);
  // fork: the child joins its parent's AnonVmas and gets its own.
  Status anon_vma_fork(Vma& vma, const Vma& parent);
  void unlink_anon_vmas(Vma& vma);
  // Around a change of an area's bounds: out of the trees before, in again after.
  void anon_vma_interval_tree_pre_update(Vma& vma);
  void anon_vma_interval_tree_post_update(Vma& vma);

  // --- map counts ------------------------------------------------------------------------------------------------------
  void page_add_new_anon_rmap(phys::Page& page, Vma& vma, VirtAddr address);
  void page_add_anon_rmap(phys::Page& page, Vma& vma, VirtAddr address, RmapExclusive exclusive);
  // fork: one more mapping of an anonymous page, which is no longer one process's own. False, and nothing done: it is pinned, and
  // has to stay the parent's own (page_needs_cow_for_dma).
  [[nodiscard]] bool page_try_dup_anon_rmap(phys::Page& page, const Mm& parent);
  // Before an exclusive page's mapping becomes a swap or migration entry. False: it is pinned, and the mapping has to stay.
  [[nodiscard]] static bool page_try_share_anon_rmap(phys::Page& page);
  void page_add_file_rmap(phys::Page& page, Vma& vma);
  void page_remove_rmap(phys::Page& page, Vma& vma);
  // The page belongs to this area's AnonVma from now on (a reused COW page).
  void page_move_anon_rmap(phys::Page& page, Vma& vma);

  // --- from a folio to its mappings ----------------------------------------------------------------------------------------
  enum class Walk : std::uint8_t { kContinue, kStop };
  // Calls f(area, address) for each area that may map the folio, with the tree's lock held for reading.
  void rmap_walk(phys::Folio& folio, FunctionRef<Walk(Vma&, VirtAddr)> f);
  // The area that embeds a file's mapping node.
  [[nodiscard]] static Vma& vma_of(file::MappingNode& node);
  // The entry that maps `folio` at `address` of the area, or null (page_vma_mapped_walk); page_table_lock held.
  [[nodiscard]] arch::Pte* page_vma_mapped(phys::Folio& folio, Vma& vma, VirtAddr address);

  // How often the folio was used since last asked; clears the Accessed bits. The caller has a reference; the folio need not be
  // locked (a mapped folio's mapping lives, and its tree's lock keeps it so).
  FolioReferenced folio_referenced(phys::Folio& folio);
  // Replaces every mapping by a migration entry, behind which a fault waits. Folio locked. True when nothing maps it any more.
  bool try_to_migrate(phys::Folio& folio);
  // Maps `to` wherever a migration entry names `from`; the same folio twice takes a try_to_migrate back. Both locked; an
  // anonymous folio's AnonVma pinned since before try_to_migrate.
  void remove_migration_ptes(phys::Folio& from, phys::Folio& to);
  // Keeps the AnonVma of a locked anonymous folio while nothing maps that; null for others. Give back with put_anon_vma.
  [[nodiscard]] AnonVma* folio_get_anon_vma(phys::Folio& folio);
  void put_anon_vma(AnonVma& anon_vma);
  // Replaces every mapping by a swap entry (anonymous) or nothing (file). Folio locked. True when nothing maps it any more.
  bool try_to_unmap(phys::Folio& folio, TtuFlags flags);
  // Write-protects and cleans all shared mappings, before the folio is written; gives the number that were dirty or writable.
  int folio_mkclean(phys::Folio& folio);

 private:
  friend class VmValidator;
  Status anon_vma_prepare_slow(Vma& vma);
  [[nodiscard]] AnonVma* anon_vma_alloc();
  void anon_vma_chain_link(Vma& vma, AnonVmaChain& avc, AnonVma& anon_vma);
  enum class LockHow : std::uint8_t { kWait, kTry };
  enum class WalkEnd : std::uint8_t { kDone, kContended };
  WalkEnd walk(phys::Folio& folio, LockHow how, FunctionRef<Walk(Vma&, VirtAddr)> f);
  WalkEnd walk_anon(phys::Folio& folio, LockHow how, FunctionRef<Walk(Vma&, VirtAddr)> f);
  static void walk_anon_vma(AnonVma& anon_vma, Pgoff index, FunctionRef<Walk(Vma&, VirtAddr)> f);
  WalkEnd walk_file(phys::Folio& folio, LockHow how, FunctionRef<Walk(Vma&, VirtAddr)> f);
  [[nodiscard]] Walk unmap_anon_pte(phys::Folio& folio, Vma& vma, arch::Pte old, arch::Pte* pte);
  void try_to_migrate_one(phys::Folio& folio, Vma& vma, VirtAddr address);
  void remove_migration_pte(phys::Folio& from, phys::Folio& to, Vma& vma, VirtAddr address);
  Walk try_to_unmap_one(phys::Folio& folio, Vma& vma, VirtAddr address, TtuFlags flags);

  Vm& vm_;
};

}  // namespace quire::vm

template <>
inline constexpr bool quire::kIsFlags<quire::vm::TtuFlags> = true;
