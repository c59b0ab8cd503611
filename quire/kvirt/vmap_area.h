// An address range of the vmalloc area, taken or free (struct vmap_area), and what lies in a taken one (struct vm_struct).
#pragma once

#include <cstdint>

#include "quire/base/flags.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/rbtree.h"
#include "quire/base/types.h"
#include "quire/phys/page.h"

namespace quire::kvirt {

// Values as in Linux 6.1 (VM_IOREMAP is kIoremap).
enum class VmArea : std::uint64_t {
  kNone = 0,
  kIoremap = 0x1,
  kAlloc = 0x2,           // vmalloc
  kMap = 0x4,             // vmap
  kUserMap = 0x8,         // zeroed, fit to be mapped into a process
  kDmaCoherent = 0x10,    // dma_alloc_coherent
  kUninitialized = 0x20,  // its pages are still being allocated
  kNoGuard = 0x40,
  kMapPutPages = 0x200,    // vfree frees the pages that vmap was given
  kAllowHugeVmap = 0x400,  // huge leaves where they fit
};

}  // namespace quire::kvirt

template <>
inline constexpr bool quire::kIsFlags<quire::kvirt::VmArea> = true;

namespace quire::kvirt {

struct VmStruct {
  VmStruct* next = nullptr;  // of those whose freeing is put off (vfree_atomic); not null: being freed
  VirtAddr addr{};
  std::uint64_t size = 0;  // bytes, the guard page included
  VmArea flags = VmArea::kNone;
  phys::Page** pages = nullptr;  // 4 KiB each, also behind huge leaves
  std::uint32_t page_order = 0;  // of the leaves
  std::uint32_t nr_pages = 0;
  PhysAddr phys_addr{};
  const char* caller = nullptr;  // the function that asked

  // Without the guard page (get_vm_area_size).
  [[nodiscard]] std::uint64_t usable() const { return any(flags, VmArea::kNoGuard) ? size : size - kPageSize; }
  [[nodiscard]] Range<VirtAddr> range() const { return {addr, addr + usable()}; }
};
static_assert(sizeof(VmStruct) == 64);

struct VmapArea {
  VirtAddr va_start{};
  VirtAddr va_end{};
  RbNode rb_node;  // busy, free or waiting to be purged
  ListNode list;   // of those being purged
  union {
    std::uint64_t subtree_max_size = 0;  // free: the largest gap at or below this node
    VmStruct* vm;                        // busy
  };

  [[nodiscard]] std::uint64_t va_size() const { return va_end - va_start; }
};
static_assert(sizeof(VmapArea) == 64);

}  // namespace quire::kvirt
