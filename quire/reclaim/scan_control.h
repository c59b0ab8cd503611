// One round of reclaim: what is asked for, what may be done, and what came of it (Linux's struct scan_control).
#pragma once

#include <array>
#include <cstdint>

#include "quire/base/flags.h"
#include "quire/lru/lruvec.h"
#include "quire/phys/gfp.h"

namespace quire::reclaim {

inline constexpr int kDefPriority = 12;               // DEF_PRIORITY
inline constexpr std::uint64_t kSwapClusterMax = 32;  // SWAP_CLUSTER_MAX
inline constexpr unsigned kMaxReclaimRetries = 16;    // MAX_RECLAIM_RETRIES

enum class Reclaimer : std::uint8_t { kDirect, kKswapd };

// What a round may do.
enum class May : std::uint8_t {
  kNone = 0,
  kWritepage = 1u << 0,       // write dirty pages
  kUnmap = 1u << 1,           // take pages out of page tables
  kSwap = 1u << 2,            // swap anonymous pages out
  kDeactivateAnon = 1u << 3,  // age the active lists
  kDeactivateFile = 1u << 4,
};

}  // namespace quire::reclaim

template <>
inline constexpr bool quire::kIsFlags<quire::reclaim::May> = true;

namespace quire::reclaim {

// What became of the folios of one list (struct reclaim_stat), in pages.
struct ReclaimStat {
  std::uint64_t nr_dirty = 0;
  std::uint64_t nr_unqueued_dirty = 0;  // dirty, and nobody is writing them
  std::uint64_t nr_congested = 0;       // under writeback and seen by reclaim before
  std::uint64_t nr_writeback = 0;
  std::uint64_t nr_immediate = 0;  // to be freed as soon as written, and met again
  std::uint64_t nr_pageout = 0;
  std::array<std::uint64_t, 2> nr_activate{};  // anon, file
  std::uint64_t nr_ref_keep = 0;
  std::uint64_t nr_unmap_fail = 0;
  std::uint64_t nr_lazyfree_fail = 0;
};

// What one pass over a node met, in pages.
struct LaunderStat {
  std::uint64_t dirty = 0, unqueued_dirty = 0, congested = 0, writeback = 0, immediate = 0, file_taken = 0, taken = 0;
};

struct ScanControl {
  Reclaimer reclaimer = Reclaimer::kDirect;
  std::uint64_t nr_to_reclaim = kSwapClusterMax;
  phys::Gfp gfp_mask = phys::Gfp::kKernel;
  Order order{};
  phys::ZoneType reclaim_idx = phys::ZoneType::kMovable;  // only zones up to this one
  int priority = kDefPriority;                            // 12 … 0: a 2^priority-th of each list
  May may = May::kWritepage | May::kUnmap | May::kSwap;
  enum class Deactivate : std::uint8_t { kWhenLow, kForce } deactivate = Deactivate::kWhenLow;

  // What the policy found when it prepared the round.
  bool cache_trim_mode = false;  // plenty of inactive file pages that nobody misses: take those first
  bool file_is_tiny = false;     // hardly a file page is left: take anon
  std::uint64_t anon_cost = 0;
  std::uint64_t file_cost = 0;

  // Results.
  bool skipped_deactivate = false;
  bool compaction_ready = false;
  std::uint64_t nr_scanned = 0;
  std::uint64_t nr_reclaimed = 0;
  LaunderStat nr{};

  [[nodiscard]] bool is_kswapd() const { return reclaimer == Reclaimer::kKswapd; }
};

}  // namespace quire::reclaim
