#include "quire/slab/slab_system.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "quire/slab/classic_slab.h"
#include "quire/slab/slub.h"

namespace quire::slab {

using phys::Gfp;

namespace {

constexpr std::uint64_t kSmallMachinePages = (32 * kMiB) >> kPageShift;

std::size_t cache_bytes(const phys::PhysMem& phys, const SlabLayout& layout) {
  return sizeof(KmemCacheBase) + phys.nodes().size() * layout.node_bytes();
}

std::unique_ptr<SlabLayout> make_layout(SlabSystem& system, const SlabConfig& config) {
  if (config.layout == SlabLayoutKind::kSlub) return std::make_unique<Slub>(system);
  return std::make_unique<ClassicSlab>(system);
}

// Gives back a mutex that try_lock took.
class TryLockHold {
 public:
  explicit TryLockHold(sim::Mutex& lock) : lock_(lock) {}
  ~TryLockHold() QUIRE_NO_THREAD_SAFETY_ANALYSIS { lock_.unlock(); }
  TryLockHold(const TryLockHold&) = delete;
  TryLockHold& operator=(const TryLockHold&) = delete;

 private:
  sim::Mutex& lock_;
};

}  // namespace

// --- boot and end -----------------------------------------------------------------------------------------------------

SlabSystem::SlabSystem(phys::PhysMem& phys, sim::Scheduler& scheduler, const SlabConfig& config)
    : Kmalloc(phys, scheduler, config.layout),
      phys_(phys),
      scheduler_(scheduler),
      config_(config),
      layout_(make_layout(*this, config)),
      slab_mutex_(scheduler, scheduler.locks().lock_class("slab_mutex")),
      list_lock_class_(scheduler.locks().lock_class("list_lock")),
      percpu_(phys, scheduler.cpus()),
      shrinkers_(phys, scheduler),
      max_waste_order_(phys.totalram_pages() > kSmallMachinePages ? 1 : 0),
      random_(scheduler.config().seed) {
  const std::size_t bytes = align_up(cache_bytes(phys_, *layout_), kCacheLineSize);
  boot_caches_ = std::make_unique<std::byte[]>(2 * bytes + kCacheLineSize);
  const auto start = align_up(reinterpret_cast<std::uintptr_t>(boot_caches_.get()), kCacheLineSize);
  const auto make = [&](std::size_t place, std::string_view name, std::size_t size, SlabFlags flags) {
    return setup_cache(reinterpret_cast<void*>(start + place * bytes), name, size, 0, flags | SlabFlags::kPanic, nullptr)
        .value();
  };
  cache_cache_ = make(0, "kmem_cache", cache_bytes(phys_, *layout_), SlabFlags::kHwCacheAlign | SlabFlags::kNoMerge);
  if (layout_->kind() == SlabLayoutKind::kSlab) {
    slab_mgmt_ = make(1, "slab_mgmt", management_bytes(kMaxObjectsOffSlab), SlabFlags::kNoDebug | SlabFlags::kNoMerge);
  }
  create_kmalloc_caches(*this);
}

// Caches that their owners gave back are gone; what else is left goes now, empty or not.
SlabSystem::~SlabSystem() {
  // Arrays that CPUs share lie in kmalloc's caches: they go while all of these stand, and no new ones come.
  for (KmemCacheBase& cache : caches_) cache.tunables_.shared = 0;
  drop_stocks();
  for (KmemCacheBase* cache = caches_.back_or_null(); cache != nullptr;) {
    KmemCacheBase* before = caches_.prev_or_null(*cache);
    if (cache != cache_cache_ && cache != slab_mgmt_) release_cache(*cache);
    cache = before;
  }
  // Slabs of the first may have descriptors in the second.
  kmem_cache_shrink(*cache_cache_);
  tear_down(*cache_cache_);
  if (slab_mgmt_ == nullptr) return;
  kmem_cache_shrink(*slab_mgmt_);
  tear_down(*slab_mgmt_);
}

// --- creation ---------------------------------------------------------------------------------------------------------

// What a cache of that name is made with: its own flags and those that the machine's debugging options add.
SlabFlags SlabSystem::kmem_cache_flags(std::string_view name, SlabFlags flags) const {
  if (any(flags, SlabFlags::kNoDebug)) return flags;
  return flags | debug_flags(config_.debug, name);
}

Result<KmemCacheBase*> SlabSystem::setup_cache(void* room, std::string_view name, std::size_t size, std::size_t align,
                                               SlabFlags flags, SlabConstructor constructor) {
  flags = kmem_cache_flags(name, flags);
  const auto geometry = layout_->calculate({.object_size = size,
                                            .align = align,
                                            .flags = flags,
                                            .constructor = constructor != nullptr ? HasConstructor::kYes : HasConstructor::kNo,
                                            .max_waste_order = max_waste_order_});
  if (!geometry) return fail(geometry.error());
  const PercpuArea::Block block = percpu_.alloc(layout_->cpu_bytes(*geometry, flags), Gfp::kKernel);
  if (block.base == nullptr) return fail(Errno::kNoMem);

  auto* cache = ::new (room) KmemCacheBase(*this, name, *geometry, flags, constructor);
  cache->cpu_caches_ = block.base;
  cache->cpu_cache_shift_ = block.shift;
  cache->slow_mask_ = slow_mask();
  if (const Status opened = layout_->open(*cache); !opened) {
    percpu_.free(block);
    cache->~KmemCacheBase();
    return fail(opened.error());
  }
  caches_.push_back(*cache);
  return cache;
}

Result<KmemCacheBase*> SlabSystem::kmem_cache_create(std::string_view name, std::size_t size, std::size_t align,
                                                     SlabFlags flags, SlabConstructor constructor) {
  if (name.empty() || name.size() > KmemCacheBase::kMaxName) return fail(Errno::kInval);
  const sim::MutexGuard guard(slab_mutex_);
  auto made = create_locked(name, size, align, flags, constructor);
  if (!made && any(flags, SlabFlags::kPanic)) {
    bug(fmt::format("slab cache {} of objects of {} bytes could not be created: {}", name, size, errno_name(made.error())));
  }
  return made;
}

Result<KmemCacheBase*> SlabSystem::create_locked(std::string_view name, std::size_t size, std::size_t align, SlabFlags flags,
                                                 SlabConstructor constructor) {
  if (KmemCacheBase* same = find_cache(name)) return kmem_cache_alias(*same, size, align, flags, constructor);
  if (KmemCacheBase* like = find_mergeable(name, size, align, flags, constructor)) {
    // Each is given what the one with the larger objects wants: that much is zeroed, and told by ksize.
    like->geometry_.object_size = std::max(like->geometry_.object_size, size);
    like->geometry_.inuse = std::max(like->geometry_.inuse, align_up(size, sizeof(void*)));
    ++like->refcount_;
    return like;
  }
  void* room = cache_cache_->alloc(Gfp::kKernel);
  if (room == nullptr) return fail(Errno::kNoMem);
  auto made = setup_cache(room, name, size, align, flags, constructor);
  if (!made) cache_cache_->free(room);
  return made;
}

// The newest cache whose slots are as good for these objects: at most a word larger, aligned as wanted, from the same pages.
KmemCacheBase* SlabSystem::find_mergeable(std::string_view name, std::size_t size, std::size_t align, SlabFlags flags,
                                          SlabConstructor constructor) {
  flags = kmem_cache_flags(name, flags);
  if (config_.merge == SlabMerge::kNo || constructor != nullptr || any(flags, kSlabNeverMerge)) return nullptr;
  if (size == 0 || size > kMaxObjectSize || (align != 0 && !std::has_single_bit(align)) || align > kPageSize) return nullptr;
  align = calculate_alignment(flags, align, size);
  size = align_up(size, align);
  for (KmemCacheBase* cache = caches_.back_or_null(); cache != nullptr; cache = caches_.prev_or_null(*cache)) {
    if (cache->ctor() != nullptr || any(cache->flags_, kSlabNeverMerge) || cache->refcount_ == 0) continue;
    if (((cache->flags_ ^ flags) & kSlabMergeSame) != SlabFlags::kNone) continue;
    const SlabGeometry& g = cache->geometry();
    if (size > g.size || g.size - size >= sizeof(void*) || g.size % align != 0 || g.align % align != 0) continue;
    return cache;
  }
  return nullptr;
}

// A second pool of the same objects shares the first one's cache (__kmem_cache_alias).
Result<KmemCacheBase*> SlabSystem::kmem_cache_alias(KmemCacheBase& same, std::size_t size, std::size_t align, SlabFlags flags,
                                                    SlabConstructor constructor) {
  const bool fits = same.object_size() == size && same.geometry().align >= align &&
                    ((same.flags_ ^ kmem_cache_flags(same.name(), flags)) & ~SlabFlags::kPanic) == SlabFlags::kNone &&
                    constructor == nullptr && same.constructor_ == nullptr && same.refcount_ != 0;
  if (!fits) return fail(Errno::kExist);
  ++same.refcount_;
  return &same;
}

KmemCacheBase::KmemCacheBase(SlabSystem& system, std::string_view name, const SlabGeometry& geometry, SlabFlags flags,
                             SlabConstructor constructor)
    : scheduler_(&system.scheduler()),
      system_(&system),
      cost_(system.scheduler().costs().slab_alloc + system.scheduler().costs().slab_free),
      flags_(flags),
      reciprocal_size_(static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + geometry.size - 1) / geometry.size)),
      layout_(&system.layout()),
      kind_(layout_->kind()),
      constructor_(constructor),
      geometry_(geometry) {
  std::copy(name.begin(), name.end(), name_.begin());
}

KmemCacheBase* SlabSystem::find_cache(std::string_view name) {
  for (KmemCacheBase& cache : caches_) {
    if (cache.name() == name) return &cache;
  }
  return nullptr;
}

// --- giving back ------------------------------------------------------------------------------------------------------

std::uint64_t SlabSystem::kmem_cache_shrink(KmemCacheBase& cache) { return layout_->shrink(cache); }

Status SlabSystem::kmem_cache_destroy(KmemCacheBase& cache) {
  QUIRE_BUG_ON(&cache == cache_cache_ || &cache == slab_mgmt_);
  const sim::MutexGuard guard(slab_mutex_);
  if (cache.refcount_ > 1) {
    --cache.refcount_;
    return {};
  }
  kmem_cache_shrink(cache);
  if (cache.total_slabs() != 0) {
    cache.refcount_ = 0;  // its last user has let go: nobody may share it any more
    cache.destroy_ = KmemCacheBase::Destroy::kFailed;
    return fail(Errno::kBusy);
  }
  release_cache(cache);
  return {};
}

void SlabSystem::release_cache(KmemCacheBase& cache) {
  kmem_cache_shrink(cache);
  tear_down(cache);
  cache_cache_->free(&cache);
}

void SlabSystem::tear_down(KmemCacheBase& cache) {
  caches_.erase(cache);
  layout_->close(cache);
  percpu_.free({.base = cache.cpu_caches_, .shift = cache.cpu_cache_shift_});
  cache.~KmemCacheBase();
}

// The newest first: the caches of kmalloc, which stocks lie in, are among the oldest.
void SlabSystem::drop_stocks() {
  for (KmemCacheBase* cache = caches_.back_or_null(); cache != nullptr; cache = caches_.prev_or_null(*cache)) {
    layout_->drop_stocks(*cache);
  }
}

std::uint64_t SlabSystem::cache_reap(ReapMode mode) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  if (!slab_mutex_.try_lock()) return 0;
  const TryLockHold hold(slab_mutex_);
  // Counted where slabs are given back: they need not all be of their cache's order.
  const std::uint64_t& reclaimed = scheduler_.context().reclaimed_slab;
  const std::uint64_t before = reclaimed;
  if (mode == ReapMode::kAll) drop_stocks();
  // The newest first: slabs of a cache have their descriptors in the oldest ones.
  for (KmemCacheBase* cache = caches_.back_or_null(); cache != nullptr; cache = caches_.prev_or_null(*cache)) {
    if (mode == ReapMode::kAll) {
      layout_->shrink(*cache);
    } else {
      layout_->reap(*cache);
    }
  }
  return reclaimed - before;
}

// --- faults and checks -----------------------------------------------------------------------------------------------

std::uint32_t SlabSystem::slow_mask() const {
  std::uint32_t mask = KmemCacheBase::kSlowNormally;
  if (phys_.nodes().size() > 1) mask |= bits(Gfp::kThisNode);
  if (fault_injection_ != nullptr) mask |= KmemCacheBase::kAlways;
  return mask;
}

void SlabSystem::set_fault_injection(sim::FaultInjection* faults) {
  fault_injection_ = faults;
  for (KmemCacheBase& cache : caches_) {
    cache.slow_mask_ = slow_mask();
  }
}

void SlabSystem::validate() const {
  std::int64_t pages = 0;
  for (const KmemCacheBase& cache : caches_) {
    cache.validate();
    pages += static_cast<std::int64_t>(layout_->counts(cache).pages);
  }
  QUIRE_BUG_ON(phys_.global_node_page_state(phys::NodeStat::kNrSlabReclaimable) +
                   phys_.global_node_page_state(phys::NodeStat::kNrSlabUnreclaimable) !=
               pages + static_cast<std::int64_t>(large_pages()));
  QUIRE_BUG_ON(slab_pages() != static_cast<std::uint64_t>(pages));
}

}  // namespace quire::slab
