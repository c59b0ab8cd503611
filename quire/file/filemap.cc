// Lookup, insertion and removal of cached folios.
#include "quire/file/filemap.h"

#include "quire/base/bug.h"
#include "quire/file/inode.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;
using phys::Gfp;
using phys::NodeStat;
using phys::ZoneStat;

namespace {

Folio* as_folio(XaEntry entry) { return entry.is_pointer() ? entry.pointer<Folio>() : nullptr; }

PageCacheEvent page_cache_event(const phys::PhysMem& phys, const AddressSpace& mapping, const Folio& folio) {
  return {.pfn = phys.page_to_pfn(folio),
          .i_ino = mapping.host().ino,
          .index = folio.index,
          .s_dev = mapping.host().sb.dev(),
          .order = 0};
}

}  // namespace

Filemap::Filemap(const FileServices& services, const ReadTunables& tunables)
    : mm_filemap_add_to_page_cache(services.traces),
      mm_filemap_delete_from_page_cache(services.traces),
      services_(services),
      tunables_(tunables),
      preload_(services.nodes),
      shadow_nodes_(services.phys, services.slab.shrinkers()),
      i_pages_lock_class_(services.scheduler.locks().lock_class("i_pages")),
      i_mmap_rwsem_class_(services.scheduler.locks().lock_class("i_mmap_rwsem")),
      invalidate_lock_class_(services.scheduler.locks().lock_class("mapping.invalidate_lock")),
      i_rwsem_class_(services.scheduler.locks().lock_class("i_rwsem")) {
  shadow_nodes_.set_arrays(this);
}

Filemap::~Filemap() = default;

AddressSpaceInit Filemap::mapping_init(AddressSpaceOps& a_ops) {
  return {.a_ops = a_ops,
          .nodes = preload_,
          .shadow_nodes = a_ops.values_are_shadows() ? &shadow_nodes_ : nullptr,
          .scheduler = services_.scheduler,
          .i_pages_lock = i_pages_lock_class_,
          .i_mmap_rwsem = i_mmap_rwsem_class_,
          .invalidate_lock = invalidate_lock_class_};
}

// --- lookup ---------------------------------------------------------------------------------------------------------

Folio* Filemap::filemap_get_folio(AddressSpace& mapping, Pgoff index) {
  services_.scheduler.charge(services_.scheduler.costs().page_cache_lookup);
  Folio* folio = as_folio(mapping.i_pages_.load(index.value()));
  // Frozen: reclaim is taking it out just now, under i_pages_lock. Who wants to add another waits for that lock.
  return folio != nullptr && folio_try_get(*folio) ? folio : nullptr;
}

bool Filemap::folio_lock_mapping(Folio& folio, const AddressSpace& mapping) {
  phys::folio_lock(services_.phys, folio);
  if (AddressSpace::of(folio) == &mapping) return true;
  phys::folio_unlock(services_.phys, folio);
  return false;
}

Folio* Filemap::filemap_lock_folio(AddressSpace& mapping, Pgoff index) {
  for (;;) {
    Folio* folio = filemap_get_folio(mapping, index);
    if (folio == nullptr) return nullptr;
    if (folio_lock_mapping(*folio, mapping)) {
      QUIRE_BUG_ON(folio->index != index.value());
      return folio;
    }
    folio_put(*folio);
  }
}

std::size_t Filemap::filemap_get_folios(AddressSpace& mapping, Pgoff& first, Pgoff last, std::span<Folio*> out) {
  std::size_t n = 0;
  std::uint64_t at = first.value();
  while (n < out.size() && at <= last.value()) {
    const auto found = mapping.i_pages_.find(at, last.value());
    if (!found) break;
    at = found->index + 1;
    if (Folio* folio = as_folio(found->entry); folio != nullptr && folio_try_get(*folio)) out[n++] = folio;
  }
  if (n > 0) first = Pgoff(at);
  return n;
}

std::size_t Filemap::filemap_get_folios_tag(AddressSpace& mapping, Pgoff& first, Pgoff last, unsigned tag,
                                            std::span<Folio*> out) {
  std::size_t n = 0;
  std::uint64_t at = first.value();
  while (n < out.size() && at <= last.value()) {
    const auto found = mapping.i_pages_.find_marked(at, last.value(), tag);
    if (!found) break;
    at = found->index + 1;
    if (Folio* folio = as_folio(found->entry); folio != nullptr && folio_try_get(*folio)) out[n++] = folio;
  }
  if (n > 0) first = Pgoff(at);
  return n;
}

bool Filemap::filemap_range_has_page(AddressSpace& mapping, Pgoff first, Pgoff last) {
  for (auto found = mapping.i_pages_.find(first.value(), last.value()); found;
       found = mapping.i_pages_.next(found->index, last.value())) {
    if (found->entry.is_pointer()) return true;
  }
  return false;
}

// --- in ---------------------------------------------------------------------------------------------------------------

Folio* Filemap::filemap_alloc_folio(Gfp gfp) { return services_.phys.folio_alloc(gfp); }

void Filemap::account_add(AddressSpace& mapping, Folio& folio) {
  ++mapping.nrpages_;
  phys::Node& node = services_.phys.page_node(folio);
  node.stats.add(NodeStat::kNrFilePages);
  if (phys::folio_test_swapbacked(folio)) node.stats.add(NodeStat::kNrShmem);
}

void Filemap::account_remove(AddressSpace& mapping, Folio& folio) {
  --mapping.nrpages_;
  phys::Node& node = services_.phys.page_node(folio);
  node.stats.sub(NodeStat::kNrFilePages);
  if (phys::folio_test_swapbacked(folio)) node.stats.sub(NodeStat::kNrShmem);
  // Dirty pages that leave the cache leave the dirty count with it.
  if (phys::folio_test_dirty(folio) && !phys::folio_test_swapbacked(folio)) folio_account_cleaned(folio);
}

Status Filemap::xa_add_folio(AddressSpace& mapping, Folio& folio, Pgoff index, Gfp gfp, XaReplace replace, XaEntry* replaced) {
  const Gfp node_gfp = gfp & (Gfp::kReclaim | Gfp::kIo | Gfp::kFs | Gfp::kNoWarn | Gfp::kNoRetry | Gfp::kNoFail);
  for (;;) {
    if (Status filled = preload_.preload(node_gfp); !filled) return filled;
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    const XaEntry old = mapping.i_pages_.load(index.value());
    if (replace == XaReplace::kAnyValue ? old.is_pointer() : old != *replaced) return fail(Errno::kExist);
    if (!mapping.i_pages_.store(index.value(), XaEntry(&folio))) continue;  // the pool was emptied meanwhile
    *replaced = old;
    account_add(mapping, folio);
    return {};
  }
}

Status Filemap::filemap_add_folio(AddressSpace& mapping, Folio& folio, Pgoff index, Gfp gfp) {
  QUIRE_BUG_ON(phys::folio_test_set_locked(folio));
  folio_get(folio);
  folio.mapping = reinterpret_cast<std::uint64_t>(&mapping);
  folio.index = index.value();
  XaEntry shadow;
  if (Status added = xa_add_folio(mapping, folio, index, gfp, XaReplace::kAnyValue, &shadow); !added) {
    folio.mapping = 0;
    phys::folio_unlock(services_.phys, folio);
    folio_put(folio);
    return added;
  }
  mm_filemap_add_to_page_cache([&] { return MmFilemapAddToPageCache{page_cache_event(services_.phys, mapping, folio)}; });
  // A page that is about to be overwritten tells nothing about the working set.
  if (shadow.is_value() && !any(gfp, Gfp::kWrite)) services_.lru.workingset_refault(folio, shadow.value());
  services_.lru.folio_add_lru(folio);
  return {};
}

// --- out --------------------------------------------------------------------------------------------------------------

void Filemap::filemap_remove_folio_locked(AddressSpace& mapping, Folio& folio, XaEntry shadow) {
  QUIRE_BUG_ON(folio_mapped(folio));
  QUIRE_BUG_ON(phys::folio_test_writeback(folio));
  mm_filemap_delete_from_page_cache(
      [&] { return MmFilemapDeleteFromPageCache{page_cache_event(services_.phys, mapping, folio)}; });
  account_remove(mapping, folio);
  const std::uint64_t index = folio.index;
  if (shadow.empty()) {
    mapping.i_pages_.erase(index);
  } else {
    for (unsigned tag : {kTagDirty, kTagWriteback, kTagTowrite}) mapping.i_pages_.clear_mark(index, tag);
    QUIRE_BUG_ON(!mapping.i_pages_.store(index, shadow));
  }
  folio.mapping = 0;  // the index stays, for whoever looks at a truncated folio
}

void Filemap::filemap_remove_folio(Folio& folio) {
  AddressSpace& mapping = *AddressSpace::of(folio);
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  {
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    filemap_remove_folio_locked(mapping, folio, XaEntry());
  }
  preload_.trim();
  folio_put(folio);
}

bool Filemap::remove_mapping(Folio& folio, Reclaimed reclaimed) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  if (phys::folio_test_swapcache(folio)) return remove_swap_mapping(folio, reclaimed);
  AddressSpace& mapping = *AddressSpace::of(folio);
  {
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    const int expected = 1 + static_cast<int>(folio_nr_pages(folio));
    if (!folio_ref_freeze(folio, expected)) return false;
    // A reference was dropped after the page was dirtied through it: look only now.
    if (phys::folio_test_dirty(folio)) {
      folio_ref_unfreeze(folio, expected);
      return false;
    }
    XaEntry shadow;
    if (reclaimed == Reclaimed::kYes && lru::folio_is_file_lru(folio) && !any(mapping.flags_, AddressSpaceFlag::kExiting)) {
      shadow = services_.lru.workingset_eviction(folio);
    }
    filemap_remove_folio_locked(mapping, folio, shadow);
  }
  preload_.trim();
  return true;
}

bool Filemap::remove_swap_mapping(Folio& folio, Reclaimed reclaimed) {
  const int expected = 1 + static_cast<int>(folio_nr_pages(folio));
  if (!folio_ref_freeze(folio, expected)) return false;
  if (phys::folio_test_dirty(folio)) {
    folio_ref_unfreeze(folio, expected);
    return false;
  }
  const swap::SwapEntry entry = swap::SwapSystem::folio_swap_entry(folio);
  XaEntry shadow;
  if (reclaimed == Reclaimed::kYes) shadow = services_.lru.workingset_eviction(folio);
  services_.swap.remove_from_swap_cache(folio, entry, shadow);
  services_.swap.put_swap_folio(entry);
  return true;
}

bool Filemap::folio_migrate_mapping(Folio& from, Folio& to) {
  AddressSpace& mapping = *AddressSpace::of(from);
  QUIRE_BUG_ON(!phys::folio_test_locked(from) || !phys::folio_test_locked(to) || to.mapping != 0);
  QUIRE_BUG_ON(folio_mapped(from) || phys::folio_test_writeback(from));
  const sim::SpinGuard guard(mapping.i_pages_lock_);
  if (!folio_ref_freeze(from, 2)) return false;
  to.mapping = from.mapping;
  to.index = from.index;
  if (phys::folio_test_swapbacked(from)) phys::folio_set_swapbacked(to);
  folio_get(to);
  account_remove(mapping, from);
  account_add(mapping, to);
  if (phys::folio_test_clear_dirty(from)) {
    phys::folio_set_dirty(to);
    // Not dirtied anew: only where the dirty page lies has changed.
    if (!phys::folio_test_swapbacked(to)) {
      services_.phys.page_node(to).stats.add(NodeStat::kNrDirty);
      services_.phys.page_zone(to).stats.add(phys::ZoneStat::kNrZoneWritePending);
    }
  }
  QUIRE_BUG_ON(!mapping.i_pages_.store(from.index, XaEntry(&to)));  // keeps the marks
  from.mapping = 0;
  folio_ref_unfreeze(from, 1);
  return true;
}

// A leaf of nothing but shadows goes, oldest first, when there are too many of them (shadow_lru_isolate).
lru::ShadowArrays::Outcome Filemap::reclaim_shadow_node(XaNode& node) {
  AddressSpace& mapping = static_cast<PageArray&>(node.array()).mapping;
  if (!mapping.i_pages_lock_.try_lock_here()) return Outcome::kBusy;
  QUIRE_BUG_ON(!node.private_list.linked() || node.count == 0 || node.count != node.nr_values);
  std::uint64_t first = 0;
  for (const XaNode* n = &node; n->up() != nullptr; n = n->up()) first += std::uint64_t{n->offset} << (n->shift + 6);
  mapping.i_pages_.for_range(first, first + 63, [&](std::uint64_t index, XaEntry) { mapping.i_pages_.erase(index); });
  mapping.i_pages_lock_.unlock();
  preload_.trim();
  return Outcome::kReclaimed;
}

void Filemap::validate(AddressSpace& mapping) const { mapping.validate(); }

}  // namespace quire::file
