// Where the kernel's own address space has what. x86-64 without KASLR (Documentation/x86/x86_64/mm), 4 and 5 levels:
//
//   ffff888000000000  ff11000000000000  direct map of all memory       PAGE_OFFSET
//   ffffc90000000000  ffa0000000000000  vmalloc and ioremap            VMALLOC_START
//   ffffea0000000000  ffd4000000000000  struct Pages                   VMEMMAP_START
//   ffffffff80000000                    the kernel's image
//   ffffffffc0000000                    modules
//   ffffffffff7ff000                    FIXADDR_TOP, growing down
//
// i386 (with 3 GiB for programs; arch/x86/mm/init_32.c, pgtable_32_areas.h):
//
//   c0000000          direct map of lowmem, at most 896 MiB    PAGE_OFFSET … high_memory
//   + 8 MiB           a hole that catches strays               VMALLOC_OFFSET
//                     vmalloc and ioremap                      VMALLOC_START … VMALLOC_END
//                     LAST_PKMAP pages for kmap                PKMAP_BASE
//                     kmap_local's slots and other fixed ones  FIXADDR_START … FIXADDR_TOP (fffff000)
//
// Differs from Linux 6.1: i386 has neither the CPU entry area nor the LDT's below the fixmap, so kmap's area ends where it
// did up to 4.14, and lowmem at 896 MiB as the zones of this machine say.
#pragma once

#include "quire/arch/geometry.h"
#include "quire/base/types.h"
#include "quire/phys/phys_config.h"

namespace quire::kvirt {

inline constexpr unsigned kKmMaxIdx = 16;  // KM_MAX_IDX: kmap_local mappings of one task at once

// What has a place of its own in the fixmap; the address of a number n is FIXADDR_TOP - n pages. Then come the slots of
// kmap_local, kKmMaxIdx for each CPU.
enum class Fixmap : unsigned {
  kHole,  // never mapped
  kDbgpBase,
  kEarlyconMemBase,
  kApicBase,
  kIoApicBase0,
  kIoApicBaseEnd = kIoApicBase0 + 127,
  kParavirtBootmap,
  kApeiIrq,
  kApeiNmi,
  kKmapBegin,
};

struct KernelLayout {
  phys::Arch arch = phys::Arch::kX86_64;
  arch::Geometry geometry = arch::Geometry::x86_64_4level();
  VirtAddr page_offset{};         // the direct map: physical address 0 …
  VirtAddr high_memory{};         // … to here, exclusive
  Range<VirtAddr> vmalloc{};      // [VMALLOC_START, VMALLOC_END)
  Range<VirtAddr> vmemmap{};      // empty on i386: there struct Pages lie in the direct map
  Range<VirtAddr> kernel_text{};  // empty on i386: the image lies in the direct map
  Range<VirtAddr> modules{};
  Range<VirtAddr> pkmap{};  // empty on x86-64
  Range<VirtAddr> fixmap{};
  unsigned fixmap_slots = 0;
  VirtAddr fixaddr_top{};

  // `low_memory`: the end of what the direct map covers. `cpus` count on i386, for the fixmap's size.
  [[nodiscard]] static KernelLayout x86_64(const arch::Geometry& geometry, PhysAddr low_memory);
  [[nodiscard]] static KernelLayout i386(phys::Arch arch, PhysAddr low_memory, unsigned cpus);

  [[nodiscard]] bool is_64bit() const { return arch == phys::Arch::kX86_64; }
  [[nodiscard]] unsigned last_pkmap() const { return static_cast<unsigned>(pkmap.size() >> kPageShift); }
  // The first address that belongs to the kernel.
  [[nodiscard]] VirtAddr kernel_begin() const {
    return is_64bit() ? VirtAddr(~std::uint64_t{0} << (geometry.virtual_bits - 1)) : page_offset;
  }
  [[nodiscard]] VirtAddr fix_to_virt(unsigned index) const { return fixaddr_top - index * kPageSize; }
  [[nodiscard]] VirtAddr fix_to_virt(Fixmap index) const { return fix_to_virt(static_cast<unsigned>(index)); }
};

}  // namespace quire::kvirt
