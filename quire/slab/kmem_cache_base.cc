#include "quire/slab/kmem_cache_base.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "quire/slab/object_debug.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/slub.h"

namespace quire::slab {

using phys::Gfp;

// --- alloc ------------------------------------------------------------------------------------------------------------

bool KmemCacheBase::should_fail_slab(Gfp gfp) const {
  sim::FaultInjection* faults = system_->fault_injection_;
  return faults != nullptr && !any(gfp, Gfp::kNoFail) && faults->should_fail(sim::FaultPoint::kSlabAlloc);
}

void* KmemCacheBase::alloc_slow(Gfp gfp) {
  if (is_slub() && ((bits(gfp) | kAlways) & slow_mask_) == 0) {
    if (void* object = Slub::pop(*this)) return object;
  }
  if (should_fail_slab(gfp)) return nullptr;
  void* object = layout_->alloc(*this, gfp, kNoNode, __builtin_return_address(0));
  if (object != nullptr && any(gfp, Gfp::kZero)) std::memset(object, 0, geometry_.object_size);
  return object;
}

void* KmemCacheBase::alloc_node(Gfp gfp, Nid nid) { return alloc_track_caller(gfp, nid, __builtin_return_address(0)); }

void* KmemCacheBase::alloc_track_caller(Gfp gfp, Nid nid, const void* caller) {
  scheduler_->charge(cost_);
  if (should_fail_slab(gfp)) return nullptr;
  void* object = layout_->alloc(*this, gfp, nid, caller);
  if (object != nullptr && any(gfp, Gfp::kZero)) std::memset(object, 0, geometry_.object_size);
  return object;
}

bool KmemCacheBase::alloc_bulk(Gfp gfp, std::span<void*> objects) {
  scheduler_->charge(cost_ * static_cast<sim::Nanos>(objects.size()));
  std::size_t got = 0;
  if (!should_fail_slab(gfp)) got = layout_->alloc_bulk(*this, gfp, objects, __builtin_return_address(0));
  if (got != objects.size()) {
    free_bulk(objects.first(got));
    std::ranges::fill(objects, nullptr);
    return false;
  }
  if (any(gfp, Gfp::kZero)) {
    for (void* object : objects) std::memset(object, 0, geometry_.object_size);
  }
  return true;
}

// --- free -------------------------------------------------------------------------------------------------------------

void KmemCacheBase::free_slow(void* object) {
  if (is_slub()) {
    const phys::Page* page = system_->page_near_slab(object);
    if (page != nullptr && Slub::free_fast(*this, *page, object)) return;
  }
  free_track_caller(object, __builtin_return_address(0));
}

void KmemCacheBase::free_track_caller(void* object, const void* caller) {
  if (!debugged()) return layout_->free(*this, object);
  KmemCacheBase* home = object_debug::free_checks(*this, object, caller);
  if (home != nullptr) home->layout_->free(*home, object);
}

void KmemCacheBase::free_bulk(std::span<void* const> objects) {
  if (!debugged()) return layout_->free_bulk(*this, objects);
  for (void* object : objects) free_track_caller(object, __builtin_return_address(0));
}

void KmemCacheBase::report_double_free(const void* object) const {
  bug(fmt::format("object {} of cache {} is freed twice", fmt::ptr(object), name()));
}

void KmemCacheBase::report_foreign(const void* object) const {
  const KmemCacheBase* owner = system_->virt_to_cache(object);
  const std::string what = owner == nullptr ? "is no slab object"
                           : owner == this  ? "is not the start of an object of it"
                                            : fmt::format("belongs to cache {}", owner->name());
  bug(fmt::format("{} is freed to cache {}, but {}", fmt::ptr(object), name(), what));
}

// --- figures ----------------------------------------------------------------------------------------------------------

std::uint64_t KmemCacheBase::objects_in_use() const {
  const SlabCounts counts = layout_->counts(*this);
  return counts.objects - counts.free_objects - counts.cached;
}

ObjectPlace KmemCacheBase::find(const void* p) const {
  const phys::Page* head = system_->head_page(p);
  if (head == nullptr || !head->test(phys::PageFlag::kSlab) || SlabLayout::page_cache(*head) != this) return {};
  return layout_->find(*this, *head, p);
}

void KmemCacheBase::validate() const {
  layout_->validate(*this);
  if (!debugged()) return;
  layout_->for_each_object(
      *this,
      [](void* context, const ObjectPlace& place) {
        const auto& cache = *static_cast<const KmemCacheBase*>(context);
        if (place.index == 0) object_debug::check_slab(cache, place);
        object_debug::check_object(cache, place);
      },
      const_cast<KmemCacheBase*>(this));
}

}  // namespace quire::slab
