// Whole-structure checks of the swap floor.
#include "quire/base/bug.h"
#include "quire/swap/cluster_info.h"
#include "quire/swap/swap_system.h"

namespace quire::swap {

void SwapArea::validate() const {
  std::uint64_t inuse = 0;
  std::uint64_t in_cluster = 0;
  std::uint64_t free_clusters = 0;
  QUIRE_BUG_ON(map_[0] != kSwapMapBad);
  for (std::uint64_t offset = 0; offset < max_; ++offset) {
    const std::uint8_t byte = map_[offset];
    const bool used = byte != 0;
    if (offset != 0) {
      QUIRE_BUG_ON((byte & kSwapMapUsers) == kSwapMapBad);
      if (used) ++inuse;
      QUIRE_BUG_ON(!used && (offset < lowest_bit_ || offset > highest_bit_));
    }
    const bool more = (byte & kCountContinued) != 0;
    if (more) {
      QUIRE_BUG_ON((byte & kSwapMapUsers) != kSwapMapMax);
    }
    QUIRE_BUG_ON(more != !continuation_.load(offset).empty());
    if (!solid_state()) continue;
    if (used) ++in_cluster;
    const bool last = offset + 1 == max_;
    if ((offset + 1) % kSwapfileCluster == 0 || last) {
      const std::uint64_t beyond_end = last ? (kSwapfileCluster - max_ % kSwapfileCluster) % kSwapfileCluster : 0;
      QUIRE_BUG_ON(ClusterInfo::unpack(clusters_[offset / kSwapfileCluster]).count != in_cluster + beyond_end);
      if (in_cluster + beyond_end == 0) ++free_clusters;
      in_cluster = 0;
    }
  }
  QUIRE_BUG_ON(inuse != inuse_pages_);
  for (std::uint64_t i = free_clusters_head_, prev = kNoCluster; i != kNoCluster; --free_clusters) {
    const ClusterInfo info = ClusterInfo::unpack(clusters_[i]);
    QUIRE_BUG_ON(info.count != 0 || info.prev != prev || free_clusters == 0);
    prev = i;
    i = info.next;
    QUIRE_BUG_ON(i == kNoCluster && prev != free_clusters_tail_);
  }
  QUIRE_BUG_ON(free_clusters != 0);
}

void SwapSystem::validate() const {
  std::uint64_t free = 0;
  std::uint64_t total = 0;
  for (const auto& area : areas_) {
    area->validate();
    area->device().validate();
    free += area->pages() - area->inuse_pages();
    total += area->pages();
  }
  QUIRE_BUG_ON(free != nr_swap_pages_ || total != total_swap_pages_);
  std::uint64_t cached = 0;
  cache_.for_each_folio([&](SwapEntry entry, const phys::Folio& folio) {
    ++cached;
    QUIRE_BUG_ON(!phys::folio_test_swapcache(folio) || folio_swap_entry(folio) != entry);
    QUIRE_BUG_ON(!phys::folio_test_swapbacked(folio) || folio_ref_count(folio) < 1);
    QUIRE_BUG_ON(!areas_[entry.type]->has_cache(entry.offset));
  });
  QUIRE_BUG_ON(cached != cache_.total_swapcache_pages());
  QUIRE_BUG_ON(static_cast<std::int64_t>(cached) != phys_.global_node_page_state(phys::NodeStat::kNrSwapcached));
}

}  // namespace quire::swap
