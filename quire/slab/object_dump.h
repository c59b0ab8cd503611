// Internal to the debugging of objects: the bytes that it writes (Linux's include/linux/poison.h), the owner tracks behind an
// object, and how a report is put into words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/sim/time.h"
#include "quire/slab/kmem_cache_base.h"
#include "quire/slab/object_report.h"

namespace quire::slab::object_debug {

inline constexpr std::byte kRedInactive{0xbb};  // SLUB_RED_INACTIVE: around a free object
inline constexpr std::byte kRedActive{0xcc};    // SLUB_RED_ACTIVE: around one in use
inline constexpr std::byte kPoisonInUse{0x5a};  // POISON_INUSE: never written by anybody
inline constexpr std::byte kPoisonFree{0x6b};   // POISON_FREE: a free object
inline constexpr std::byte kPoisonEnd{0xa5};    // POISON_END: its last byte

// Who did something with an object last (Linux's struct track).
struct Track {
  const void* address = nullptr;  // return address; nullptr: nobody yet
  const void* parent = nullptr;   // that of its caller
  sim::Nanos when = 0;
  std::uint32_t task = 0;  // 0: at boot or in an interrupt
  std::uint32_t cpu = 0;
};
static_assert(sizeof(Track) == kTrackSize);

enum class TrackKind : std::uint8_t { kAlloc, kFree };
// Only of caches with kStoreUser.
[[nodiscard]] inline Track& track_of(const KmemCacheBase& cache, void* object, TrackKind kind) {
  std::byte* tracks = static_cast<std::byte*>(object) + cache.geometry().tracks;
  return reinterpret_cast<Track*>(tracks)[kind == TrackKind::kAlloc ? 0 : 1];
}

// The address in the machine's direct map; 0 for what is not in its RAM.
[[nodiscard]] std::uint64_t machine_address(const KmemCacheBase& cache, const void* p);
// Bytes of the slab that begins at `slab`.
[[nodiscard]] std::size_t slab_bytes(const KmemCacheBase& cache, const std::byte* slab);

// When something was found, and what came of it.
struct Occasion {
  std::string_view what;         // "alloc", "free" or "validate"
  const void* caller = nullptr;  // who allocates or frees
  const void* parent = nullptr;
  const void* freed = nullptr;  // the address that was handed in
  std::string_view freed_to{};  // the cache that it was handed to, where that is another
  std::string_view done{};
};

// Bytes [from, to), counted from the object, are not all `value`.
struct Damage {
  std::int64_t from;
  std::int64_t to;
  std::byte value;
};

// Composes a report of `problem` and adds it to the machine's. `place` has no object when the address has none.
void report(const KmemCacheBase& cache, const ObjectPlace& place, ObjectProblem problem, const Occasion& occasion,
            const Damage* damage = nullptr);

}  // namespace quire::slab::object_debug
