#include "quire/slab/classic_slab.h"

#include <algorithm>
#include <array>
#include <bit>
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

namespace {

// The objects of a word's bits, lowest first, as long as there is room for them; their number. Their bits go.
std::size_t take_bits(std::uint64_t& word, std::byte* object_0, std::size_t size, std::span<void*> objects) {
  std::uint64_t left = word;
  std::size_t taken = 0;
  for (; left != 0 && taken < objects.size(); left &= left - 1) {
    objects[taken++] = object_0 + static_cast<std::size_t>(std::countr_zero(left)) * size;
  }
  word = left;
  return taken;
}

std::size_t take_from(Slab& slab, const SlabGeometry& g, std::byte* object_0, std::span<void*> objects) {
  std::size_t taken = 0;
  while (slab.free != 0 && taken < objects.size()) {
    std::byte* object = object_0 + std::size_t{slab.first} * kMapBits * g.size;
    std::uint64_t& word = slab.map()[slab.first];
    const std::size_t got = take_bits(word, object, g.size, objects.subspan(taken));
    slab.free -= static_cast<std::uint32_t>(got);
    taken += got;
    if (word == 0 && slab.free != 0) ++slab.first;
  }
  return taken;
}

}  // namespace

std::size_t ClassicSlab::take_locked(KmemCacheBase& cache, KmemCacheNode& node, std::span<void*> objects) {
  const SlabGeometry& g = cache.geometry();
  const bool in_page = map_in_page(g);
  std::size_t taken = 0;
  while (taken < objects.size()) {
    Page* slab = node.slabs_partial.front_or_null();
    SlabList* from = &node.slabs_partial;
    if (slab == nullptr) {
      from = &node.slabs_free;
      slab = from->front_or_null();
      if (slab == nullptr) break;
      --node.free_slabs;
    }
    std::byte* object_0 = s_mem(*slab);
    const std::span<void*> room = objects.subspan(taken);
    const std::size_t got =
        in_page ? take_bits(slab->private_, object_0, g.size, room) : take_from(*page_slab(*slab), g, object_0, room);
    taken += got;
    node.free_objects -= got;
    const bool full = in_page ? slab->private_ == 0 : page_slab(*slab)->free == 0;
    if (full) {
      from->erase(*slab);
      node.slabs_full.push_back(*slab);
    } else if (from == &node.slabs_free) {
      from->erase(*slab);
      node.slabs_partial.push_front(*slab);
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
    const Nid nid = places[i].slab->nid();
    KmemCacheNode& node = node_of(cache, nid);
    const sim::SpinGuard guard(node.list_lock);
    do {  // as long as the objects are of this node
      put_object_locked(cache, node, places[i], doomed);
    } while (++i < places.size() && places[i].slab->nid() == nid);
  }
  while (Page* slab = doomed.pop_front()) destroy_slab(cache, *slab);
}

void ClassicSlab::put_object_locked(KmemCacheBase& cache, KmemCacheNode& node, const Place& place, SlabList& doomed) {
  Page& slab = *place.slab;
  const SlabGeometry& g = cache.geometry();
  const std::uint64_t bit = std::uint64_t{1} << place.index % kMapBits;
  bool was_full = false;
  bool is_free = false;
  bool twice = false;
  if (map_in_page(g)) [[likely]] {
    const std::uint64_t before = slab.private_;
    slab.private_ = before | bit;
    twice = (before & bit) != 0;
    was_full = before == 0;
    is_free = (before | bit) == full_map(g.num);
  } else {
    Slab& outside = *page_slab(slab);
    const std::uint32_t at = place.index / kMapBits;
    std::uint64_t& word = outside.map()[at];
    twice = (word & bit) != 0;
    word |= bit;
    was_full = outside.free++ == 0;
    is_free = outside.free == g.num;
    outside.first = std::min(outside.first, at);
  }
  if (twice) [[unlikely]]
    cache.report_double_free(s_mem(slab) + place.index * g.size);
  ++node.free_objects;
  if (!was_full && !is_free) return;
  (was_full ? node.slabs_full : node.slabs_partial).erase(slab);
  if (!is_free) return node.slabs_partial.push_back(slab);
  if (node.free_objects > node.free_limit) {
    --node.total_slabs;
    ++node.unlisted_slabs;
    node.free_objects -= g.num;
    doomed.push_back(slab);
  } else {
    ++node.free_slabs;
    node.slabs_free.push_front(slab);
  }
}

// From an address to its place are steps that are each a likely cache miss and wait for the one before: struct Page, then its
// neighbours on the list where it will change lists, or a map outside it. So the batch takes each step together, and the
// misses overlap.
void ClassicSlab::locate(const KmemCacheBase& cache, std::span<void* const> objects, std::span<Place> places) const {
  for (std::size_t i = 0; i < objects.size(); ++i) {
    places[i].slab = system_.page_of(objects[i]);
    if (places[i].slab == nullptr) [[unlikely]]
      cache.report_foreign(objects[i]);
    __builtin_prefetch(places[i].slab, 1);
  }
  const SlabGeometry& g = cache.geometry();
  const bool in_page = map_in_page(g);
  const std::uint64_t full = full_map(std::min(g.num, kMapBits));
  for (std::size_t i = 0; i < objects.size(); ++i) {
    Page& head = phys::compound_head(*places[i].slab);
    // Without its word it is just being made or taken apart.
    if (!head.test(phys::PageFlag::kSlab) || page_cache(head) != &cache || head.index == 0) [[unlikely]]
      cache.report_foreign(objects[i]);
    const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(objects[i]) - s_mem(head));
    const auto index = static_cast<std::uint32_t>((offset * cache.reciprocal_size_) >> 32);
    // An address before object 0 makes a huge offset, and so no index that fits it.
    if (index >= g.num || index * g.size != offset) [[unlikely]]
      cache.report_foreign(objects[i]);
    places[i] = {.slab = &head, .index = index};
    if (!in_page) {
      __builtin_prefetch(page_slab(head), 1);
      __builtin_prefetch(page_slab(head)->map() + index / kMapBits, 1);
    } else if (head.private_ == 0 || (head.private_ | std::uint64_t{1} << index) == full) {
      __builtin_prefetch(head.lru.next, 1);
      __builtin_prefetch(head.lru.prev, 1);
    }
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
  if (head.index == 0) return {};  // just being made or taken apart
  std::byte* object_0 = s_mem(head);
  const std::byte* first = object_0 - g.left_red_zone;
  const auto* address = static_cast<const std::byte*>(p);
  if (address < first || address >= first + g.num * g.size) return {};
  ObjectPlace place;
  place.index = static_cast<std::uint32_t>(static_cast<std::size_t>(address - first) / g.size);
  place.object = object_0 + place.index * g.size;
  place.slab = system_.phys().page_address(head);
  using State = ObjectPlace::State;
  const bool free = (free_map(head, g)[place.index / kMapBits] >> place.index % kMapBits & 1) != 0;
  place.state = address != place.object ? State::kInside : free ? State::kFree : State::kAllocated;
  return place;
}

}  // namespace quire::slab
