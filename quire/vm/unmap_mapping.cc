// Truncation from below: pages of a file leave every page table (file::MappingUpcalls).
#include <algorithm>

#include "quire/vm/mmu_gather.h"
#include "quire/vm/vm.h"

namespace quire::vm {

void Vm::unmap_mapping_pages(file::AddressSpace& mapping, Pgoff first, std::uint64_t count, file::EvenCows even_cows) {
  if (count == 0) return;
  const std::uint64_t last = first.value() + (count - 1) < first.value() ? ~std::uint64_t{0} : first.value() + (count - 1);
  sim::ReadGuard guard(mapping.i_mmap_rwsem());
  mapping.i_mmap_for_each(first, Pgoff(last), [&](file::MappingNode& node) {
    Vma& vma = Rmap::vma_of(node);
    const std::uint64_t from = std::max(first.value(), vma.vm_pgoff.value());
    const std::uint64_t to = std::min(last, vma.vm_pgoff.value() + vma.pages() - 1);
    MmuGather tlb(*this, *vma.vm_mm, FlushSite::kTruncate);
    unmap_page_range(tlb, vma, {vma.address_of(Pgoff(from)), vma.address_of(Pgoff(to)) + kPageSize},
                     even_cows == file::EvenCows::kYes ? ZapCows::kYes : ZapCows::kNo);
    tlb.finish();
  });
}

}  // namespace quire::vm
