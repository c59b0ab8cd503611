// The parts of KmemCache<T> that need SlabSystem. Included by kmem_cache.h.
#pragma once

#include "quire/slab/slab_system.h"

namespace quire::slab {

template <class T, ObjectLife kLife>
KmemCache<T, kLife>::KmemCache(SlabSystem& system, std::string_view name, SlabFlags flags) {
  auto made = system.kmem_cache_create(name, sizeof(T), alignof(T), flags | SlabFlags::kPanic, slab_constructor());
  QUIRE_BUG_ON(!made.has_value());
  cache_ = *made;
}

template <class T, ObjectLife kLife>
Result<KmemCache<T, kLife>> KmemCache<T, kLife>::create(SlabSystem& system, std::string_view name, SlabFlags flags) {
  auto made = system.kmem_cache_create(name, sizeof(T), alignof(T), flags, slab_constructor());
  if (!made) return fail(made.error());
  return KmemCache(*made);
}

template <class T, ObjectLife kLife>
Status KmemCache<T, kLife>::destroy() {
  if (cache_ == nullptr) return {};
  KmemCacheBase* cache = std::exchange(cache_, nullptr);
  Status status = cache->system().kmem_cache_destroy(*cache);
  if (!status) cache_ = cache;
  return status;
}

}  // namespace quire::slab
