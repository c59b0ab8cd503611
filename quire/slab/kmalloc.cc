// kmalloc and kfree: size classes in front, whole pages beyond them.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/slab/classic_slab.h"
#include "quire/slab/slab_system.h"

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
constexpr std::array<KmallocClass, SlabSystem::kKmallocClasses> kClasses{{{"kmalloc-8", 8},
                                                                          {"kmalloc-16", 16},
                                                                          {"kmalloc-32", 32},
                                                                          {"kmalloc-64", 64},
                                                                          {"kmalloc-96", 96},
                                                                          {"kmalloc-128", 128},
                                                                          {"kmalloc-192", 192},
                                                                          {"kmalloc-256", 256},
                                                                          {"kmalloc-512", 512},
                                                                          {"kmalloc-1k", 1024},
                                                                          {"kmalloc-2k", 2048},
                                                                          {"kmalloc-4k", 4096},
                                                                          {"kmalloc-8k", 8192}}};

Order order_for(std::size_t size) { return Order(static_cast<unsigned>(std::bit_width(bytes_to_pages_up(size) - 1))); }

bool is_power_of_two(std::size_t n) { return std::has_single_bit(n); }

}  // namespace

void SlabSystem::create_kmalloc_caches() {
  for (std::size_t i = 0; i < kKmallocClasses; ++i) {
    const auto [name, size] = kClasses[i];
    // A power of two is aligned to itself, as callers rely on.
    const std::size_t align = is_power_of_two(size) ? std::min<std::size_t>(size, kPageSize) : 0;
    kmalloc_caches_[i] = kmem_cache_create(name, size, align, SlabFlags::kPanic).value();
  }
}

void* SlabSystem::kmalloc_node(std::size_t size, Gfp gfp, Nid nid) {
  if (size == 0) return zero_size_ptr();
  KmemCacheBase* cache = kmalloc_slab(size);
  if (cache != nullptr) return cache->alloc_node(gfp, nid);
  return kmalloc_large(size, gfp, nid);
}

// Whole pages, compound so that kfree finds their size; the head's owner words say whose they are.
void* SlabSystem::kmalloc_large(std::size_t size, Gfp gfp, Nid nid) {
  if (size > kKmallocMaxSize) return nullptr;
  const Order order = order_for(size);
  const bool zero = any(gfp, Gfp::kZero);
  Page* page = phys_.alloc_pages((gfp & ~Gfp::kZero) | Gfp::kComp, order, nid);
  if (page == nullptr) return nullptr;
  page->owner_word[0] = this;
  page->owner_word[1] = nullptr;
  large_pages_ += order.pages();
  phys_.page_node(*page).stats.add(phys::NodeStat::kNrSlabUnreclaimable, static_cast<std::int64_t>(order.pages()));
  std::byte* p = phys_.page_address(*page);
  if (zero) std::memset(p, 0, size);
  return p;
}

// What kmalloc_large gave?
bool SlabSystem::is_large(const Page& head, const void* object) const {
  return head.is_head() && !head.test(PageFlag::kSlab) && head.owner_word[0] == this && phys_.page_address(head) == object;
}

void SlabSystem::kfree(const void* object) {
  if (object == nullptr || object == zero_size_ptr()) return;
  Page* head = head_page(object);
  if (head != nullptr && head->test(PageFlag::kSlab)) [[likely]] {
    KmemCacheBase* cache = SlabLayout::page_cache(*head);
    if (!cache->debugged() && layout_->kind() == SlabLayoutKind::kSlab) {
      const ObjectPlace::State state = layout_->find(*cache, *head, object).state;
      if (state == ObjectPlace::State::kFree) cache->report_double_free(object);
      if (state != ObjectPlace::State::kAllocated) cache->report_foreign(object);
    }
    cache->free_track_caller(const_cast<void*>(object), __builtin_return_address(0));
    return;
  }
  if (head == nullptr || !is_large(*head, object)) {
    bug(fmt::format("kfree of {}, which kmalloc never gave or which is free", fmt::ptr(object)));
  }
  const Order order = phys::compound_order(*head);
  large_pages_ -= order.pages();
  phys_.page_node(*head).stats.sub(phys::NodeStat::kNrSlabUnreclaimable, static_cast<std::int64_t>(order.pages()));
  head->owner_word[0] = nullptr;
  phys_.free_pages(*head, order);
}

std::size_t SlabSystem::ksize(const void* object) const {
  if (object == nullptr || object == zero_size_ptr()) return 0;
  const Page* head = head_page(object);
  if (head != nullptr && head->test(PageFlag::kSlab)) return SlabLayout::page_cache(*head)->object_size();
  QUIRE_BUG_ON(head == nullptr || !is_large(*head, object));
  return phys::compound_order(*head).bytes();
}

KmemCacheBase* SlabSystem::virt_to_cache(const void* object) const {
  const Page* head = head_page(object);
  return head != nullptr && head->test(PageFlag::kSlab) ? SlabLayout::page_cache(*head) : nullptr;
}

}  // namespace quire::slab
