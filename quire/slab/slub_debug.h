// The parameter slub_debug= and its kin: which caches are debugged, and how.
//
//   FZPU                   every cache with consistency checks, red zones, poison and owners
//   ZP,dentry,kmalloc-*    these two kinds of caches only; a name may end in *
//   F;ZP,dentry            blocks, separated by ';': F for all, and ZP for dentry
//   ,dentry                no letters: FZPU
//   -                      nothing
//
// F consistency checks, Z red zones, P poison, U owners, T trace. A cache takes the first block that names it, else the last
// one that names none (Linux's kmem_cache_flags).
// Differs from Linux: A (failslab) and O (not where it raises the order) are unknown, and an unknown letter is an error.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/slab/slab_flags.h"

namespace quire::slab {

// One block: caches by name.
struct SlabDebugRule {
  SlabFlags flags = SlabFlags::kNone;  // of kSlabDebugFlags
  std::vector<std::string> caches;     // names, each perhaps with a * at its end
};

struct SlubDebug {
  SlubDebug(SlabFlags every_cache = SlabFlags::kNone) : all(every_cache) {}  // NOLINT(google-explicit-constructor)
  SlabFlags all;                                                             // caches that no rule names
  std::vector<SlabDebugRule> rules;
};

// What `slub_debug` without a value says: FZPU.
inline constexpr SlabFlags kDebugDefaultFlags =
    SlabFlags::kConsistencyChecks | SlabFlags::kRedZone | SlabFlags::kPoison | SlabFlags::kStoreUser;

// The value of slub_debug=. The error names the letter or the block.
[[nodiscard]] Checked<SlubDebug> parse_slub_debug(std::string_view text);
// The debugging flags of a cache of that name.
[[nodiscard]] SlabFlags debug_flags(const SlubDebug& debug, std::string_view cache);

}  // namespace quire::slab
