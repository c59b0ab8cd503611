#include "quire/swap/swap_cache.h"

namespace quire::swap {

void SwapCache::add_area(unsigned type, std::uint64_t pages) {
  if (areas_.size() <= type) areas_.resize(type + 1);
  const std::uint64_t stretches = (pages + kSwapAddressSpacePages - 1) >> kSwapAddressSpaceShift;
  for (std::uint64_t i = 0; i < stretches; ++i) {
    areas_[type].push_back(std::make_unique<SwapStretch>(nodes_, scheduler_, lock_class_));
  }
}

std::uint64_t SwapCache::total_swapcache_pages() const {
  std::uint64_t pages = 0;
  for (const auto& area : areas_) {
    for (const auto& stretch : area) pages += stretch->nrpages;
  }
  return pages;
}

std::uint64_t SwapCache::total_shadows() const {
  std::uint64_t shadows = 0;
  for (const auto& area : areas_) {
    for (const auto& stretch : area) shadows += stretch->nrshadows;
  }
  return shadows;
}

}  // namespace quire::swap
