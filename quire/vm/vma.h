// One area of a process's address space: a page-aligned range with one set of rights and one backing (Linux's
// vm_area_struct).
//
// Invariants: vm_start < vm_end, both page aligned; areas of one Mm do not overlap. vm_file is referenced as long as the area
// lives. A private anonymous area begins with vm_start's page number as vm_pgoff, so that neighbours merge; one that was moved
// with pages keeps its offsets, even when it loses the pages and its AnonVma (MREMAP_DONTUNMAP, MADV_WIPEONFORK).
// Everything here is guarded by the Mm's mmap_lock (read to look, write to change); anon_vma may go from null to set under
// the read lock with the page-table lock held.
#pragma once

#include <cstdint>

#include "quire/arch/pte.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/types.h"
#include "quire/file/address_space.h"
#include "quire/vm/anon_vma.h"
#include "quire/vm/vm_flags.h"

namespace quire::file {
class File;
}

namespace quire::vm {

struct Mm;
class VmaTree;

struct Vma {
  Vma(Mm& mm, Range<VirtAddr> range, VmFlags flags, Pgoff pgoff)
      : vm_start(range.begin), vm_end(range.end), vm_mm(&mm), vm_flags(flags), vm_pgoff(pgoff) {}

  VirtAddr vm_start;
  VirtAddr vm_end;
  Mm* vm_mm;
  VmFlags vm_flags;
  Pgoff vm_pgoff;                 // page offset in the file, or the page number of vm_start when it was mapped
  file::File* vm_file = nullptr;  // also for shared anonymous areas (a shmem file)
  AnonVma* anon_vma = nullptr;    // where folios faulted in here belong; null until the first
  List<AnonVmaChain, &AnonVmaChain::same_vma> anon_vma_chain;
  file::MappingNode mapping_node;  // in vm_file's i_mmap tree
  std::uint64_t swap_readahead_info = 0;
  ListNode detached;  // areas that munmap has taken out of the tree

  [[nodiscard]] Range<VirtAddr> range() const { return {vm_start, vm_end}; }
  [[nodiscard]] std::uint64_t pages() const { return (vm_end - vm_start) >> kPageShift; }
  [[nodiscard]] bool has(VmFlags mask) const { return any(vm_flags, mask); }
  [[nodiscard]] bool is_anonymous() const { return vm_file == nullptr; }
  // The file that a program has mapped; nullptr behind the kernel's own pages, too (special mappings have no vm_file in Linux).
  [[nodiscard]] file::File* mapped_file() const;
  // A shared area whose rights may include writing: what i_mmap_writable counts.
  [[nodiscard]] bool is_shared_maywrite() const { return all(vm_flags, VmFlags::kShared | VmFlags::kMayWrite); }
  // A private area whose rights may include writing: its folios can be anonymous (is_cow_mapping).
  [[nodiscard]] bool is_cow_mapping() const {
    return (vm_flags & (VmFlags::kShared | VmFlags::kMayWrite)) == VmFlags::kMayWrite;
  }
  // The page offset that `address`, within the area, stands for (linear_page_index).
  [[nodiscard]] Pgoff linear_page_index(VirtAddr address) const { return vm_pgoff + ((address - vm_start) >> kPageShift); }
  // Where page offset `pgoff` would be mapped by this area; check with range() (vma_address).
  [[nodiscard]] VirtAddr address_of(Pgoff pgoff) const { return vm_start + ((pgoff - vm_pgoff) << kPageShift); }

 private:
  friend class VmaTree;
  Vma* vm_next_ = nullptr;
  Vma* vm_prev_ = nullptr;
};

}  // namespace quire::vm
