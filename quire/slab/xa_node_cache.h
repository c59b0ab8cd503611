// Nodes of every XArray of the machine, from the cache "radix_tree_node" as on Linux.
#pragma once

#include "quire/base/xarray.h"
#include "quire/phys/gfp.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

class XaNodeCache final : public XaNodeSource {
 public:
  // Nodes are allocated with `gfp`. The page cache stores under GFP_NOFS-like masks; callers that may not sleep pass
  // kNoWait.
  explicit XaNodeCache(SlabSystem& system, phys::Gfp gfp = phys::Gfp::kNoWait);
  ~XaNodeCache() override;
  XaNodeCache(const XaNodeCache&) = delete;
  XaNodeCache& operator=(const XaNodeCache&) = delete;

  void* allocate_node() override;
  void free_node(void* node) override;

  [[nodiscard]] KmemCacheBase& cache() { return *cache_; }

 private:
  KmemCacheBase* cache_;
  phys::Gfp gfp_;
};

}  // namespace quire::slab
