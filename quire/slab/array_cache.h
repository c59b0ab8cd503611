// A stack of free objects that belongs to one CPU (Linux's array_cache): the fast path of every cache.
//
//   bottom  [null]
//   entries [o][o][o][o]·[ ][ ][ ]    limit entries of room; refilled `batchcount`, flushed half as many at a time
//                      └ avail
//
// The hottest object is on top. `bottom` lets the top be looked at when the stack is empty. Objects here are "active" in
// the eyes of their slab. Touched only by the CPU that owns it (no lock); the slab system empties other CPUs' when it
// shrinks a cache.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::slab {

struct ArrayCache {
  std::uint32_t avail = 0;
  std::uint32_t limit = 0;
  std::uint32_t batchcount = 0;
  std::uint32_t touched = 0;  // refilled or flushed since the last reap: then the next reap leaves it alone
  void* bottom = nullptr;

  [[nodiscard]] void** entries() { return &bottom + 1; }
  [[nodiscard]] void* const* entries() const { return &bottom + 1; }
  [[nodiscard]] void* top() const { return (&bottom)[avail]; }

  // False when there is no room, and for the object freed last, which is being freed twice.
  [[nodiscard]] bool push(void* object) {
    if (avail >= limit || top() == object) [[unlikely]]
      return false;
    entries()[avail++] = object;
    return true;
  }

  [[nodiscard]] static std::size_t bytes(std::uint32_t limit) { return sizeof(ArrayCache) + limit * sizeof(void*); }
};
static_assert(sizeof(ArrayCache) == 24);

}  // namespace quire::slab
