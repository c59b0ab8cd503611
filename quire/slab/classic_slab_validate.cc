// Whole-structure checks of the classic layout: every slab, every free list, every array.
#include <algorithm>
#include <bit>
#include <span>
#include <vector>

#include "quire/slab/classic_slab.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

using phys::Page;

namespace {

enum class Fill : std::uint8_t { kFull, kPartial, kFree };

// The bits of a slab's map; a bug when one is set that stands for no object.
std::uint32_t count_free(const Page& page, const SlabGeometry& g) {
  const std::uint64_t* map = ClassicSlab::free_map(page, g);
  std::uint32_t free = 0;
  for (std::uint32_t first = 0; first < g.num; first += kMapBits) {
    const std::uint64_t word = map[first / kMapBits];
    const std::uint32_t bits = std::min(g.num - first, kMapBits);
    QUIRE_BUG_ON(bits < kMapBits && word >> bits != 0);
    free += static_cast<std::uint32_t>(std::popcount(word));
  }
  return free;
}

// Gives its free objects.
std::uint32_t check_slab(const KmemCacheBase& cache, const Page& page, Nid nid, Fill fill) {
  const SlabGeometry& g = cache.geometry();
  QUIRE_BUG_ON(page.nid() != nid || page.refcount != 1 || phys::compound_order(page) != g.order);
  for (const Page& part : std::span(&page, g.order.pages())) {
    QUIRE_BUG_ON(!part.test(phys::PageFlag::kSlab) || SlabLayout::page_cache(part) != &cache);
    QUIRE_BUG_ON(part.index != cache.array_word());
  }
  const std::size_t management = g.management == SlabManagement::kOnSlab ? g.management_size : 0;
  const std::size_t colour = static_cast<std::size_t>(page.mapcount) - management - g.left_red_zone;
  QUIRE_BUG_ON(colour % g.colour_off != 0 || colour / g.colour_off >= g.colours);
  QUIRE_BUG_ON(colour + management + g.num * g.size > g.slab_bytes());
  QUIRE_BUG_ON(static_cast<std::size_t>(page.mapcount) % g.align != 0);

  const std::uint32_t free = count_free(page, g);
  if (!ClassicSlab::map_in_page(g)) {
    const Slab& outside = *ClassicSlab::page_slab(page);
    QUIRE_BUG_ON(outside.page != &page || outside.free != free);
    for (std::uint32_t i = 0; i < outside.first; ++i) QUIRE_BUG_ON(outside.map()[i] != 0);
  }
  QUIRE_BUG_ON(fill != (free == 0 ? Fill::kFull : free == g.num ? Fill::kFree : Fill::kPartial));
  return free;
}

void check_node(const KmemCacheBase& cache, const KmemCacheNode& node, Nid nid) {
  std::uint64_t slabs = 0;
  std::uint64_t free_objects = 0;
  const auto walk = [&](const SlabList& list, Fill fill) {
    for (const Page& slab : list) {
      free_objects += check_slab(cache, slab, nid, fill);
      ++slabs;
    }
  };
  walk(node.slabs_full, Fill::kFull);
  walk(node.slabs_partial, Fill::kPartial);
  walk(node.slabs_free, Fill::kFree);
  QUIRE_BUG_ON(slabs != node.total_slabs);
  QUIRE_BUG_ON(node.slabs_free.count() != node.free_slabs);
  QUIRE_BUG_ON(free_objects != node.free_objects);
}

void check_array(const KmemCacheBase& cache, const ArrayCache& ac, std::uint32_t limit, std::vector<const void*>& cached) {
  QUIRE_BUG_ON(ac.bottom != nullptr || ac.avail > ac.limit || ac.limit != limit);
  for (std::uint32_t i = 0; i < ac.avail; ++i) {
    QUIRE_BUG_ON(!cache.owns(ac.entries()[i]));
    cached.push_back(ac.entries()[i]);
  }
}

}  // namespace

void ClassicSlab::validate(const KmemCacheBase& cache) const {
  std::vector<const void*> cached;
  const CpuCacheTunables& tunables = cache.tunables_;
  for (const auto& phys_node : system_.phys().nodes()) {
    const KmemCacheNode& node = node_of(cache, phys_node->nid());
    check_node(cache, node, phys_node->nid());
    if (node.shared == nullptr) continue;
    QUIRE_BUG_ON(system_.ksize(node.shared) < ArrayCache::bytes(node.shared->limit));
    check_array(cache, *node.shared, tunables.shared * tunables.batchcount, cached);
    for (std::uint32_t i = 0; i < node.shared->avail; ++i) {
      QUIRE_BUG_ON(system_.head_page(node.shared->entries()[i])->nid() != phys_node->nid());
    }
  }
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    check_array(cache, cache.cpu_cache_of(cpu), tunables.limit, cached);
  }
  for_each_alien(cache, [&](const AlienCache& alien, Nid home) {
    QUIRE_BUG_ON(alien.avail > AlienCache::kLimit);
    for (std::uint32_t a = 0; a < alien.avail; ++a) {
      QUIRE_BUG_ON(!cache.owns(alien.objects[a]) || system_.head_page(alien.objects[a])->nid() != home);
      cached.push_back(alien.objects[a]);
    }
  });
  std::ranges::sort(cached);
  const auto twice = std::ranges::adjacent_find(cached);
  if (twice != cached.end()) cache.report_double_free(*twice);
}

void ClassicSlab::for_each_object(const KmemCacheBase& cache, ObjectVisitor visit, void* context) const {
  for (const auto& phys_node : system_.phys().nodes()) {
    const KmemCacheNode& node = node_of(cache, phys_node->nid());
    for (const SlabList* list : {&node.slabs_full, &node.slabs_partial, &node.slabs_free}) {
      for (const Page& slab : *list) {
        for (std::uint32_t i = 0; i < cache.geometry().num; ++i) {
          visit(context, find(cache, slab, s_mem(slab) + i * cache.geometry().size));
        }
      }
    }
  }
}

}  // namespace quire::slab
