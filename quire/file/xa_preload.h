// Nodes for every page-cache XArray, put aside before a lock is taken (Linux's radix_tree_preload).
//
// A store under i_pages_lock must neither sleep nor reach a sync point, so it may not allocate. `preload(gfp)` is called
// first, with no spin lock held: it fills the pool to the most that one store can need. The store takes from the pool.
// The pool is one, not one a CPU: a machine is confined to one host thread, and another task can empty it only between
// sync points, in which case the store fails with kNoMem and the caller preloads again.
#pragma once

#include <cstddef>

#include "quire/base/xarray.h"
#include "quire/phys/gfp.h"
#include "quire/slab/slab_system.h"

namespace quire::file {

class XaPreload final : public XaNodeSource {
 public:
  static constexpr unsigned kMaxNodes = 11;  // a path from nothing to a leaf: 64 bits of index, 6 a level

  explicit XaPreload(slab::SlabSystem& system);
  ~XaPreload() override;
  XaPreload(const XaPreload&) = delete;
  XaPreload& operator=(const XaPreload&) = delete;

  // kNoMem when the pool could not be filled.
  [[nodiscard]] Status preload(phys::Gfp gfp);

  void* allocate_node() override;
  void free_node(void* node) override;

  [[nodiscard]] unsigned pooled() const { return count_; }
  // Gives the pool back (shutdown).
  void drain();

 private:
  slab::KmemCacheBase* cache_;
  slab::SlabSystem& system_;
  void* pool_ = nullptr;  // linked through the first word
  unsigned count_ = 0;
};

}  // namespace quire::file
