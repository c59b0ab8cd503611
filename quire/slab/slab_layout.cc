#include "quire/slab/slab_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "quire/slab/slab_system.h"

namespace quire::slab {

using phys::Gfp;
using phys::Page;
using phys::PageFlag;

// --- making and taking apart ------------------------------------------------------------------------------------------

Gfp SlabLayout::page_gfp(Gfp gfp) const {
  Gfp flags = gfp & ~(Gfp::kZero | Gfp::kMovable | Gfp::kHighmem | Gfp::kBareDma32 | Gfp::kReclaimable);
  if (any(cache_.flags_, SlabFlags::kReclaimAccount)) flags |= Gfp::kReclaimable;
  if (any(cache_.flags_, SlabFlags::kCacheDma)) flags |= Gfp::kBareDma;
  if (cache_.geometry_.order.value() > 0) flags |= Gfp::kComp;
  return flags;
}

Slab* SlabLayout::grow(Gfp gfp, Nid nid) {
  Page* page = cache_.system_->phys_.alloc_pages(page_gfp(gfp), cache_.geometry_.order, nid);
  if (page == nullptr) return nullptr;
  Slab* slab = make_slab(*page, gfp);
  if (slab == nullptr) {
    cache_.system_->phys_.free_pages(*page, cache_.geometry_.order);
    return nullptr;
  }
  init_objects(*slab);
  account(*page, +1);

  KmemCacheNode& node = cache_.node(slab->nid);
  sim::SpinGuard guard(node.list_lock);
  node.slabs_free.push_back(*slab);
  ++node.total_slabs;
  ++node.free_slabs;
  node.free_objects += cache_.geometry_.num;
  return slab;
}

Slab* SlabLayout::make_slab(Page& page, Gfp gfp) {
  const SlabGeometry& g = cache_.geometry_;
  KmemCacheNode& node = cache_.node(page.nid());
  const std::uint64_t colour = node.colour_next * g.colour_off;
  node.colour_next = (node.colour_next + 1) % g.colours;

  std::byte* start = cache_.system_->phys_.page_address(page) + colour;
  void* room = start;
  if (g.management == SlabManagement::kOffSlab) {
    room = cache_.system_->slab_mgmt_->alloc_node(gfp & ~Gfp::kZero, page.nid());
    if (room == nullptr) return nullptr;
  } else {
    start += g.management_size;
  }
  auto* slab = ::new (room) Slab();
  slab->cache = &cache_;
  slab->page = &page;
  slab->s_mem = start;
  slab->nid = page.nid();
  slab->colour_off = colour;

  page.set(PageFlag::kSlab);
  page.owner_word[0] = &cache_;
  page.owner_word[1] = slab;
  return slab;
}

void SlabLayout::init_objects(Slab& slab) {
  const std::uint32_t num = cache_.geometry_.num;
  BufCtl* bufctl = slab.bufctl();
  for (std::uint32_t i = 0; i < num; ++i) {
    if (cache_.constructor_ != nullptr) cache_.constructor_(slab.s_mem + i * cache_.geometry_.size);
    bufctl[i] = static_cast<BufCtl>(i + 1);
  }
  bufctl[num - 1] = kBufCtlEnd;
  slab.free = 0;
}

void SlabLayout::account(const Page& page, int sign) {
  const auto which = any(cache_.flags_, SlabFlags::kReclaimAccount) ? phys::NodeStat::kNrSlabReclaimable
                                                                    : phys::NodeStat::kNrSlabUnreclaimable;
  const auto pages = static_cast<std::int64_t>(cache_.geometry_.order.pages());
  cache_.system_->phys_.node(page.nid()).stats.add(which, sign * pages);
}

void SlabLayout::destroy_slab(Slab& slab) {
  Page& page = *slab.page;
  account(page, -1);
  cache_.scheduler_->context().reclaimed_slab += cache_.geometry_.order.pages();
  page.clear(PageFlag::kSlab);
  page.owner_word[0] = nullptr;
  page.owner_word[1] = nullptr;
  if (cache_.geometry_.management == SlabManagement::kOffSlab) cache_.system_->slab_mgmt_->free(&slab);
  cache_.system_->phys_.free_pages(page, cache_.geometry_.order);
}

// --- objects ----------------------------------------------------------------------------------------------------------

void* SlabLayout::refill(KmemCacheNode& node) {
  sim::SpinGuard guard(node.list_lock);
  // Only now: while the lock was waited for, others may have used the array, or the task changed its CPU.
  ArrayCache& ac = cache_.cpu_cache();
  void** room = ac.entries() + ac.avail;
  const std::size_t got = take_locked(node, {room, std::min(ac.batchcount, ac.limit - ac.avail)});
  std::reverse(room, room + got);  // the first of the free list is used first
  ac.avail += static_cast<std::uint32_t>(got);
  ac.touched = 1;
  return ac.avail != 0 ? ac.entries()[--ac.avail] : nullptr;
}

void* SlabLayout::take_one(KmemCacheNode& node) {
  sim::SpinGuard guard(node.list_lock);
  void* object = nullptr;
  take_locked(node, {&object, 1});
  return object;
}

std::size_t SlabLayout::take_locked(KmemCacheNode& node, std::span<void*> objects) {
  const SlabGeometry& g = cache_.geometry_;
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

void SlabLayout::put(std::span<void* const> objects) {
  SlabList doomed;
  std::size_t i = 0;
  while (i < objects.size()) {
    Place place = place_of(objects[i]);
    const Nid nid = place.slab->nid;
    KmemCacheNode& node = cache_.node(nid);
    sim::SpinGuard guard(node.list_lock);
    while (true) {  // as long as the objects are of this node
      put_object_locked(node, place, doomed);
      if (++i == objects.size()) break;
      place = place_of(objects[i]);
      if (place.slab->nid != nid) break;
    }
  }
  while (Slab* slab = doomed.pop_front()) destroy_slab(*slab);
}

void SlabLayout::put_object_locked(KmemCacheNode& node, const Place& place, SlabList& doomed) {
  Slab& slab = *place.slab;
  BufCtl* bufctl = slab.bufctl();
  if (bufctl[place.index] != kBufCtlActive) [[unlikely]] {
    cache_.report_double_free(slab.s_mem + place.index * cache_.geometry_.size);
  }
  bufctl[place.index] = slab.free;
  slab.free = static_cast<BufCtl>(place.index);
  ++node.free_objects;
  if (slab.inuse-- == cache_.geometry_.num) {
    node.slabs_full.erase(slab);
    node.slabs_partial.push_back(slab);
  }
  if (slab.inuse != 0) return;
  node.slabs_partial.erase(slab);
  if (node.free_objects > node.free_limit) {
    --node.total_slabs;
    node.free_objects -= cache_.geometry_.num;
    doomed.push_back(slab);
  } else {
    ++node.free_slabs;
    node.slabs_free.push_front(slab);
  }
}

std::uint64_t SlabLayout::drain_free_list(KmemCacheNode& node, std::uint64_t max_slabs) {
  std::uint64_t freed = 0;
  while (freed < max_slabs) {
    Slab* slab = nullptr;
    {
      sim::SpinGuard guard(node.list_lock);
      slab = node.slabs_free.pop_back();
      if (slab == nullptr) break;
      --node.free_slabs;
      --node.total_slabs;
      node.free_objects -= cache_.geometry_.num;
    }
    destroy_slab(*slab);
    ++freed;
  }
  return freed;
}

SlabLayout::Place SlabLayout::find_place(const void* object) const {
  const Page* head = cache_.system_->head_page(object);
  if (head == nullptr || !head->test(PageFlag::kSlab) || page_cache(*head) != &cache_) return {};
  return place_on(*head, object);
}

SlabLayout::Place SlabLayout::place_of(const void* object) const {
  const Place place = find_place(object);
  if (place.slab == nullptr) [[unlikely]]
    report_foreign(object);
  return place;
}

void SlabLayout::report_foreign(const void* object) const {
  const KmemCacheBase* owner = cache_.system_->virt_to_cache(object);
  const std::string what = owner == nullptr   ? "is no slab object"
                           : owner == &cache_ ? "is not the start of an object of it"
                                              : fmt::format("belongs to cache {}", owner->name());
  bug(fmt::format("{} is freed to cache {}, but {}", fmt::ptr(object), cache_.name(), what));
}

}  // namespace quire::slab
