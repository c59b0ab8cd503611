// kmalloc and kfree: size classes in front, whole pages beyond them.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/slab/slab_layout.h"
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

Order order_for(std::size_t size) {
  return Order(static_cast<unsigned>(std::bit_width(bytes_to_pages_up(size) - 1)));
}

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

// The head page of what kmalloc_large gave; nullptr when the address is none of these.
Page* SlabSystem::large_head(const void* object) const {
  if (!phys_.arena().contains(object) || !phys_.pfn_valid(phys_to_pfn(phys_.arena().to_phys(object)))) return nullptr;
  Page& page = phys_.virt_to_page(object);
  const bool ours = page.is_head() && !page.test(PageFlag::kSlab) && page.owner_word[0] == this &&
                    phys_.page_address(page) == object;
  return ours ? &page : nullptr;
}

void SlabSystem::kfree(const void* object) {
  if (object == nullptr || object == zero_size_ptr()) return;
  if (KmemCacheBase* cache = virt_to_cache(object)) {
    const SlabLayout::Place place = SlabLayout(*cache).place_of(object);
    if (place.slab->bufctl()[place.index] != kBufCtlActive) cache->report_double_free(object);
    cache->free(const_cast<void*>(object));
    return;
  }
  Page* head = large_head(object);
  if (head == nullptr) bug(fmt::format("kfree of {}, which kmalloc never gave or which is free", fmt::ptr(object)));
  const Order order = phys::compound_order(*head);
  large_pages_ -= order.pages();
  phys_.page_node(*head).stats.sub(phys::NodeStat::kNrSlabUnreclaimable, static_cast<std::int64_t>(order.pages()));
  head->owner_word[0] = nullptr;
  phys_.free_pages(*head, order);
}

std::size_t SlabSystem::ksize(const void* object) const {
  if (object == nullptr || object == zero_size_ptr()) return 0;
  if (const KmemCacheBase* cache = virt_to_cache(object)) return cache->object_size();
  const Page* head = large_head(object);
  QUIRE_BUG_ON(head == nullptr);
  return phys::compound_order(*head).bytes();
}

KmemCacheBase* SlabSystem::virt_to_cache(const void* object) const {
  if (!phys_.arena().contains(object) || !phys_.pfn_valid(phys_to_pfn(phys_.arena().to_phys(object)))) return nullptr;
  const Page& head = phys::compound_head(phys_.virt_to_page(object));
  return head.test(PageFlag::kSlab) ? SlabLayout::page_cache(head) : nullptr;
}

}  // namespace quire::slab
