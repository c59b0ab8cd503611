// What a cache is asked to be at kmem_cache_create (Linux's SLAB_* flags).
#pragma once

#include <cstdint>

#include "quire/base/flags.h"

namespace quire::slab {

enum class SlabFlags : std::uint32_t {
  kNone = 0,
  kHwCacheAlign = 1u << 0,    // SLAB_HWCACHE_ALIGN: objects start at a cache line
  kReclaimAccount = 1u << 1,  // SLAB_RECLAIM_ACCOUNT: counted as SReclaimable
  kPanic = 1u << 2,           // SLAB_PANIC: creation must not fail
  kCacheDma = 1u << 3,        // SLAB_CACHE_DMA: pages from ZONE_DMA
  kCacheDma32 = 1u << 4,      // SLAB_CACHE_DMA32: pages from ZONE_DMA32
  kTypesafeByRcu = 1u << 5,   // SLAB_TYPESAFE_BY_RCU: a freed object may still be looked at, so nothing of the allocator's
                              // own lies in it, and the cache is never merged
  kAccount = 1u << 6,         // SLAB_ACCOUNT: charged to the allocating task's memory cgroup
  kNoMerge = 1u << 7,         // SLAB_NO_MERGE: never one with another cache
  kNoDebug = 1u << 8,         // SLAB_NO_USER_FLAGS: no debugging by machine option (the slab layer's own caches)
  // Debugging, each of which takes the fast paths from the cache; the letters are slub_debug='s.
  kConsistencyChecks = 1u << 16,  // SLAB_CONSISTENCY_CHECKS, F: bad and double frees are found at the free
  kRedZone = 1u << 17,            // SLAB_RED_ZONE, Z: guard bytes before and after each object
  kPoison = 1u << 18,             // SLAB_POISON, P: free objects hold a pattern
  kStoreUser = 1u << 19,          // SLAB_STORE_USER, U: who allocated and who freed each object last
  kTrace = 1u << 20,              // SLAB_TRACE, T: each allocation and free is told
};

}  // namespace quire::slab
template <>
inline constexpr bool quire::kIsFlags<quire::slab::SlabFlags> = true;

namespace quire::slab {

inline constexpr SlabFlags kSlabDebugFlags =
    SlabFlags::kConsistencyChecks | SlabFlags::kRedZone | SlabFlags::kPoison | SlabFlags::kStoreUser | SlabFlags::kTrace;
// Whoever has one of these is never merged (SLAB_NEVER_MERGE).
inline constexpr SlabFlags kSlabNeverMerge = SlabFlags::kRedZone | SlabFlags::kPoison | SlabFlags::kStoreUser |
                                             SlabFlags::kTrace | SlabFlags::kTypesafeByRcu | SlabFlags::kNoMerge;
// Merged caches agree in these (SLAB_MERGE_SAME).
inline constexpr SlabFlags kSlabMergeSame =
    SlabFlags::kReclaimAccount | SlabFlags::kCacheDma | SlabFlags::kCacheDma32 | SlabFlags::kAccount;

}  // namespace quire::slab
