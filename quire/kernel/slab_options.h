// Which slab allocator a machine gets: from its own options (slab, slab_debug) and from the kernel's command line:
//
//   slub_debug[=FZPU[,CACHE,...][;...]]    slab/slub_debug.h; also of the classic slab here
//   slab_nomerge  slab_merge               may caches of like objects become one? Debian's kernels are built not to
//   slub_min_objects=N                     objects that a slab should hold at least; 0: by the number of CPUs
//   slub_min_order=N  slub_max_order=N     of slabs; the kernel takes the lesser of the two where they cross
//
// Those of slub mean nothing to the classic slab, as to a kernel built with it. The last word of a kind counts.
#pragma once

#include "quire/base/user_error.h"
#include "quire/kernel/machine_config.h"
#include "quire/slab/slab_config.h"

namespace quire::kernel {

// The error names the option or the word that is wrong.
[[nodiscard]] Checked<slab::SlabConfig> slab_config(const MachineConfig& config);

}  // namespace quire::kernel
