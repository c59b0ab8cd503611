#include "quire/slab/slub_order.h"

#include <algorithm>
#include <bit>

namespace quire::slab {
namespace {

constexpr std::size_t kMaxObjectsPerPage = 32767;  // MAX_OBJS_PER_PAGE: what the counters of a slab can say

// The least order that holds so many bytes (get_order).
unsigned order_of(std::size_t bytes) {
  return static_cast<unsigned>(std::bit_width((std::max<std::size_t>(bytes, 1) - 1) >> kPageShift));
}

// The least order from `least` up to `max` that wastes at most one part in `fraction`; max + 1 if there is none.
unsigned find_order(std::size_t size, unsigned least, unsigned max, unsigned fraction) {
  unsigned order = least;
  for (; order <= max; ++order) {
    const std::size_t bytes = kPageSize << order;
    if (bytes % size <= bytes / fraction) break;
  }
  return order;
}

unsigned slab_order(std::size_t size, std::uint32_t min_objects, unsigned max_order, unsigned fraction, unsigned min_order) {
  if ((kPageSize << min_order) / size > kMaxObjectsPerPage) return order_of(size * kMaxObjectsPerPage) - 1;
  return find_order(size, std::max(min_order, order_of(min_objects * size)), max_order, fraction);
}

}  // namespace

Result<Order> slub_calculate_order(std::size_t size, unsigned cpus, const SlubParameters& parameters) {
  const unsigned max_order = parameters.max_order;
  std::uint32_t objects = parameters.min_objects;
  if (objects == 0) objects = 4 * (static_cast<std::uint32_t>(std::bit_width(cpus)) + 1);
  objects = std::min(objects, static_cast<std::uint32_t>((kPageSize << max_order) / size));
  for (; objects > 1; --objects) {
    for (const unsigned fraction : {16u, 8u, 4u}) {
      const unsigned order = slab_order(size, objects, max_order, fraction, parameters.min_order);
      if (order <= max_order) return Order(order);
    }
  }
  // One object a slab, whatever is wasted; at last, beyond the limit.
  for (const unsigned limit : {max_order, kMaxSlabOrder.value()}) {
    const unsigned order = slab_order(size, 1, limit, 1, parameters.min_order);
    if (order <= limit) return Order(order);
  }
  return fail(Errno::kInval);
}

Result<SlabGeometry> slub_calculate_geometry(const GeometryRequest& request, unsigned cpus, const SlubParameters& parameters) {
  const auto slot = calculate_slot(request, SlabLayoutKind::kSlub);
  if (!slot) return fail(slot.error());
  SlabGeometry g{*slot};
  const auto order = slub_calculate_order(g.size, cpus, parameters);
  if (!order) return fail(order.error());
  g.order = *order;
  g.num = static_cast<std::uint32_t>(g.order.bytes() / g.size);
  g.min_order = std::min(g.order, Order(order_of(g.size)));
  g.min_num = static_cast<std::uint32_t>(g.min_order.bytes() / g.size);
  g.left_over = g.order.bytes() - g.num * g.size;
  return g;
}

std::uint32_t slub_cpu_partial_slabs(const SlabGeometry& geometry) {
  std::uint32_t objects = 120;
  if (geometry.size >= kPageSize) {
    objects = 6;
  } else if (geometry.size >= 1024) {
    objects = 24;
  } else if (geometry.size >= 256) {
    objects = 52;
  }
  return (2 * objects + geometry.num - 1) / geometry.num;  // half of each slab is taken to be free
}

std::uint64_t slub_min_partial(std::size_t size) {
  return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(std::bit_width(size) - 1) / 2, 5, 10);
}

}  // namespace quire::slab
