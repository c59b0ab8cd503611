// The least-recently-used lists of a machine: an Lruvec a node, and in front of them small batches a CPU, so that
// lru_lock is taken once for 15 folios.
//
//   folio_add_lru ─▶ batch lru_add ──┐
//   folio_activate ▶ batch activate ─┤ full, or drained
//   …deactivate…   ▶ batch …        ─┴──────────────▶ Lruvec lists
//
// A folio in the lru_add batch has no PG_lru and is counted nowhere; in every other batch it keeps its list, its PG_lru
// and its place until the batch is drained, and the move is not made if its state has changed meanwhile. So the
// counters (nr_inactive_anon … nr_zone_…) always equal the lists, and equal what the callers asked for after a drain.
// A batch holds a reference on each of its folios: freeing waits for the drain.
//
// Invariants: PG_lru ⇔ on a list; PG_active and PG_unevictable never both; validate() checks lists, flags and counters.
// Lock: Lruvec::lru_lock a node. Batches belong to their CPU.
// Differs from Linux 6.1: no memory cgroups yet; mlock works at once instead of through a batch of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/thread_annotations.h"
#include "quire/base/tracepoint.h"
#include "quire/base/types.h"
#include "quire/base/xarray.h"
#include "quire/lru/folio_batch.h"
#include "quire/lru/lru_hooks.h"
#include "quire/lru/lruvec.h"
#include "quire/lru/workingset.h"
#include "quire/phys/folio.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire::lru {

struct MmLruInsertion {
  static constexpr std::string_view kName = "mm_lru_insertion";
  Pfn pfn;
  LruList lru;
  unsigned flags;  // 1 mapped, 2 anonymous, 4 file, 8 swap cache, 16 swap backed, 32 mapped to disk, 64 private
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("lru", static_cast<unsigned>(lru));
    f("flags", flags);
  }
};
struct MmLruActivate {
  static constexpr std::string_view kName = "mm_lru_activate";
  Pfn pfn;
  void fields(auto&& f) const { f("pfn", pfn.value()); }
};

class Lru {
 public:
  Lru(phys::PhysMem& phys, sim::Scheduler& scheduler, TraceRegistry& traces);
  ~Lru();
  Lru(const Lru&) = delete;
  Lru& operator=(const Lru&) = delete;

  void set_hooks(LruHooks* hooks) { hooks_ = hooks; }  // nullptr: nobody is told
  [[nodiscard]] LruHooks* hooks() const { return hooks_; }
  void set_swap_space(const SwapSpace* swap) { swap_space_ = swap; }

  // --- lru.cc: the ways onto, off and between the lists -------------------------------------------------------------

  // Puts the folio on the list its flags say, at the next drain. The caller keeps his reference.
  void folio_add_lru(phys::Folio& folio);
  // folio_mark_accessed: inactive,unreferenced → inactive,referenced → active (and unreferenced again).
  void mark_folio_accessed(phys::Folio& folio);
  void folio_activate(phys::Folio& folio);
  // deactivate_page: active → inactive, unreferenced (MADV_COLD).
  void deactivate_folio(phys::Folio& folio);
  // deactivate_file_folio: a file page that could not be invalidated goes to where it is reclaimed soon.
  void deactivate_file_folio(phys::Folio& folio);
  // mark_page_lazyfree: an anonymous page whose contents need not be kept (MADV_FREE) joins the inactive file list.
  void mark_folio_lazyfree(phys::Folio& folio);
  // folio_rotate_reclaimable: written back and clean: to the back of its inactive list, next to be reclaimed.
  void folio_rotate_reclaimable(phys::Folio& folio);

  // Applies this CPU's (that CPU's, every CPU's) batches.
  void lru_add_drain();
  void lru_add_drain_cpu(unsigned cpu);
  void lru_add_drain_all();

  // Takes the folio off its list and clears PG_lru, with a reference for the caller; false when it was on none.
  [[nodiscard]] bool folio_isolate_lru(phys::Folio& folio);
  // Gives an isolated folio back to its list and drops the isolation's reference.
  void folio_putback_lru(phys::Folio& folio);

  // --- For reclaim, which works on whole lists with lru_lock held ---------------------------------------------------

  // Account and link (at the front or the back) or unlink; PG_lru is the caller's affair.
  void lruvec_add_folio_locked(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void lruvec_add_folio_tail_locked(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void lruvec_del_folio_locked(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  // Only the accounting, for a folio that the caller moves himself between `list` and one of his own.
  void update_lru_size(Lruvec& lruvec, LruList list, phys::ZoneType zone, std::int64_t nr_pages)
      QUIRE_REQUIRES(lruvec.lru_lock);

  // --- release.cc ---------------------------------------------------------------------------------------------------

  // Drops a reference; the last one takes the folio off the LRU and frees it.
  void folio_put(phys::Folio& folio) { folio_put_refs(folio, 1); }
  void folio_put_refs(phys::Folio& folio, int refs) {
    QUIRE_BUG_ON(folio.refcount < refs);
    folio.refcount -= refs;
    if (folio.refcount == 0) [[unlikely]]
      folio_free(folio);
  }
  // Drops one reference on each; those that were the last are taken off their lists under one lock and freed together.
  void release_folios(std::span<phys::Folio* const> folios);
  // Frees folios whose reference count is zero already (free_unref_page_list): frozen ones that reclaim has finished.
  void free_folios(phys::FolioList& folios);

  // --- mlock.cc -----------------------------------------------------------------------------------------------------

  // May reclaim ever take it?
  [[nodiscard]] bool folio_evictable(const phys::Folio& folio) const { return !phys::folio_test_mlocked(folio); }
  // A mapping in a locked area came to be, or went.
  void mlock_folio(phys::Folio& folio);
  void munlock_folio(phys::Folio& folio);
  // A new folio, not yet on any list, that a locked area maps: onto the LRU as unevictable.
  void mlock_new_folio(phys::Folio& folio);
  // Puts folios that have become evictable back on their lists (check_move_unevictable_folios).
  void check_move_unevictable_folios(std::span<phys::Folio* const> folios);

  // --- workingset.cc ------------------------------------------------------------------------------------------------

  // The shadow to leave behind for a folio that is being evicted. It is off its list and its references are frozen.
  [[nodiscard]] XaValue workingset_eviction(phys::Folio& folio);
  // A new folio takes the place of a shadow: activates it when the refault distance says so. Before folio_add_lru.
  void workingset_refault(phys::Folio& folio, XaValue shadow);
  void workingset_activation(phys::Folio& folio);
  void workingset_age_nonresident(Lruvec& lruvec, std::uint64_t nr_pages);

  // Adds `nr_pages` of reclaim cost (I/O and rotations) to anon or file; both halve when they outgrow the lists.
  void lru_note_cost(Lruvec& lruvec, AnonOrFile kind, std::uint64_t nr_pages);
  void lru_note_cost_folio(phys::Folio& folio);

  [[nodiscard]] Lruvec& lruvec(Nid nid) { return *lruvecs_[static_cast<std::size_t>(nid.value())]; }
  [[nodiscard]] const Lruvec& lruvec(Nid nid) const { return *lruvecs_[static_cast<std::size_t>(nid.value())]; }
  [[nodiscard]] Lruvec& folio_lruvec(const phys::Folio& folio) { return lruvec(folio.nid()); }
  [[nodiscard]] std::size_t nodes() const { return lruvecs_.size(); }

  // Folios that wait in batches, over all CPUs; 0 right after lru_add_drain_all.
  [[nodiscard]] std::size_t batched() const;

  // Walks lists and batches: flags, sizes, node and zone counters agree. QUIRE_BUGs at the first disagreement.
  void validate() const;

 private:
  // The batches of one CPU (struct lru_pvecs and lru_rotate).
  struct CpuBatches {
    FolioBatch lru_add;
    FolioBatch lru_rotate;
    FolioBatch lru_deactivate_file;
    FolioBatch lru_deactivate;
    FolioBatch lru_lazyfree;
    FolioBatch activate;

    template <class Self>
    static auto all(Self& self) {
      return std::array{&self.lru_add,        &self.lru_rotate,   &self.lru_deactivate_file,
                        &self.lru_deactivate, &self.lru_lazyfree, &self.activate};
    }
  };
  using MoveFn = void (Lru::*)(Lruvec&, phys::Folio&);

  void folio_batch_add_and_move(FolioBatch& batch, phys::Folio& folio, MoveFn move);
  void folio_batch_move_lru(FolioBatch& batch, MoveFn move);
  void lru_add_fn(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void lru_move_tail_fn(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void lru_deactivate_file_fn(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void lru_deactivate_fn(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void lru_lazyfree_fn(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void folio_activate_fn(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void activate_in_lru_add_batch(phys::Folio& folio);

  void rescue_locked(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void cull_locked(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void count_mlocked(phys::Folio& folio);
  [[nodiscard]] std::uint64_t workingset_size(const Lruvec& lruvec, AnonOrFile kind) const;
  void check_all_pages(const Lruvec& lruvec) const;
  void check_batches() const;

  [[gnu::noinline]] void folio_free(phys::Folio& folio);
  void page_cache_release_locked(Lruvec& lruvec, phys::Folio& folio) QUIRE_REQUIRES(lruvec.lru_lock);
  void free_unlisted(phys::Folio& folio);
  void clear_mlocked_on_free(phys::Folio& folio);

  phys::PhysMem& phys_;
  sim::Scheduler& scheduler_;
  std::vector<std::unique_ptr<Lruvec>> lruvecs_;  // by node; fixed at boot
  std::vector<CpuBatches> batches_;               // by CPU; fixed at boot
  LruHooks* hooks_ = nullptr;
  const SwapSpace* swap_space_ = nullptr;
  unsigned bucket_order_ = 0;
  Tracepoint<MmLruInsertion> mm_lru_insertion_;
  Tracepoint<MmLruActivate> mm_lru_activate_;
};

}  // namespace quire::lru
