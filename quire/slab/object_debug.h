// The debugging of objects: what the layouts call for caches with any of kSlabDebugFlags, and for no others.
//
//   setup_slab     a slab's pages have come from the buddy            its padding
//   setup_object   then each object, before its constructor runs      red zones, poison, no owner
//   alloc_checks   an object is about to be handed out
//   free_checks    an address is freed, before anything else touches it
//   check_slab     validate(): the padding behind the last object
//   check_object   validate(): each object as it stands
//
// What is found is reported (object_report.h) and put right, and the machine goes on; only caches without kConsistencyChecks
// end in a bug at a bad free, as without debugging. Which bytes are checked when is SLUB's: at alloc and free only under
// kConsistencyChecks, at validate() always.
//
// Where the pieces of an object's slot stand: SlotGeometry. May be called under the node's list_lock: they do not sleep.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/slab/slab_layout.h"

namespace quire::slab::object_debug {

// kBad: the object is damaged; the layout forgets it (it counts as in use from then on) and takes another.
enum class Verdict : std::uint8_t { kGood, kBad };

void setup_slab(const KmemCacheBase& cache, std::byte* slab);
void setup_object(const KmemCacheBase& cache, void* object);
[[nodiscard]] Verdict alloc_checks(KmemCacheBase& cache, void* object, const void* caller);
// The cache that the object is to go back to (it may be another than the one it was freed to); nullptr: it is not freed.
[[nodiscard]] KmemCacheBase* free_checks(KmemCacheBase& cache, void* object, const void* caller);
// `first` is the slab's object number 0.
void check_slab(const KmemCacheBase& cache, const ObjectPlace& first);
void check_object(const KmemCacheBase& cache, const ObjectPlace& place);

}  // namespace quire::slab::object_debug
