// Whole-structure checks of the classic layout: every slab, every free list, every array.
#include <algorithm>
#include <vector>

#include "quire/slab/classic_slab.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {
namespace {

enum class Fill : std::uint8_t { kFull, kPartial, kFree };

void check_slab(const KmemCacheBase& cache, const Slab& slab, Nid nid, Fill fill) {
  const SlabGeometry& g = cache.geometry();
  const phys::Page& page = *slab.page;
  QUIRE_BUG_ON(slab.cache != &cache);
  QUIRE_BUG_ON(slab.nid != nid || page.nid() != nid);
  QUIRE_BUG_ON(!page.test(phys::PageFlag::kSlab) || page.refcount != 1);
  QUIRE_BUG_ON(SlabLayout::page_cache(page) != &cache || ClassicSlab::page_slab(page) != &slab);
  QUIRE_BUG_ON(phys::compound_order(page) != g.order);

  const std::byte* base = cache.system().phys().page_address(page);
  const std::byte* begin =
      base + slab.colour_off + g.left_red_zone + (g.management == SlabManagement::kOnSlab ? g.management_size : 0);
  QUIRE_BUG_ON(slab.s_mem != begin);
  QUIRE_BUG_ON(slab.s_mem - g.left_red_zone + g.num * g.size > base + g.slab_bytes());
  QUIRE_BUG_ON(static_cast<std::uint64_t>(slab.s_mem - base) % g.align != 0);

  const BufCtl* bufctl = slab.bufctl();
  std::uint32_t free = 0;
  for (BufCtl i = slab.free; i != kBufCtlEnd; i = bufctl[i]) {
    QUIRE_BUG_ON(i >= g.num);
    QUIRE_BUG_ON(++free > g.num);  // a ring
  }
  const auto active = static_cast<std::uint32_t>(std::count(bufctl, bufctl + g.num, kBufCtlActive));
  QUIRE_BUG_ON(active != slab.inuse || free + slab.inuse != g.num);
  QUIRE_BUG_ON(fill == Fill::kFull && slab.inuse != g.num);
  QUIRE_BUG_ON(fill == Fill::kFree && slab.inuse != 0);
  QUIRE_BUG_ON(fill == Fill::kPartial && (slab.inuse == 0 || slab.inuse == g.num));
}

void check_node(const KmemCacheBase& cache, const KmemCacheNode& node, Nid nid) {
  std::uint64_t slabs = 0;
  std::uint64_t free_objects = 0;
  const auto walk = [&](const SlabList& list, Fill fill) {
    for (const Slab& slab : list) {
      check_slab(cache, slab, nid, fill);
      ++slabs;
      free_objects += cache.geometry().num - slab.inuse;
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
      for (const Slab& slab : *list) {
        for (std::uint32_t i = 0; i < cache.geometry().num; ++i) {
          visit(context, find(cache, *slab.page, slab.s_mem + i * cache.geometry().size));
        }
      }
    }
  }
}

}  // namespace quire::slab
