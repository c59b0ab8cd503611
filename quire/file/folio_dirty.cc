// A folio's dirty and writeback state, and what counts it.
#include "quire/base/bug.h"
#include "quire/file/filemap.h"
#include "quire/file/inode.h"
#include "quire/file/writeback.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;
using phys::NodeStat;
using phys::ZoneStat;

bool Filemap::folio_mark_dirty(Folio& folio) {
  if (AddressSpace* mapping = AddressSpace::of(folio); mapping != nullptr) {
    // A folio that was queued for reclaim once written is not to be reclaimed now.
    if (phys::folio_test_reclaim(folio)) phys::folio_clear_reclaim(folio);
    return mapping->a_ops().dirty_folio(*mapping, folio);
  }
  return !phys::folio_test_set_dirty(folio);
}

bool Filemap::filemap_dirty_folio(AddressSpace& mapping, Folio& folio) {
  if (phys::folio_test_set_dirty(folio)) return false;
  {
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    if (AddressSpace::of(folio) == &mapping) {  // not truncated meanwhile
      folio_account_dirtied(mapping, folio);
      mapping.i_pages_.set_mark(folio.index, kTagDirty);
    }
  }
  if (writeback_ != nullptr) {
    writeback_->writeback_dirty_folio([&] { return WritebackDirtyFolio{.ino = mapping.host().ino, .index = folio.index}; });
    writeback_->mark_inode_dirty(mapping.host(), InodeState::kDirtyPages);
  }
  return true;
}

void Filemap::folio_account_dirtied(AddressSpace& /*mapping*/, Folio& folio) {
  phys::Node& node = services_.phys.page_node(folio);
  node.stats.add(NodeStat::kNrDirty);
  node.stats.add(NodeStat::kNrDirtied);
  if (writeback_ != nullptr) writeback_->account_dirtied();
  services_.phys.page_zone(folio).stats.add(ZoneStat::kNrZoneWritePending);
}

void Filemap::folio_account_cleaned(Folio& folio) {
  services_.phys.page_node(folio).stats.sub(NodeStat::kNrDirty);
  services_.phys.page_zone(folio).stats.sub(ZoneStat::kNrZoneWritePending);
}

bool Filemap::folio_clear_dirty_for_io(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  AddressSpace* mapping = AddressSpace::of(folio);
  if (mapping == nullptr || phys::folio_test_swapbacked(folio)) return phys::folio_test_clear_dirty(folio);
  // Stores made so far through page tables are part of this write; later ones must fault and dirty the folio again.
  if (upcalls_ != nullptr && folio_mapped(folio) && upcalls_->folio_mkclean(folio) > 0) folio_mark_dirty(folio);
  if (!phys::folio_test_clear_dirty(folio)) return false;
  folio_account_cleaned(folio);
  return true;
}

void Filemap::folio_cancel_dirty(Folio& folio) {
  if (!phys::folio_test_clear_dirty(folio)) return;
  if (AddressSpace::of(folio) != nullptr && !phys::folio_test_swapbacked(folio)) folio_account_cleaned(folio);
}

void Filemap::folio_redirty_for_writepage(WritebackControl& wbc, Folio& folio) {
  ++wbc.pages_skipped;
  AddressSpace* mapping = AddressSpace::of(folio);
  if (mapping == nullptr || phys::folio_test_swapbacked(folio)) {
    phys::folio_set_dirty(folio);
    return;
  }
  // Nobody dirtied it anew: do not count it twice.
  if (!filemap_dirty_folio(*mapping, folio)) return;
  services_.phys.page_node(folio).stats.sub(NodeStat::kNrDirtied);
  if (writeback_ != nullptr) writeback_->account_redirtied();
}

void Filemap::folio_start_writeback(Folio& folio) {
  AddressSpace& mapping = *AddressSpace::of(folio);
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || phys::folio_test_writeback(folio));
  const sim::SpinGuard guard(mapping.i_pages_lock_);
  phys::folio_start_writeback(services_.phys, folio);
  mapping.i_pages_.set_mark(folio.index, kTagWriteback);
  if (!phys::folio_test_dirty(folio)) mapping.i_pages_.clear_mark(folio.index, kTagDirty);
  mapping.i_pages_.clear_mark(folio.index, kTagTowrite);
  services_.phys.page_node(folio).stats.add(NodeStat::kNrWriteback);
  services_.phys.page_zone(folio).stats.add(ZoneStat::kNrZoneWritePending);
}

void Filemap::folio_end_writeback(Folio& folio) {
  AddressSpace& mapping = *AddressSpace::of(folio);
  QUIRE_BUG_ON(!phys::folio_test_writeback(folio));
  folio_get(folio);
  if (phys::folio_test_clear_reclaim(folio)) services_.lru.folio_rotate_reclaimable(folio);
  {
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    mapping.i_pages_.clear_mark(folio.index, kTagWriteback);
    phys::Node& node = services_.phys.page_node(folio);
    node.stats.sub(NodeStat::kNrWriteback);
    node.stats.add(NodeStat::kNrWritten);
    services_.phys.page_zone(folio).stats.sub(ZoneStat::kNrZoneWritePending);
  }
  phys::folio_end_writeback(services_.phys, folio);
  folio_put(folio);
}

void Filemap::folio_wait_stable(Folio& /*folio*/) {
  // A disk without checksums takes its copy when the write starts: a page under writeback may change.
}

}  // namespace quire::file
