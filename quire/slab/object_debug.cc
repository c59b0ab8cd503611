#include "quire/slab/object_debug.h"

#include "quire/slab/kmem_cache_base.h"

namespace quire::slab::object_debug {

void setup_slab(const KmemCacheBase& /*cache*/, std::byte* /*slab*/) {}

void setup_object(const KmemCacheBase& /*cache*/, void* /*object*/) {}

Verdict alloc_checks(KmemCacheBase& /*cache*/, void* /*object*/, const void* /*caller*/) { return Verdict::kGood; }

KmemCacheBase* free_checks(KmemCacheBase& cache, void* object, const void* /*caller*/) {
  const ObjectPlace place = cache.find(object);
  if (place.state == ObjectPlace::State::kFree) cache.report_double_free(object);
  if (place.state != ObjectPlace::State::kAllocated) cache.report_foreign(object);
  return &cache;
}

void check_slab(const KmemCacheBase& /*cache*/, const std::byte* /*slab*/) {}

void check_object(const KmemCacheBase& /*cache*/, const ObjectPlace& /*place*/) {}

}  // namespace quire::slab::object_debug
