// Nodes for every page-cache XArray, put aside before a lock is taken (Linux's radix_tree_preload).
//
// A store under i_pages_lock must neither sleep nor reach a sync point, so it may not allocate. `preload(gfp)` is called
// first, with no spin lock held: it fills the pool to the most that one store can need. The store takes from the pool.
// The pool is one, not one a CPU: a machine is confined to one host thread, and another task can empty it only between
// sync points, in which case the store fails with kNoMem and the caller preloads again. Nodes that an erase frees go to the
// pool too, for freeing one may reach a sync point as well; `trim` gives the surplus back once the lock is gone.
#pragma once

#include <cstddef>

#include "quire/base/xarray.h"
#include "quire/phys/gfp.h"
#include "quire/slab/xa_node_cache.h"

namespace quire::file {

class XaPreload final : public XaNodeSource {
 public:
  // What one store may take: growing by a level adds a node and the path down to the leaf the rest. A file of 2^63 bytes
  // has indices of 51 bits, 9 levels.
  static constexpr unsigned kMaxNodes = 18;
  static constexpr unsigned kMinNodes = 9;  // enough for every file that does not grow by many levels at once

  explicit XaPreload(slab::XaNodeCache& nodes) : nodes_(nodes) {}
  ~XaPreload() override;
  XaPreload(const XaPreload&) = delete;
  XaPreload& operator=(const XaPreload&) = delete;

  // kNoMem when the pool could not be filled.
  [[nodiscard]] Status preload(phys::Gfp gfp);

  void* allocate_node() override;
  void free_node(void* node) override;

  [[nodiscard]] unsigned pooled() const { return count_; }
  // With no spin lock held: gives back what is more than a store needs.
  void trim();
  // Gives the pool back.
  void drain();

 private:
  void push(void* node);

  slab::XaNodeCache& nodes_;
  void* pool_ = nullptr;  // linked through the first word
  unsigned count_ = 0;
};

}  // namespace quire::file
