// vmalloc: memory that is contiguous in the kernel's address space and made of single frames.
//
//   vmalloc(size) ─► an area (VmapAreas) ─► its frames, 100 at a time ─► leaves in init_mm ─► shown in the NativeWindow
//
//   kernel address   | frame 17 | frame 4 | frame 5 | guard |     kva(p), one addition to and from …
//   host pointer     | the same frames, in this order | --- |     … p, what vmalloc returns
//
// Pointers that go in and out are the host's; an area's addr, vmallocinfo and the page tables speak of kernel addresses. A
// function that takes one or the other says which by its type.
//
// vfree clears the leaves and hides the frames at once, and gives them back; the addresses themselves wait for a common TLB
// flush (VmapAreas). `caller` is the function that called, for vmallocinfo.
//
// Invariants (validate()): the areas of the busy tree are mapped as they say, page by page, and nothing else of the vmalloc
// area is; nr_vmalloc_pages is the sum of what areas own.
// Locking: VmapAreas'. Allocation and vfree may sleep; vfree_atomic may not, and is for interrupts.
// Failure: nullptr, a line in the log unless __GFP_NOWARN, and nothing changed. Mistakes (a foreign pointer) are a line in the
// log, and nothing is done, as Linux's WARNs.
//
// Differs from Linux 6.1: `caller` is printed as a name without an offset; no vm_map_ram, no pcpu_get_vm_areas, no areas for
// modules; an area ends within NativeWindow::reach, so on a machine with terabytes one vmalloc is below 64 GiB.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "quire/arch/pte.h"
#include "quire/base/result.h"
#include "quire/kvirt/init_mm.h"
#include "quire/kvirt/kernel_log.h"
#include "quire/kvirt/native_window.h"
#include "quire/kvirt/vmap_areas.h"
#include "quire/phys/phys_mem.h"
#include "quire/slab/slab_system.h"

namespace quire::kvirt {

// Whether vmalloc may use huge leaves at all (the parameter nohugevmalloc).
enum class HugeVmalloc : std::uint8_t { kOff, kOn };

class Vmalloc {
 public:
  Vmalloc(phys::PhysMem& phys, slab::SlabSystem& slab, InitMm& init_mm, KernelTlb& tlb, KernelLog& log, HugeVmalloc huge);
  ~Vmalloc();
  Vmalloc(const Vmalloc&) = delete;
  Vmalloc& operator=(const Vmalloc&) = delete;
  [[nodiscard]] Status setup() { return areas_.setup(); }

  // --- memory ---------------------------------------------------------------------------------------------------------
  // `size` bytes, rounded up to pages; nullptr for 0, for more than all RAM, and when there is no memory. __GFP_NOFAIL tries
  // again each jiffy until there is; in boot context, where nobody else could free any, a BUG after some tries.
  [[nodiscard]] void* vmalloc(std::size_t size, const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range({.size = size, .caller = caller});
  }
  [[nodiscard]] void* vzalloc(std::size_t size, const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range({.size = size, .gfp = phys::Gfp::kKernel | phys::Gfp::kZero, .caller = caller});
  }
  // __vmalloc.
  [[nodiscard]] void* vmalloc(std::size_t size, phys::Gfp gfp, const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range({.size = size, .gfp = gfp, .caller = caller});
  }
  [[nodiscard]] void* vmalloc_node(std::size_t size, Nid nid, const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range({.size = size, .nid = nid, .caller = caller});
  }
  [[nodiscard]] void* vzalloc_node(std::size_t size, Nid nid, const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range({.size = size, .gfp = phys::Gfp::kKernel | phys::Gfp::kZero, .nid = nid, .caller = caller});
  }
  // Zeroed, and marked as fit to be mapped into a process.
  [[nodiscard]] void* vmalloc_user(std::size_t size, const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range(
        {.size = size, .gfp = phys::Gfp::kKernel | phys::Gfp::kZero, .flags = VmArea::kUserMap, .caller = caller});
  }
  // Frames below 4 GiB.
  [[nodiscard]] void* vmalloc_32(std::size_t size, const char* caller = __builtin_FUNCTION());
  // With leaves of 2 MiB where the size is at least one.
  [[nodiscard]] void* vmalloc_huge(std::size_t size, phys::Gfp gfp = phys::Gfp::kKernel,
                                   const char* caller = __builtin_FUNCTION()) {
    return vmalloc_range({.size = size, .gfp = gfp, .flags = VmArea::kAllowHugeVmap, .caller = caller});
  }
  struct Request {
    std::size_t size = 0;
    std::uint64_t align = 1;
    phys::Gfp gfp = phys::Gfp::kKernel;
    arch::Pgprot prot = arch::kPageKernel;
    VmArea flags = VmArea::kNone;
    Nid nid = kNoNode;
    const char* caller = nullptr;
  };
  // __vmalloc_node_range, which all of them end in.
  [[nodiscard]] void* vmalloc_range(const Request& request);

  // What vmalloc gave, or vmap; nullptr is nothing to do. Refused: a foreign pointer, what was freed before, an ioremap area.
  void vfree(const void* p);
  // The same without sleeping: done by the next call here that may sleep. The second for one pointer is refused.
  void vfree_atomic(const void* p);

  // --- mapping pages that are there -----------------------------------------------------------------------------------
  // Maps the pages in a row. Flags: kMap, kUserMap or kMapPutPages: with the last, the array, of kvmalloc, and one reference of
  // each page are the area's, and vfree gives them back. kNoGuard is told in the log and left out: the guard page also keeps
  // the area behind from overruns. nullptr: no pages, more than RAM, no memory.
  [[nodiscard]] void* vmap(std::span<phys::Page* const> pages, VmArea flags = VmArea::kMap,
                           arch::Pgprot prot = arch::kPageKernel, const char* caller = __builtin_FUNCTION());
  // What vmap gave. Refused: a foreign pointer, and an area that owns its pages (vmalloc, kMapPutPages), which is vfree's.
  void vunmap(const void* p);

  // --- looking --------------------------------------------------------------------------------------------------------
  [[nodiscard]] bool is_vmalloc_addr(const void* p) const { return window_.contains(p); }
  [[nodiscard]] bool is_vmalloc_addr(VirtAddr va) const { return areas_.space().contains(va); }
  [[nodiscard]] VirtAddr kva(const void* p) const { return window_.kva(p); }
  // The host's pointer to what is mapped at va, a vmalloc or vmap address; nullptr beyond the window.
  [[nodiscard]] void* native(VirtAddr va) const { return window_.reach().contains(va) ? window_.native(va) : nullptr; }
  // The page behind an address, by the page tables; nullptr when none is mapped, or no RAM.
  [[nodiscard]] phys::Page* vmalloc_to_page(VirtAddr va);
  [[nodiscard]] phys::Page* vmalloc_to_page(const void* p) { return is_vmalloc_addr(p) ? vmalloc_to_page(kva(p)) : nullptr; }
  [[nodiscard]] std::optional<Pfn> vmalloc_to_pfn(VirtAddr va) const;
  // The area that holds va; nullptr: none.
  [[nodiscard]] VmStruct* find_vm_area(VirtAddr va);
  [[nodiscard]] VmStruct* find_vm_area(const void* p) { return is_vmalloc_addr(p) ? find_vm_area(kva(p)) : nullptr; }

  // --- for ioremap ------------------------------------------------------------------------------------------------------
  // An empty area in the vmalloc space (a large one beyond what vmalloc can use), aligned to its size up to the largest leaf; nullptr: no memory or no room.
  [[nodiscard]] VmStruct* get_vm_area(std::uint64_t size, VmArea flags, const char* caller);
  // Clears its leaves, hides it, and gives the addresses and the VmStruct back (remove_vm_area and kfree).
  void free_vm_area(VmStruct& area);

  // --- the machine's figures --------------------------------------------------------------------------------------------
  // As /proc/vmallocinfo prints it to root.
  [[nodiscard]] std::string vmallocinfo() const;
  // VmallocUsed, in pages; VmallocTotal, in KiB.
  [[nodiscard]] std::uint64_t nr_vmalloc_pages() const { return nr_vmalloc_pages_; }
  [[nodiscard]] std::uint64_t vmalloc_total_kib() const { return (areas_.space().size() - 1) >> 10; }
  [[nodiscard]] VmapAreas& areas() { return areas_; }
  [[nodiscard]] const VmapAreas& areas() const { return areas_; }
  [[nodiscard]] NativeWindow& window() { return window_; }

  void validate() const;

 private:
  [[nodiscard]] VmStruct* get_vm_area_node(std::uint64_t size, std::uint64_t align, VmArea flags, Range<VirtAddr> within,
                                           Nid nid, phys::Gfp gfp, const char* caller);
  [[nodiscard]] void* try_levels(const Request& request);
  [[nodiscard]] void* try_range(const Request& request, unsigned level);
  [[nodiscard]] bool vmalloc_area_node(VmStruct& area, const Request& request, unsigned level);
  [[nodiscard]] bool alloc_page_array(VmStruct& area, std::uint64_t nr_pages, const Request& request);
  std::uint64_t vm_area_alloc_pages(std::span<phys::Page*> pages, Order order, phys::Gfp gfp, Nid nid);
  [[nodiscard]] Status map_pages(const VmStruct& area, std::span<phys::Page* const> pages, arch::Pgprot prot, unsigned level,
                                 phys::Gfp gfp);
  void zero(std::span<phys::Page* const> pages);
  [[nodiscard]] VmStruct* find_own(const void* p, std::string_view name);
  void release(VmStruct& area);
  void drain_deferred();
  void warn(const Request& request, const std::string& what);
  [[nodiscard]] std::string line(const VmStruct& area) const;
  [[nodiscard]] std::string numa_info(const VmStruct& area) const;
  void check_area(const VmapArea& va, std::uint64_t& mapped, std::uint64_t& owned) const;
  [[nodiscard]] std::span<phys::Page* const> pages_of(const VmStruct& area) const { return {area.pages, area.nr_pages}; }

  phys::PhysMem& phys_;
  slab::SlabSystem& slab_;
  InitMm& init_mm_;
  KernelLog& log_;
  HugeVmalloc huge_;
  VmapAreas areas_;
  NativeWindow window_;
  VmStruct* deferred_ = nullptr;  // given to vfree_atomic; the last one's next is itself
  std::uint64_t nr_vmalloc_pages_ = 0;
};

}  // namespace quire::kvirt
