// How a cache cuts pages into objects: the choice of slab order, of where the descriptor lives, and of colours
// (Linux's calculate_slab_order). Pure arithmetic; no state, no lock.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/result.h"
#include "quire/base/types.h"

namespace quire::slab {

inline constexpr std::size_t kCacheLineSize = 64;
inline constexpr std::size_t kMinObjectSize = 8;
inline constexpr std::size_t kMaxObjectSize = std::size_t{4} << 20;  // KMALLOC_MAX_SIZE
inline constexpr std::size_t kOffSlabMinSize = kPageSize >> 3;       // from here on the descriptor is off the slab
inline constexpr Order kMaxSlabOrder{10};

enum class SlabManagement : std::uint8_t { kOnSlab, kOffSlab };
enum class Reclaimable : std::uint8_t { kNo, kYes };

struct SlabGeometry {
  std::size_t object_size = 0;  // asked for
  std::size_t size = 0;         // distance of two objects: object_size rounded up to the alignment
  std::size_t align = 0;
  Order order{};
  std::uint32_t num = 0;  // objects per slab
  SlabManagement management = SlabManagement::kOnSlab;
  std::size_t management_size = 0;  // Slab + bufctl, rounded up to the alignment
  std::size_t left_over = 0;        // bytes of a slab that no object uses
  std::uint32_t colours = 1;        // successive slabs begin at 0, colour_off, … (colours-1)*colour_off
  std::size_t colour_off = 0;

  [[nodiscard]] std::size_t slab_bytes() const { return order.bytes(); }
};

struct GeometryRequest {
  std::size_t object_size = 0;
  std::size_t align = 0;  // 0: the least; else a power of two
  Reclaimable reclaimable = Reclaimable::kNo;
  Order max_waste_order{1};  // slab_max_order: larger orders only if not one object fits (0 below 32 MiB)
};

// kInval when the size is 0 or beyond kMaxObjectSize or the alignment is no power of two ≤ a page.
[[nodiscard]] Result<SlabGeometry> calculate_geometry(const GeometryRequest& request);

// Room of a CPU's array for objects of this size, and how many move at once (Linux's enable_cpucache).
struct CpuCacheTunables {
  std::uint32_t limit = 0;
  std::uint32_t batchcount = 0;
};
[[nodiscard]] CpuCacheTunables default_tunables(std::size_t object_size);

}  // namespace quire::slab
