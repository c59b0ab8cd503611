#include "quire/kvirt/vmalloc.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace quire::kvirt {

using phys::Gfp;
using phys::Page;

namespace {

constexpr std::uint64_t kBulk = 100;  // pages asked for at once
constexpr sim::Nanos kJiffy = 4 * sim::kMillisecond;
constexpr unsigned kBootTries = 16;            // of __GFP_NOFAIL where nothing else runs
constexpr std::uint64_t kTouchedAtOnce = 512;  // pages of an area whose owner is taken to use all of it

// GFP_RECLAIM_MASK: what the allocations on the way (descriptions, page tables) take over from the request.
constexpr Gfp kReclaimMask = Gfp::kReclaim | Gfp::kIo | Gfp::kFs | Gfp::kNoWarn | Gfp::kRetryMayFail | Gfp::kNoFail |
                             Gfp::kNoRetry | Gfp::kMemAlloc | Gfp::kNoMemAlloc | Gfp::kBareAtomic;

}  // namespace

Vmalloc::Vmalloc(phys::PhysMem& phys, slab::SlabSystem& slab, InitMm& init_mm, KernelTlb& tlb, KernelLog& log, HugeVmalloc huge)
    : phys_(phys),
      slab_(slab),
      init_mm_(init_mm),
      log_(log),
      huge_(huge),
      areas_(slab, phys.scheduler(), tlb, log, init_mm.layout().vmalloc),
      window_(phys, init_mm.layout().vmalloc) {}

// What is still there goes: its owner ended before us and said nothing.
Vmalloc::~Vmalloc() {
  drain_deferred();
  for (;;) {
    VmStruct* left = nullptr;
    areas_.for_each_busy([&](const VmapArea& va) { left = left == nullptr ? va.vm : left; });
    if (left == nullptr) return;
    release(*left);
  }
}

// --- areas --------------------------------------------------------------------------------------------------------------

VmStruct* Vmalloc::get_vm_area_node(std::uint64_t size, std::uint64_t align, VmArea flags, Range<VirtAddr> within, Nid nid,
                                    Gfp gfp, const char* caller) {
  const Gfp meta = gfp & kReclaimMask;
  size = align_up(size, kPageSize);
  if (size == 0) return nullptr;
  if (any(flags, VmArea::kIoremap)) {
    // As large a leaf as the range could take: its size rounded up, from a page to the largest leaf.
    const std::uint64_t largest = init_mm_.layout().geometry.entry_span(init_mm_.layout().geometry.max_leaf_level);
    align = std::clamp(std::bit_ceil(size), kPageSize, largest);
  }
  void* room = slab_.kmalloc_node(sizeof(VmStruct), meta, nid);
  if (room == nullptr) return nullptr;
  auto* area = ::new (room) VmStruct();
  if (!any(flags, VmArea::kNoGuard)) size += kPageSize;
  auto va = areas_.alloc_vmap_area(size, align, within, nid, meta);
  if (!va) {
    slab_.kfree(area);
    return nullptr;
  }
  area->addr = (*va)->va_start;
  area->size = size;
  area->flags = flags;
  area->caller = caller;
  (*va)->vm = area;
  return area;
}

VmStruct* Vmalloc::get_vm_area(std::uint64_t size, VmArea flags, const char* caller) {
  drain_deferred();
  // vmalloc and vmap can only use what the host's window reaches: a few large devices must not fill it.
  Range<VirtAddr> within = areas_.space();
  if (size > window_.reach().size() / 8 && window_.reach().end < within.end) within.begin = window_.reach().end;
  return get_vm_area_node(size, 1, flags, within, kNoNode, Gfp::kKernel, caller);
}

void Vmalloc::free_vm_area(VmStruct& area) {
  area.next = &area;  // from here on nobody else's to free
  init_mm_.unmap(area.range());
  if (!any(area.flags, VmArea::kIoremap)) window_.hide(area.range());
  VmapArea* va = areas_.find_vmap_area(area.addr);
  QUIRE_BUG_ON(va == nullptr || va->vm != &area);
  // Both may give way to another task, which may look at what the busy tree still names: so out of the tree first.
  areas_.free_vmap_area(*va);
  slab_.kfree(&area);
}

VmStruct* Vmalloc::find_vm_area(VirtAddr va) {
  VmapArea* found = areas_.find_vmap_area(va);
  return found == nullptr ? nullptr : found->vm;
}

// --- allocation ---------------------------------------------------------------------------------------------------------

void Vmalloc::warn(const Request& request, const std::string& what) {
  if (any(request.gfp, Gfp::kNoWarn)) return;
  log_.note(what);
  phys_.warn_alloc(request.gfp, what);
}

void* Vmalloc::vmalloc_32(std::size_t size, const char* caller) {
  const Gfp gfp = phys_.has_zone(phys::ZoneType::kDma32) ? Gfp::kKernel | Gfp::kDma32 : Gfp::kKernel;
  return vmalloc_range({.size = size, .gfp = gfp, .caller = caller});
}

void* Vmalloc::vmalloc_range(const Request& request) {
  if (request.size == 0) {
    log_.warn("vmalloc of 0 bytes");
    return nullptr;
  }
  drain_deferred();
  if (request.size >> kPageShift > phys_.totalram_pages()) {
    warn(request, fmt::format("vmalloc error: size {}, exceeds total pages", request.size));
    return nullptr;
  }
  void* p = try_levels(request);
  for (unsigned tries = 1; p == nullptr && any(request.gfp, Gfp::kNoFail); ++tries) {
    if (phys_.scheduler().current() != nullptr) {
      phys_.scheduler().sleep_for(kJiffy);
    } else if (tries == kBootTries) {
      bug(fmt::format(
          "vmalloc of {} bytes with __GFP_NOFAIL in boot context: there is no room, and nothing runs that could make "
          "some; free memory or areas first, or ask without __GFP_NOFAIL",
          request.size));
    }
    p = try_levels(request);
  }
  return p;
}

void* Vmalloc::try_levels(const Request& request) {
  // A huge leaf needs its size on one node.
  const std::size_t per_node = request.nid == kNoNode ? request.size / phys_.nodes().size() : request.size;
  const std::uint64_t pmd_size = init_mm_.layout().geometry.entry_span(arch::kPmdLevel);
  if (huge_ == HugeVmalloc::kOn && any(request.flags, VmArea::kAllowHugeVmap) && per_node >= pmd_size &&
      init_mm_.layout().is_64bit()) {
    if (void* p = try_range(request, arch::kPmdLevel)) return p;
  }
  return try_range(request, arch::kPteLevel);
}

void* Vmalloc::try_range(const Request& request, unsigned level) {
  const std::uint64_t leaf = init_mm_.layout().geometry.entry_span(level);
  const std::uint64_t size = align_up(request.size, leaf);
  const std::uint64_t align = std::max(request.align, leaf);
  VmStruct* area = get_vm_area_node(size, align, VmArea::kAlloc | VmArea::kUninitialized | request.flags, window_.reach(),
                                    request.nid, request.gfp, request.caller);
  if (area == nullptr) {
    if (level == arch::kPteLevel) {
      warn(request, fmt::format("vmalloc error: size {}, vm_struct allocation failed", request.size));
    }
    return nullptr;
  }
  if (!vmalloc_area_node(*area, request, level)) {
    release(*area);
    return nullptr;
  }
  area->flags &= ~VmArea::kUninitialized;
  return window_.native(area->addr);
}

// Where the pages are written down: an allocation like any other, from vmalloc itself when it is large.
bool Vmalloc::alloc_page_array(VmStruct& area, std::uint64_t nr_pages, const Request& request) {
  const std::size_t bytes = nr_pages * sizeof(Page*);
  const Gfp gfp = (request.gfp & ~(Gfp::kHighmem | Gfp::kBareDma | Gfp::kBareDma32)) | Gfp::kZero;
  void* array = bytes > kPageSize ? vmalloc_range({.size = bytes, .gfp = gfp, .nid = request.nid, .caller = request.caller})
                                  : slab_.kmalloc_node(bytes, gfp, request.nid);
  area.pages = static_cast<Page**>(array);
  return array != nullptr;
}

bool Vmalloc::vmalloc_area_node(VmStruct& area, const Request& request, unsigned level) {
  const std::uint64_t nr_pages = area.usable() >> kPageShift;
  const unsigned order = init_mm_.layout().geometry.level[level].shift - kPageShift;
  // Only the last attempt complains.
  const bool last = level == arch::kPteLevel;
  if (!alloc_page_array(area, nr_pages, request)) {
    if (last) {
      warn(request, fmt::format("vmalloc error: size {}, failed to allocated page array size {}", pages_to_bytes(nr_pages),
                                nr_pages * sizeof(Page*)));
    }
    return false;
  }
  area.page_order = order;
  Gfp gfp = request.gfp & ~Gfp::kZero;
  if (!any(gfp, Gfp::kBareDma | Gfp::kBareDma32)) gfp |= Gfp::kHighmem;
  const std::uint64_t got = vm_area_alloc_pages({area.pages, nr_pages}, Order(order), gfp | Gfp::kNoWarn, request.nid);
  area.nr_pages = static_cast<std::uint32_t>(got);
  nr_vmalloc_pages_ += got;
  if (got != nr_pages) {
    if (last) {
      warn(request, fmt::format("vmalloc error: size {}, page order {}, failed to allocate pages", pages_to_bytes(got), order));
    }
    return false;
  }
  // The contents of the kernel's memory are real on every machine.
  if (any(request.gfp, Gfp::kZero)) zero(pages_of(area));
  if (!map_pages(area, pages_of(area), request.prot, level, request.gfp & kReclaimMask)) {
    if (last) warn(request, fmt::format("vmalloc error: size {}, failed to map pages", pages_to_bytes(nr_pages)));
    return false;
  }
  return true;
}

// As many of the pages as there are, from the start; each a page of its own with one reference.
std::uint64_t Vmalloc::vm_area_alloc_pages(std::span<Page*> pages, Order order, Gfp gfp, Nid nid) {
  std::uint64_t got = 0;
  while (order.value() == 0 && got < pages.size()) {
    const std::uint64_t wanted = std::min<std::uint64_t>(kBulk, pages.size() - got);
    std::fill_n(pages.begin() + static_cast<std::ptrdiff_t>(got), wanted, nullptr);
    // Pages of __GFP_NOFAIL are asked for one by one, below.
    const std::uint64_t more = phys_.alloc_pages_bulk(gfp & ~Gfp::kNoFail, pages.subspan(got, wanted), nid);
    got += more;
    if (more == wanted) continue;
    if (!any(gfp, Gfp::kNoFail)) return got;
    break;
  }
  while (got < pages.size()) {
    Page* block = phys_.alloc_pages(order.value() == 0 ? gfp : gfp & ~Gfp::kNoFail, order, nid);
    if (block == nullptr) return got;
    phys_.split_page(*block, order);
    for (std::uint64_t i = 0; i < order.pages(); ++i) pages[got++] = block + i;
  }
  return got;
}

void Vmalloc::zero(std::span<Page* const> pages) {
  for (Page* page : pages) std::memset(phys_.page_address(*page), 0, kPageSize);
  phys_.scheduler().charge(phys_.scheduler().costs().clear_page * pages.size());
}

// Leaves of `level` over consecutive pages, then the host's view of them.
Status Vmalloc::map_pages(const VmStruct& area, std::span<Page* const> pages, arch::Pgprot prot, unsigned level, Gfp gfp) {
  const std::uint64_t span = init_mm_.layout().geometry.entry_span(level);
  const std::uint64_t step = span >> kPageShift;
  for (std::uint64_t i = 0; i < pages.size(); i += step) {
    const VirtAddr va = area.addr + pages_to_bytes(i);
    if (Status s = init_mm_.map(va, phys_.page_to_phys(*pages[i]), prot, level, gfp); !s) return s;
  }
  phys_.scheduler().charge(phys_.scheduler().costs().pte_copy * (pages.size() / step));
  using Access = phys::Arena::ViewAccess;
  Access access = Access::kRead;
  if (any(prot.bits, arch::PteBits::kRw)) access = pages.size() <= kTouchedAtOnce ? Access::kReadWriteNow : Access::kReadWrite;
  Status shown = window_.show(area.addr, pages, access);
  if (!shown) {
    log_.warn(
        fmt::format("vmalloc error: the host cannot map {} more pages for this process; raise its vm.max_map_count or "
                    "its limit of address space (ulimit -v)",
                    pages.size()));
  }
  return shown;
}

// --- giving back --------------------------------------------------------------------------------------------------------

VmStruct* Vmalloc::find_own(const void* p, std::string_view name) {
  const bool inside = is_vmalloc_addr(p);
  if (inside && page_offset(kva(p)) != 0) {
    log_.warn(fmt::format("Trying to {}() bad address ({})", name, fmt::ptr(p)));
    return nullptr;
  }
  VmStruct* area = inside ? find_vm_area(kva(p)) : nullptr;
  if (area == nullptr || area->addr != kva(p) || area->next != nullptr) {
    log_.warn(fmt::format("Trying to {}() nonexistent vm area ({})", name, fmt::ptr(p)));
    return nullptr;
  }
  if (any(area->flags, VmArea::kIoremap)) {
    log_.warn(fmt::format("Trying to {}() an ioremap area ({}); iounmap is for it", name, fmt::ptr(p)));
    return nullptr;
  }
  return area;
}

void Vmalloc::vfree(const void* p) {
  drain_deferred();
  if (p == nullptr) return;
  phys_.scheduler().might_sleep("vfree");
  if (VmStruct* area = find_own(p, "vfree")) release(*area);
}

void Vmalloc::vunmap(const void* p) {
  if (p == nullptr) return;
  phys_.scheduler().might_sleep("vunmap");
  VmStruct* area = find_own(p, "vunmap");
  if (area == nullptr) return;
  if (any(area->flags, VmArea::kAlloc) || area->pages != nullptr) {
    log_.warn(fmt::format("Trying to vunmap() an area that owns its pages ({}); vfree is for it", fmt::ptr(p)));
    return;
  }
  free_vm_area(*area);
}

void Vmalloc::vfree_atomic(const void* p) {
  if (p == nullptr) return;
  VmStruct* area = find_own(p, "vfree");
  if (area == nullptr) return;
  area->next = deferred_ == nullptr ? area : deferred_;
  deferred_ = area;
}

void Vmalloc::drain_deferred() {
  while (deferred_ != nullptr) {
    VmStruct* area = deferred_;
    deferred_ = area->next == area ? nullptr : area->next;
    release(*area);
  }
}

void Vmalloc::release(VmStruct& area) {
  const VmStruct copy = area;
  phys_.scheduler().charge(phys_.scheduler().costs().pte_zap * (copy.usable() >> kPageShift));
  free_vm_area(area);
  if (copy.pages == nullptr) return;
  // Last first: lists of free pages give what came last, so who takes them next has them in a row, and one mapping does.
  for (std::uint64_t i = copy.nr_pages; i-- > 0;) phys_.free_page(*copy.pages[i]);
  if (any(copy.flags, VmArea::kAlloc)) nr_vmalloc_pages_ -= copy.nr_pages;
  if (is_vmalloc_addr(copy.pages)) {
    VmStruct* array = find_vm_area(static_cast<const void*>(copy.pages));
    QUIRE_BUG_ON(array == nullptr);
    release(*array);
  } else {
    slab_.kfree(copy.pages);
  }
}

// --- vmap ---------------------------------------------------------------------------------------------------------------

void* Vmalloc::vmap(std::span<Page* const> pages, VmArea flags, arch::Pgprot prot, const char* caller) {
  if (pages.empty() || pages.size() > phys_.totalram_pages()) return nullptr;
  drain_deferred();
  if (any(flags, VmArea::kNoGuard)) log_.warn(fmt::format("vmap by {} without a guard page: it gets one", caller));
  constexpr VmArea kAllowed = VmArea::kMap | VmArea::kMapPutPages | VmArea::kUserMap;
  VmStruct* area =
      get_vm_area_node(pages_to_bytes(pages.size()), 1, flags & kAllowed, window_.reach(), kNoNode, Gfp::kKernel, caller);
  if (area == nullptr) return nullptr;
  if (!map_pages(*area, pages, prot, arch::kPteLevel, Gfp::kKernel)) {
    free_vm_area(*area);
    return nullptr;
  }
  if (any(flags, VmArea::kMapPutPages)) {
    area->pages = const_cast<Page**>(pages.data());
    area->nr_pages = static_cast<std::uint32_t>(pages.size());
  }
  return window_.native(area->addr);
}

// --- looking ------------------------------------------------------------------------------------------------------------

std::optional<Pfn> Vmalloc::vmalloc_to_pfn(VirtAddr va) const {
  if (!is_vmalloc_addr(va)) return std::nullopt;
  const auto found = init_mm_.translate(va);
  return found ? std::optional(phys_to_pfn(found->pa)) : std::nullopt;
}

Page* Vmalloc::vmalloc_to_page(VirtAddr va) {
  const auto pfn = vmalloc_to_pfn(va);
  return pfn && phys_.pfn_valid(*pfn) ? &phys_.pfn_to_page(*pfn) : nullptr;
}

}  // namespace quire::kvirt
