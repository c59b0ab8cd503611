// One swap area (swap_info_struct): who uses each slot, and where the next one is given out.
//
//   swap_map[offset]   bits 0-5  users: page-table entries and shmem entries that name the slot, up to kSwapMapMax
//                      bit  6    kSwapHasCache: a folio of the swap cache (or a swap-in on its way) holds the slot
//                      bit  7    kCountContinued: more users than fit; the rest is counted in `continuation`
//                      kSwapMapBad: not usable (the header, slot 0)
//
// A slot is free when its byte is 0. On a solid-state device slots are given out by clusters of 512: each CPU fills a
// cluster of its own from front to back, so that what is swapped out together lies together; when no cluster is empty, and
// on a disk with seeks, the map is scanned from the place of the last slot on.
//
// Lock: `lock` (swap_info_struct::lock) guards everything but the constants. The functions that need it end in _locked.
// Unlike Linux: no per-CPU slot caches (slots leave the area one at a time), no swapoff yet, continuation counts are one
// XArray of numbers where Linux chains pages of counts; a scan of a nearly full area passes over slots that only the cache
// holds, where Linux takes them from it on the way (they come back when their folio is reclaimed, written or zapped).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "quire/base/xarray.h"
#include "quire/sim/lock_guards.h"
#include "quire/swap/paged_array.h"
#include "quire/swap/swap_device.h"
#include "quire/swap/swap_entry.h"

namespace quire::swap {

inline constexpr std::uint8_t kSwapMapMax = 0x3e;       // SWAP_MAP_MAX
inline constexpr std::uint8_t kSwapMapUsers = 0x3f;     // the bits that count users
inline constexpr std::uint8_t kSwapMapBad = 0x3f;       // SWAP_MAP_BAD
inline constexpr std::uint8_t kSwapHasCache = 0x40;     // SWAP_HAS_CACHE
inline constexpr std::uint8_t kCountContinued = 0x80;   // COUNT_CONTINUED
inline constexpr std::uint64_t kSwapfileCluster = 512;  // SWAPFILE_CLUSTER with CONFIG_THP_SWAP

// What __swap_duplicate adds and __swap_entry_free takes away.
enum class SwapUsage : std::uint8_t { kUser, kCache };

class SwapArea {
 public:
  struct Parts {
    PagedArray<std::uint8_t> map;
    PagedArray<std::uint64_t> clusters;
  };
  // Takes the area's tables from the machine's memory; kInval when the device has no page beside its header.
  [[nodiscard]] static Result<Parts> allocate(phys::PhysMem& phys, const SwapDevice& device);

  SwapArea(unsigned type, int priority, std::unique_ptr<SwapDevice> device, Parts parts, XaNodeSource& nodes,
           sim::Scheduler& scheduler, sim::LockClass& lock_class);

  [[nodiscard]] unsigned type() const { return type_; }
  [[nodiscard]] int priority() const { return priority_; }
  [[nodiscard]] SwapDevice& device() { return *device_; }
  [[nodiscard]] const SwapDevice& device() const { return *device_; }
  [[nodiscard]] std::uint64_t max() const { return max_; }        // offsets are in [1, max)
  [[nodiscard]] std::uint64_t pages() const { return max_ - 1; }  // usable slots (swap_info_struct::pages)
  [[nodiscard]] std::uint64_t inuse_pages() const { return inuse_pages_; }
  [[nodiscard]] bool synchronous_io() const { return any(device_->flags(), SwapDeviceFlags::kSynchronous); }
  [[nodiscard]] bool solid_state() const { return any(device_->flags(), SwapDeviceFlags::kSolidState); }
  [[nodiscard]] bool stable_writes() const { return any(device_->flags(), SwapDeviceFlags::kStableWrites); }

  sim::SpinLock& lock() { return lock_; }

  // A free slot, now marked kSwapHasCache; nullopt when there is none. (scan_swap_map_slots for one slot.)
  [[nodiscard]] std::optional<std::uint64_t> scan_swap_map_locked(unsigned cpu);
  // One more user. kNoEnt: the slot is free or bad. kExist: `kCache` and a folio is there already. kNoMem: the count has to
  // be continued and there is no memory for it.
  [[nodiscard]] Status duplicate_locked(std::uint64_t offset, SwapUsage usage);
  // One user less; returns the slot's byte after it. When it is 0 the slot is free and its cluster may be given out again.
  std::uint8_t entry_free_locked(std::uint64_t offset, SwapUsage usage);

  // Users without the cache's (swp_swapcount), and whether the cache holds the slot. For reading only: no lock needed.
  [[nodiscard]] std::uint64_t count(std::uint64_t offset) const;
  [[nodiscard]] bool has_cache(std::uint64_t offset) const { return (map_[offset] & kSwapHasCache) != 0; }
  // One hold is left, so that the next entry_free_locked frees the slot.
  [[nodiscard]] bool sole_holder(std::uint64_t offset) const { return map_[offset] == 1 || map_[offset] == kSwapHasCache; }
  [[nodiscard]] std::uint8_t map_byte(std::uint64_t offset) const { return map_[offset]; }

  // Walks the map: usage, cluster counts and continuation agree.
  void validate() const;

 private:
  static constexpr std::uint64_t kNoCluster = (std::uint64_t{1} << 24) - 1;  // ClusterInfo::kNone
  struct CpuCluster {                                                        // percpu_cluster
    std::uint64_t cluster = kNoCluster;
    std::uint64_t next = 0;
  };

  [[nodiscard]] std::uint64_t cluster_count() const { return clusters_.size(); }
  [[nodiscard]] std::optional<std::uint64_t> try_ssd_cluster(unsigned cpu);
  [[nodiscard]] std::optional<std::uint64_t> scan_map(unsigned cpu);
  [[nodiscard]] std::uint64_t scan_start(unsigned cpu);
  [[nodiscard]] std::uint64_t& cluster_next(unsigned cpu) { return cluster_next_[solid_state() ? cpu : 0]; }
  void take_in_cluster(std::uint64_t cluster, std::uint64_t slots);
  void take(std::uint64_t offset);
  void release(std::uint64_t offset);
  void cluster_list_push_back(std::uint64_t cluster);
  void cluster_list_erase(std::uint64_t cluster);

  unsigned type_;
  int priority_;
  std::unique_ptr<SwapDevice> device_;
  std::uint64_t max_;
  PagedArray<std::uint8_t> map_;
  // Used slots of each cluster, and the links of the list of empty ones: see cluster_info.h.
  PagedArray<std::uint64_t> clusters_;
  std::uint64_t free_clusters_head_ = kNoCluster;
  std::uint64_t free_clusters_tail_ = kNoCluster;
  std::vector<CpuCluster> percpu_cluster_;
  std::vector<std::uint64_t> cluster_next_;  // where a scan of the map begins: one a CPU, a single one where seeks cost
  std::uint64_t cluster_nr_ = 0;             // slots still to be taken in sequence on a disk with seeks
  std::uint64_t lowest_bit_ = 1;
  std::uint64_t highest_bit_;
  std::uint64_t inuse_pages_ = 0;
  XArray continuation_;  // offset → users beyond kSwapMapMax, as value entries
  sim::SpinLock lock_;
};

}  // namespace quire::swap
