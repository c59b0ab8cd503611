// Who has which part of the vmalloc area: three trees of ranges that together cover it exactly once.
//
//   busy    areas in use, by address                       ── free_vmap_area ──►  purge
//   purge   unmapped, but some TLB may still know them     ── purge (one flush) ──►  free
//   free    gaps, each node with the largest gap at or below it: the lowest gap that fits is found in O(log n)
//
// Freed areas wait until lazy_max_pages() of them have come together (32 MiB times the bits of the number of CPUs) or until
// space runs out; then one TLB flush serves them all. Neighbours melt together, in purge and in free.
// Nodes come from the cache "vmap_area"; one spare is kept, for a gap that falls in two while a spinlock is held.
//
// Locking: free_vmap_area_lock: free; vmap_area_lock: busy; vmap_purge_lock (a mutex, the outermost): one purge at a time.
// Differs from Linux 6.1: who frees too much purges at once rather than by a work item; the free tree covers the vmalloc area
// only (modules have no place of their own here).
#pragma once

#include <cstdint>

#include "quire/base/rbtree.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/kvirt/kernel_log.h"
#include "quire/kvirt/kernel_tlb.h"
#include "quire/kvirt/vmap_area.h"
#include "quire/sim/lock_guards.h"
#include "quire/slab/kmem_cache.h"

namespace quire::kvirt {

class VmapAreas {
 public:
  VmapAreas(slab::SlabSystem& slab, sim::Scheduler& scheduler, KernelTlb& tlb, KernelLog& log, Range<VirtAddr> space);
  ~VmapAreas();
  VmapAreas(const VmapAreas&) = delete;
  VmapAreas& operator=(const VmapAreas&) = delete;

  // The first gap. kNoMem.
  [[nodiscard]] Status setup();

  // The lowest free range of `size` bytes aligned to `align` (a power of two) within [within). kNoMem: no memory for the
  // node; kBusy: no room, also after a purge. May sleep. (alloc_vmap_area)
  [[nodiscard]] Result<VmapArea*> alloc_vmap_area(std::uint64_t size, std::uint64_t align, Range<VirtAddr> within, Nid nid,
                                                  phys::Gfp gfp);
  // The busy area that holds va; null: none.
  [[nodiscard]] VmapArea* find_vmap_area(VirtAddr va);
  // Takes a busy area to those that wait for a purge; its translations are cleared already. Purges when too many wait, which
  // may sleep.
  void free_vmap_area(VmapArea& va);
  // Flushes and frees what waits; false when nothing did. May sleep. (purge_vmap_area_lazy)
  bool purge_vmap_area_lazy();

  [[nodiscard]] std::uint64_t lazy_max_pages() const;
  void set_lazy_max_pages(std::uint64_t pages) { lazy_max_override_ = pages; }
  [[nodiscard]] std::uint64_t lazy_pages() const { return lazy_pages_; }
  [[nodiscard]] std::uint64_t purges() const { return purges_; }
  [[nodiscard]] Range<VirtAddr> space() const { return space_; }

  // Calls f(const VmapArea&) for each in order of address.
  template <class F>
  void for_each_busy(F&& f) const {
    busy_.for_each(f);
  }
  template <class F>
  void for_each_unpurged(F&& f) const {
    purge_.for_each(f);
  }

  // The three trees cover the space exactly once, gaps are maximal, summaries are true.
  void validate() const;

 private:
  struct ByStart {
    bool operator()(const VmapArea& a, const VmapArea& b) const { return a.va_start < b.va_start; }
  };
  struct LargestGap {
    static bool update(RbNode& node);
  };
  using PlainTree = RbTree<VmapArea, &VmapArea::rb_node, ByStart>;
  using FreeTree = RbTree<VmapArea, &VmapArea::rb_node, ByStart, LargestGap>;

  [[nodiscard]] static std::uint64_t largest(const RbNode* node);
  struct Request {
    std::uint64_t size = 0;
    std::uint64_t align = 0;
    std::uint64_t length = 0;  // of a gap in which it fits for certain
    VirtAddr from{};
  };
  [[nodiscard]] static std::uint64_t fits(const VmapArea& gap, const Request& request);
  [[nodiscard]] static VmapArea* find_lowest_match(RbNode* node, const Request& request);
  [[nodiscard]] std::uint64_t take(std::uint64_t size, std::uint64_t align, Range<VirtAddr> within);
  void clip(VmapArea& gap, VirtAddr start, std::uint64_t size);
  template <class Tree>
  void merge_or_add(Tree& tree, VmapArea& va);

  slab::KmemCache<VmapArea> cache_;
  sim::Scheduler& scheduler_;
  KernelTlb& tlb_;
  KernelLog& log_;
  Range<VirtAddr> space_;
  sim::SpinLock free_vmap_area_lock_;
  sim::SpinLock vmap_area_lock_;
  sim::Mutex vmap_purge_lock_;
  PlainTree busy_;
  PlainTree purge_;
  FreeTree free_;
  VmapArea* spare_ = nullptr;
  std::uint64_t lazy_pages_ = 0;
  std::uint64_t lazy_max_override_ = 0;
  std::uint64_t purges_ = 0;
};

}  // namespace quire::kvirt
