// kvmalloc: contiguous memory when it can be had cheaply, vmalloc's otherwise (kvmalloc_node and its kin, mm/util.c).
//
// Beyond a page kmalloc is asked with __GFP_NORETRY (one round of reclaim and compaction at most, no OOM killer) and
// __GFP_NOWARN; requests of a page or less are kmalloc's as they are. vmalloc gives at most INT_MAX bytes here.
#pragma once

#include <cstddef>
#include <limits>

#include "quire/kvirt/vmalloc.h"
#include "quire/slab/slab_system.h"

namespace quire::kvirt {

class Kvmalloc {
 public:
  Kvmalloc(slab::SlabSystem& slab, Vmalloc& vmalloc, KernelLog& log) : slab_(slab), vmalloc_(vmalloc), log_(log) {}

  // nullptr: no memory, or a size that Linux refuses. 0 gives kmalloc's zero_size_ptr. A mask that may not sleep is
  // kmalloc's alone.
  [[nodiscard]] void* kvmalloc_node(std::size_t size, phys::Gfp gfp, Nid nid, const char* caller = __builtin_FUNCTION());
  [[nodiscard]] void* kvmalloc(std::size_t size, phys::Gfp gfp, const char* caller = __builtin_FUNCTION()) {
    return kvmalloc_node(size, gfp, kNoNode, caller);
  }
  [[nodiscard]] void* kvzalloc(std::size_t size, phys::Gfp gfp, const char* caller = __builtin_FUNCTION()) {
    return kvmalloc_node(size, gfp | phys::Gfp::kZero, kNoNode, caller);
  }
  // n * size bytes; nullptr when that overflows.
  [[nodiscard]] void* kvmalloc_array(std::size_t n, std::size_t size, phys::Gfp gfp, const char* caller = __builtin_FUNCTION());
  [[nodiscard]] void* kvcalloc(std::size_t n, std::size_t size, phys::Gfp gfp, const char* caller = __builtin_FUNCTION()) {
    return kvmalloc_array(n, size, gfp | phys::Gfp::kZero, caller);
  }
  // Room for `new_size` with the first `old_size` bytes of `p`, which is freed; `p` itself when it is large enough. On failure
  // `p` stays as it is.
  [[nodiscard]] void* kvrealloc(const void* p, std::size_t old_size, std::size_t new_size, phys::Gfp gfp,
                                const char* caller = __builtin_FUNCTION());
  // What any of them gave; nullptr is nothing to do. May sleep.
  void kvfree(const void* p);

 private:
  slab::SlabSystem& slab_;
  Vmalloc& vmalloc_;
  KernelLog& log_;
};

}  // namespace quire::kvirt
