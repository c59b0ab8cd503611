// The swap cache: swap entry → folio, or the shadow that an evicted folio left. One XArray for each stretch of 64 MiB of
// an area (SWAP_ADDRESS_SPACE_PAGES), as Linux has one address_space for each.
//
//   area 0:  [ stretch 0: offsets 0…16383 ][ stretch 1: … ]   each: folios, and shadows (XArray values) in their place
//
// A folio in the cache has PG_swapcache, its entry in `private_`, and the cache's own reference; its slot has
// kSwapHasCache. Locked by the stretch's xa_lock.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/base/xarray.h"
#include "quire/phys/folio.h"
#include "quire/sim/lock_guards.h"
#include "quire/swap/swap_entry.h"

namespace quire::swap {

inline constexpr unsigned kSwapAddressSpaceShift = 14;  // SWAP_ADDRESS_SPACE_SHIFT: 64 MiB
inline constexpr std::uint64_t kSwapAddressSpacePages = std::uint64_t{1} << kSwapAddressSpaceShift;

struct SwapStretch {
  SwapStretch(XaNodeSource& nodes, sim::Scheduler& scheduler, sim::LockClass& lock_class)
      : i_pages(nodes), xa_lock(scheduler, lock_class) {}
  XArray i_pages;
  sim::SpinLock xa_lock;
  std::uint64_t nrpages = 0;
  std::uint64_t nrshadows = 0;
};

class SwapCache {
 public:
  SwapCache(XaNodeSource& nodes, sim::Scheduler& scheduler, sim::LockClass& lock_class)
      : nodes_(nodes), scheduler_(scheduler), lock_class_(lock_class) {}

  // init_swap_address_space: stretches for an area of `pages` pages. At swapon.
  void add_area(unsigned type, std::uint64_t pages);

  [[nodiscard]] SwapStretch& stretch(SwapEntry entry) { return *areas_[entry.type][entry.offset >> kSwapAddressSpaceShift]; }
  [[nodiscard]] std::uint64_t total_swapcache_pages() const;
  [[nodiscard]] std::uint64_t total_shadows() const;

  // f(SwapEntry, Folio&) for each cached folio, in order of type and offset.
  template <class F>
  void for_each_folio(F&& f) const;

 private:
  XaNodeSource& nodes_;
  sim::Scheduler& scheduler_;
  sim::LockClass& lock_class_;
  std::vector<std::vector<std::unique_ptr<SwapStretch>>> areas_;
};

template <class F>
void SwapCache::for_each_folio(F&& f) const {
  for (unsigned type = 0; type < areas_.size(); ++type) {
    for (const auto& stretch : areas_[type]) {
      stretch->i_pages.for_each([&](std::uint64_t offset, XaEntry entry) {
        if (entry.is_pointer()) f(SwapEntry{type, offset}, *entry.pointer<phys::Folio>());
      });
    }
  }
}

}  // namespace quire::swap
