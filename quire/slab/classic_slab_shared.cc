// The classic layout's arrays that the CPUs of a node share: objects that one CPU has too many of, for one that has too few.
#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "quire/slab/classic_slab.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

using phys::Gfp;

void ClassicSlab::make_shared(KmemCacheBase& cache, KmemCacheNode& node, Nid nid) {
  // Whoever finds it being made goes without: so there is one only, and the array's own cache may overflow meanwhile.
  if (node.shared != nullptr || node.shared_being_made || giving_back_ != 0) return;
  const CpuCacheTunables& tunables = cache.tunables_;
  const std::uint32_t limit = tunables.shared * tunables.batchcount;
  const std::size_t bytes = ArrayCache::bytes(limit);
  if (system_.kmalloc_slab(bytes) == nullptr) return;  // early in the boot
  node.shared_being_made = true;
  void* room = system_.kmalloc_node(bytes, Gfp::kNoWait | Gfp::kNoWarn, nid);
  node.shared_being_made = false;
  // One word, and no sync point since the room was had: no lock, and nobody who is stopped here loses it.
  if (room != nullptr) node.shared = ::new (room) ArrayCache{.limit = limit, .batchcount = tunables.batchcount};
}

std::size_t ClassicSlab::push_shared_locked(KmemCacheNode& node, std::span<void* const> objects) {
  if (node.shared == nullptr) return 0;
  ArrayCache& shared = *node.shared;
  const std::size_t count = std::min<std::size_t>(objects.size(), shared.limit - shared.avail);
  std::copy_n(objects.begin(), count, shared.entries() + shared.avail);
  shared.avail += static_cast<std::uint32_t>(count);
  return count;
}

std::size_t ClassicSlab::pop_shared_locked(KmemCacheNode& node, std::span<void*> objects) {
  if (node.shared == nullptr) return 0;
  ArrayCache& shared = *node.shared;
  const std::size_t count = std::min<std::size_t>(objects.size(), shared.avail);
  if (count == 0) return 0;
  shared.avail -= static_cast<std::uint32_t>(count);
  std::copy_n(shared.entries() + shared.avail, count, objects.begin());
  shared.touched = 1;
  return count;
}

void ClassicSlab::drain_shared(KmemCacheBase& cache, KmemCacheNode& node, std::uint32_t count) {
  std::array<void*, kMaxFlush> batch;
  while (count != 0) {
    std::uint32_t taken = 0;
    {
      const sim::SpinGuard guard(node.list_lock);
      if (node.shared == nullptr) return;
      ArrayCache& shared = *node.shared;
      taken = std::min({count, shared.avail, kMaxFlush});
      std::copy_n(shared.entries(), taken, batch.begin());
      shared.avail -= taken;
      std::copy_n(shared.entries() + taken, shared.avail, shared.entries());
    }
    if (taken == 0) return;
    put(cache, {batch.data(), taken});
    count -= taken;
  }
}

void ClassicSlab::drop_shared(KmemCacheBase& cache, KmemCacheNode& node) {
  while (node.shared != nullptr && node.shared->avail != 0) drain_shared(cache, node, node.shared->avail);
  // All who use it do so under list_lock, without a sync point in between.
  if (node.shared != nullptr) system_.kfree(std::exchange(node.shared, nullptr));
}

void ClassicSlab::drop_stocks(KmemCacheBase& cache) {
  const GivingBack giving_back(*this);
  for (const auto& phys_node : system_.phys().nodes()) drop_shared(cache, node_of(cache, phys_node->nid()));
}

}  // namespace quire::slab
