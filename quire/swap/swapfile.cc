// Areas and slots: swapon, get_swap_page, and who gives a slot back.
#include <algorithm>
#include <array>
#include <utility>

#include "quire/phys/page_wait.h"
#include "quire/swap/swap_system.h"

namespace quire::swap {

Result<SwapArea*> SwapSystem::swapon(std::unique_ptr<SwapDevice> device, std::optional<int> priority) {
  if (areas_.size() == kMaxSwapFiles) return fail(Errno::kPerm);
  auto parts = SwapArea::allocate(phys_, *device);
  if (!parts) return fail(parts.error());
  const auto type = static_cast<unsigned>(areas_.size());
  areas_.push_back(std::make_unique<SwapArea>(type, priority ? *priority : --least_priority_, std::move(device),
                                              std::move(*parts), nodes_, scheduler_, area_lock_class_));
  SwapArea& area = *areas_.back();
  cache_.add_area(type, area.max());
  if (!area.solid_state()) ++nr_rotating_;
  nr_swap_pages_ += area.pages();
  total_swap_pages_ += area.pages();
  // Behind all areas of the same or a higher priority.
  const auto place = std::find_if(swap_avail_.begin(), swap_avail_.end(),
                                  [&](const SwapArea* other) { return other->priority() < area.priority(); });
  swap_avail_.insert(place, &area);
  return &area;
}

SwapArea& SwapSystem::swp_swap_info(SwapEntry entry) {
  QUIRE_BUG_ON(entry.type >= areas_.size());
  return *areas_[entry.type];
}

SwapInfo SwapSystem::si_swapinfo() const { return SwapInfo{total_swap_pages_, nr_swap_pages_, cache_.total_swapcache_pages()}; }

Result<SwapEntry> SwapSystem::get_swap_page() {
  if (inject(sim::FaultPoint::kSwapFull)) return fail(Errno::kNoSpc);
  // Each area once, in the order of now: while one is scanned others may change their places.
  std::array<SwapArea*, kMaxSwapFiles> order{};
  const std::size_t areas = swap_avail_.size();
  std::ranges::copy(swap_avail_, order.begin());
  for (std::size_t i = 0; nr_swap_pages_ > 0 && i < areas; ++i) {
    SwapArea& area = *order[i];
    if (area.inuse_pages() == area.pages()) continue;
    requeue(area);
    sim::SpinGuard guard(area.lock());
    if (const auto offset = area.scan_swap_map_locked(scheduler_.cpu())) {
      --nr_swap_pages_;
      return SwapEntry{area.type(), *offset};
    }
  }
  return fail(Errno::kNoSpc);
}

// Equals take turns: who is asked goes behind the others of its priority (plist_requeue).
void SwapSystem::requeue(const SwapArea& area) {
  sim::SpinGuard guard(swap_avail_lock_);
  const auto place = std::ranges::find(swap_avail_, &area);
  const auto last =
      std::find_if(place, swap_avail_.end(), [&](const SwapArea* other) { return other->priority() != area.priority(); });
  std::rotate(place, place + 1, last);
}

Status SwapSystem::swap_duplicate(SwapEntry entry) {
  SwapArea& area = swp_swap_info(entry);
  sim::SpinGuard guard(area.lock());
  return area.duplicate_locked(entry.offset, SwapUsage::kUser);
}

std::uint8_t SwapSystem::swap_entry_put(SwapEntry entry, SwapUsage usage) {
  SwapArea& area = swp_swap_info(entry);
  std::uint8_t left;
  {
    sim::SpinGuard guard(area.lock());
    // The slot's last holder drops the shadow and what the device stores, before anybody else can get the slot.
    if (area.sole_holder(entry.offset)) {
      clear_shadow(entry);
      area.device().free_slot(entry.offset);
    }
    left = area.entry_free_locked(entry.offset, usage);
    if (left == 0) ++nr_swap_pages_;
  }
  return left;
}

void SwapSystem::swap_free(SwapEntry entry) { swap_entry_put(entry, SwapUsage::kUser); }
void SwapSystem::put_swap_folio(SwapEntry entry) { swap_entry_put(entry, SwapUsage::kCache); }
void SwapSystem::swapcache_clear(SwapEntry entry) { swap_entry_put(entry, SwapUsage::kCache); }

void SwapSystem::free_swap_and_cache(SwapEntry entry) {
  if (swap_entry_put(entry, SwapUsage::kUser) == kSwapHasCache) try_to_reclaim_swap(entry);
}

// __try_to_reclaim_swap with TTRS_UNMAPPED | TTRS_FULL
void SwapSystem::try_to_reclaim_swap(SwapEntry entry) {
  phys::Folio* folio = find_get_cached(entry);
  if (folio == nullptr) return;
  if (phys::folio_trylock(*folio)) {
    const bool still_it = phys::folio_test_swapcache(*folio) && folio_swap_entry(*folio) == entry;
    if (still_it && (!phys::folio_mapped(*folio) || vm_swap_full())) folio_free_swap(*folio);
    phys::folio_unlock(phys_, *folio);
  }
  lru_.folio_put(*folio);
}

std::uint64_t SwapSystem::swap_count(SwapEntry entry) { return swp_swap_info(entry).count(entry.offset); }

}  // namespace quire::swap
