// A stack of free objects that belongs to one CPU (Linux's array_cache): the fast path of every cache.
//
//   avail ──────────────┐
//   entries [o][o][o][o]·[ ][ ][ ]    limit entries of room; refilled and flushed `batchcount` at a time
//
// The hottest object is on top. Objects here are "active" in the eyes of their slab. Touched only by the CPU that owns
// it (no lock); other CPUs reach it through SlabSystem::drain_cpu_caches.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::slab {

struct ArrayCache {
  std::uint32_t avail = 0;
  std::uint32_t limit = 0;
  std::uint32_t batchcount = 0;
  std::uint32_t touched = 0;  // refilled or flushed since the last reap: a cache in use is not drained

  [[nodiscard]] void** entries() { return reinterpret_cast<void**>(this + 1); }
  [[nodiscard]] void* const* entries() const { return reinterpret_cast<void* const*>(this + 1); }

  [[nodiscard]] static std::size_t bytes(std::uint32_t limit) {
    return sizeof(ArrayCache) + limit * sizeof(void*);
  }
};
static_assert(sizeof(ArrayCache) == 16);

}  // namespace quire::slab
