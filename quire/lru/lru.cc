// The ways onto the lists and between them.
#include "quire/lru/lru.h"

namespace quire::lru {

using phys::Folio;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneStat;

namespace {

// The flags that mm_lru_insertion tells (trace_pagemap_flags).
unsigned pagemap_flags(const Folio& folio) {
  unsigned flags = phys::folio_test_anon(folio) ? 2 : 4;
  if (phys::folio_mapped(folio)) flags |= 1;
  if (phys::folio_test_swapbacked(folio) && phys::folio_test_swapcache(folio)) flags |= 8;
  if (phys::folio_test_swapbacked(folio)) flags |= 16;
  if (phys::folio_test_mappedtodisk(folio)) flags |= 32;
  if (phys::folio_test_private(folio)) flags |= 64;
  return flags;
}

}  // namespace

Lru::Lru(phys::PhysMem& phys, sim::Scheduler& scheduler, TraceRegistry& traces)
    : phys_(phys),
      scheduler_(scheduler),
      batches_(scheduler.cpus()),
      bucket_order_(workingset_bucket_order(phys.totalram_pages())),
      mm_lru_insertion_(traces),
      mm_lru_activate_(traces) {
  sim::LockClass& lock_class = scheduler.locks().lock_class("lru_lock");
  for (const auto& node : phys.nodes()) {
    lruvecs_.push_back(std::make_unique<Lruvec>(scheduler, lock_class, *node));
  }
}

Lru::~Lru() = default;

// --- a list and its account -------------------------------------------------------------------------------------------

void Lru::update_lru_size(Lruvec& lruvec, LruList list, phys::ZoneType zone, std::int64_t nr_pages) {
  phys::Node& node = lruvec.node_;
  const auto l = static_cast<std::size_t>(list);
  node.stats.add(static_cast<NodeStat>(static_cast<std::size_t>(NodeStat::kNrInactiveAnon) + l), nr_pages);
  node.zone(zone).stats.add(static_cast<ZoneStat>(static_cast<std::size_t>(ZoneStat::kNrZoneInactiveAnon) + l), nr_pages);
  std::uint64_t& size = lruvec.zone_size_[static_cast<std::size_t>(zone)][l];
  QUIRE_BUG_ON(nr_pages < 0 && size < static_cast<std::uint64_t>(-nr_pages));
  size += static_cast<std::uint64_t>(nr_pages);
}

void Lru::lruvec_add_folio_locked(Lruvec& lruvec, Folio& folio) {
  const LruList list = folio_lru_list(folio);
  update_lru_size(lruvec, list, folio.zone_type(), pages(folio));
  if (list != LruList::kUnevictable) lruvec.list(list).push_front(folio);
  if (hooks_ != nullptr) hooks_->folio_added(folio, list);
}

void Lru::lruvec_add_folio_tail_locked(Lruvec& lruvec, Folio& folio) {
  const LruList list = folio_lru_list(folio);
  update_lru_size(lruvec, list, folio.zone_type(), pages(folio));
  if (list != LruList::kUnevictable) lruvec.list(list).push_back(folio);
  if (hooks_ != nullptr) hooks_->folio_added(folio, list);
}

void Lru::lruvec_del_folio_locked(Lruvec& lruvec, Folio& folio) {
  const LruList list = folio_lru_list(folio);
  if (list != LruList::kUnevictable) {
    lruvec.list(list).erase(folio);
  } else {
    folio.owner_word[0] = folio.owner_word[1] = nullptr;
  }
  update_lru_size(lruvec, list, folio.zone_type(), -pages(folio));
  if (hooks_ != nullptr) hooks_->folio_removed(folio, list);
}

// --- batches ----------------------------------------------------------------------------------------------------------

void Lru::folio_batch_add_and_move(FolioBatch& batch, Folio& folio, MoveFn move) {
  if (batch.add(folio) != 0 && !phys::folio_test_large(folio)) return;
  folio_batch_move_lru(batch, move);
}

// The batch is copied and emptied first: while lru_lock is waited for, others on this CPU may begin to fill it again.
void Lru::folio_batch_move_lru(FolioBatch& batch, MoveFn move) {
  const FolioBatch folios = batch;
  batch.reset();
  std::size_t i = 0;
  while (i < folios.count()) {
    Lruvec& lruvec = folio_lruvec(folios[i]);
    sim::SpinGuard guard(lruvec.lru_lock);
    do {
      Folio& folio = folios[i++];
      // Off its list by now (isolated, or another batch has it): whoever puts it back decides where.
      if (move != &Lru::lru_add_fn && !phys::folio_test_lru(folio)) continue;
      (this->*move)(lruvec, folio);
      phys::folio_set_lru(folio);
    } while (i < folios.count() && &folio_lruvec(folios[i]) == &lruvec);
  }
  release_folios(folios.folios());
}

void Lru::lru_add_drain() { lru_add_drain_cpu(scheduler_.cpu()); }

void Lru::lru_add_drain_cpu(unsigned cpu) {
  CpuBatches& b = batches_[cpu];
  const auto drain = [this](FolioBatch& batch, MoveFn move) {
    if (!batch.empty()) folio_batch_move_lru(batch, move);
  };
  drain(b.lru_add, &Lru::lru_add_fn);
  drain(b.lru_rotate, &Lru::lru_move_tail_fn);
  drain(b.lru_deactivate_file, &Lru::lru_deactivate_file_fn);
  drain(b.lru_deactivate, &Lru::lru_deactivate_fn);
  drain(b.lru_lazyfree, &Lru::lru_lazyfree_fn);
  drain(b.activate, &Lru::folio_activate_fn);
}

void Lru::lru_add_drain_all() {
  for (unsigned cpu = 0; cpu < batches_.size(); ++cpu) lru_add_drain_cpu(cpu);
}

std::size_t Lru::batched() const {
  std::size_t n = 0;
  for (const CpuBatches& b : batches_) {
    for (const FolioBatch* batch : CpuBatches::all(b)) n += batch->count();
  }
  return n;
}

// --- onto the lists ---------------------------------------------------------------------------------------------------

void Lru::folio_add_lru(Folio& folio) {
  QUIRE_BUG_ON(phys::folio_test_lru(folio));
  QUIRE_BUG_ON(phys::folio_test_active(folio) && phys::folio_test_unevictable(folio));
  phys::folio_get(folio);
  folio_batch_add_and_move(batches_[scheduler_.cpu()].lru_add, folio, &Lru::lru_add_fn);
}

void Lru::lru_add_fn(Lruvec& lruvec, Folio& folio) {
  QUIRE_BUG_ON(phys::folio_test_lru(folio));
  const bool was_unevictable = phys::folio_test_clear_unevictable(folio);
  const std::int64_t nr = pages(folio);
  const bool evictable = folio_evictable(folio);
  if (evictable) {
    if (was_unevictable) phys_.vmstat().count_vm_events(VmEvent::kUnevictablePgsRescued, nr);
  } else {
    phys::folio_clear_active(folio);
    phys::folio_set_unevictable(folio);
    if (!was_unevictable) phys_.vmstat().count_vm_events(VmEvent::kUnevictablePgsCulled, nr);
  }
  lruvec_add_folio_locked(lruvec, folio);
  if (!evictable) folio_set_mlock_count(folio, phys::folio_test_mlocked(folio) ? 1 : 0);
  mm_lru_insertion_([&] { return MmLruInsertion{phys_.page_to_pfn(folio), folio_lru_list(folio), pagemap_flags(folio)}; });
}

// --- accessed, activated ----------------------------------------------------------------------------------------------

void Lru::mark_folio_accessed(Folio& folio) {
  if (hooks_ != nullptr) hooks_->folio_accessed(folio);
  if (!phys::folio_test_referenced(folio)) {
    phys::folio_set_referenced(folio);
  } else if (phys::folio_test_unevictable(folio)) {
    // It cannot be reclaimed, so its age does not matter.
  } else if (!phys::folio_test_active(folio)) {
    // A folio that still waits to be added becomes active there; on a list it moves with the next batch.
    if (phys::folio_test_lru(folio)) {
      folio_activate(folio);
    } else {
      activate_in_lru_add_batch(folio);
    }
    phys::folio_clear_referenced(folio);
    workingset_activation(folio);
  }
  phys::folio_clear_idle(folio);
}

// Only this CPU's batch: a folio in another's becomes active at its next access (as in Linux).
void Lru::activate_in_lru_add_batch(Folio& folio) {
  const FolioBatch& batch = batches_[scheduler_.cpu()].lru_add;
  for (std::size_t i = batch.count(); i-- > 0;) {
    if (&batch[i] != &folio) continue;
    phys::folio_set_active(folio);
    return;
  }
}

void Lru::folio_activate(Folio& folio) {
  if (!phys::folio_test_lru(folio) || phys::folio_test_active(folio) || phys::folio_test_unevictable(folio)) return;
  phys::folio_get(folio);
  folio_batch_add_and_move(batches_[scheduler_.cpu()].activate, folio, &Lru::folio_activate_fn);
}

void Lru::folio_activate_fn(Lruvec& lruvec, Folio& folio) {
  if (phys::folio_test_active(folio) || phys::folio_test_unevictable(folio)) return;
  lruvec_del_folio_locked(lruvec, folio);
  phys::folio_set_active(folio);
  lruvec_add_folio_locked(lruvec, folio);
  mm_lru_activate_([&] { return MmLruActivate{phys_.page_to_pfn(folio)}; });
  phys_.vmstat().count_vm_events(VmEvent::kPgactivate, pages(folio));
  if (hooks_ != nullptr) hooks_->folio_activated(folio);
}

// --- deactivated, rotated ---------------------------------------------------------------------------------------------

void Lru::deactivate_folio(Folio& folio) {
  if (!phys::folio_test_lru(folio) || !phys::folio_test_active(folio) || phys::folio_test_unevictable(folio)) return;
  phys::folio_get(folio);
  folio_batch_add_and_move(batches_[scheduler_.cpu()].lru_deactivate, folio, &Lru::lru_deactivate_fn);
}

void Lru::lru_deactivate_fn(Lruvec& lruvec, Folio& folio) {
  if (!phys::folio_test_active(folio) || phys::folio_test_unevictable(folio)) return;
  lruvec_del_folio_locked(lruvec, folio);
  phys::folio_clear_active(folio);
  phys::folio_clear_referenced(folio);
  lruvec_add_folio_locked(lruvec, folio);
  phys_.vmstat().count_vm_events(VmEvent::kPgdeactivate, pages(folio));
}

void Lru::deactivate_file_folio(Folio& folio) {
  if (phys::folio_test_unevictable(folio)) return;
  phys::folio_get(folio);
  folio_batch_add_and_move(batches_[scheduler_.cpu()].lru_deactivate_file, folio, &Lru::lru_deactivate_file_fn);
}

void Lru::lru_deactivate_file_fn(Lruvec& lruvec, Folio& folio) {
  if (phys::folio_test_unevictable(folio) || phys::folio_mapped(folio)) return;
  const bool active = phys::folio_test_active(folio);
  const std::int64_t nr = pages(folio);
  lruvec_del_folio_locked(lruvec, folio);
  phys::folio_clear_active(folio);
  phys::folio_clear_referenced(folio);
  if (phys::folio_test_writeback(folio) || phys::folio_test_dirty(folio)) {
    // Not yet clean: PG_reclaim sends it to the back when its writeback ends.
    lruvec_add_folio_locked(lruvec, folio);
    phys::folio_set_reclaim(folio);
  } else {
    lruvec_add_folio_tail_locked(lruvec, folio);
    phys_.vmstat().count_vm_events(VmEvent::kPgrotated, nr);
  }
  if (active) phys_.vmstat().count_vm_events(VmEvent::kPgdeactivate, nr);
}

namespace {

bool can_be_lazyfree(const Folio& folio) {
  return phys::folio_test_anon(folio) && phys::folio_test_swapbacked(folio) && !phys::folio_test_swapcache(folio) &&
         !phys::folio_test_unevictable(folio);
}

}  // namespace

void Lru::mark_folio_lazyfree(Folio& folio) {
  if (!phys::folio_test_lru(folio) || !can_be_lazyfree(folio)) return;
  phys::folio_get(folio);
  folio_batch_add_and_move(batches_[scheduler_.cpu()].lru_lazyfree, folio, &Lru::lru_lazyfree_fn);
}

void Lru::lru_lazyfree_fn(Lruvec& lruvec, Folio& folio) {
  if (!can_be_lazyfree(folio)) return;
  lruvec_del_folio_locked(lruvec, folio);
  phys::folio_clear_active(folio);
  phys::folio_clear_referenced(folio);
  phys::folio_clear_swapbacked(folio);
  lruvec_add_folio_locked(lruvec, folio);
  phys_.vmstat().count_vm_events(VmEvent::kPglazyfree, pages(folio));
}

void Lru::folio_rotate_reclaimable(Folio& folio) {
  if (phys::folio_test_locked(folio) || phys::folio_test_dirty(folio) || phys::folio_test_unevictable(folio) ||
      !phys::folio_test_lru(folio)) {
    return;
  }
  phys::folio_get(folio);
  folio_batch_add_and_move(batches_[scheduler_.cpu()].lru_rotate, folio, &Lru::lru_move_tail_fn);
}

void Lru::lru_move_tail_fn(Lruvec& lruvec, Folio& folio) {
  if (phys::folio_test_unevictable(folio)) return;
  lruvec_del_folio_locked(lruvec, folio);
  phys::folio_clear_active(folio);
  lruvec_add_folio_tail_locked(lruvec, folio);
  phys_.vmstat().count_vm_events(VmEvent::kPgrotated, pages(folio));
}

// --- isolation --------------------------------------------------------------------------------------------------------

bool Lru::folio_isolate_lru(Folio& folio) {
  QUIRE_BUG_ON(phys::folio_ref_count(folio) == 0);
  if (!phys::folio_test_clear_lru(folio)) return false;
  phys::folio_get(folio);
  Lruvec& lruvec = folio_lruvec(folio);
  sim::SpinGuard guard(lruvec.lru_lock);
  lruvec_del_folio_locked(lruvec, folio);
  return true;
}

void Lru::folio_putback_lru(Folio& folio) {
  folio_add_lru(folio);
  folio_put(folio);
}

}  // namespace quire::lru
