// The classic layout's slabs: how one is made, where it comes from when a node has none, and how it goes.
#include <algorithm>
#include <new>
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
    const Slab* slab = grow_node(cache, gfp, nid);
    return slab == nullptr ? kNoNode : slab->nid;
  }
  // This node without effort (gfp_exact_node): reclaim is for when no node has anything.
  const Gfp exact_node = (gfp | Gfp::kThisNode | Gfp::kNoWarn) & ~(Gfp::kReclaim | Gfp::kNoFail);
  if (const Slab* slab = grow_node(cache, exact_node, nid)) return slab->nid;
  // fallback_alloc: objects that lie free on other nodes, then pages from anywhere.
  Nid found = kNoNode;
  system_.phys().zonelist(nid).for_each_zone(phys::ZoneType::kNormal, [&](phys::Zone& zone) {
    if (node_of(cache, zone.node().nid()).free_objects == 0) return true;
    found = zone.node().nid();
    return false;
  });
  if (found != kNoNode) return found;
  const Slab* slab = grow_node(cache, gfp, nid);
  return slab == nullptr ? kNoNode : slab->nid;
}

Slab* ClassicSlab::grow_node(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const SlabGeometry& g = cache.geometry();
  Page* page = alloc_slab_page(cache, gfp, g.order, nid);
  if (page == nullptr) return nullptr;
  page->index = 0;  // no descriptor yet
  KmemCacheNode& node = node_of(cache, page->nid());
  ++node.unlisted_slabs;
  Slab* slab = make_slab(cache, *page, gfp);
  if (slab == nullptr) {
    --node.unlisted_slabs;
    free_slab_page(cache, *page);
    return nullptr;
  }
  init_objects(cache, *slab);

  sim::SpinGuard guard(node.list_lock);
  node.slabs_free.push_back(*slab);
  --node.unlisted_slabs;
  ++node.total_slabs;
  ++node.free_slabs;
  node.free_objects += g.num;
  return slab;
}

Slab* ClassicSlab::make_slab(KmemCacheBase& cache, Page& page, Gfp gfp) {
  const SlabGeometry& g = cache.geometry();
  KmemCacheNode& node = node_of(cache, page.nid());
  const std::uint64_t colour = node.colour_next * g.colour_off;
  node.colour_next = (node.colour_next + 1) % g.colours;

  std::byte* start = system_.phys().page_address(page);
  if (cache.debugged()) object_debug::setup_slab(cache, start);
  start += colour;
  void* room = start;
  if (g.management == SlabManagement::kOffSlab) {
    room = system_.slab_mgmt_->alloc_node(gfp & ~Gfp::kZero, page.nid());
    if (room == nullptr) return nullptr;
  } else {
    start += g.management_size;
  }
  auto* slab = ::new (room) Slab();
  slab->cache = &cache;
  slab->page = &page;
  slab->s_mem = start + g.left_red_zone;
  slab->nid = page.nid();
  slab->colour_off = colour;
  page.index = reinterpret_cast<std::uint64_t>(slab);
  return slab;
}

void ClassicSlab::init_objects(KmemCacheBase& cache, Slab& slab) {
  const SlabGeometry& g = cache.geometry();
  BufCtl* bufctl = slab.bufctl();
  for (std::uint32_t i = 0; i < g.num; ++i) bufctl[i] = static_cast<BufCtl>(i + 1);
  bufctl[g.num - 1] = kBufCtlEnd;
  slab.free = 0;
  if (cache.ctor() == nullptr && !cache.debugged()) return;
  for (std::uint32_t i = 0; i < g.num; ++i) {
    std::byte* object = slab.s_mem + i * g.size;
    if (cache.debugged()) object_debug::setup_object(cache, object);
    if (cache.ctor() != nullptr) cache.ctor()(object);
  }
}

void ClassicSlab::destroy_slab(KmemCacheBase& cache, Slab& slab) {
  Page& page = *slab.page;
  page.index = 0;
  if (cache.geometry().management == SlabManagement::kOffSlab) system_.slab_mgmt_->free(&slab);
  --node_of(cache, page.nid()).unlisted_slabs;
  free_slab_page(cache, page);
}

std::uint64_t ClassicSlab::drain_free_list(KmemCacheBase& cache, KmemCacheNode& node, std::uint64_t max_slabs) {
  std::uint64_t freed = 0;
  while (freed < max_slabs) {
    Slab* slab = nullptr;
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
