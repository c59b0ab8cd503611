#include "quire/kvirt/vmap_areas.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace quire::kvirt {

namespace {

constexpr std::uint64_t kNoPlace = ~std::uint64_t{0};

}  // namespace

VmapAreas::VmapAreas(slab::SlabSystem& slab, sim::Scheduler& scheduler, KernelTlb& tlb, KernelLog& log, Range<VirtAddr> space)
    : cache_(slab, "vmap_area"),
      scheduler_(scheduler),
      tlb_(tlb),
      log_(log),
      space_(space),
      free_vmap_area_lock_(scheduler, scheduler.locks().lock_class("free_vmap_area_lock")),
      vmap_area_lock_(scheduler, scheduler.locks().lock_class("vmap_area_lock")),
      vmap_purge_lock_(scheduler, scheduler.locks().lock_class("vmap_purge_lock")) {}

VmapAreas::~VmapAreas() {
  const auto drop = [this](auto& tree) {
    while (VmapArea* va = tree.first()) {
      tree.erase(*va);
      cache_.free(va);
    }
  };
  drop(free_);
  drop(purge_);
  if (spare_ != nullptr) cache_.free(spare_);
}

Status VmapAreas::setup() {
  VmapArea* all = cache_.alloc(phys::Gfp::kKernel);
  if (all == nullptr) return fail(Errno::kNoMem);
  all->va_start = space_.begin;
  all->va_end = space_.end;
  free_.insert(*all);
  return {};
}

std::uint64_t VmapAreas::lazy_max_pages() const {
  if (lazy_max_override_ != 0) return lazy_max_override_;
  return static_cast<std::uint64_t>(std::bit_width(scheduler_.cpus())) * (32 * kMiB / kPageSize);
}

// --- the gaps -----------------------------------------------------------------------------------------------------------

std::uint64_t VmapAreas::largest(const RbNode* node) {
  return node == nullptr ? 0 : container_of(const_cast<RbNode*>(node), &VmapArea::rb_node)->subtree_max_size;
}

bool VmapAreas::LargestGap::update(RbNode& node) {
  VmapArea& va = *container_of(&node, &VmapArea::rb_node);
  const std::uint64_t now = std::max({va.va_size(), largest(node.left), largest(node.right)});
  const bool changed = now != va.subtree_max_size;
  va.subtree_max_size = now;
  return changed;
}

// Where in the gap the lowest aligned range of that size from `from` on begins; kNoPlace: nowhere.
std::uint64_t VmapAreas::fits(const VmapArea& gap, const Request& request) {
  const std::uint64_t start = align_up(std::max(gap.va_start, request.from).value(), request.align);
  if (start < gap.va_start.value() || start > gap.va_end.value()) return kNoPlace;
  if (gap.va_end.value() - start < request.size) return kNoPlace;
  return start;
}

// The lowest gap that fits, in order of address; subtrees whose largest gap is below `length` are passed over.
VmapArea* VmapAreas::find_lowest_match(RbNode* node, const Request& request) {
  if (node == nullptr) return nullptr;
  VmapArea& gap = *container_of(node, &VmapArea::rb_node);
  if (gap.va_start > request.from && largest(node->left) >= request.length) {
    if (VmapArea* found = find_lowest_match(node->left, request)) return found;
  }
  if (fits(gap, request) != kNoPlace) return &gap;
  return largest(node->right) >= request.length ? find_lowest_match(node->right, request) : nullptr;
}

// Takes [start, start + size) out of a gap that holds it: the gap vanishes, shrinks at one side, or falls in two.
void VmapAreas::clip(VmapArea& gap, VirtAddr start, std::uint64_t size) {
  const VirtAddr end = start + size;
  if (gap.va_start == start && gap.va_end == end) {
    free_.erase(gap);
    cache_.free(&gap);
    return;
  }
  if (gap.va_start == start) {
    gap.va_start = end;
  } else if (gap.va_end == end) {
    gap.va_end = start;
  } else {
    VmapArea* below = std::exchange(spare_, nullptr);
    QUIRE_BUG_ON(below == nullptr);
    below->va_start = gap.va_start;
    below->va_end = start;
    below->subtree_max_size = 0;
    gap.va_start = end;
    FreeTree::propagate(gap);
    free_.insert(*below);
    return;
  }
  FreeTree::propagate(gap);
}

std::uint64_t VmapAreas::take(std::uint64_t size, std::uint64_t align, Range<VirtAddr> within) {
  // A gap of this length holds an aligned range wherever it lies; without it, many a gap would have to be tried.
  const bool any_place = align <= kPageSize || within.size() == size;
  const Request request{.size = size, .align = align, .length = any_place ? size : size + align - 1, .from = within.begin};
  VmapArea* gap = find_lowest_match(*free_.root_link(), request);
  if (gap == nullptr) return kNoPlace;
  const std::uint64_t start = fits(*gap, request);
  if (start + size > within.end.value() || start + size < start) return kNoPlace;
  clip(*gap, VirtAddr(start), size);
  return start;
}

template <class Tree>
void VmapAreas::merge_or_add(Tree& tree, VmapArea& va) {
  VmapArea* next = tree.partition_point([&](const VmapArea& other) { return other.va_start < va.va_start; });
  VmapArea* prev = next == nullptr ? tree.last() : Tree::prev(*next);
  const bool with_prev = prev != nullptr && prev->va_end == va.va_start;
  const bool with_next = next != nullptr && next->va_start == va.va_end;
  if (with_prev) {
    prev->va_end = with_next ? next->va_end : va.va_end;
    if (with_next) {
      tree.erase(*next);
      cache_.free(next);
    }
    Tree::propagate(*prev);
    cache_.free(&va);
  } else if (with_next) {
    next->va_start = va.va_start;
    Tree::propagate(*next);
    cache_.free(&va);
  } else {
    va.subtree_max_size = 0;
    tree.insert(va);
  }
}

// --- taking and giving back -----------------------------------------------------------------------------------------------

Result<VmapArea*> VmapAreas::alloc_vmap_area(std::uint64_t size, std::uint64_t align, Range<VirtAddr> within, Nid nid,
                                             phys::Gfp gfp) {
  QUIRE_BUG_ON(size == 0 || size % kPageSize != 0 || !std::has_single_bit(align));
  VmapArea* va = cache_.alloc_node(gfp, nid);
  if (va == nullptr) return fail(Errno::kNoMem);
  std::uint64_t start = kNoPlace;
  enum class Purged : std::uint8_t { kNo, kYes } purged = Purged::kNo;
  for (;;) {
    if (spare_ == nullptr) {
      VmapArea* fresh = cache_.alloc_node(gfp, nid);
      if (fresh == nullptr) {
        cache_.free(va);
        return fail(Errno::kNoMem);
      }
      if (spare_ == nullptr) {
        spare_ = fresh;
      } else {
        cache_.free(fresh);  // another task was quicker
      }
    }
    {
      sim::SpinGuard guard(free_vmap_area_lock_);
      if (spare_ == nullptr) continue;  // and another took it while we waited for the lock
      start = take(size, align, within);
    }
    if (start != kNoPlace || purged == Purged::kYes) break;
    purged = Purged::kYes;
    purge_vmap_area_lazy();
  }
  if (start == kNoPlace) {
    cache_.free(va);
    if (!any(gfp, phys::Gfp::kNoWarn)) {
      log_.warn(fmt::format("vmap allocation for size {} failed: no gap of the vmalloc area is as large; free some areas first",
                            size));
    }
    return fail(Errno::kBusy);
  }
  va->va_start = VirtAddr(start);
  va->va_end = VirtAddr(start + size);
  va->vm = nullptr;
  sim::SpinGuard guard(vmap_area_lock_);
  busy_.insert(*va);
  return va;
}

VmapArea* VmapAreas::find_vmap_area(VirtAddr va) {
  sim::SpinGuard guard(vmap_area_lock_);
  VmapArea* found = busy_.partition_point([&](const VmapArea& area) { return area.va_end <= va; });
  return found != nullptr && found->va_start <= va ? found : nullptr;
}

void VmapAreas::free_vmap_area(VmapArea& va) {
  {
    sim::SpinGuard guard(vmap_area_lock_);
    busy_.erase(va);
    va.vm = nullptr;
    lazy_pages_ += va.va_size() >> kPageShift;
    merge_or_add(purge_, va);
  }
  if (lazy_pages_ > lazy_max_pages()) purge_vmap_area_lazy();
}

bool VmapAreas::purge_vmap_area_lazy() {
  sim::MutexGuard purging(vmap_purge_lock_);
  List<VmapArea, &VmapArea::list> list;
  Range<VirtAddr> flush{space_.end, space_.begin};
  std::uint64_t pages = 0;
  {
    sim::SpinGuard guard(vmap_area_lock_);
    while (VmapArea* va = purge_.first()) {
      purge_.erase(*va);
      list.push_back(*va);
      flush = {std::min(flush.begin, va->va_start), std::max(flush.end, va->va_end)};
      pages += va->va_size() >> kPageShift;
    }
  }
  if (list.empty()) return false;
  tlb_.flush_tlb_kernel_range(flush);
  ++purges_;
  {
    sim::SpinGuard guard(free_vmap_area_lock_);
    while (VmapArea* va = list.front_or_null()) {
      list.erase(*va);
      merge_or_add(free_, *va);
    }
  }
  lazy_pages_ -= pages;
  return true;
}

// --- checking -----------------------------------------------------------------------------------------------------------

void VmapAreas::validate() const {
  busy_.validate();
  purge_.validate();
  free_.validate();
  // All three in one order: always the tree whose next area begins where the last one ended.
  const VmapArea* busy = busy_.first();
  const VmapArea* purge = purge_.first();
  const VmapArea* free = free_.first();
  const VmapArea* last_free = nullptr;
  const VmapArea* last_purge = nullptr;
  std::uint64_t lazy = 0;
  for (VirtAddr at = space_.begin; at < space_.end;) {
    const VmapArea* here = nullptr;
    if (busy != nullptr && busy->va_start == at) {
      here = busy;
      busy = PlainTree::next(*busy);
    } else if (purge != nullptr && purge->va_start == at) {
      here = purge;
      QUIRE_BUG_ON(last_purge != nullptr && last_purge->va_end == at);
      last_purge = purge;
      lazy += purge->va_size() >> kPageShift;
      purge = PlainTree::next(*purge);
    } else if (free != nullptr && free->va_start == at) {
      here = free;
      QUIRE_BUG_ON(last_free != nullptr && last_free->va_end == at);
      last_free = free;
      free = FreeTree::next(*free);
    }
    QUIRE_BUG_ON(here == nullptr || here->va_end <= at);
    at = here->va_end;
  }
  QUIRE_BUG_ON(busy != nullptr || purge != nullptr || free != nullptr);
  QUIRE_BUG_ON(lazy != lazy_pages_);
}

}  // namespace quire::kvirt
