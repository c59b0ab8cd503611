// The swap cache: what goes in, what is found, what comes out.
#include "quire/phys/page_wait.h"
#include "quire/swap/swap_system.h"

namespace quire::swap {

using phys::Folio;
using phys::NodeStat;

SwapSystem::SwapSystem(phys::PhysMem& phys, slab::XaNodeCache& nodes, lru::Lru& lru, sim::Scheduler& scheduler)
    : phys_(phys),
      lru_(lru),
      scheduler_(scheduler),
      nodes_(nodes),
      area_lock_class_(scheduler.locks().lock_class("swap_info_struct->lock")),
      cache_(nodes, scheduler, scheduler.locks().lock_class("swap_cache->xa_lock")),
      swap_avail_lock_(scheduler, scheduler.locks().lock_class("swap_avail_lock")) {
  lru_.set_swap_space(this);
}

SwapSystem::~SwapSystem() { lru_.set_swap_space(nullptr); }

Status SwapSystem::add_to_swap(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || !phys::folio_test_uptodate(folio) || phys::folio_test_swapcache(folio));
  scheduler_.charge(scheduler_.costs().swap_slot);
  const Result<SwapEntry> entry = get_swap_page();
  if (!entry) return fail(entry.error());
  // The shadow of whatever lay in the slot went when the slot was freed.
  if (const auto added = add_to_swap_cache(folio, *entry); !added) {
    put_swap_folio(*entry);
    return fail(added.error());
  }
  // The page may have come here clean (written before, or never dirtied since it was read back): it has a new slot now
  // that holds nothing.
  phys::folio_set_dirty(folio);
  return {};
}

Result<XaEntry> SwapSystem::add_to_swap_cache(Folio& folio, SwapEntry entry) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || phys::folio_test_swapcache(folio) || !phys::folio_test_swapbacked(folio));
  SwapStretch& stretch = cache_.stretch(entry);
  folio_get(folio);
  phys::folio_set_swapcache(folio);
  folio.private_ = entry.value();
  {
    sim::SpinGuard guard(stretch.xa_lock);
    const Result<XaEntry> old = stretch.i_pages.store(entry.offset, XaEntry(&folio));
    if (old) {
      QUIRE_BUG_ON(!old->empty() && !old->is_value());
      if (old->is_value()) --stretch.nrshadows;
      ++stretch.nrpages;
      phys::Node& node = phys_.page_node(folio);
      node.stats.add(NodeStat::kNrFilePages);
      node.stats.add(NodeStat::kNrSwapcached);
      return old;
    }
  }
  phys::folio_clear_swapcache(folio);
  folio.private_ = 0;
  folio_ref_sub(folio, 1);
  return fail(Errno::kNoMem);
}

void SwapSystem::remove_from_swap_cache(Folio& folio, SwapEntry entry, XaEntry shadow) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || !phys::folio_test_swapcache(folio) || phys::folio_test_writeback(folio));
  SwapStretch& stretch = cache_.stretch(entry);
  sim::SpinGuard guard(stretch.xa_lock);
  if (shadow.is_value()) {
    const Result<XaEntry> old = stretch.i_pages.store(entry.offset, shadow);  // in the folio's place: needs no memory
    QUIRE_BUG_ON(!old || old->pointer<Folio>() != &folio);
    ++stretch.nrshadows;
  } else {
    const XaEntry old = stretch.i_pages.erase(entry.offset);
    QUIRE_BUG_ON(old.pointer<Folio>() != &folio);
  }
  folio.private_ = 0;
  phys::folio_clear_swapcache(folio);
  --stretch.nrpages;
  phys::Node& node = phys_.page_node(folio);
  node.stats.sub(NodeStat::kNrFilePages);
  node.stats.sub(NodeStat::kNrSwapcached);
}

bool SwapSystem::migrate_swap_cache(Folio& from, Folio& to) {
  QUIRE_BUG_ON(!phys::folio_test_locked(from) || !phys::folio_test_locked(to) || phys::folio_test_writeback(from));
  const SwapEntry entry = folio_swap_entry(from);
  SwapStretch& stretch = cache_.stretch(entry);
  sim::SpinGuard guard(stretch.xa_lock);
  if (!folio_ref_freeze(from, 2)) return false;
  to.mapping = from.mapping;
  to.index = from.index;
  to.private_ = from.private_;
  phys::folio_set_swapbacked(to);
  phys::folio_set_swapcache(to);
  folio_get(to);
  if (phys::folio_test_clear_dirty(from)) phys::folio_set_dirty(to);
  const Result<XaEntry> old = stretch.i_pages.store(entry.offset, XaEntry(&to));
  QUIRE_BUG_ON(!old || old->pointer<Folio>() != &from);
  for (const NodeStat stat : {NodeStat::kNrFilePages, NodeStat::kNrSwapcached}) {
    phys_.page_node(from).stats.sub(stat);
    phys_.page_node(to).stats.add(stat);
  }
  phys::folio_clear_swapcache(from);
  from.private_ = 0;
  folio_ref_unfreeze(from, 1);
  return true;
}

void SwapSystem::delete_from_swap_cache(Folio& folio) {
  const SwapEntry entry = folio_swap_entry(folio);
  remove_from_swap_cache(folio, entry, XaEntry());
  put_swap_folio(entry);
  folio_ref_sub(folio, 1);
}

// find_get_page of the stretch, without counting a hit
Folio* SwapSystem::find_get_cached(SwapEntry entry) {
  const XaEntry found = cache_.stretch(entry).i_pages.load(entry.offset);
  if (!found.is_pointer()) return nullptr;
  auto* folio = found.pointer<Folio>();
  // Frozen: reclaim is taking it out at this moment, so it is as good as gone.
  return folio_try_get(*folio) ? folio : nullptr;
}

bool SwapSystem::folio_free_swap(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  if (!phys::folio_test_swapcache(folio) || phys::folio_test_writeback(folio)) return false;
  if (swap_count(folio_swap_entry(folio)) != 0) return false;
  delete_from_swap_cache(folio);
  phys::folio_set_dirty(folio);  // its only copy is the page now
  return true;
}

// clear_shadow_from_swap_cache for one slot
void SwapSystem::clear_shadow(SwapEntry entry) {
  SwapStretch& stretch = cache_.stretch(entry);
  if (!stretch.i_pages.load(entry.offset).is_value()) return;
  sim::SpinGuard guard(stretch.xa_lock);
  if (!stretch.i_pages.load(entry.offset).is_value()) return;
  stretch.i_pages.erase(entry.offset);
  --stretch.nrshadows;
}

}  // namespace quire::swap
