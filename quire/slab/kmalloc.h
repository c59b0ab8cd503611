// kmalloc and kfree: caches by size class and type in front, whole pages beyond them. SlabSystem is one of these, so that
// users write slab.kmalloc(size, gfp).
//
//   size   0 → zero_size_ptr()   1 … 8 KiB → caches of 8 16 32 64 96 128 192 256 512 … 8192   … 4 MiB → pages, compound
//   type   kmalloc-N   kmalloc-cg-N (__GFP_ACCOUNT)   kmalloc-rcl-N (__GFP_RECLAIMABLE)   dma-kmalloc-N (GFP_DMA)
//
// kfree finds an address's cache through its struct Page; nobody has to remember the size. A power of two is aligned to
// itself (up to a page; beyond a page, to a page); all others to 8 bytes.
//
// Who looks at what: the debugging of an object names the caller of kmalloc and kfree, not these.
// Lock: none of its own.
// Differs from Linux 6.1: the classic layout has classes below 32 bytes, too (SLAB has not); without memory cgroups nothing
// is charged to the cg caches' objects.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "quire/base/bug.h"
#include "quire/base/types.h"
#include "quire/phys/gfp.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/kmem_cache_base.h"

namespace quire::slab {

// Which caches serve a request (kmalloc_type); in the order in which they are made.
enum class KmallocType : std::uint8_t { kNormal, kCgroup, kReclaim, kDma, kCount };
[[nodiscard]] constexpr KmallocType kmalloc_type(phys::Gfp gfp) {
  using phys::Gfp;
  if (!any(gfp, Gfp::kBareDma | Gfp::kReclaimable | Gfp::kAccount)) [[likely]]
    return KmallocType::kNormal;
  if (any(gfp, Gfp::kBareDma)) return KmallocType::kDma;
  return any(gfp, Gfp::kReclaimable) ? KmallocType::kReclaim : KmallocType::kCgroup;
}

class Kmalloc {
 public:
  static constexpr std::size_t kKmallocMaxCacheSize = 8192;       // KMALLOC_MAX_CACHE_SIZE
  static constexpr std::size_t kKmallocMaxSize = kMaxObjectSize;  // KMALLOC_MAX_SIZE
  static constexpr std::size_t kKmallocClasses = 13;              // 8 … 8192, with 96 and 192

  Kmalloc(const Kmalloc&) = delete;
  Kmalloc& operator=(const Kmalloc&) = delete;

  // `size` bytes; nullptr when there is no memory, or the size is beyond kKmallocMaxSize (the page allocator warns of the
  // first such request). Size 0 gives zero_size_ptr(), which is not to be touched but can be freed. May sleep if gfp says so.
  [[nodiscard]] void* kmalloc(std::size_t size, phys::Gfp gfp) {
    if (size - 1 < kKmallocMaxCacheSize) [[likely]]
      return kmalloc_caches_[type_index(gfp)][kmalloc_index(size)]->alloc(gfp);
    return kmalloc_node(size, gfp, kNoNode);
  }
  // The same from the memory of a node (kNoNode: the local one), or of another unless __GFP_THISNODE.
  [[nodiscard]] void* kmalloc_node(std::size_t size, phys::Gfp gfp, Nid nid);
  // The same for who acts for a caller of its own, whom debugging is to name.
  [[nodiscard]] void* kmalloc_track_caller(std::size_t size, phys::Gfp gfp, Nid nid, const void* caller);
  [[nodiscard]] void* kzalloc(std::size_t size, phys::Gfp gfp) { return kmalloc(size, gfp | phys::Gfp::kZero); }
  // Room for `n` objects of `size` bytes; nullptr, too, when n * size is more than a size_t holds.
  [[nodiscard]] void* kmalloc_array(std::size_t n, std::size_t size, phys::Gfp gfp) {
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(n, size, &bytes)) [[unlikely]]
      return nullptr;
    return kmalloc(bytes, gfp);
  }
  [[nodiscard]] void* kcalloc(std::size_t n, std::size_t size, phys::Gfp gfp) {
    return kmalloc_array(n, size, gfp | phys::Gfp::kZero);
  }
  // Room of `size` bytes that begins with what `object` held; `object` itself where it has that room, else it is freed.
  // nullptr: `object` is as it was. Size 0 frees it. With __GFP_ZERO what is beyond the old room is zero.
  [[nodiscard]] void* krealloc(const void* object, std::size_t size, phys::Gfp gfp);
  // A copy of `length` bytes, and of a string with a 0 behind it.
  [[nodiscard]] void* kmemdup(const void* source, std::size_t length, phys::Gfp gfp);
  [[nodiscard]] char* kstrdup(std::string_view text, phys::Gfp gfp);

  // Anything that one of these gave; nullptr and zero_size_ptr() are nothing. A foreign pointer is a bug.
  [[gnu::always_inline]] void kfree(const void* object) {
    // Every page of a slab tells where its cache's arrays are, so that this needs neither head page nor cache.
    const phys::Page* page = page_near_slab(object);
    if (page != nullptr && (page->flags & with_arrays_) != 0 && page->index != 0) [[likely]] {
      // The array freed to last is likely the one: so the push need not wait for the page's word, only be right about it.
      const unsigned cpu = cpus_.cpu();
      if (page->index != last_word_ || cpu != last_cpu_) [[unlikely]] {
        last_word_ = page->index;
        last_cpu_ = cpu;
        last_array_ = &KmemCacheBase::array_at(last_word_, cpu);
      }
      if (last_array_->push(const_cast<void*>(object))) [[likely]]
        return;
    }
    kfree_slow(object);
  }
  // The same, after overwriting it with zeros.
  void kfree_sensitive(const void* object);
  // Bytes that may really be used; 0 for nullptr and zero_size_ptr(). A foreign pointer is a bug.
  [[nodiscard]] std::size_t ksize(const void* object) const;
  // Bytes that a kmalloc of `size` would really give; `size` itself where it would fail.
  [[nodiscard]] static std::size_t kmalloc_size_roundup(std::size_t size);

  // The cache that serves a kmalloc of `size`, or nullptr for 0 and for sizes that are whole pages.
  [[nodiscard]] KmemCacheBase* kmalloc_slab(std::size_t size, phys::Gfp gfp = phys::Gfp::kKernel) const {
    if (size - 1 >= kKmallocMaxCacheSize) return nullptr;
    return kmalloc_caches_[type_index(gfp)][kmalloc_index(size)];
  }
  [[nodiscard]] static void* zero_size_ptr() { return reinterpret_cast<void*>(kZeroSizePtr); }

  // The cache that an object belongs to; nullptr when the address is not in a slab.
  [[nodiscard]] KmemCacheBase* virt_to_cache(const void* object) const;
  // The struct Page of an address, which may be a tail; nullptr outside RAM. Does not touch it.
  [[nodiscard]] phys::Page* page_of(const void* object) const {
    if (!mem_.arena().contains(object)) [[unlikely]]
      return nullptr;
    const Pfn pfn = phys_to_pfn(mem_.arena().to_phys(object));
    return mem_.pfn_valid(pfn) ? &mem_.pfn_to_page(pfn) : nullptr;
  }
  // The same for an address in a block of RAM some of whose pages are a slab's; nullptr for others. Cheaper, since there all
  // struct Pages are.
  [[nodiscard]] const phys::Page* page_near_slab(const void* object) const {
    const std::uint64_t offset = reinterpret_cast<std::uintptr_t>(object) - base_;
    if (offset >= end_ || slab_pages_[offset >> kBlockShift] == 0) [[unlikely]]
      return nullptr;
    return vmemmap_ + (offset >> kPageShift);
  }
  // The head of the block that an address lies in; nullptr outside RAM.
  [[nodiscard]] phys::Page* head_page(const void* object) const {
    phys::Page* page = page_of(object);
    return page == nullptr ? nullptr : &phys::compound_head(*page);
  }

 protected:
  Kmalloc(phys::PhysMem& mem, sim::Scheduler& scheduler, SlabLayoutKind layout);
  ~Kmalloc() = default;

  // At boot, when the cache of caches stands (create_kmalloc_caches).
  void create_kmalloc_caches(SlabSystem& system);
  // Pages that large requests hold.
  [[nodiscard]] std::uint64_t large_pages() const { return large_pages_; }
  // Tells of a block that becomes a slab's, or is one no more.
  enum class SlabPages : std::uint8_t { kCome, kGo };
  void count_slab_pages(const phys::Page& page, Order order, SlabPages change);
  // What slab_pages_ adds up to.
  [[nodiscard]] std::uint64_t slab_pages() const;

 private:
  static constexpr std::uintptr_t kZeroSizePtr = 16;
  static constexpr std::size_t kTypes = static_cast<std::size_t>(KmallocType::kCount);

  // kmalloc's classes in the order of their sizes. 1 ≤ size ≤ kKmallocMaxCacheSize.
  [[nodiscard]] static constexpr std::size_t kmalloc_index(std::size_t size) {
    if (size <= 192) return kSmallIndex[(size - 1) / 8];
    return static_cast<std::size_t>(std::bit_width(size - 1)) - 1;
  }
  // In steps of 8 bytes.
  static constexpr std::array<std::uint8_t, 24> kSmallIndex = {0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4,
                                                               5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6};
  [[nodiscard]] static constexpr std::size_t type_index(phys::Gfp gfp) { return static_cast<std::size_t>(kmalloc_type(gfp)); }

  [[nodiscard]] void* kmalloc_large(std::size_t size, phys::Gfp gfp, Nid nid);
  [[nodiscard]] bool is_large(const phys::Page& head, const void* object) const;
  [[gnu::noinline]] void kfree_slow(const void* object);
  void free_large(const void* object);

  static constexpr unsigned kBlockShift = 21;  // log2 of the bytes of a block

  // What kfree reads: copies of where RAM and the struct Pages are, and how many pages of each block of RAM are slabs'.
  std::uintptr_t base_;
  std::uint64_t end_;
  std::unique_ptr<std::uint16_t[]> slab_pages_;
  const phys::Page* vmemmap_;
  std::uint64_t with_arrays_;  // PG_slab where caches have CPU arrays, as in the classic layout; else no flag
  sim::Scheduler& cpus_;       // says which we run on
  // array_at of the first two; never out of date, since it is a function of them.
  std::uint64_t last_word_ = 0;
  ArrayCache* last_array_ = nullptr;
  unsigned last_cpu_ = 0;
  phys::PhysMem& mem_;
  std::array<std::array<KmemCacheBase*, kKmallocClasses>, kTypes> kmalloc_caches_{};
  std::uint64_t large_pages_ = 0;
};

}  // namespace quire::slab
