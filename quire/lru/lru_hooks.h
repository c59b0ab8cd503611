// Upcalls of the lru floor. Owned here, implemented above, plugged in by the machine.
#pragma once

#include <cstdint>

#include "quire/lru/lruvec.h"

namespace quire::lru {

enum class RefaultOutcome : std::uint8_t { kTooFar, kActivated };

// What a reclaim policy is told of the life of folios, so that it can keep its own account of them. Every call is made
// with the lists in a consistent state; added and removed under lru_lock, so they must not sleep.
class LruHooks {
 public:
  virtual ~LruHooks() = default;
  virtual void folio_added(phys::Folio&, LruList) {}    // put on a list
  virtual void folio_removed(phys::Folio&, LruList) {}  // off its list: isolated, moved or freed
  virtual void folio_accessed(phys::Folio&) {}          // mark_folio_accessed
  virtual void folio_activated(phys::Folio&) {}
  virtual void folio_evicted(phys::Folio&) {}  // a shadow entry was made
  virtual void folio_refaulted(phys::Folio&, std::uint64_t /*distance in pages*/, RefaultOutcome) {}
};

// How much swap is left, which only the swap floor knows (get_nr_swap_pages).
class SwapSpace {
 public:
  virtual ~SwapSpace() = default;
  [[nodiscard]] virtual std::uint64_t nr_swap_pages() const = 0;
};

}  // namespace quire::lru
