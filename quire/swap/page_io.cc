// A page's way to its slot and back.
#include "quire/phys/page_wait.h"
#include "quire/swap/swap_system.h"

namespace quire::swap {

using phys::Folio;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneStat;

namespace {

void account_writeback(phys::PhysMem& phys, const Folio& folio, std::int64_t n) {
  phys.page_node(folio).stats.add(NodeStat::kNrWriteback, n);
  phys.page_zone(folio).stats.add(ZoneStat::kNrZoneWritePending, n);
}

}  // namespace

bool SwapSystem::inject(sim::FaultPoint point) { return faults_ != nullptr && faults_->should_fail(point); }

Status SwapSystem::swap_writepage(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || !phys::folio_test_swapcache(folio) || phys::folio_test_writeback(folio));
  if (folio_free_swap(folio)) {
    phys::folio_unlock(phys_, folio);
    return {};
  }
  const SwapEntry entry = folio_swap_entry(folio);
  SwapDevice& device = swp_swap_info(entry).device();
  phys::folio_start_writeback(phys_, folio);
  account_writeback(phys_, folio, 1);
  phys_.vmstat().count_vm_event(VmEvent::kPswpout);
  if (any(device.flags(), SwapDeviceFlags::kSynchronous)) {
    const Status written = inject(sim::FaultPoint::kIoWrite) ? fail(Errno::kIo) : device.write_page(entry.offset, folio, *this);
    end_swap_write(folio, written);
    phys::folio_unlock(phys_, folio);
    return written;
  }
  // An asynchronous device may end the writeback, and somebody may free the folio, before write_page returns to us, so the
  // lock goes first and a reference stays.
  folio_get(folio);
  phys::folio_unlock(phys_, folio);
  const Status started = inject(sim::FaultPoint::kIoWrite) ? fail(Errno::kIo) : device.write_page(entry.offset, folio, *this);
  if (!started) end_swap_write(folio, started);
  lru_.folio_put(folio);
  return started;
}

void SwapSystem::end_swap_write(Folio& folio, Status status) {
  if (!status) {
    // Keep the page: it is the only copy. Dirty again, it is written again when reclaim comes back to it.
    phys::folio_set_error(folio);
    phys::folio_set_dirty(folio);
    phys::folio_clear_reclaim(folio);
    ++write_errors_;
  }
  phys_.page_node(folio).stats.add(NodeStat::kNrWritten);
  account_writeback(phys_, folio, -1);
  // Written for reclaim: to the tail of its list, where it is found first.
  if (phys::folio_test_clear_reclaim(folio)) lru_.folio_rotate_reclaimable(folio);
  phys::folio_end_writeback(phys_, folio);
}

void SwapSystem::swap_read_folio(Folio& folio, SwapEntry entry) {
  SwapDevice& device = swp_swap_info(entry).device();
  if (any(device.flags(), SwapDeviceFlags::kSynchronous)) {
    swap_read_folio_locked(folio, entry);
    phys::folio_unlock(phys_, folio);
    return;
  }
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || phys::folio_test_uptodate(folio));
  phys_.vmstat().count_vm_event(VmEvent::kPswpin);
  const Status started = inject(sim::FaultPoint::kIoRead) ? fail(Errno::kIo) : device.read_page(entry.offset, folio, *this);
  if (!started) end_swap_read(folio, started);
}

void SwapSystem::swap_read_folio_locked(Folio& folio, SwapEntry entry) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || phys::folio_test_uptodate(folio));
  SwapDevice& device = swp_swap_info(entry).device();
  QUIRE_BUG_ON(!any(device.flags(), SwapDeviceFlags::kSynchronous));
  phys_.vmstat().count_vm_event(VmEvent::kPswpin);
  const Status read = inject(sim::FaultPoint::kIoRead) ? fail(Errno::kIo) : device.read_page(entry.offset, folio, *this);
  note_read(folio, read);
}

void SwapSystem::end_swap_read(Folio& folio, Status status) {
  note_read(folio, status);
  phys::folio_unlock(phys_, folio);
}

void SwapSystem::note_read(Folio& folio, const Status& status) {
  if (status) {
    phys::folio_set_uptodate(folio);
    return;
  }
  phys::folio_set_error(folio);
  phys::folio_clear_uptodate(folio);
  ++read_errors_;
}

}  // namespace quire::swap
