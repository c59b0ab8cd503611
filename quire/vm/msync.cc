// msync(2) and mincore(2): what a program asks about its file and resident pages.
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

Status Vm::msync(Mm& mm, VirtAddr start, std::uint64_t length, MsyncFlags flags) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  constexpr MsyncFlags kKnown = MsyncFlags::kAsync | MsyncFlags::kInvalidate | MsyncFlags::kSync;
  if (any(flags, ~kKnown) || page_offset(start) != 0) return fail(Errno::kInval);
  if (all(flags, MsyncFlags::kAsync | MsyncFlags::kSync)) return fail(Errno::kInval);
  const VirtAddr end = start + align_up(length, kPageSize);
  if (end < start) return fail(Errno::kNoMem);
  if (end == start) return {};

  Status unmapped{};
  mm.mmap_lock.down_read();
  while (true) {
    Vma* vma = mm.mm_vmas.find(start);
    if (vma == nullptr) {
      mm.mmap_lock.up_read();
      return fail(Errno::kNoMem);
    }
    if (start < vma->vm_start) {
      if (flags == MsyncFlags::kAsync) {
        mm.mmap_lock.up_read();
        return fail(Errno::kNoMem);
      }
      unmapped = fail(Errno::kNoMem);
      start = vma->vm_start;
      if (start >= end) break;
    }
    if (any(flags, MsyncFlags::kInvalidate) && vma->has(VmFlags::kLocked)) {
      mm.mmap_lock.up_read();
      return fail(Errno::kBusy);
    }
    const VirtAddr stop = std::min(end, vma->vm_end);
    const std::uint64_t first = pages_to_bytes(vma->linear_page_index(start).value());
    const std::uint64_t last = first + (stop - start);
    start = stop;
    file::File* file = vma->vm_file;
    if (file != nullptr && any(flags, MsyncFlags::kSync) && vma->has(VmFlags::kShared)) {
      parts_.vfs.fget(*file);
      mm.mmap_lock.up_read();
      const Status synced = parts_.vfs.msync_range(*file, first, last, file::MsyncMode::kSync);
      parts_.vfs.fput(*file);
      if (!synced) return synced;
      if (start >= end) return unmapped;
      mm.mmap_lock.down_read();
      continue;
    }
    if (start >= end) break;
  }
  mm.mmap_lock.up_read();
  return unmapped;
}

Status Vm::mincore(Mm& mm, VirtAddr start, std::uint64_t length, std::span<std::uint8_t> vec) {
  if (page_offset(start) != 0) return fail(Errno::kInval);
  if (start > mm.task_size || length > mm.task_size - start) return fail(Errno::kNoMem);
  const std::uint64_t pages = bytes_to_pages_up(length);
  if (vec.size() < pages) return fail(Errno::kFault);
  sim::ReadGuard guard(mm.mmap_lock);
  for (std::uint64_t i = 0; i < pages; ++i) {
    const VirtAddr at = start + (i << kPageShift);
    const Vma* vma = mm.mm_vmas.lookup(at);
    if (vma == nullptr) return fail(Errno::kNoMem);
    vec[i] = mincore_page(*vma, at);
  }
  return {};
}

std::uint8_t Vm::mincore_page(const Vma& vma, VirtAddr address) {
  if (vma.mapped_file() != vma.vm_file) return 1;  // the kernel's own pages: nobody is told more (can_do_mincore)
  const arch::Pte* pte = pgtable_.pte_offset(*vma.vm_mm, address);
  if (pte != nullptr && pte->present()) return 1;
  phys::Folio* folio = nullptr;
  const bool empty = pte == nullptr || pte->none() || arch::is_guard_swp_entry(arch::pte_to_swp_entry(*pte));
  if (!empty) {
    if (arch::non_swap_entry(arch::pte_to_swp_entry(*pte))) return 1;  // on its way to another frame: resident
    folio = parts_.swap.find_get_cached(arch::pte_to_swp_entry(*pte));
  } else if (vma.vm_file != nullptr) {
    file::AddressSpace& mapping = vma.vm_file->mapping();
    const Pgoff index = vma.linear_page_index(address);
    folio = parts_.vfs.filemap().filemap_get_folio(mapping, index);
    const XaEntry entry = mapping.i_pages().load(index.value());
    if (folio == nullptr && entry.is_value() && !mapping.a_ops().values_are_shadows()) {
      folio = parts_.swap.find_get_cached(swap::SwapEntry::from_value(entry.value().value()));
    }
  }
  if (folio == nullptr) return 0;
  const std::uint8_t resident = phys::folio_test_uptodate(*folio) ? 1 : 0;
  parts_.lru.folio_put(*folio);
  return resident;
}

}  // namespace quire::vm
