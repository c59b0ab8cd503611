// How slub sizes things: the order of a cache's slabs and how much a CPU and a node keep (Linux's calculate_order,
// set_cpu_partial, set_min_partial). Pure arithmetic; no state, no lock.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/slab/slab_config.h"
#include "quire/slab/slab_geometry.h"

namespace quire::slab {

// The order of slabs for slots of `size` bytes on a machine with that many CPUs; kInval when no order holds one.
// Prefers slabs of many objects (more, the more CPUs there are) that waste at most 1/16, then 1/8, then 1/4, up to
// slub_max_order; an object that is too large for that gets the least order that holds it.
[[nodiscard]] Result<Order> slub_calculate_order(std::size_t size, unsigned cpus, const SlubParameters& parameters);

// Slot, order and objects per slab of a cache, and the least order that it falls back to when memory is fragmented.
[[nodiscard]] Result<SlabGeometry> slub_calculate_geometry(const GeometryRequest& request, unsigned cpus,
                                                           const SlubParameters& parameters);

// Slabs that a CPU keeps frozen besides the one it allocates from (cpu_partial_slabs).
[[nodiscard]] std::uint32_t slub_cpu_partial_slabs(const SlabGeometry& geometry);
// Slabs that a node keeps on its partial list even when they are empty (min_partial).
[[nodiscard]] std::uint64_t slub_min_partial(std::size_t size);

}  // namespace quire::slab
