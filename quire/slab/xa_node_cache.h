// Nodes of every XArray of the machine, from the cache "radix_tree_node" as on Linux.
//
// allocate_node is called in the middle of a change of an array, so it does not sleep (GFP_NOWAIT). The page cache, which
// changes its arrays under a spinlock, puts nodes aside before (file/xa_preload.h).
#pragma once

#include "quire/base/xarray.h"
#include "quire/phys/gfp.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

class XaNodeCache final : public XaNodeSource {
 public:
  explicit XaNodeCache(SlabSystem& system);
  ~XaNodeCache() override;
  XaNodeCache(const XaNodeCache&) = delete;
  XaNodeCache& operator=(const XaNodeCache&) = delete;

  void* allocate_node() override;
  void free_node(void* node) override;

  [[nodiscard]] KmemCacheBase& cache() { return *cache_; }

 private:
  KmemCacheBase* cache_;
};

}  // namespace quire::slab
