#include "quire/slab/kmem_cache_base.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "quire/slab/slab_layout.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

using phys::Gfp;

// --- the slow path of alloc -------------------------------------------------------------------------------------------

void* KmemCacheBase::alloc_slow(Gfp gfp) {
  if (should_fail_slab(gfp)) return nullptr;
  ArrayCache& ac = cpu_cache();
  void* object = ac.avail != 0 ? ac.entries()[--ac.avail] : refill(gfp);
  if (object != nullptr && any(gfp, Gfp::kZero)) std::memset(object, 0, geometry_.object_size);
  return object;
}

bool KmemCacheBase::should_fail_slab(Gfp gfp) const {
  sim::FaultInjection* faults = system_->fault_injection_;
  return faults != nullptr && !any(gfp, Gfp::kNoFail) && faults->should_fail(sim::FaultPoint::kSlabAlloc);
}

void* KmemCacheBase::refill(Gfp gfp) {
  Nid nid = system_->phys_.numa_node_id();
  while (true) {
    void* object = SlabLayout(*this).refill(node(nid));
    if (object != nullptr) return object;
    nid = grow(gfp, nid);
    if (nid == kNoNode) return nullptr;
    // While it slept, the task may have changed CPU, or somebody may have filled the array: look again.
    ArrayCache& ac = cpu_cache();
    if (ac.avail != 0) return ac.entries()[--ac.avail];
  }
}

// Makes sure that some node has free objects; gives that node, or kNoNode when there is no memory anywhere.
Nid KmemCacheBase::grow(Gfp gfp, Nid nid) {
  SlabLayout layout(*this);
  const bool fallback = system_->phys_.nodes().size() > 1 && !any(gfp, Gfp::kThisNode);
  if (!fallback) {
    const Slab* slab = layout.grow(gfp, nid);
    return slab == nullptr ? kNoNode : slab->nid;
  }
  // This node without effort (gfp_exact_node): reclaim is for when no node has anything.
  const Gfp exact_node = (gfp | Gfp::kThisNode | Gfp::kNoWarn) & ~(Gfp::kReclaim | Gfp::kNoFail);
  if (const Slab* slab = layout.grow(exact_node, nid)) return slab->nid;
  // fallback_alloc: objects that lie free on other nodes, then pages from anywhere.
  Nid found = kNoNode;
  system_->phys_.zonelist(nid).for_each_zone(phys::ZoneType::kNormal, [&](phys::Zone& zone) {
    if (node(zone.node().nid()).free_objects == 0) return true;
    found = zone.node().nid();
    return false;
  });
  if (found != kNoNode) return found;
  const Slab* slab = layout.grow(gfp, nid);
  return slab == nullptr ? kNoNode : slab->nid;
}

void* KmemCacheBase::alloc_node(Gfp gfp, Nid nid) {
  if (nid == kNoNode || nid == system_->phys_.numa_node_id()) return alloc(gfp);
  scheduler_->charge(cost_);
  if (should_fail_slab(gfp)) return nullptr;
  void* object = nullptr;
  while ((object = SlabLayout(*this).take_one(node(nid))) == nullptr) {
    nid = grow(gfp, nid);
    if (nid == kNoNode) return nullptr;
  }
  if (any(gfp, Gfp::kZero)) std::memset(object, 0, geometry_.object_size);
  return object;
}

bool KmemCacheBase::alloc_bulk(Gfp gfp, std::span<void*> objects) {
  for (std::size_t i = 0; i < objects.size(); ++i) {
    objects[i] = alloc(gfp);
    if (objects[i] != nullptr) continue;
    free_bulk(objects.first(i));
    std::ranges::fill(objects, nullptr);
    return false;
  }
  return true;
}

// --- the slow path of free --------------------------------------------------------------------------------------------

void KmemCacheBase::free_slow(void* object) {
  if (cpu_cache().avail != 0 && cpu_cache().top() == object) report_double_free(object);
  // Half a batch: after a whole one, batches of just over batchcount objects would refill and flush each time.
  while (cpu_cache().avail >= cpu_cache().limit) flush(cpu_cache(), (cpu_cache().batchcount + 1) / 2);
  ArrayCache& ac = cpu_cache();
  ac.entries()[ac.avail++] = object;
}

// Gives the `count` coldest objects of an array back to their slabs (cache_flusharray). They leave the array before a
// lock is waited for, since others may use the array meanwhile.
void KmemCacheBase::flush(ArrayCache& ac, std::uint32_t count) {
  std::array<void*, kMaxFlush> batch;
  count = std::min({count, ac.avail, kMaxFlush});
  if (count == 0) return;
  void** entries = ac.entries();
  std::copy_n(entries, count, batch.begin());
  ac.avail -= count;
  std::memmove(entries, entries + count, ac.avail * sizeof(void*));
  ac.touched = 1;
  SlabLayout(*this).put({batch.data(), count});
}

void KmemCacheBase::free_bulk(std::span<void* const> objects) {
  for (void* object : objects) free(object);
}

void KmemCacheBase::report_double_free(const void* object) const {
  bug(fmt::format("object {} of cache {} is freed twice", fmt::ptr(object), name()));
}

// --- figures ----------------------------------------------------------------------------------------------------------

std::uint64_t KmemCacheBase::objects_in_use() const {
  std::uint64_t n = 0;
  for (const auto& phys_node : system_->phys_.nodes()) {
    const KmemCacheNode& own = node(phys_node->nid());
    n += own.total_slabs * geometry_.num - own.free_objects;
  }
  for (unsigned cpu = 0; cpu < scheduler_->cpus(); ++cpu) n -= cpu_cache_of(cpu).avail;
  return n;
}

std::uint64_t KmemCacheBase::total_slabs() const {
  std::uint64_t n = 0;
  for (const auto& phys_node : system_->phys_.nodes()) n += node(phys_node->nid()).total_slabs;
  return n;
}

bool KmemCacheBase::owns(const void* object) const {
  const auto place = SlabLayout(const_cast<KmemCacheBase&>(*this)).find_place(object);
  return place.slab != nullptr && place.slab->bufctl()[place.index] == kBufCtlActive;
}

}  // namespace quire::slab
