// Users of slots: swap_map and its continuation. See swap_alloc.cc for who gets which slot.
#include "quire/swap/swap_area.h"

#include <utility>

#include "quire/base/bug.h"
#include "quire/swap/cluster_info.h"

namespace quire::swap {

Result<SwapArea::Parts> SwapArea::allocate(phys::PhysMem& phys, const SwapDevice& device) {
  const std::uint64_t pages = device.pages();
  if (pages < 2 || pages - 1 > arch::kSwapOffsetMax) return fail(Errno::kInval);
  Parts parts;
  auto map = PagedArray<std::uint8_t>::create(phys, pages);
  if (!map) return fail(map.error());
  parts.map = std::move(*map);
  if (any(device.flags(), SwapDeviceFlags::kSolidState)) {
    auto clusters = PagedArray<std::uint64_t>::create(phys, (pages + kSwapfileCluster - 1) / kSwapfileCluster);
    if (!clusters) return fail(clusters.error());
    parts.clusters = std::move(*clusters);
  }
  return parts;
}

SwapArea::SwapArea(unsigned type, int priority, std::unique_ptr<SwapDevice> device, Parts parts, XaNodeSource& nodes,
                   sim::Scheduler& scheduler, sim::LockClass& lock_class)
    : type_(type),
      priority_(priority),
      device_(std::move(device)),
      max_(device_->pages()),
      map_(std::move(parts.map)),
      clusters_(std::move(parts.clusters)),
      percpu_cluster_(scheduler.cpus()),
      cluster_next_(scheduler.cpus(), 1),
      highest_bit_(max_ - 1),
      continuation_(nodes),
      lock_(scheduler, lock_class) {
  map_[0] = kSwapMapBad;
  if (!solid_state()) return;
  // Linux spreads the CPUs' scans over the area by chance; a seeded choice keeps that and repeats.
  for (std::uint64_t& next : cluster_next_) next = 1 + scheduler.rng().below(max_ - 1);
  for (std::uint64_t i = 0; i < cluster_count(); ++i) clusters_[i] = ClusterInfo().pack();
  // The header and what lies beyond the end of the last cluster are never free.
  take_in_cluster(0, 1);
  if (const std::uint64_t rest = max_ % kSwapfileCluster; rest != 0) {
    take_in_cluster(cluster_count() - 1, kSwapfileCluster - rest);
  }
  for (std::uint64_t i = 0; i < cluster_count(); ++i) {
    if (ClusterInfo::unpack(clusters_[i]).count == 0) cluster_list_push_back(i);
  }
}

std::uint64_t SwapArea::count(std::uint64_t offset) const {
  const std::uint8_t byte = map_[offset];
  const std::uint64_t users = byte & kSwapMapUsers;
  if ((byte & kCountContinued) == 0) return users;
  return users + continuation_.load(offset).value().value();
}

Status SwapArea::duplicate_locked(std::uint64_t offset, SwapUsage usage) {
  if (offset == 0 || offset >= max_) return fail(Errno::kNoEnt);
  std::uint8_t& byte = map_[offset];
  if ((byte & ~kSwapHasCache) == kSwapMapBad) return fail(Errno::kNoEnt);
  const std::uint8_t users = byte & kSwapMapUsers;
  if (usage == SwapUsage::kCache) {
    if ((byte & kSwapHasCache) != 0) return fail(Errno::kExist);
    if (byte == 0) return fail(Errno::kNoEnt);
    byte |= kSwapHasCache;
    return {};
  }
  if (byte == 0) return fail(Errno::kNoEnt);
  if (users < kSwapMapMax) {
    byte = static_cast<std::uint8_t>(byte + 1);
    return {};
  }
  const std::uint64_t beyond = (byte & kCountContinued) != 0 ? continuation_.load(offset).value().value() : 0;
  if (const auto stored = continuation_.store(offset, XaEntry(XaValue(beyond + 1))); !stored) return fail(stored.error());
  byte |= kCountContinued;
  return {};
}

std::uint8_t SwapArea::entry_free_locked(std::uint64_t offset, SwapUsage usage) {
  QUIRE_BUG_ON(offset == 0 || offset >= max_);
  std::uint8_t& byte = map_[offset];
  if (usage == SwapUsage::kCache) {
    QUIRE_BUG_ON((byte & kSwapHasCache) == 0);
    byte = static_cast<std::uint8_t>(byte & ~kSwapHasCache);
  } else if ((byte & kCountContinued) != 0) {
    const std::uint64_t beyond = continuation_.load(offset).value().value();
    if (beyond > 1) {
      QUIRE_BUG_ON(!continuation_.store(offset, XaEntry(XaValue(beyond - 1))));  // replaces an entry: needs no memory
    } else {
      continuation_.erase(offset);
      byte = static_cast<std::uint8_t>(byte & ~kCountContinued);
    }
  } else {
    QUIRE_BUG_ON((byte & kSwapMapUsers) == 0);
    byte = static_cast<std::uint8_t>(byte - 1);
  }
  if (byte == 0) release(offset);
  return byte;
}

}  // namespace quire::swap
