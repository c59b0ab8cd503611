#include "quire/slab/xa_node_cache.h"

#include <array>

namespace quire::slab {

XaNodeCache::XaNodeCache(SlabSystem& system)
    : cache_(system.kmem_cache_create("radix_tree_node", kXaNodeSize, alignof(XaNode),
                                      SlabFlags::kPanic | SlabFlags::kReclaimAccount)
                 .value()) {}

XaNodeCache::~XaNodeCache() { static_cast<void>(cache_->system().kmem_cache_destroy(*cache_)); }

void* XaNodeCache::allocate_node() { return cache_->alloc(phys::Gfp::kNoWait | phys::Gfp::kNoWarn); }
void XaNodeCache::free_node(void* node) { cache_->free(node); }

Status XaNodeCache::preload(phys::Gfp gfp, std::size_t nodes) {
  std::array<void*, kMaxPreload> held;
  const std::span<void*> wanted(held.data(), nodes < kMaxPreload ? nodes : kMaxPreload);
  if (!cache_->alloc_bulk(gfp, wanted)) return fail(Errno::kNoMem);
  cache_->free_bulk(wanted);
  return {};
}

}  // namespace quire::slab
