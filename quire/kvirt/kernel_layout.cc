#include "quire/kvirt/kernel_layout.h"

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::kvirt {

namespace {

constexpr std::uint64_t kVmallocOffset = 8 * kMiB;
// The address space ends with its last page, which is nobody's: a pointer of -errno must not be valid.
constexpr VirtAddr kFixaddrTop32(0xffff'f000);
constexpr VirtAddr kFixaddrTop64(0xffff'ffff'ff7f'f000);
// early_ioremap's slots, which lie below the others and are kept free for good (FIX_BTMAPS).
constexpr std::uint64_t kBootMapPages = 256;
constexpr unsigned kFixmapSlots64 = 512 + static_cast<unsigned>(Fixmap::kKmapBegin);

}  // namespace

KernelLayout KernelLayout::x86_64(const arch::Geometry& geometry, PhysAddr low_memory) {
  const bool l5 = geometry.levels == 5;
  const auto at = [](std::uint64_t begin, std::uint64_t bytes) {
    return Range<VirtAddr>{VirtAddr(begin), VirtAddr(begin + bytes)};
  };
  KernelLayout layout;
  layout.geometry = geometry;
  layout.page_offset = VirtAddr(l5 ? 0xff11'0000'0000'0000 : 0xffff'8880'0000'0000);
  layout.high_memory = layout.page_offset + low_memory.value();
  layout.vmalloc = l5 ? at(0xffa0'0000'0000'0000, 12800 * kTiB) : at(0xffff'c900'0000'0000, 32 * kTiB);
  layout.vmemmap = l5 ? at(0xffd4'0000'0000'0000, 512 * kTiB) : at(0xffff'ea00'0000'0000, kTiB);
  layout.kernel_text = at(0xffff'ffff'8000'0000, kGiB);
  layout.modules = at(0xffff'ffff'c000'0000, 1008 * kMiB);
  layout.fixaddr_top = kFixaddrTop64;
  layout.fixmap_slots = kFixmapSlots64;
  layout.fixmap = {kFixaddrTop64 - (kFixmapSlots64 - 1) * kPageSize, kFixaddrTop64 + kPageSize};
  return layout;
}

KernelLayout KernelLayout::i386(phys::Arch arch, PhysAddr low_memory, unsigned cpus) {
  QUIRE_BUG_ON(low_memory.value() > 896 * kMiB);
  const bool pae = arch == phys::Arch::kI386Pae;
  KernelLayout layout;
  layout.arch = arch;
  layout.geometry = pae ? arch::Geometry::i386_pae() : arch::Geometry::i386();
  layout.page_offset = VirtAddr(0xc000'0000);
  layout.high_memory = layout.page_offset + low_memory.value();
  layout.fixaddr_top = kFixaddrTop32;
  layout.fixmap_slots = static_cast<unsigned>(Fixmap::kKmapBegin) + kKmMaxIdx * cpus;
  layout.fixmap = {kFixaddrTop32 - (layout.fixmap_slots - 1) * kPageSize, kFixaddrTop32 + kPageSize};
  const std::uint64_t pkmap_bytes = (pae ? 512 : 1024) * kPageSize;
  const std::uint64_t pmd_size = layout.geometry.entry_span(arch::kPmdLevel);
  const VirtAddr pkmap = align_down(layout.fixmap.begin - pages_to_bytes(kBootMapPages + 1) - pkmap_bytes, pmd_size);
  layout.pkmap = {pkmap, pkmap + pkmap_bytes};
  // With all of lowmem there is always room: the fixmap of 64 CPUs takes 4.5 MiB of the upper 128.
  layout.vmalloc = {align_up(layout.high_memory, kPageSize) + kVmallocOffset, pkmap - 2 * kPageSize};
  layout.modules = layout.vmalloc;
  return layout;
}

}  // namespace quire::kvirt
