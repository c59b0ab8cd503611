#include "quire/slab/slub.h"

#include <algorithm>
#include <new>

#include "quire/base/rng.h"
#include "quire/slab/object_debug.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/slub_order.h"

namespace quire::slab {

using phys::Gfp;

// --- caches -----------------------------------------------------------------------------------------------------------

Result<SlabGeometry> Slub::calculate(const GeometryRequest& request) const {
  return slub_calculate_geometry(request, system_.scheduler().cpus(), system_.config().slub);
}

Status Slub::open(KmemCacheBase& cache) {
  const SlabGeometry& g = cache.geometry();
  cache.free_pointer_ = static_cast<std::uint32_t>(g.free_pointer);
  cache.min_partial_ = slub_min_partial(g.size);
  cache.cpu_partial_slabs_ = cache.debugged() ? 0 : slub_cpu_partial_slabs(g);
  if (system_.config().slub.hardened == SlubHardened::kYes) cache.random_ = system_.random_();
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) ::new (&cpu_of(cache, cpu)) SlubCpu();
  for (const auto& phys_node : system_.phys().nodes()) {
    ::new (&node_of(cache, phys_node->nid())) SlubNode(system_.scheduler(), system_.list_lock_class_);
  }
  return {};
}

void Slub::close(KmemCacheBase& cache) {
  for (const auto& phys_node : system_.phys().nodes()) node_of(cache, phys_node->nid()).~SlubNode();
}

// --- alloc ------------------------------------------------------------------------------------------------------------

void* Slub::alloc(KmemCacheBase& cache, Gfp gfp, Nid nid, const void* caller) {
  // A node without memory of its own has no slabs to insist on.
  if (nid != kNoNode && system_.phys().node(nid).present_pages() == 0) nid = kNoNode;
  if (!cache.debugged()) return slab_alloc(cache, gfp, nid);
  while (true) {
    void* object = alloc_single(cache, gfp, nid);
    if (object == nullptr || object_debug::alloc_checks(cache, object, caller) == object_debug::Verdict::kGood) return object;
  }
}

// Each turn looks at the CPU anew: where a lock was waited for or memory, the task may be on another one, and others may
// have used this one.
void* Slub::slab_alloc(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  while (true) {
    SlubCpu& c = this_cpu(cache);
    if (c.slab != nullptr && nid != kNoNode && c.slab->nid() != nid) {
      deactivate_slab(cache, c);
      continue;
    }
    if (void* object = pop(cache)) return object;
    if (c.slab != nullptr) {
      get_freelist(cache, c);
    } else if (c.partial != nullptr) {
      c.slab = c.partial;
      c.partial = next_partial(*c.slab);
    } else if (!get_partial(cache, gfp, nid)) {
      break;
    }
  }
  Page* slab = new_slab(cache, gfp, nid);
  if (slab == nullptr) return nullptr;
  while (this_cpu(cache).slab != nullptr) deactivate_slab(cache, this_cpu(cache));
  SlubCpu& c = this_cpu(cache);
  c.slab = slab;
  get_freelist(cache, c);
  return pop(cache);
}

void Slub::get_freelist(KmemCacheBase& /*cache*/, SlubCpu& c) {
  Page& slab = *c.slab;
  SlubCounters counters = SlubCounters::of(slab);
  c.freelist = freelist_of(slab);
  set_freelist(slab, nullptr);
  counters.inuse = counters.objects;
  if (c.freelist == nullptr) {
    counters.frozen = 0;
    c.slab = nullptr;
  }
  counters.store(slab);
}

bool Slub::get_partial(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const Nid here = nid == kNoNode ? system_.phys().numa_node_id() : nid;
  if (get_partial_node(cache, node_of(cache, here))) return true;
  if (nid != kNoNode) return false;
  // get_any_partial: of the nodes with more than they keep anyway, the nearest.
  bool found = false;
  system_.phys().zonelist(here).for_each_zone(phys::gfp_zone(gfp), [&](phys::Zone& zone) {
    SlubNode& node = node_of(cache, zone.node().nid());
    found = node.nr_partial > cache.min_partial_ && get_partial_node(cache, node);
    return !found;
  });
  return found;
}

bool Slub::get_partial_node(KmemCacheBase& cache, SlubNode& node) {
  if (node.nr_partial == 0) return false;
  const sim::SpinGuard guard(node.list_lock);
  SlubCpu& c = this_cpu(cache);
  if (c.slab != nullptr || c.partial != nullptr) return true;  // while the lock was waited for
  std::uint32_t taken = 0;
  // One to allocate from, and half of what the CPU may keep besides.
  while (taken <= cache.cpu_partial_slabs_ / 2 + 1) {
    Page* slab = node.partial.front_or_null();
    if (slab == nullptr) break;
    remove_partial(node, *slab);
    SlubCounters counters = SlubCounters::of(*slab);
    counters.frozen = 1;
    counters.store(*slab);
    if (taken++ == 0) {
      c.slab = slab;
      if (cache.cpu_partial_slabs_ == 0) break;
    } else {
      put_cpu_partial(cache, *slab, Drain::kNo);
    }
  }
  return taken != 0;
}

// --- alloc under debugging: one object, from the node -----------------------------------------------------------------

void* Slub::alloc_single(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const Nid here = nid == kNoNode ? system_.phys().numa_node_id() : nid;
  void* object = take_single(cache, node_of(cache, here));
  if (object != nullptr) return object;
  if (nid == kNoNode) {
    system_.phys().zonelist(here).for_each_zone(phys::gfp_zone(gfp), [&](phys::Zone& zone) {
      SlubNode& node = node_of(cache, zone.node().nid());
      if (node.nr_partial > cache.min_partial_) object = take_single(cache, node);
      return object == nullptr;
    });
    if (object != nullptr) return object;
  }
  Page* slab = new_slab(cache, gfp, nid);
  if (slab == nullptr) return nullptr;
  SlubNode& node = node_of(cache, slab->nid());
  const sim::SpinGuard guard(node.list_lock);
  object = freelist_of(*slab);
  set_freelist(*slab, next_free(cache, object));
  SlubCounters counters = SlubCounters::of(*slab);
  counters.inuse = 1;
  counters.frozen = 0;
  counters.store(*slab);
  if (counters.inuse != counters.objects) add_partial(node, *slab, End::kHead);
  return object;
}

void* Slub::take_single(KmemCacheBase& cache, SlubNode& node) {
  const sim::SpinGuard guard(node.list_lock);
  Page* slab = node.partial.front_or_null();
  if (slab == nullptr) return nullptr;
  void* object = freelist_of(*slab);
  set_freelist(*slab, next_free(cache, object));
  SlubCounters counters = SlubCounters::of(*slab);
  ++counters.inuse;
  counters.store(*slab);
  if (counters.inuse == counters.objects) remove_partial(node, *slab);
  return object;
}

// --- new slabs --------------------------------------------------------------------------------------------------------

Slub::Page* Slub::new_slab(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const SlabGeometry& g = cache.geometry();
  // Without effort at first, when fewer pages would do.
  Gfp easy = (gfp | Gfp::kNoWarn | Gfp::kNoRetry) & ~Gfp::kNoFail;
  if (any(easy, Gfp::kDirectReclaim) && g.order > g.min_order) easy = (easy | Gfp::kNoMemAlloc) & ~Gfp::kReclaim;
  Page* slab = alloc_slab_page(cache, g.order > g.min_order ? easy : gfp, g.order, nid);
  std::uint32_t objects = g.num;
  if (slab == nullptr && g.order > g.min_order) {
    slab = alloc_slab_page(cache, gfp, g.min_order, nid);
    objects = g.min_num;
  }
  if (slab == nullptr) return nullptr;
  init_slab(cache, *slab, objects);
  SlubNode& node = node_of(cache, slab->nid());
  ++node.nr_slabs;
  node.nr_pages += phys::compound_order(*slab).pages();
  node.total_objects += objects;
  return slab;
}

void Slub::init_slab(KmemCacheBase& cache, Page& slab, std::uint32_t objects) {
  const SlabGeometry& g = cache.geometry();
  std::byte* base = system_.phys().page_address(slab);
  if (cache.debugged()) object_debug::setup_slab(cache, base);
  std::byte* object = base + g.left_red_zone;
  set_freelist(slab, object);
  SlubCounters{.inuse = 0, .objects = static_cast<std::uint16_t>(objects), .frozen = 1}.store(slab);
  for (std::uint32_t i = 0; i < objects; ++i, object += g.size) {
    if (cache.debugged()) object_debug::setup_object(cache, object);
    if (cache.ctor() != nullptr) cache.ctor()(object);
    set_next_free(cache, object, i + 1 < objects ? object + g.size : nullptr);
  }
}

std::size_t Slub::alloc_bulk(KmemCacheBase& cache, Gfp gfp, std::span<void*> objects, const void* caller) {
  std::size_t got = 0;
  while (got < objects.size()) {
    void* object = cache.debugged() ? nullptr : pop(cache);
    if (object == nullptr) object = alloc(cache, gfp, kNoNode, caller);
    if (object == nullptr) break;
    objects[got++] = object;
  }
  return got;
}

}  // namespace quire::slab
