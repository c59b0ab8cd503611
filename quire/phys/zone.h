// A zone: a stretch of one node's physical memory that serves the same kind of request (below 16 MiB, below 4 GiB, the
// rest, movable, device), with its buddy free lists, per-CPU lists and watermarks.
//
//   spanned_pages  end − start
//   present_pages  spanned − holes
//   managed_pages  present − what was reserved at boot = what the buddy was ever given
//
//        free pages
//        ────────────── high   kswapd goes to sleep
//        ────────────── low    kswapd is woken
//        ────────────── min    direct reclaim; below it only those who may use the reserves
//
// Invariants (validate): every free block is aligned to its size and lies inside the zone; one of the atomic reserve lies in
// a pageblock of that type, if that is a whole one (others may lie on another list than their pageblock's: a page keeps the
// type under which it went to a per-CPU list); no two free buddies of one order below a pageblock stand side by side; nr_free
// equals each list's length; NR_FREE_PAGES equals the sum.
// Locking: `lock` for free_area and pageblock types; per-CPU lists by being on that CPU.
// Differs from Linux: a zone may hold pages whose struct Page is not initialised yet (deferred boot); they count as free
// and managed, and are handed to the free lists a section at a time when those run short.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/gfp.h"
#include "quire/phys/page.h"
#include "quire/phys/phys_config.h"
#include "quire/phys/vmstat.h"
#include "quire/sim/spin_lock.h"

namespace quire::phys {

class Node;

inline constexpr unsigned kZoneTypes = static_cast<unsigned>(ZoneType::kCount);
inline constexpr Order kMaxOrder{10};  // the largest block of the buddy (Linux's MAX_ORDER − 1)
inline constexpr unsigned kNrOrders = 11;
inline constexpr Order kPageblockOrder{9};
inline constexpr std::uint64_t kPageblockPages = kPageblockOrder.pages();
inline constexpr Order kPageAllocCostlyOrder{3};

[[nodiscard]] std::string_view zone_name(ZoneType type);            // "DMA32"
[[nodiscard]] std::string_view migratetype_name(MigrateType type);  // "Unmovable"

[[nodiscard]] constexpr bool has_zone(Arch arch, ZoneType type) {
  const bool of_64_bit = type == ZoneType::kDma32 || type == ZoneType::kDevice;
  return arch == Arch::kX86_64 ? type != ZoneType::kHighMem : !of_64_bit;
}
// The zone's number in that kernel (its enum zone_type), as tracepoints print it.
[[nodiscard]] constexpr int zone_index(Arch arch, ZoneType type) {
  int index = 0;
  for (unsigned below = 0; below < static_cast<unsigned>(type); ++below) {
    index += has_zone(arch, static_cast<ZoneType>(below)) ? 1 : 0;
  }
  return index;
}

enum class Watermark : std::uint8_t { kMin, kLow, kHigh, kPromo, kCount };

struct FreeArea {
  std::array<PageList, kMigrateTypes> free_list;
  std::uint64_t nr_free = 0;

  [[nodiscard]] PageList& list(MigrateType mt) { return free_list[static_cast<unsigned>(mt)]; }
  [[nodiscard]] const PageList& list(MigrateType mt) const { return free_list[static_cast<unsigned>(mt)]; }
};

// Per-CPU lists: for each migrate type orders 0 to 3, and one list of huge-page blocks.
inline constexpr unsigned kNrLowOrderPcpLists = kMigratePcpTypes * (kPageAllocCostlyOrder.value() + 1);
inline constexpr unsigned kNrPcpLists = kNrLowOrderPcpLists + 1;

struct PerCpuPages {
  std::int32_t count = 0;  // pages on all lists
  std::int32_t high = 0;   // drain above this
  std::int32_t batch = 1;  // pages moved between buddy and lists at a time
  std::int16_t free_factor = 0;
  std::int16_t expire = 0;
  std::array<PageList, kNrPcpLists> lists;

  [[nodiscard]] static constexpr bool order_allowed(Order order) {
    return order <= kPageAllocCostlyOrder || order == kPageblockOrder;
  }
  [[nodiscard]] static constexpr unsigned index(Order order, MigrateType mt) {
    return order == kPageblockOrder ? kNrLowOrderPcpLists : order.value() * kMigratePcpTypes + static_cast<unsigned>(mt);
  }
};

enum class ZoneFlag : std::uint32_t {
  kNone = 0,
  kBoostedWatermark = 1,  // a boost has happened; kswapd should hear of it
  kReclaimActive = 2,     // kswapd is at work here: per-CPU lists stay short
};

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::ZoneFlag> = true;

namespace quire::phys {

// What compaction remembers of a zone between its runs. Kept by the floor that compacts.
struct ZoneCompaction {
  Pfn cached_free_pfn{};                    // where the free scanner goes on, downwards
  std::array<Pfn, 2> cached_migrate_pfn{};  // where the migrate scanner goes on: asynchronous, synchronous
  bool blockskip_flush = false;             // both scanners have met: forget which pageblocks to skip before long
  std::uint32_t considered = 0;             // requests turned away since the last failure
  std::uint32_t defer_shift = 0;            // 2^this requests are turned away after a failure
  std::uint32_t order_failed = kNrOrders;   // smallest order that failed
};

class Zone {
 public:
  Zone(Node& node, ZoneType type, sim::Scheduler& scheduler, sim::LockClass& lock_class, unsigned cpus);
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

  [[nodiscard]] ZoneType type() const { return type_; }
  [[nodiscard]] std::string_view name() const { return zone_name(type_); }
  [[nodiscard]] Node& node() { return node_; }
  [[nodiscard]] const Node& node() const { return node_; }

  [[nodiscard]] Pfn start_pfn() const { return start_pfn_; }
  [[nodiscard]] Pfn end_pfn() const { return start_pfn_ + spanned_pages_; }
  [[nodiscard]] std::uint64_t spanned_pages() const { return spanned_pages_; }
  [[nodiscard]] std::uint64_t present_pages() const { return present_pages_; }
  [[nodiscard]] std::uint64_t managed_pages() const { return managed_pages_; }
  [[nodiscard]] std::uint64_t deferred_pages() const { return deferred_pages_; }  // free, not yet on any list (deferred boot)
  [[nodiscard]] bool populated() const { return present_pages_ != 0; }
  [[nodiscard]] bool managed() const { return managed_pages_ != 0; }

  // min_wmark_pages and its kin: the mark with the present boost.
  [[nodiscard]] std::uint64_t wmark_pages(Watermark w) const { return watermark_[static_cast<unsigned>(w)] + watermark_boost_; }
  [[nodiscard]] std::uint64_t watermark(Watermark w) const { return watermark_[static_cast<unsigned>(w)]; }
  [[nodiscard]] std::uint64_t watermark_boost() const { return watermark_boost_; }
  void set_watermark_boost(std::uint64_t pages) { watermark_boost_ = pages; }
  [[nodiscard]] std::int64_t lowmem_reserve(ZoneType highest) const { return lowmem_reserve_[static_cast<unsigned>(highest)]; }
  [[nodiscard]] std::uint64_t nr_reserved_highatomic() const { return nr_reserved_highatomic_; }
  [[nodiscard]] bool has_isolate_pageblock() const { return nr_isolate_pageblock_ != 0; }
  [[nodiscard]] std::uint64_t nr_isolate_pageblock() const { return nr_isolate_pageblock_; }
  [[nodiscard]] std::uint64_t cma_pages() const { return cma_pages_; }  // in CMA areas, free or not

  [[nodiscard]] std::int64_t state(ZoneStat s) const { return stats[s]; }
  [[nodiscard]] std::uint64_t free_pages() const { return static_cast<std::uint64_t>(stats[ZoneStat::kNrFreePages]); }
  // Blocks of `order` on the free lists; stretches not initialised yet count as blocks of the largest order.
  [[nodiscard]] std::uint64_t nr_free(Order order) const;

  [[nodiscard]] bool test(ZoneFlag f) const { return any(flags_, f); }
  void set(ZoneFlag f) { flags_ |= f; }
  void clear(ZoneFlag f) { flags_ &= ~f; }
  [[nodiscard]] bool spans(Pfn pfn) const { return start_pfn() <= pfn && pfn < end_pfn(); }

  [[nodiscard]] const FreeArea& free_area(Order order) const { return free_area_[order.value()]; }
  [[nodiscard]] const PerCpuPages& pcp(unsigned cpu) const { return pcp_[cpu]; }
  [[nodiscard]] unsigned cpus() const { return cpus_; }
  [[nodiscard]] unsigned stat_threshold() const { return stat_threshold_; }  // as /proc/zoneinfo prints it

  // Counters, open to every floor: zone.stats.add(ZoneStat::kNrMlock, n).
  Counters<ZoneStat> stats;
  Counters<NumaStat> numa;

  ZoneCompaction compaction;

  sim::SpinLock lock;

 private:
  friend class PhysMem;
  friend class PhysBoot;
  friend class Buddy;
  friend class PcpLists;
  friend class Watermarks;
  friend class Validator;
  friend class PageIsolation;
  friend class CmaAreas;
  friend class HotMemmap;
  friend class MemoryHotplug;
  friend class DeviceMemory;

  Node& node_;
  const ZoneType type_;
  Pfn start_pfn_{};
  std::uint64_t spanned_pages_ = 0;
  std::uint64_t present_pages_ = 0;
  std::uint64_t managed_pages_ = 0;
  std::uint64_t deferred_pages_ = 0;
  std::array<std::uint64_t, static_cast<unsigned>(Watermark::kCount)> watermark_{};
  std::uint64_t watermark_boost_ = 0;
  std::array<std::int64_t, kZoneTypes> lowmem_reserve_{};
  std::uint64_t nr_reserved_highatomic_ = 0;
  std::uint64_t nr_isolate_pageblock_ = 0;
  std::uint64_t cma_pages_ = 0;
  std::uint32_t stat_threshold_ = 0;
  ZoneFlag flags_ = ZoneFlag::kNone;
  std::int32_t pageset_high_ = 0;
  std::int32_t pageset_batch_ = 1;
  std::array<FreeArea, kNrOrders> free_area_;
  std::unique_ptr<PerCpuPages[]> pcp_;
  unsigned cpus_ = 0;
  std::vector<Range<Pfn>> deferred_;  // free blocks of the largest order that wait, ascending
  std::size_t deferred_next_ = 0;     // first of them that is not empty
};

// One step of a zonelist: where an allocation looks, in order.
struct ZoneRef {
  Zone* zone = nullptr;
  ZoneType type = ZoneType::kDma;
};

// All zones that serve a node's requests: nodes by distance, within a node the highest zone first.
class ZoneList {
 public:
  [[nodiscard]] const std::vector<ZoneRef>& zones() const { return zones_; }

  // Calls f(Zone&) for each zone not above `highest` until f gives false.
  template <class F>
  void for_each_zone(ZoneType highest, F&& f) const {
    // By index, since f may sleep and the list be made anew meanwhile (hotplug); its memory stays where it is.
    for (std::size_t i = 0; i < zones_.size(); ++i) {
      const ZoneRef ref = zones_[i];
      if (ref.type <= highest && !f(*ref.zone)) return;
    }
  }
  // The zone a request would like best; nullptr if the list has none that low.
  [[nodiscard]] Zone* first_zone(ZoneType highest) const { return first_[static_cast<unsigned>(highest)]; }

 private:
  friend class PhysMem;
  // Empty, with room for every zone there may ever be: who is in the middle of it goes on in the same memory.
  void reset(std::size_t most) {
    zones_.clear();
    zones_.reserve(most);
    first_ = {};
  }
  std::vector<ZoneRef> zones_;
  std::array<Zone*, kZoneTypes> first_{};
};

}  // namespace quire::phys
