// How a cache cuts pages into objects. Pure arithmetic; no state, no lock.
//
// First the slot, what one object takes with all that debugging puts around it (Linux's calculate_sizes):
//
//   | left red zone | object | right red zone | free pointer | track alloc, track free | padding | → next slot
//   0               ├ the user's address      ├ inuse        ├ free_pointer + 8        ...      ┘ size
//
// Without debugging a slot is the object rounded up to its alignment. The free pointer is slub's: in the object's middle,
// or behind it where the object's bytes must survive its being free (constructor, RCU, poison).
//
// Then the slab: its order, the number of slots, and, for the classic layout, where its descriptor lives and its colours
// (calculate_slab_order). Slub's choice of order is in slub_order.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/slab/slab_config.h"

namespace quire::slab {

inline constexpr std::size_t kCacheLineSize = 64;
inline constexpr std::size_t kMinObjectSize = 8;
inline constexpr std::size_t kMaxObjectSize = std::size_t{4} << 20;  // KMALLOC_MAX_SIZE
inline constexpr std::size_t kOffSlabMinSize = kPageSize >> 3;       // from here on the descriptor is off the slab
inline constexpr Order kMaxSlabOrder{10};
inline constexpr std::size_t kTrackSize = 32;  // one owner track: address, stack, CPU, task, time

enum class SlabManagement : std::uint8_t { kOnSlab, kOffSlab };
enum class HasConstructor : std::uint8_t { kNo, kYes };

// Offsets are from the start of the object, that is from the user's address.
struct SlotGeometry {
  std::size_t object_size = 0;    // asked for
  std::size_t size = 0;           // of the slot: distance of two objects
  std::size_t align = 0;          // of the object's address
  std::size_t left_red_zone = 0;  // bytes of the slot before the object
  std::size_t inuse = 0;          // the object and its right red zone; what follows is the allocator's
  std::size_t free_pointer = 0;   // slub: where a free object keeps the next
  std::size_t tracks = 0;         // kStoreUser: where the two owner tracks begin
};

struct SlabGeometry : SlotGeometry {
  Order order{};
  std::uint32_t num = 0;  // objects per slab
  Order min_order{};      // slub: when there is no block of `order`; classic: the same
  std::uint32_t min_num = 0;
  SlabManagement management = SlabManagement::kOffSlab;
  std::size_t management_size = 0;  // of the free map and what goes with it, rounded up to the alignment
  std::size_t left_over = 0;        // bytes of a slab that no object uses
  std::uint32_t colours = 1;        // successive slabs begin at 0, colour_off, … (colours-1)*colour_off
  std::size_t colour_off = 0;

  [[nodiscard]] std::size_t slab_bytes() const { return order.bytes(); }
};

struct GeometryRequest {
  std::size_t object_size = 0;
  std::size_t align = 0;  // 0: the least; else a power of two
  SlabFlags flags = SlabFlags::kNone;
  HasConstructor constructor = HasConstructor::kNo;
  Order max_waste_order{1};  // classic, slab_max_order: larger orders only if not one object fits (0 below 32 MiB)
};

// The alignment that flags and request come to (Linux's calculate_alignment): with kHwCacheAlign a cache line, or the power
// of two below it in which small objects pack; a word at least.
[[nodiscard]] std::size_t calculate_alignment(SlabFlags flags, std::size_t align, std::size_t size);

// kInval when the size is 0 or beyond kMaxObjectSize or the alignment is no power of two ≤ a page.
[[nodiscard]] Result<SlotGeometry> calculate_slot(const GeometryRequest& request, SlabLayoutKind kind);

// The classic layout's slab. kInval as calculate_slot.
[[nodiscard]] Result<SlabGeometry> calculate_geometry(const GeometryRequest& request);

// Room of a CPU's array for objects of this size, and how many move at once (Linux's enable_cpucache).
struct CpuCacheTunables {
  std::uint32_t limit = 0;
  std::uint32_t batchcount = 0;
  std::uint32_t shared = 0;  // batches of room in the array that a node's CPUs share; 0: there is none
};
inline constexpr std::uint32_t kSharedFactor = 8;
[[nodiscard]] CpuCacheTunables default_tunables(std::size_t object_size);

}  // namespace quire::slab
