// Caches of equal objects, living in frames of the machine's RAM (Linux's struct kmem_cache).
//
//   KmemCacheBase ── per CPU ──▶ ArrayCache            alloc/free: a few instructions, inline, no lock
//        │                         ▲ │
//        └── SlabLayout ── slow paths: refill and flush, slabs per node, pages from phys::alloc_pages
//
// KmemCacheBase is untyped; KmemCache<T> (kmem_cache.h) is what a subsystem owns: it constructs and destroys T's. Which of
// the two layouts stands behind (slab_layout.h) is the machine's choice.
//
// Invariants (checked by validate()): each object is in exactly one place: on its slab's free list, in one CPU's stock, or in
// its user's hands; counts agree with the lists.
// Lock: a list_lock per node for slabs and lists; a CPU's array belongs to that CPU. Allocation may sleep when the Gfp
// allows direct reclaim; no lock is held meanwhile.
// Cheap checks, always on: freeing the object freed last by this CPU; and when objects go back to their slab, that the
// page is a slab of this cache, that the address is an object's start, and that the object is not free already.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "quire/base/bug.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/gfp.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/array_cache.h"
#include "quire/slab/slab_flags.h"
#include "quire/slab/slab_geometry.h"
#include "quire/slab/slab_layout.h"

namespace quire::slab {

class SlabSystem;

// Runs once for each object when its slab is made; an object must be freed in this state (slab_alloc's contract).
using SlabConstructor = void (*)(void* object);

class KmemCacheBase {
 public:
  KmemCacheBase(const KmemCacheBase&) = delete;
  KmemCacheBase& operator=(const KmemCacheBase&) = delete;

  // kmem_cache_alloc: an object, or nullptr when no memory can be had. With __GFP_ZERO the object is zeroed.
  [[nodiscard, gnu::always_inline]] void* alloc(phys::Gfp gfp) {  // always: the caller is who a debugged object names
    scheduler_->charge(cost_);
    ArrayCache& ac = cpu_cache();
    if (ac.avail != 0 && ((bits(gfp) | kAlways) & slow_mask_) == 0) [[likely]]
      return ac.entries()[--ac.avail];
    return alloc_slow(gfp);
  }
  // kmem_cache_free. The object must be one of this cache's and in use.
  [[gnu::always_inline]] void free(void* object) {
    if (cpu_cache().push(object)) [[likely]]
      return;
    free_slow(object);
  }

  // Where the CPUs' arrays are, in one word, which each page of a classic slab has: so kfree needs not ask the cache.
  [[nodiscard]] std::uint64_t array_word() const { return reinterpret_cast<std::uint64_t>(cpu_caches_) | cpu_cache_shift_; }
  // The array of a CPU by such a word.
  [[nodiscard]] static ArrayCache& array_at(std::uint64_t word, unsigned cpu) {
    return *reinterpret_cast<ArrayCache*>((word & ~kShiftMask) + (std::uint64_t{cpu} << (word & kShiftMask)));
  }

  // kmem_cache_alloc_node: from the slabs of `nid` (kNoNode: the local node), falling back to other nodes unless
  // __GFP_THISNODE.
  [[nodiscard]] void* alloc_node(phys::Gfp gfp, Nid nid);
  // kmem_cache_alloc_bulk: all of `objects`, or none (false).
  [[nodiscard]] bool alloc_bulk(phys::Gfp gfp, std::span<void*> objects);
  void free_bulk(std::span<void* const> objects);

  // The same as alloc_node and free for who acts for a caller of its own (kmalloc): `caller` is the address that owner
  // tracking names.
  [[nodiscard]] void* alloc_track_caller(phys::Gfp gfp, Nid nid, const void* caller);
  void free_track_caller(void* object, const void* caller);

  [[nodiscard]] std::string_view name() const { return name_.data(); }
  [[nodiscard]] const SlabGeometry& geometry() const { return geometry_; }
  [[nodiscard]] std::size_t object_size() const { return geometry_.object_size; }
  [[nodiscard]] SlabFlags flags() const { return flags_; }
  [[nodiscard]] bool debugged() const { return any(flags_, kSlabDebugFlags); }
  [[nodiscard]] SlabConstructor ctor() const { return constructor_; }
  [[nodiscard]] SlabLayout& layout() const { return *layout_; }
  [[nodiscard]] bool is_slub() const { return kind_ == SlabLayoutKind::kSlub; }
  [[nodiscard]] SlabSystem& system() const { return *system_; }

  // Objects in users' hands: those on no free list and in no CPU's stock.
  [[nodiscard]] std::uint64_t objects_in_use() const;
  [[nodiscard]] std::uint64_t total_slabs() const { return layout_->counts(*this).slabs; }

  // Which object an address belongs to; State::kNone for one that is in no slab of this cache.
  [[nodiscard]] ObjectPlace find(const void* p) const;
  // True when `object` is the start of an object of this cache that is not on its slab's free list.
  [[nodiscard]] bool owns(const void* object) const { return find(object).state == ObjectPlace::State::kAllocated; }

  // Walks all slabs and arrays. QUIRE_BUGs at the first disagreement.
  void validate() const;

  // Ends in a bug that names what is freed.
  [[noreturn, gnu::cold, gnu::noinline]] void report_double_free(const void* object) const;
  [[noreturn, gnu::cold, gnu::noinline]] void report_foreign(const void* object) const;

 private:
  friend class SlabSystem;
  friend class ClassicSlab;
  friend class Slub;

  KmemCacheBase(SlabSystem& system, std::string_view name, const SlabGeometry& geometry, SlabFlags flags,
                SlabConstructor constructor);
  ~KmemCacheBase() = default;

  [[nodiscard]] ArrayCache& cpu_cache() {
    return *reinterpret_cast<ArrayCache*>(cpu_caches_ + (std::size_t{scheduler_->cpu()} << cpu_cache_shift_));
  }
  [[nodiscard]] ArrayCache& cpu_cache_of(unsigned cpu) const {
    return *reinterpret_cast<ArrayCache*>(cpu_caches_ + (std::size_t{cpu} << cpu_cache_shift_));
  }
  // Right behind the cache: the layout's node_bytes() for each of the machine's nodes.
  [[nodiscard]] std::byte* nodes() const { return reinterpret_cast<std::byte*>(const_cast<KmemCacheBase*>(this) + 1); }

  static constexpr std::uint64_t kShiftMask = 63;  // of array_word: the pieces are at least 64 bytes apart

  // Bits of (gfp | kAlways) that bar the fast path: __GFP_ZERO, __GFP_THISNODE where there are several nodes, and everything
  // while faults are injected.
  static constexpr std::uint32_t kAlways = 1u << 31;
  static constexpr std::uint32_t kSlowNormally = bits(phys::Gfp::kZero);

  [[gnu::noinline]] void* alloc_slow(phys::Gfp gfp);
  [[gnu::noinline]] void free_slow(void* object);
  [[nodiscard]] bool should_fail_slab(phys::Gfp gfp) const;

  // --- hot: one cache line ---
  std::byte* cpu_caches_ = nullptr;  // a piece for each CPU, which begins with its ArrayCache, 2^cpu_cache_shift_ bytes apart
  sim::Scheduler* scheduler_ = nullptr;
  std::uint32_t cpu_cache_shift_ = 0;
  std::uint32_t slow_mask_ = kSlowNormally;
  SlabSystem* system_ = nullptr;
  sim::Nanos cost_ = 0;  // CostModel::slab_alloc and slab_free: the free is paid for at the allocation
  SlabFlags flags_ = SlabFlags::kNone;
  std::uint32_t reciprocal_size_ = 0;  // ceil(2^32 / size): index = offset * this >> 32, exact for slabs up to 4 MiB
  SlabLayout* layout_ = nullptr;
  std::uint32_t free_pointer_ = 0;  // slub: where in a free object the next one stands
  SlabLayoutKind kind_ = SlabLayoutKind::kSlab;
  // ---
  std::uint64_t random_ = 0;             // slub: what free pointers are mixed with
  std::uint64_t min_partial_ = 0;        // slub: slabs that a node keeps
  std::uint32_t cpu_partial_slabs_ = 0;  // slub: slabs that a CPU keeps
  SlabConstructor constructor_ = nullptr;
  CpuCacheTunables tunables_{};
  SlabGeometry geometry_{};
  enum class Destroy : std::uint8_t { kNotTried, kFailed };
  Destroy destroy_ = Destroy::kNotTried;
  std::uint32_t refcount_ = 1;  // users that created it; 0: the last one's destruction failed
  static constexpr std::size_t kMaxName = 31;
  std::array<char, kMaxName + 1> name_{};

 public:
  ListNode chain;  // all caches of the machine (slab_caches)
};

}  // namespace quire::slab
