#include "quire/slab/slab_geometry.h"

#include <algorithm>
#include <bit>

#include "quire/slab/slab.h"

namespace quire::slab {
namespace {

constexpr std::size_t kWord = sizeof(void*);

constexpr std::size_t aligned_management(std::uint32_t num, std::size_t align) {
  return align_up(management_bytes(num), align);
}

// Objects that fit on a slab of `order` (Linux's cache_estimate).
std::uint32_t estimate(std::size_t size, std::size_t align, Order order, SlabManagement management) {
  const std::size_t bytes = order.bytes();
  if (management == SlabManagement::kOffSlab) {
    return static_cast<std::uint32_t>(std::min<std::size_t>(bytes / size, kMaxObjectsOffSlab));
  }
  const std::size_t each = management_bytes(1) - management_bytes(0);
  std::size_t num = std::min<std::size_t>((bytes - management_bytes(0)) / (size + each), kMaxObjectsPerSlab);
  while (num > 0 && aligned_management(static_cast<std::uint32_t>(num), align) + num * size > bytes) --num;
  return static_cast<std::uint32_t>(num);
}

void fill(SlabGeometry& g, Order order, std::uint32_t num) {
  g.order = order;
  g.num = num;
  g.management_size = aligned_management(num, g.align);
  const std::size_t on_slab = g.management == SlabManagement::kOnSlab ? g.management_size : 0;
  g.left_over = order.bytes() - on_slab - num * g.size;
}

// The least order with little waste: at most an eighth of the slab, or whatever max_waste_order leaves.
bool choose_order(SlabGeometry& g, const GeometryRequest& request) {
  for (unsigned o = 0; o <= kMaxSlabOrder.value(); ++o) {
    const Order order(o);
    const std::uint32_t num = estimate(g.size, g.align, order, g.management);
    if (num == 0) continue;
    fill(g, order, num);
    // An order-0 slab is the easiest to give back.
    if (any(request.flags, SlabFlags::kReclaimAccount)) return true;
    if (order >= request.max_waste_order) return true;
    if (g.left_over * 8 <= order.bytes()) return true;
  }
  return g.num != 0;
}

// Slub links free objects through one of their words: in the middle, where an overrun of a neighbour does not reach it,
// unless those bytes are needed while the object is free.
bool free_pointer_outside(const GeometryRequest& request) {
  return any(request.flags, SlabFlags::kTypesafeByRcu | SlabFlags::kPoison) || request.constructor == HasConstructor::kYes ||
         (any(request.flags, SlabFlags::kRedZone) && request.object_size < kWord);
}

}  // namespace

std::size_t calculate_alignment(SlabFlags flags, std::size_t align, std::size_t size) {
  if (any(flags, SlabFlags::kHwCacheAlign)) {
    std::size_t line = kCacheLineSize;
    while (line > kWord && size <= line / 2) line /= 2;
    align = std::max(align, line);
  }
  return std::max(align, kWord);
}

Result<SlotGeometry> calculate_slot(const GeometryRequest& request, SlabLayoutKind kind) {
  if (request.object_size == 0 || request.object_size > kMaxObjectSize) return fail(Errno::kInval);
  if (request.align > kPageSize || (request.align != 0 && !std::has_single_bit(request.align))) {
    return fail(Errno::kInval);
  }
  const bool red_zone = any(request.flags, SlabFlags::kRedZone);
  SlotGeometry slot;
  slot.object_size = request.object_size;
  slot.align = calculate_alignment(request.flags, request.align, request.object_size);
  std::size_t size = align_up(std::max(request.object_size, kMinObjectSize), kWord);
  // The right red zone is what rounding left, or else a word.
  if (red_zone && size == request.object_size) size += kWord;
  slot.inuse = size;
  if (kind == SlabLayoutKind::kSlub) {
    slot.free_pointer = align_down(request.object_size / 2, kWord);
    if (free_pointer_outside(request)) {
      slot.free_pointer = size;
      size += kWord;
    }
  }
  if (any(request.flags, SlabFlags::kStoreUser)) {
    slot.tracks = size;
    size += 2 * kTrackSize;
  }
  if (red_zone) {
    slot.left_red_zone = align_up(kWord, slot.align);
    size += kWord + slot.left_red_zone;  // a word of padding before the next object's red zone, too
  }
  slot.size = align_up(size, slot.align);
  return slot;
}

Result<SlabGeometry> calculate_geometry(const GeometryRequest& request) {
  const auto slot = calculate_slot(request, SlabLayoutKind::kSlab);
  if (!slot) return fail(slot.error());
  SlabGeometry g{*slot};
  g.management = g.size >= kOffSlabMinSize ? SlabManagement::kOffSlab : SlabManagement::kOnSlab;
  if (!choose_order(g, request)) return fail(Errno::kInval);

  // If the waste has room for the descriptor, it costs nothing there.
  if (g.management == SlabManagement::kOffSlab && g.left_over >= g.management_size) {
    g.management = SlabManagement::kOnSlab;
    g.left_over -= g.management_size;
  }
  g.min_order = g.order;
  g.min_num = g.num;
  g.colour_off = std::max(kCacheLineSize, g.align);
  g.colours = static_cast<std::uint32_t>(g.left_over / g.colour_off) + 1;
  return g;
}

CpuCacheTunables default_tunables(std::size_t object_size) {
  std::uint32_t limit = 120;
  if (object_size > 131072) {
    limit = 1;
  } else if (object_size > kPageSize) {
    limit = 8;
  } else if (object_size > 1024) {
    limit = 24;
  } else if (object_size > 256) {
    limit = 54;
  }
  return {.limit = limit, .batchcount = (limit + 1) / 2};
}

}  // namespace quire::slab
