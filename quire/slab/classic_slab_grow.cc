// The classic layout's slabs: how one is made, where it comes from when a node has none, and how it goes.
#include <algorithm>
#include <new>
#include <span>
#include <utility>

#include "quire/slab/classic_slab.h"
#include "quire/slab/object_debug.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

using phys::Gfp;
using phys::Page;

Nid ClassicSlab::grow(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const bool fallback = system_.phys().nodes().size() > 1 && !any(gfp, Gfp::kThisNode);
  if (!fallback) {
    const Page* slab = grow_node(cache, gfp, nid);
    return slab == nullptr ? kNoNode : slab->nid();
  }
  // This node without effort (gfp_exact_node): reclaim is for when no node has anything.
  const Gfp exact_node = (gfp | Gfp::kThisNode | Gfp::kNoWarn) & ~(Gfp::kReclaim | Gfp::kNoFail);
  if (const Page* slab = grow_node(cache, exact_node, nid)) return slab->nid();
  // fallback_alloc: objects that lie free on other nodes, then pages from anywhere.
  Nid found = kNoNode;
  system_.phys().zonelist(nid).for_each_zone(phys::ZoneType::kNormal, [&](phys::Zone& zone) {
    if (node_of(cache, zone.node().nid()).free_objects == 0) return true;
    found = zone.node().nid();
    return false;
  });
  if (found != kNoNode) return found;
  const Page* slab = grow_node(cache, gfp, nid);
  return slab == nullptr ? kNoNode : slab->nid();
}

Page* ClassicSlab::grow_node(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const SlabGeometry& g = cache.geometry();
  Page* page = alloc_slab_page(cache, gfp, g.order, nid);
  if (page == nullptr) return nullptr;
  mark(*page, g, 0);  // not whole yet
  KmemCacheNode& node = node_of(cache, page->nid());
  ++node.unlisted_slabs;
  if (!make_slab(cache, *page, gfp)) {
    --node.unlisted_slabs;
    free_slab_page(cache, *page);
    return nullptr;
  }

  sim::SpinGuard guard(node.list_lock);
  node.slabs_free.push_back(*page);
  --node.unlisted_slabs;
  ++node.total_slabs;
  ++node.free_slabs;
  node.free_objects += g.num;
  return page;
}

void ClassicSlab::mark(Page& page, const SlabGeometry& g, std::uint64_t word) {
  for (Page& part : std::span(&page, g.order.pages())) part.index = word;
}

bool ClassicSlab::make_slab(KmemCacheBase& cache, Page& page, Gfp gfp) {
  const SlabGeometry& g = cache.geometry();
  KmemCacheNode& node = node_of(cache, page.nid());
  const std::uint64_t colour = node.colour_next * g.colour_off;
  node.colour_next = node.colour_next + 1 < g.colours ? node.colour_next + 1 : 0;

  std::byte* start = system_.phys().page_address(page);
  if (cache.debugged()) object_debug::setup_slab(cache, start);
  void* room = start + colour;
  std::uint64_t first = colour + g.left_red_zone;
  if (g.management == SlabManagement::kOffSlab) {
    room = system_.slab_mgmt_->alloc_node(gfp & ~Gfp::kZero, page.nid());
    if (room == nullptr) return false;
  } else {
    first += g.management_size;
  }
  page.mapcount = static_cast<std::int32_t>(first);
  if (map_in_page(g)) {
    page.private_ = full_map(g.num);
  } else {
    auto* slab = ::new (room) Slab{.page = &page, .free = g.num};
    std::uint32_t left = g.num;
    for (std::uint64_t* word = slab->map(); left != 0; ++word) {
      const std::uint32_t bits = std::min(left, kMapBits);
      ::new (word) std::uint64_t(full_map(bits));
      left -= bits;
    }
    page.private_ = reinterpret_cast<std::uint64_t>(slab);
  }
  mark(page, g, cache.array_word());
  if (cache.ctor() != nullptr || cache.debugged()) init_objects(cache, start + first);
  return true;
}

void ClassicSlab::init_objects(KmemCacheBase& cache, std::byte* object) {
  const SlabGeometry& g = cache.geometry();
  for (std::uint32_t i = 0; i < g.num; ++i, object += g.size) {
    if (cache.debugged()) object_debug::setup_object(cache, object);
    if (cache.ctor() != nullptr) cache.ctor()(object);
  }
}

void ClassicSlab::destroy_slab(KmemCacheBase& cache, Page& page) {
  const SlabGeometry& g = cache.geometry();
  Slab* slab = map_in_page(g) ? nullptr : page_slab(page);
  mark(page, g, 0);
  page.private_ = 0;
  page.mapcount = 0;
  if (g.management == SlabManagement::kOffSlab) system_.slab_mgmt_->free(slab);
  --node_of(cache, page.nid()).unlisted_slabs;
  free_slab_page(cache, page);
}

std::uint64_t ClassicSlab::drain_free_list(KmemCacheBase& cache, KmemCacheNode& node, std::uint64_t max_slabs) {
  std::uint64_t freed = 0;
  while (freed < max_slabs) {
    Page* slab = nullptr;
    {
      sim::SpinGuard guard(node.list_lock);
      slab = node.slabs_free.pop_back();
      if (slab == nullptr) break;
      --node.free_slabs;
      --node.total_slabs;
      ++node.unlisted_slabs;
      node.free_objects -= cache.geometry().num;
    }
    destroy_slab(cache, *slab);
    ++freed;
  }
  return freed;
}

// --- giving back ------------------------------------------------------------------------------------------------------

std::uint64_t ClassicSlab::shrink(KmemCacheBase& cache) {
  const GivingBack giving_back(*this);
  // First, as one of these arrays may be an object of this very cache.
  drop_stocks(cache);
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    while (cache.cpu_cache_of(cpu).avail != 0) flush(cache, cache.cpu_cache_of(cpu), kMaxFlush, Destination::kSlabs);
  }
  for_each_alien(cache, [&](AlienCache& alien, Nid) { drain_alien(cache, alien); });
  std::uint64_t slabs = 0;
  for (const auto& phys_node : system_.phys().nodes()) {
    slabs += drain_free_list(cache, node_of(cache, phys_node->nid()), ~std::uint64_t{0});
  }
  return slabs;
}

namespace {

// How many objects a reap takes from an array (drain_array): none if it was used since the last, else a fifth of its room.
std::uint32_t reap_count(ArrayCache& ac) {
  if (std::exchange(ac.touched, 0) != 0) return 0;
  return std::min((ac.limit + 4) / 5, (ac.avail + 1) / 2);
}

}  // namespace

// Of each node the next alien array (reap_alien), a fifth of each idle CPU array and shared array, and a fifth of what a node may
// keep in free slabs.
std::uint64_t ClassicSlab::reap(KmemCacheBase& cache) {
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    ArrayCache& ac = cache.cpu_cache_of(cpu);
    flush(cache, ac, reap_count(ac), Destination::kSlabs);
  }
  const auto& nodes = system_.phys().nodes();
  for (std::size_t i = 0; nodes.size() > 1 && i < nodes.size(); ++i) {
    std::uint32_t& next = node_of(cache, nodes[i]->nid()).alien_next;
    next = (next + 1) % static_cast<std::uint32_t>(nodes.size());
    drain_alien(cache, alien_of(cache, nodes[i]->nid(), nodes[next]->nid()));
  }
  const std::uint64_t num = cache.geometry().num;
  std::uint64_t slabs = 0;
  for (const auto& phys_node : system_.phys().nodes()) {
    KmemCacheNode& node = node_of(cache, phys_node->nid());
    if (node.shared != nullptr) drain_shared(cache, node, reap_count(*node.shared));
    slabs += drain_free_list(cache, node, (node.free_limit + 5 * num - 1) / (5 * num));
  }
  return slabs;
}

}  // namespace quire::slab
