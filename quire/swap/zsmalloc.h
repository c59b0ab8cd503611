// zsmalloc: objects of up to a page, packed densely into groups of frames (zspages) that are never mapped contiguously, so
// that an object may lie across two frames. Where zram keeps what it has compressed.
//
//   size class 1376:  zspage = 1…4 frames  |obj 0|obj 1|ob|j 2|...     objs_per_zspage = frames * 4096 / size
//
// Classes are 16 bytes apart from 32 to 4096; a class whose zspages would hold as many objects in as many frames as the
// next larger one's is merged into it. A zspage has a descriptor and each object a handle, both slab objects ("zspage",
// "zs_handle"), so that an object could be moved; a class of one object per frame ("huge") keeps no header in the object.
//
// Locks: one a class (size_class::lock). Unlike Linux: which objects are taken is a bitmap in the descriptor, not a list
// threaded through the free objects, so that a dataless machine touches no store frame; no compaction yet; never inlined.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quire/base/bitmap.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/result.h"
#include "quire/phys/gfp.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"
#include "quire/slab/kmem_cache.h"

namespace quire::swap {

inline constexpr unsigned kZsMaxPagesPerZspage = 4;
inline constexpr unsigned kZsMinAllocSize = 32;
inline constexpr unsigned kZsSizeClassDelta = 16;
inline constexpr unsigned kZsHandleSize = 8;
inline constexpr unsigned kZsMaxObjects = kZsMaxPagesPerZspage * kPageSize / kZsMinAllocSize;

struct Zspage {
  ListNode list;  // in its class's list of its fullness
  std::array<phys::Page*, kZsMaxPagesPerZspage> pages{};
  std::array<Bitmap::Word, Bitmap::words_for(kZsMaxObjects)> used_words{};  // a bit for each object
  [[nodiscard]] Bitmap used() { return Bitmap(used_words, kZsMaxObjects); }
  std::uint16_t class_index = 0;
  std::uint16_t inuse = 0;
  std::uint8_t fullness = 0;
};

// Where an object lies. Stays at its address for the object's life.
struct ZsHandle {
  std::uint64_t zspage_and_index = 0;

  static constexpr unsigned kIndexBits = 10;  // in the top bits, which an address of the arena does not use
  void set(Zspage& zspage, unsigned index) {
    zspage_and_index = (std::uint64_t{index} << (64 - kIndexBits)) | reinterpret_cast<std::uint64_t>(&zspage);
  }
  [[nodiscard]] Zspage& zspage() const {
    return *reinterpret_cast<Zspage*>(zspage_and_index & (~std::uint64_t{0} >> kIndexBits));
  }
  [[nodiscard]] unsigned index() const { return static_cast<unsigned>(zspage_and_index >> (64 - kIndexBits)); }
};

class ZsPool {
 public:
  // kNoMem: no memory for its caches, which all pools share.
  [[nodiscard]] static Result<std::unique_ptr<ZsPool>> create(phys::PhysMem& phys, slab::SlabSystem& slab,
                                                              sim::Scheduler& scheduler, sim::LockClass& lock_class);
  ~ZsPool();

  // An object of `size` bytes, 0 < size <= 4096; nullptr when no memory was to be had under `gfp`.
  [[nodiscard]] ZsHandle* zs_malloc(std::size_t size, phys::Gfp gfp);
  void zs_free(ZsHandle& handle);

  // Copies into or out of the object. Data mode only.
  void write(const ZsHandle& handle, std::span<const std::byte> bytes);
  void read(const ZsHandle& handle, std::span<std::byte> bytes) const;

  // What an object of `size` bytes takes of its class.
  [[nodiscard]] unsigned class_size(std::size_t size) const;
  // zs_huge_class_size: from this size on an object takes a whole frame.
  [[nodiscard]] std::size_t huge_class_size() const { return huge_class_size_; }
  [[nodiscard]] std::uint64_t total_pages() const { return pages_allocated_; }
  [[nodiscard]] std::uint64_t objects() const { return objects_; }

  void validate() const;

 private:
  ZsPool(phys::PhysMem& phys, slab::KmemCache<Zspage> zspages, slab::KmemCache<ZsHandle> handles)
      : phys_(phys), zspage_cache_(std::move(zspages)), handle_cache_(std::move(handles)) {}
  enum Fullness : std::uint8_t { kEmpty, kAlmostEmpty, kAlmostFull, kFull, kFullnessGroups };
  using ZspageList = List<Zspage, &Zspage::list>;
  struct SizeClass {
    SizeClass(sim::Scheduler& scheduler, sim::LockClass& lock_class) : lock(scheduler, lock_class) {}
    sim::SpinLock lock;
    std::array<ZspageList, kFullnessGroups> fullness;
    unsigned index = 0;
    unsigned size = 0;
    unsigned pages_per_zspage = 0;
    unsigned objs_per_zspage = 0;
    std::uint64_t zspages = 0;
    std::uint64_t objects = 0;
    [[nodiscard]] bool huge() const { return objs_per_zspage == 1 && pages_per_zspage == 1; }
  };

  void make_classes(sim::Scheduler& scheduler, sim::LockClass& lock_class);
  [[nodiscard]] SizeClass& class_for(std::size_t stored);
  [[nodiscard]] Zspage* alloc_zspage(SizeClass& size_class, phys::Gfp gfp);
  void free_zspage(Zspage& zspage);
  void obj_malloc(SizeClass& size_class, Zspage& zspage, ZsHandle& handle);
  void fix_fullness_group(SizeClass& size_class, Zspage& zspage);
  [[nodiscard]] static Fullness fullness_of(const SizeClass& size_class, const Zspage& zspage);
  template <class Copy>
  void for_each_piece(const ZsHandle& handle, std::size_t bytes, Copy&& copy) const;

  phys::PhysMem& phys_;
  slab::KmemCache<Zspage> zspage_cache_;
  slab::KmemCache<ZsHandle> handle_cache_;
  std::vector<std::unique_ptr<SizeClass>> classes_;
  std::array<SizeClass*, (kPageSize - kZsMinAllocSize) / kZsSizeClassDelta + 1> class_of_size_{};
  std::size_t huge_class_size_ = 0;
  std::uint64_t pages_allocated_ = 0;
  std::uint64_t objects_ = 0;
};

}  // namespace quire::swap
