// Which slot is given out next: by clusters on a solid-state device, by scanning the map otherwise (Linux's
// scan_swap_map_slots and what it calls).
#include <algorithm>

#include "quire/base/bug.h"
#include "quire/swap/cluster_info.h"
#include "quire/swap/swap_area.h"

namespace quire::swap {

std::optional<std::uint64_t> SwapArea::scan_swap_map_locked(unsigned cpu) {
  if (inuse_pages_ == pages()) return std::nullopt;
  std::optional<std::uint64_t> offset = solid_state() ? try_ssd_cluster(cpu) : std::nullopt;
  if (!offset) offset = scan_map(cpu);
  if (!offset) return std::nullopt;
  QUIRE_DCHECK(map_[*offset] == 0);
  map_[*offset] = kSwapHasCache;
  take(*offset);
  cluster_next(cpu) = *offset + 1 < max_ ? *offset + 1 : 1;
  return offset;
}

// scan_swap_map_try_ssd_cluster: the next free slot of the CPU's own cluster; a fresh cluster when that is used up.
std::optional<std::uint64_t> SwapArea::try_ssd_cluster(unsigned cpu) {
  CpuCluster& own = percpu_cluster_[cpu];
  for (;;) {
    if (own.cluster == kNoCluster) {
      if (free_clusters_head_ == kNoCluster) return std::nullopt;
      own.cluster = free_clusters_head_;
      own.next = own.cluster * kSwapfileCluster;
    }
    const std::uint64_t end = std::min(max_, (own.cluster + 1) * kSwapfileCluster);
    std::uint64_t offset = own.next;
    while (offset < end && map_[offset] != 0) ++offset;
    if (offset < end) {
      own.next = offset + 1;
      return offset;
    }
    own.cluster = kNoCluster;
  }
}

// Where a scan begins. A disk with seeks looks for a row of free slots first, so that what goes out together lies together.
std::uint64_t SwapArea::scan_start(unsigned cpu) {
  std::uint64_t start = std::clamp(cluster_next(cpu), lowest_bit_, std::max(lowest_bit_, highest_bit_));
  if (solid_state() || cluster_nr_-- != 0) return start;
  cluster_nr_ = kSwapfileCluster - 1;
  if (pages() - inuse_pages_ < kSwapfileCluster) return start;
  std::uint64_t run = 0;
  for (std::uint64_t offset = lowest_bit_; offset <= highest_bit_; ++offset) {
    run = map_[offset] == 0 ? run + 1 : 0;
    if (run == kSwapfileCluster) return offset + 1 - kSwapfileCluster;
  }
  return start;
}

std::optional<std::uint64_t> SwapArea::scan_map(unsigned cpu) {
  const std::uint64_t start = scan_start(cpu);
  for (std::uint64_t offset = start; offset <= highest_bit_; ++offset) {
    if (map_[offset] == 0) return offset;
  }
  for (std::uint64_t offset = lowest_bit_; offset < start; ++offset) {
    if (map_[offset] == 0) return offset;
  }
  return std::nullopt;
}

// swap_range_alloc and inc_cluster_info_page
void SwapArea::take(std::uint64_t offset) {
  ++inuse_pages_;
  if (offset == lowest_bit_) ++lowest_bit_;
  if (offset == highest_bit_) --highest_bit_;
  if (inuse_pages_ == pages()) {
    lowest_bit_ = max_;
    highest_bit_ = 0;
  }
  if (!solid_state()) return;
  const std::uint64_t cluster = offset / kSwapfileCluster;
  if (ClusterInfo::unpack(clusters_[cluster]).count == 0) cluster_list_erase(cluster);
  take_in_cluster(cluster, 1);
}

// swap_range_free and dec_cluster_info_page
void SwapArea::release(std::uint64_t offset) {
  --inuse_pages_;
  lowest_bit_ = std::min(lowest_bit_, offset);
  highest_bit_ = std::max(highest_bit_, offset);
  if (!solid_state()) return;
  const std::uint64_t cluster = offset / kSwapfileCluster;
  ClusterInfo info = ClusterInfo::unpack(clusters_[cluster]);
  QUIRE_BUG_ON(info.count == 0);
  --info.count;
  clusters_[cluster] = info.pack();
  if (info.count == 0) cluster_list_push_back(cluster);
}

void SwapArea::take_in_cluster(std::uint64_t cluster, std::uint64_t slots) {
  ClusterInfo info = ClusterInfo::unpack(clusters_[cluster]);
  info.count += slots;
  QUIRE_BUG_ON(info.count > kSwapfileCluster);
  clusters_[cluster] = info.pack();
}

void SwapArea::cluster_list_push_back(std::uint64_t cluster) {
  ClusterInfo info = ClusterInfo::unpack(clusters_[cluster]);
  info.next = kNoCluster;
  info.prev = free_clusters_tail_;
  clusters_[cluster] = info.pack();
  if (free_clusters_tail_ == kNoCluster) {
    free_clusters_head_ = cluster;
  } else {
    ClusterInfo tail = ClusterInfo::unpack(clusters_[free_clusters_tail_]);
    tail.next = cluster;
    clusters_[free_clusters_tail_] = tail.pack();
  }
  free_clusters_tail_ = cluster;
}

void SwapArea::cluster_list_erase(std::uint64_t cluster) {
  ClusterInfo info = ClusterInfo::unpack(clusters_[cluster]);
  if (info.prev == kNoCluster) {
    free_clusters_head_ = info.next;
  } else {
    ClusterInfo before = ClusterInfo::unpack(clusters_[info.prev]);
    before.next = info.next;
    clusters_[info.prev] = before.pack();
  }
  if (info.next == kNoCluster) {
    free_clusters_tail_ = info.prev;
  } else {
    ClusterInfo after = ClusterInfo::unpack(clusters_[info.next]);
    after.prev = info.prev;
    clusters_[info.next] = after.pack();
  }
  info.next = info.prev = kNoCluster;
  clusters_[cluster] = info.pack();
}

}  // namespace quire::swap
