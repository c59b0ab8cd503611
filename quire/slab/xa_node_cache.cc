#include "quire/slab/xa_node_cache.h"

namespace quire::slab {

XaNodeCache::XaNodeCache(SlabSystem& system)
    : cache_(system
                 .kmem_cache_create("radix_tree_node", kXaNodeSize, alignof(XaNode),
                                    SlabFlags::kPanic | SlabFlags::kReclaimAccount)
                 .value()) {}

XaNodeCache::~XaNodeCache() { static_cast<void>(cache_->system().kmem_cache_destroy(*cache_)); }

void* XaNodeCache::allocate_node() { return cache_->alloc(phys::Gfp::kNoWait | phys::Gfp::kNoWarn); }
void XaNodeCache::free_node(void* node) { cache_->free(node); }

}  // namespace quire::slab
