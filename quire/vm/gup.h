// Pins: references for who will read or write a page's bytes itself (a device, RDMA) rather than look at its struct Page
// (Documentation/core-api/pin_user_pages.rst). A pin counts as 1024 references, so that a page with as many is taken for pinned;
// that may be wrong in the safe direction only.
//
// What a pin promises: process and holder see the same page until it is given back. So an anonymous page that is pinned is the
// process's own (PageAnonExclusive), fork copies it at once instead of sharing it, and reclaim and migration leave it where it is.
// Nothing counts how long: a pin that may last has to say so beforehand (FollFlags::kLongterm), so that it holds nothing in memory
// that is to stay movable.
#pragma once

#include "quire/phys/folio.h"

namespace quire::vm {

inline constexpr int kGupPinCountingBias = 1024;

[[nodiscard]] inline bool folio_maybe_dma_pinned(const phys::Folio& folio) {
  return phys::folio_ref_count(folio) >= kGupPinCountingBias;
}

}  // namespace quire::vm
