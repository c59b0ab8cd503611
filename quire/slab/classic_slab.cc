#include "quire/slab/classic_slab.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <utility>

#include "quire/slab/object_debug.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

using phys::Gfp;
using phys::Page;

// --- caches -----------------------------------------------------------------------------------------------------------

Result<SlabGeometry> ClassicSlab::calculate(const GeometryRequest& request) const { return calculate_geometry(request); }

std::size_t ClassicSlab::cpu_bytes(const SlabGeometry& geometry, SlabFlags flags) const {
  return ArrayCache::bytes(any(flags, kSlabDebugFlags) ? 0 : default_tunables(geometry.size).limit);
}

ClassicSlab::ClassicSlab(SlabSystem& system) : system_(system), node_bytes_(sizeof(KmemCacheNode)) {
  const std::size_t nodes = system_.phys().nodes().size();
  if (nodes > 1) node_bytes_ += nodes * sizeof(AlienCache);
}

Status ClassicSlab::open(KmemCacheBase& cache) {
  const SlabGeometry& g = cache.geometry();
  CpuCacheTunables& tunables = cache.tunables_;
  tunables = default_tunables(g.size);
  if (system_.scheduler().cpus() > 1 && g.size <= kPageSize) tunables.shared = kSharedFactor;
  if (cache.debugged()) tunables = {.limit = 0, .batchcount = 1};
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    ::new (&cache.cpu_cache_of(cpu)) ArrayCache{.limit = tunables.limit, .batchcount = tunables.batchcount};
  }
  for (const auto& phys_node : system_.phys().nodes()) {
    auto* node = ::new (&node_of(cache, phys_node->nid())) KmemCacheNode(system_.scheduler(), system_.list_lock_class_);
    node->free_limit = (1 + phys_node->cpus().size()) * tunables.batchcount + g.num;
  }
  for_each_alien(cache, [this](AlienCache& room, Nid) {
    ::new (&room) AlienCache(system_.scheduler(), system_.scheduler().locks().lock_class("alien->lock"));
  });
  return {};
}

void ClassicSlab::close(KmemCacheBase& cache) {
  for_each_alien(cache, [](AlienCache& alien, Nid) { alien.~AlienCache(); });
  for (const auto& phys_node : system_.phys().nodes()) {
    QUIRE_BUG_ON(node_of(cache, phys_node->nid()).shared != nullptr);
    node_of(cache, phys_node->nid()).~KmemCacheNode();
  }
}

// --- alloc ------------------------------------------------------------------------------------------------------------

void* ClassicSlab::alloc(KmemCacheBase& cache, Gfp gfp, Nid nid, const void* caller) {
  if (!cache.debugged()) return alloc_once(cache, gfp, nid);
  while (true) {
    void* object = alloc_once(cache, gfp, nid);
    if (object == nullptr || object_debug::alloc_checks(cache, object, caller) == object_debug::Verdict::kGood) return object;
  }
}

// Arrays may hold objects of any node, so who wants one of a certain node looks at what he gets.
void* ClassicSlab::alloc_once(KmemCacheBase& cache, Gfp gfp, Nid nid) {
  const bool certain = system_.phys().nodes().size() > 1 && (nid != kNoNode || any(gfp, Gfp::kThisNode));
  if (nid == kNoNode) nid = system_.phys().numa_node_id();
  while (true) {
    // Again each time: where grow slept, the task may have changed CPU, or somebody may have filled the array; and where it had
    // to go to another node, that node's objects do not belong into the array.
    bool through_array = cache.tunables_.limit != 0 && nid == system_.phys().numa_node_id();
    if (through_array) {
      ArrayCache& ac = cache.cpu_cache();
      through_array = ac.avail == 0;
      if (ac.avail != 0 && (!certain || is_of(nid, ac.top()))) return ac.entries()[--ac.avail];
    }
    KmemCacheNode& node = node_of(cache, nid);
    void* object = through_array ? refill(cache, node) : take_one(cache, node);
    if (object != nullptr) {
      if (!certain || is_of(nid, object)) return object;
      cache.free(object);  // while the lock was waited for, others have filled the array
      continue;
    }
    nid = grow(cache, gfp, nid);
    if (nid == kNoNode) return nullptr;
  }
}

void* ClassicSlab::refill(KmemCacheBase& cache, KmemCacheNode& node) {
  sim::SpinGuard guard(node.list_lock);
  // Only now: while the lock was waited for, others may have used the array, or the task changed its CPU.
  ArrayCache& ac = cache.cpu_cache();
  const std::span room(ac.entries() + ac.avail, std::min(ac.batchcount, ac.limit - ac.avail));
  std::size_t got = pop_shared_locked(node, room);
  if (got == 0) {
    got = take_locked(cache, node, room);
    std::reverse(room.begin(), room.begin() + static_cast<std::ptrdiff_t>(got));  // the first of the free list is used first
  }
  ac.avail += static_cast<std::uint32_t>(got);
  ac.touched = 1;
  return ac.avail != 0 ? ac.entries()[--ac.avail] : nullptr;
}

void* ClassicSlab::take_one(KmemCacheBase& cache, KmemCacheNode& node) {
  sim::SpinGuard guard(node.list_lock);
  void* object = nullptr;
  if (pop_shared_locked(node, {&object, 1}) == 0) take_locked(cache, node, {&object, 1});
  return object;
}

std::size_t ClassicSlab::take_locked(KmemCacheBase& cache, KmemCacheNode& node, std::span<void*> objects) {
  const SlabGeometry& g = cache.geometry();
  std::size_t taken = 0;
  while (taken < objects.size()) {
    Slab* slab = node.slabs_partial.front_or_null();
    if (slab == nullptr) {
      slab = node.slabs_free.front_or_null();
      if (slab == nullptr) break;
      node.slabs_free.erase(*slab);
      node.slabs_partial.push_front(*slab);
      --node.free_slabs;
    }
    BufCtl* bufctl = slab->bufctl();
    const std::size_t before = taken;
    while (slab->free != kBufCtlEnd && taken < objects.size()) {
      const BufCtl index = slab->free;
      slab->free = bufctl[index];
      bufctl[index] = kBufCtlActive;
      objects[taken++] = slab->s_mem + index * g.size;
    }
    slab->inuse += static_cast<std::uint32_t>(taken - before);
    node.free_objects -= taken - before;
    if (slab->inuse == g.num) {
      node.slabs_partial.erase(*slab);
      node.slabs_full.push_back(*slab);
    }
  }
  return taken;
}

// What the array has, then what the node's CPUs share, then straight from the slabs: the lock once for each slab that must be made.
std::size_t ClassicSlab::alloc_bulk(KmemCacheBase& cache, Gfp gfp, std::span<void*> objects, const void* caller) {
  std::size_t got = 0;
  if (cache.debugged() || (any(gfp, Gfp::kThisNode) && system_.phys().nodes().size() > 1)) {
    for (; got < objects.size(); ++got) {
      objects[got] = alloc(cache, gfp, kNoNode, caller);
      if (objects[got] == nullptr) break;
    }
    return got;
  }
  ArrayCache& ac = cache.cpu_cache();
  while (ac.avail != 0 && got < objects.size()) objects[got++] = ac.entries()[--ac.avail];
  Nid nid = system_.phys().numa_node_id();
  while (got < objects.size()) {
    {
      KmemCacheNode& node = node_of(cache, nid);
      const sim::SpinGuard guard(node.list_lock);
      got += pop_shared_locked(node, objects.subspan(got));
      got += take_locked(cache, node, objects.subspan(got));
    }
    if (got == objects.size()) break;
    nid = grow(cache, gfp, nid);
    if (nid == kNoNode) break;
  }
  return got;
}

// --- free -------------------------------------------------------------------------------------------------------------

void ClassicSlab::free(KmemCacheBase& cache, void* object) {
  if (cache.tunables_.limit == 0) return put(cache, {&object, 1});
  if (cache.cpu_cache().avail != 0 && cache.cpu_cache().top() == object) cache.report_double_free(object);
  // Half a batch: after a whole one, batches of just over batchcount objects would refill and flush each time.
  while (cache.cpu_cache().avail >= cache.cpu_cache().limit) {
    flush(cache, cache.cpu_cache(), (cache.cpu_cache().batchcount + 1) / 2, Destination::kArrays);
  }
  ArrayCache& ac = cache.cpu_cache();
  ac.entries()[ac.avail++] = object;
}

// Fills the array; the rest overflows at once.
void ClassicSlab::free_bulk(KmemCacheBase& cache, std::span<void* const> objects) {
  ArrayCache& ac = cache.cpu_cache();
  const std::size_t kept = std::min<std::size_t>(ac.limit - ac.avail, objects.size());
  for (void* object : objects.first(kept)) {
    if (ac.top() == object) [[unlikely]]
      cache.report_double_free(object);
    ac.entries()[ac.avail++] = object;
  }
  std::array<void*, kMaxFlush> batch;
  for (objects = objects.subspan(kept); !objects.empty();) {
    const std::size_t count = std::min<std::size_t>(objects.size(), kMaxFlush);
    std::copy_n(objects.begin(), count, batch.begin());
    overflow(cache, {batch.data(), count});
    objects = objects.subspan(count);
  }
}

// Takes the `count` coldest objects out of an array (cache_flusharray). They leave it before a lock is waited for, since
// others may use the array meanwhile.
void ClassicSlab::flush(KmemCacheBase& cache, ArrayCache& ac, std::uint32_t count, Destination destination) {
  std::array<void*, kMaxFlush> batch;
  count = std::min({count, ac.avail, kMaxFlush});
  if (count == 0) return;
  void** entries = ac.entries();
  std::copy_n(entries, count, batch.begin());
  ac.avail -= count;
  std::memmove(entries, entries + count, ac.avail * sizeof(void*));
  if (destination == Destination::kArrays) {
    ac.touched = 1;
    return overflow(cache, {batch.data(), count});
  }
  put(cache, {batch.data(), count});
}

void ClassicSlab::overflow(KmemCacheBase& cache, std::span<void*> objects) {
  const Nid here = system_.phys().numa_node_id();
  if (system_.phys().nodes().size() > 1) {
    std::size_t own = 0;
    for (void* object : objects) {
      const Page* page = system_.page_of(object);
      if (page == nullptr) [[unlikely]]
        cache.report_foreign(object);
      if (page->nid() == here) {
        objects[own++] = object;
      } else {
        free_alien(cache, page->nid(), object);
      }
    }
    objects = objects.first(own);
  }
  if (cache.tunables_.shared != 0 && !objects.empty()) {
    KmemCacheNode& node = node_of(cache, here);
    make_shared(cache, node, here);
    const sim::SpinGuard guard(node.list_lock);
    objects = objects.subspan(push_shared_locked(node, objects));
  }
  if (!objects.empty()) put(cache, objects);
}

// To the array for the object's home; when that is full, its objects go there under one hold of the node's lock.
void ClassicSlab::free_alien(KmemCacheBase& cache, Nid home, void* object) {
  AlienCache& alien = alien_of(cache, system_.phys().numa_node_id(), home);
  if (alien.avail == AlienCache::kLimit) drain_alien(cache, alien);
  {
    const sim::SpinGuard guard(alien.lock);
    if (alien.avail < AlienCache::kLimit) {
      alien.objects[alien.avail++] = object;
      return;
    }
  }
  put(cache, {&object, 1});  // others have filled it meanwhile
}

void ClassicSlab::drain_alien(KmemCacheBase& cache, AlienCache& alien) {
  std::array<void*, AlienCache::kLimit> batch;
  std::uint32_t count = 0;
  {
    const sim::SpinGuard guard(alien.lock);
    count = std::exchange(alien.avail, 0);
    std::copy_n(alien.objects.begin(), count, batch.begin());
  }
  put(cache, {batch.data(), count});
}

void ClassicSlab::put(KmemCacheBase& cache, std::span<void* const> objects) {
  std::array<Place, kMaxFlush> room;
  const std::span<Place> places(room.data(), objects.size());
  locate(cache, objects, places);
  SlabList doomed;
  for (std::size_t i = 0; i < places.size();) {
    const Nid nid = places[i].slab->nid;
    KmemCacheNode& node = node_of(cache, nid);
    const sim::SpinGuard guard(node.list_lock);
    do {  // as long as the objects are of this node
      put_object_locked(cache, node, places[i], doomed);
    } while (++i < places.size() && places[i].slab->nid == nid);
  }
  while (Slab* slab = doomed.pop_front()) destroy_slab(cache, *slab);
}

void ClassicSlab::put_object_locked(KmemCacheBase& cache, KmemCacheNode& node, const Place& place, SlabList& doomed) {
  Slab& slab = *place.slab;
  BufCtl* bufctl = slab.bufctl();
  if (bufctl[place.index] != kBufCtlActive) [[unlikely]] {
    cache.report_double_free(slab.s_mem + place.index * cache.geometry().size);
  }
  bufctl[place.index] = slab.free;
  slab.free = static_cast<BufCtl>(place.index);
  ++node.free_objects;
  if (slab.inuse-- == cache.geometry().num) {
    node.slabs_full.erase(slab);
    node.slabs_partial.push_back(slab);
  }
  if (slab.inuse != 0) return;
  node.slabs_partial.erase(slab);
  if (node.free_objects > node.free_limit) {
    --node.total_slabs;
    ++node.unlisted_slabs;
    node.free_objects -= cache.geometry().num;
    doomed.push_back(slab);
  } else {
    ++node.free_slabs;
    node.slabs_free.push_front(slab);
  }
}

// From an address to its place is three steps, each a likely cache miss that waits for the one before: struct Page, Slab, bufctl.
// So the batch takes each step together, and the misses overlap.
void ClassicSlab::locate(const KmemCacheBase& cache, std::span<void* const> objects, std::span<Place> places) const {
  std::array<const Page*, kMaxFlush> pages;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    pages[i] = system_.page_of(objects[i]);
    if (pages[i] == nullptr) [[unlikely]]
      cache.report_foreign(objects[i]);
    __builtin_prefetch(pages[i]);
  }
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const Page& head = phys::compound_head(*pages[i]);
    if (!head.test(phys::PageFlag::kSlab) || page_cache(head) != &cache) [[unlikely]]
      cache.report_foreign(objects[i]);
    places[i].slab = page_slab(head);
    if (places[i].slab == nullptr) [[unlikely]]  // of a slab that is just being made or taken apart
      cache.report_foreign(objects[i]);
    __builtin_prefetch(places[i].slab, 1);
    __builtin_prefetch(places[i].slab + 1, 1);
  }
  const SlabGeometry& g = cache.geometry();
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(objects[i]) - places[i].slab->s_mem);
    const auto index = static_cast<std::uint32_t>((offset * cache.reciprocal_size_) >> 32);
    // An address before s_mem makes a huge offset, and so no index that fits it.
    if (index >= g.num || index * g.size != offset) [[unlikely]]
      cache.report_foreign(objects[i]);
    places[i].index = index;
    __builtin_prefetch(places[i].slab->bufctl() + index, 1);
  }
}

// --- figures ----------------------------------------------------------------------------------------------------------

SlabCounts ClassicSlab::counts(const KmemCacheBase& cache) const {
  SlabCounts counts;
  for (const auto& phys_node : system_.phys().nodes()) {
    const KmemCacheNode& node = node_of(cache, phys_node->nid());
    counts.slabs += node.total_slabs;
    counts.pages += (node.total_slabs + node.unlisted_slabs) * cache.geometry().order.pages();
    counts.free_slabs += node.free_slabs;
    counts.free_objects += node.free_objects;
    counts.shared += node.shared == nullptr ? 0 : node.shared->avail;
  }
  counts.objects = counts.slabs * cache.geometry().num;
  counts.cached = counts.shared;
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) counts.cached += cache.cpu_cache_of(cpu).avail;
  for_each_alien(cache, [&](const AlienCache& alien, Nid) { counts.cached += alien.avail; });
  return counts;
}

ObjectPlace ClassicSlab::find(const KmemCacheBase& cache, const Page& head, const void* p) const {
  const SlabGeometry& g = cache.geometry();
  Slab* slab = page_slab(head);
  if (slab == nullptr) return {};  // just being made or taken apart
  const std::byte* first = slab->s_mem - g.left_red_zone;
  const auto* address = static_cast<const std::byte*>(p);
  if (address < first || address >= first + g.num * g.size) return {};
  ObjectPlace place;
  place.index = static_cast<std::uint32_t>(static_cast<std::size_t>(address - first) / g.size);
  place.object = slab->s_mem + place.index * g.size;
  place.slab = system_.phys().page_address(*slab->page);
  using State = ObjectPlace::State;
  const bool active = slab->bufctl()[place.index] == kBufCtlActive;
  place.state = address != place.object ? State::kInside : active ? State::kAllocated : State::kFree;
  return place;
}

}  // namespace quire::slab
