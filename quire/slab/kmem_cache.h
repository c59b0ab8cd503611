// Typed caches: what a subsystem owns and makes its objects in.
//
//   KmemCache<Vma> vm_area_cache(slab, "vm_area_struct");
//   Vma* vma = vm_area_cache.alloc(Gfp::kKernel, mm, range);   // nullptr: no memory
//   vm_area_cache.free(vma);
//
// A thin handle on a KmemCacheBase, which does the work; lock and differences from Linux: there.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>

#include "quire/slab/kmem_cache_base.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

// When a KmemCache<T>'s objects are constructed.
enum class ObjectLife : std::uint8_t {
  kPerAllocation,  // alloc(gfp, args…) constructs, free destroys: as new and delete
  kPerSlab,        // SLAB's constructor: T() once when the slab is made, and the state survives free and alloc;
                   // T must be default-constructible and trivially destructible
};

// A typed cache; owned by the subsystem that owns the objects, and not to outlive the SlabSystem.
template <class T, ObjectLife kLife = ObjectLife::kPerAllocation>
class KmemCache {
 public:
  // Made at boot, where failure is a bug (SLAB_PANIC). `create` is for later.
  KmemCache(SlabSystem& system, std::string_view name, SlabFlags flags = SlabFlags::kNone);
  [[nodiscard]] static Result<KmemCache> create(SlabSystem& system, std::string_view name, SlabFlags flags = SlabFlags::kNone);

  KmemCache(KmemCache&& other) noexcept : cache_(std::exchange(other.cache_, nullptr)) {}
  KmemCache& operator=(KmemCache&& other) noexcept {
    std::swap(cache_, other.cache_);
    return *this;
  }
  KmemCache(const KmemCache&) = delete;
  KmemCache& operator=(const KmemCache&) = delete;
  // Gives the cache back. With objects still alive it stays, and SlabSystem::leaks() names it.
  ~KmemCache() { static_cast<void>(destroy()); }

  // nullptr when there is no memory.
  template <class... Args>
  [[nodiscard]] T* alloc(phys::Gfp gfp, Args&&... args) {
    void* object = cache_->alloc(gfp);
    if (object == nullptr) [[unlikely]]
      return nullptr;
    return construct(object, std::forward<Args>(args)...);
  }
  template <class... Args>
  [[nodiscard]] T* alloc_node(phys::Gfp gfp, Nid nid, Args&&... args) {
    void* object = cache_->alloc_node(gfp, nid);
    if (object == nullptr) [[unlikely]]
      return nullptr;
    return construct(object, std::forward<Args>(args)...);
  }
  void free(T* object) {
    if constexpr (kLife == ObjectLife::kPerAllocation) std::destroy_at(object);
    cache_->free(object);
  }

  // kBusy when objects are alive; the cache then stays as it was.
  Status destroy();

  [[nodiscard]] KmemCacheBase& base() { return *cache_; }
  [[nodiscard]] const KmemCacheBase& base() const { return *cache_; }

 private:
  explicit KmemCache(KmemCacheBase* cache) : cache_(cache) {}

  template <class... Args>
  T* construct(void* object, Args&&... args) {
    if constexpr (kLife == ObjectLife::kPerSlab) {
      static_assert(sizeof...(Args) == 0, "objects of a kPerSlab cache are constructed with their slab");
      return std::launder(static_cast<T*>(object));
    } else {
      return ::new (object) T(std::forward<Args>(args)...);
    }
  }
  static constexpr SlabConstructor slab_constructor() {
    if constexpr (kLife == ObjectLife::kPerSlab) {
      static_assert(std::is_trivially_destructible_v<T>);
      return [](void* object) { ::new (object) T(); };
    } else {
      return nullptr;
    }
  }

  KmemCacheBase* cache_ = nullptr;
};

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
