// Nodes of every XArray of the machine, from the cache "radix_tree_node" as on Linux.
//
// allocate_node is called in the middle of a change of an array, so it does not sleep (GFP_NOWAIT). A caller that may
// sleep calls preload first, or when a store failed with kNoMem, and tries again: until its next sync point the nodes
// are there.
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

  // Makes sure that `nodes` nodes can be had (xas_nomem, radix_tree_preload). May sleep if gfp allows.
  static constexpr std::size_t kMaxPreload = 11;  // the height of an array of 2^64 entries
  Status preload(phys::Gfp gfp, std::size_t nodes = kMaxPreload);

  [[nodiscard]] KmemCacheBase& cache() { return *cache_; }

 private:
  KmemCacheBase* cache_;
};

}  // namespace quire::slab
