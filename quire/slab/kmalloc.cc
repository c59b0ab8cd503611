#include "quire/slab/kmalloc.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "quire/slab/slab_layout.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/slub.h"

namespace quire::slab {

using phys::Gfp;
using phys::Page;
using phys::PageFlag;

namespace {

struct KmallocClass {
  std::string_view name;
  std::size_t size;
};
// In the order of kmalloc_index: 96 and 192 stand between the powers of two.
constexpr std::array<KmallocClass, Kmalloc::kKmallocClasses> kClasses{{{"8", 8},
                                                                       {"16", 16},
                                                                       {"32", 32},
                                                                       {"64", 64},
                                                                       {"96", 96},
                                                                       {"128", 128},
                                                                       {"192", 192},
                                                                       {"256", 256},
                                                                       {"512", 512},
                                                                       {"1k", 1024},
                                                                       {"2k", 2048},
                                                                       {"4k", 4096},
                                                                       {"8k", 8192}}};

struct KmallocKind {
  std::string_view prefix;
  SlabFlags flags;
};
// By KmallocType.
constexpr std::array<KmallocKind, static_cast<std::size_t>(KmallocType::kCount)> kKinds{
    {{"kmalloc-", SlabFlags::kNone},
     {"kmalloc-cg-", SlabFlags::kAccount},
     {"kmalloc-rcl-", SlabFlags::kReclaimAccount},
     {"dma-kmalloc-", SlabFlags::kCacheDma}}};

Order order_for(std::size_t size) { return Order(static_cast<unsigned>(std::bit_width((size - 1) >> kPageShift))); }

// A power of two is aligned to itself, as callers rely on.
std::size_t align_for(std::size_t size) { return std::has_single_bit(size) ? std::min<std::size_t>(size, kPageSize) : 0; }

}  // namespace

Kmalloc::Kmalloc(phys::PhysMem& mem, sim::Scheduler& scheduler, SlabLayoutKind layout)
    : base_(reinterpret_cast<std::uintptr_t>(mem.arena().base())),
      end_(mem.arena().end().value()),
      slab_pages_(std::make_unique<std::uint16_t[]>((end_ >> kBlockShift) + 1)),
      vmemmap_(mem.arena().vmemmap()),
      with_arrays_(layout == SlabLayoutKind::kSlab ? bits(PageFlag::kSlab) : 0),
      cpus_(scheduler),
      mem_(mem) {}

// Blocks of pages are aligned to their size, so each lies in one block of RAM or is some.
void Kmalloc::count_slab_pages(const Page& page, Order order, SlabPages change) {
  const std::uint64_t first = mem_.page_to_phys(page).value() >> kBlockShift;
  const std::uint64_t blocks = std::max<std::uint64_t>(order.bytes() >> kBlockShift, 1);
  const auto each = static_cast<std::uint16_t>(order.pages() / blocks);
  for (std::uint64_t i = first; i < first + blocks; ++i) {
    const auto pages = static_cast<std::uint32_t>(slab_pages_[i]);
    slab_pages_[i] = static_cast<std::uint16_t>(change == SlabPages::kCome ? pages + each : pages - each);
  }
}

std::uint64_t Kmalloc::slab_pages() const {
  std::uint64_t pages = 0;
  for (std::uint64_t i = 0; i <= end_ >> kBlockShift; ++i) pages += slab_pages_[i];
  return pages;
}

void Kmalloc::create_kmalloc_caches(SlabSystem& system) {
  // The order in which Linux makes them, which slabinfo shows: 96 after 64, 192 after 128.
  for (std::size_t type = 0; type < kTypes; ++type) {
    for (std::size_t i = 0; i < kKmallocClasses; ++i) {
      const auto [name, size] = kClasses[i];
      const auto [prefix, flags] = kKinds[type];
      kmalloc_caches_[type][i] = system
                                     .kmem_cache_create(std::string(prefix) + std::string(name), size, align_for(size),
                                                        flags | SlabFlags::kPanic | SlabFlags::kNoMerge)
                                     .value();
    }
  }
}

// --- alloc ------------------------------------------------------------------------------------------------------------

void* Kmalloc::kmalloc_node(std::size_t size, Gfp gfp, Nid nid) {
  return kmalloc_track_caller(size, gfp, nid, __builtin_return_address(0));
}

void* Kmalloc::kmalloc_track_caller(std::size_t size, Gfp gfp, Nid nid, const void* caller) {
  if (size == 0) return zero_size_ptr();
  KmemCacheBase* cache = kmalloc_slab(size, gfp);
  if (cache != nullptr) return cache->alloc_track_caller(gfp, nid, caller);
  return kmalloc_large(size, gfp, nid);
}

// Whole pages, compound so that kfree finds their size; the head's owner words say whose they are. The page allocator
// refuses orders that are too large, and warns once.
void* Kmalloc::kmalloc_large(std::size_t size, Gfp gfp, Nid nid) {
  const Order order = order_for(size);
  const bool zero = any(gfp, Gfp::kZero);
  Page* page = mem_.alloc_pages((gfp & ~Gfp::kZero) | Gfp::kComp, order, nid);
  if (page == nullptr) return nullptr;
  page->owner_word[0] = this;
  page->owner_word[1] = nullptr;
  large_pages_ += order.pages();
  mem_.page_node(*page).stats.add(phys::NodeStat::kNrSlabUnreclaimable, static_cast<std::int64_t>(order.pages()));
  std::byte* p = mem_.page_address(*page);
  if (zero) std::memset(p, 0, order.bytes());
  return p;
}

void* Kmalloc::krealloc(const void* object, std::size_t size, Gfp gfp) {
  if (size == 0) {
    kfree(object);
    return zero_size_ptr();
  }
  const std::size_t room = ksize(object);
  auto* old = const_cast<void*>(object);
  if (room >= size) return old;
  void* moved = kmalloc_track_caller(size, gfp, kNoNode, __builtin_return_address(0));
  if (moved == nullptr) return nullptr;
  if (room != 0) std::memcpy(moved, old, room);
  kfree(old);
  return moved;
}

void* Kmalloc::kmemdup(const void* source, std::size_t length, Gfp gfp) {
  void* copy = kmalloc_track_caller(length, gfp & ~Gfp::kZero, kNoNode, __builtin_return_address(0));
  if (copy != nullptr && length != 0) std::memcpy(copy, source, length);
  return copy;
}

char* Kmalloc::kstrdup(std::string_view text, Gfp gfp) {
  const std::size_t bytes = text.size() + 1;
  auto* copy = static_cast<char*>(kmalloc_track_caller(bytes, gfp & ~Gfp::kZero, kNoNode, __builtin_return_address(0)));
  if (copy == nullptr) return nullptr;
  std::copy(text.begin(), text.end(), copy);
  copy[text.size()] = 0;
  return copy;
}

// --- free -------------------------------------------------------------------------------------------------------------

void Kmalloc::kfree_slow(const void* object) {
  const Page* page = page_near_slab(object);
  if (page != nullptr && page->test(PageFlag::kSlab)) {
    KmemCacheBase& cache = *SlabLayout::page_cache(*page);
    auto* p = const_cast<void*>(object);
    if (cache.is_slub() && Slub::free_fast(cache, *page, p)) return;
    return cache.free_track_caller(p, __builtin_return_address(0));
  }
  if (object == nullptr || object == zero_size_ptr()) return;
  free_large(object);
}

void Kmalloc::kfree_sensitive(const void* object) {
  const std::size_t bytes = ksize(object);
  if (bytes != 0) ::explicit_bzero(const_cast<void*>(object), bytes);
  kfree(object);
}

void Kmalloc::free_large(const void* object) {
  Page* head = head_page(object);
  if (head == nullptr || !is_large(*head, object)) {
    bug(fmt::format("kfree of {}, which kmalloc never gave or which is free", fmt::ptr(object)));
  }
  const Order order = phys::compound_order(*head);
  large_pages_ -= order.pages();
  mem_.page_node(*head).stats.sub(phys::NodeStat::kNrSlabUnreclaimable, static_cast<std::int64_t>(order.pages()));
  head->owner_word[0] = nullptr;
  mem_.free_pages(*head, order);
}

// --- looking ----------------------------------------------------------------------------------------------------------

// What kmalloc_large gave?
bool Kmalloc::is_large(const Page& head, const void* object) const {
  return head.is_head() && !head.test(PageFlag::kSlab) && head.owner_word[0] == this && mem_.page_address(head) == object;
}

std::size_t Kmalloc::ksize(const void* object) const {
  if (object == nullptr || object == zero_size_ptr()) return 0;
  if (const KmemCacheBase* cache = virt_to_cache(object)) return cache->object_size();
  const Page* head = head_page(object);
  QUIRE_BUG_ON(head == nullptr || !is_large(*head, object));
  return phys::compound_order(*head).bytes();
}

std::size_t Kmalloc::kmalloc_size_roundup(std::size_t size) {
  if (size == 0 || size > kKmallocMaxSize) return size;
  return size <= kKmallocMaxCacheSize ? kClasses[kmalloc_index(size)].size : order_for(size).bytes();
}

KmemCacheBase* Kmalloc::virt_to_cache(const void* object) const {
  const Page* page = page_of(object);
  return page != nullptr && page->test(PageFlag::kSlab) ? SlabLayout::page_cache(*page) : nullptr;
}

}  // namespace quire::slab
