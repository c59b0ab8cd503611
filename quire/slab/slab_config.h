// Which slab allocator a machine runs, and how (CONFIG_SLAB or CONFIG_SLUB, and the kernel parameters of each).
#pragma once

#include <cstdint>

#include "quire/slab/slab_flags.h"
#include "quire/slab/slub_debug.h"

namespace quire::slab {

enum class SlabLayoutKind : std::uint8_t {
  kSlab,  // the classic one: descriptor and index free list on or off the slab, colouring, per-CPU arrays
  kSlub,  // Debian's: free list inside the objects, descriptor in struct Page, per-CPU slabs
};

// Whether a new cache may become an alias of a like one (slab_merge, slab_nomerge). Debian's kernels are built without.
enum class SlabMerge : std::uint8_t { kNo, kYes };

// Whether free pointers are mixed with a random number of their cache (CONFIG_SLAB_FREELIST_HARDENED, which Debian sets).
enum class SlubHardened : std::uint8_t { kNo, kYes };

// Of the slub layout only; orders are of slabs.
struct SlubParameters {
  unsigned min_order = 0;         // slub_min_order=
  unsigned max_order = 3;         // slub_max_order=: PAGE_ALLOC_COSTLY_ORDER
  std::uint32_t min_objects = 0;  // slub_min_objects=; 0: by the number of CPUs
  SlubHardened hardened = SlubHardened::kYes;
};

struct SlabConfig {
  SlabLayoutKind layout = SlabLayoutKind::kSlab;
  SlubDebug debug{};  // slub_debug=
  SlabMerge merge = SlabMerge::kNo;
  SlubParameters slub{};
};

}  // namespace quire::slab
