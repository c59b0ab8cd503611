#include "quire/file/filemap.h"
#include "quire/file/writeback.h"
#include "quire/reclaim/folio_actions.h"
#include "quire/reclaim/scan_control.h"
#include "quire/swap/swap_system.h"
#include "quire/vm/vm.h"

namespace quire::reclaim {

using phys::Folio;

vm::FolioReferenced VmFolioActions::folio_referenced(Folio& folio) { return vm_.rmap().folio_referenced(folio); }

void VmFolioActions::try_to_unmap(Folio& folio) { vm_.rmap().try_to_unmap(folio, vm::TtuFlags::kBatchFlush); }

void VmFolioActions::try_to_unmap_flush() { vm_.shootdown().flush_pending(); }

void VmFolioActions::try_to_unmap_flush_dirty() { vm_.shootdown().flush_pending_dirty(); }

Pageout VmFolioActions::pageout(Folio& folio) {
  // The caller, the cache, and nobody else: a page that is being read or pinned may change under the I/O.
  if (folio_ref_count(folio) - (phys::folio_test_private(folio) ? 1 : 0) != 1 + static_cast<int>(folio_nr_pages(folio))) {
    return Pageout::kKeep;
  }
  if (!has_mapping(folio)) return Pageout::kKeep;
  if (phys::folio_test_swapcache(folio)) {
    if (!phys::folio_test_clear_dirty(folio)) return Pageout::kClean;
    phys::folio_set_reclaim(folio);
    static_cast<void>(swap_.swap_writepage(folio));  // an error leaves it dirty, which says all
    if (!phys::folio_test_writeback(folio)) phys::folio_clear_reclaim(folio);
    return Pageout::kSuccess;
  }
  if (!filemap_.folio_clear_dirty_for_io(folio)) return Pageout::kClean;
  file::WritebackControl wbc{
      .reason = file::WbReason::kVmscan, .nr_to_write = kSwapClusterMax, .caller = file::WritebackControl::Caller::kReclaim};
  phys::folio_set_reclaim(folio);
  file::AddressSpace& mapping = *file::AddressSpace::of(folio);
  const auto written = mapping.a_ops().writepage(folio, wbc);
  if (written && *written == file::WritepageOutcome::kActivate) {
    phys::folio_clear_reclaim(folio);
    return Pageout::kActivate;
  }
  if (!written) mapping.mapping_set_error(written.error());
  if (!phys::folio_test_writeback(folio)) phys::folio_clear_reclaim(folio);
  return Pageout::kSuccess;
}

bool VmFolioActions::remove_mapping(Folio& folio) { return filemap_.remove_mapping(folio); }

bool VmFolioActions::has_mapping(const Folio& folio) const {
  return phys::folio_test_swapcache(folio) || file::AddressSpace::of(folio) != nullptr;
}

void VmFolioActions::wakeup_flusher_threads() { writeback_.wakeup_flusher_threads(file::WbReason::kVmscan); }

}  // namespace quire::reclaim
