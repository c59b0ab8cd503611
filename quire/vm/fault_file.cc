// Faults on files: do_fault and its three kinds.
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/phys/page_wait.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"
#include "quire/vm/vm_fault.h"

namespace quire::vm {

namespace {

file::FaultHint fault_hint(const Vma& vma) {
  if (vma.has(VmFlags::kSeqRead)) return file::FaultHint::kSequential;
  return vma.has(VmFlags::kRandRead) ? file::FaultHint::kRandom : file::FaultHint::kNormal;
}

}  // namespace

FaultOutcome Vm::do_fault(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  if (!vmf.write()) return do_read_fault(vmf);
  return vmf.vma.has(VmFlags::kShared) ? do_shared_fault(vmf) : do_cow_fault(vmf);
}

// __do_fault: the file's folio, locked and still part of the file, into vmf.folio. kRetry: a device was waited for without
// mmap_lock.
FaultOutcome Vm::fault_page(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  file::File& file = *vmf.vma.vm_file;
  const auto tried = any(vmf.flags, FaultFlags::kTried) ? file::FaultTry::kAgain : file::FaultTry::kFirst;
  bool unlocked = false;
  const auto unlock_for_io = [&] { unlocked = unlocked || maybe_unlock_mmap_for_io(vmf, file); };
  while (true) {
    const Result<file::FilemapFault> found = file.sb().fault(file, vmf.pgoff, fault_hint(vmf.vma), unlock_for_io, tried);
    if (unlocked) {  // whatever came of it: the next try will find the folio, or the error
      if (found) parts_.lru.folio_put(*found->folio);
      parts_.vfs.fput(file);
      return FaultOutcome::kRetry;
    }
    if (!found) return found.error() == Errno::kNoMem ? FaultOutcome::kOom : FaultOutcome::kSigbus;
    if (parts_.vfs.filemap().folio_lock_mapping(*found->folio, file.mapping())) {
      vmf.folio = found->folio;
      return found->cost == file::FaultCost::kMajor ? FaultOutcome::kMajor : FaultOutcome::kNone;
    }
    parts_.lru.folio_put(*found->folio);  // truncated meanwhile
  }
}

FaultOutcome Vm::do_read_fault(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  if (tunables_.fault_around_bytes > kPageSize) {
    if (!pte_alloc(vmf)) return FaultOutcome::kOom;
    const FaultOutcome around = do_fault_around(vmf);
    if (any(around, FaultOutcome::kNoPage)) return around;
  }
  FaultOutcome outcome = fault_page(vmf);
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kRetry)) return outcome;
  phys::Folio& folio = *vmf.folio;
  outcome |= finish_fault(vmf, folio);
  phys::folio_unlock(parts_.phys, folio);
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kNoPage)) parts_.lru.folio_put(folio);
  return outcome;
}

// Maps what is cached around the address, within fault_around_bytes, the area and the page table. kNoPage: the address's own
// page was among it.
FaultOutcome Vm::do_fault_around(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  Vma& vma = vmf.vma;
  const std::uint64_t bytes = align_down(tunables_.fault_around_bytes, kPageSize);
  const VirtAddr table_end = align_down(vmf.address, arch::kPmdSize) + arch::kPmdSize;
  const VirtAddr first = std::max(align_down(vmf.address, bytes), vma.vm_start);
  const VirtAddr end = std::min({first + bytes, vma.vm_end, table_end});
  const Pgoff first_pgoff = vma.linear_page_index(first);
  const Pgoff last_pgoff = vma.linear_page_index(end - kPageSize);
  arch::Pte* pte = pgtable_.pte_offset(vmf.mm(), first);

  FaultOutcome outcome = FaultOutcome::kNone;
  sim::SpinGuard guard(vmf.mm().page_table_lock);
  file::File& file = *vma.vm_file;
  file.sb().map_pages(file, first_pgoff, last_pgoff, [&](phys::Folio& folio, Pgoff index) {
    const std::uint64_t slot = index - first_pgoff;
    if (!pte[slot].none()) return file::MapPage::kSkipped;
    const VirtAddr address = first + pages_to_bytes(slot);
    do_set_pte(vmf, folio, address, pte + slot);
    if (address == vmf.address) outcome = FaultOutcome::kNoPage;
    return file::MapPage::kMapped;
  });
  return outcome;
}

FaultOutcome Vm::do_cow_fault(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  Vma& vma = vmf.vma;
  if (!rmap_.anon_vma_prepare(vma)) return FaultOutcome::kOom;
  phys::Folio* copy = vma_alloc_folio(vma, vmf.address);
  if (copy == nullptr) return FaultOutcome::kOom;
  FaultOutcome outcome = fault_page(vmf);
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kRetry)) {
    parts_.lru.folio_put(*copy);
    return outcome;
  }
  parts_.phys.copy_page(*copy, *vmf.folio);
  phys::folio_set_uptodate(*copy);
  outcome |= finish_fault(vmf, *copy);
  phys::folio_unlock(parts_.phys, *vmf.folio);
  parts_.lru.folio_put(*vmf.folio);
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kNoPage)) parts_.lru.folio_put(*copy);
  return outcome;
}

FaultOutcome Vm::do_shared_fault(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  FaultOutcome outcome = fault_page(vmf);
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kRetry)) return outcome;
  phys::Folio& folio = *vmf.folio;
  if (vma_wants_writenotify(vmf.vma)) {
    phys::folio_unlock(parts_.phys, folio);
    outcome |= do_page_mkwrite(vmf, folio);  // locks again
    if (any(outcome, FaultOutcome::kError | FaultOutcome::kNoPage)) {
      parts_.lru.folio_put(folio);
      return outcome;
    }
  }
  outcome |= finish_fault(vmf, folio);
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kNoPage)) {
    phys::folio_unlock(parts_.phys, folio);
    parts_.lru.folio_put(folio);
    return outcome;
  }
  return outcome | fault_dirty_shared_page(vmf, folio);
}

// Tells the file that a shared page is about to become writable. The folio is locked on success only; kNoPage: it was truncated,
// the access is tried again and ends in SIGBUS by itself.
FaultOutcome Vm::do_page_mkwrite(VmFault& vmf, phys::Folio& folio) {
  const FuncGraph::Call traced(graph_, __func__);
  file::File& file = *vmf.vma.vm_file;
  const Status made = file.sb().page_mkwrite(file, folio);
  if (made) return FaultOutcome::kNone;
  switch (made.error()) {
    case Errno::kFault: return FaultOutcome::kNoPage;
    case Errno::kNoMem: return FaultOutcome::kOom;
    default: return FaultOutcome::kSigbus;
  }
}

// The folio is mapped writable now: dirty it, unlock it, and pay for dirtying when too much is dirty, without mmap_lock where that
// may go (kCompleted).
FaultOutcome Vm::fault_dirty_shared_page(VmFault& vmf, phys::Folio& folio) {
  const FuncGraph::Call traced(graph_, __func__);
  const bool dirtied = parts_.vfs.filemap().folio_mark_dirty(folio);
  phys::folio_unlock(parts_.phys, folio);
  if (!dirtied && !vma_wants_writenotify(vmf.vma)) return FaultOutcome::kNone;
  file::File& file = *vmf.vma.vm_file;
  const bool unlocked = maybe_unlock_mmap_for_io(vmf, file);
  parts_.vfs.writeback().balance_dirty_pages_ratelimited(file.mapping());
  if (!unlocked) return FaultOutcome::kNone;
  parts_.vfs.fput(file);
  return FaultOutcome::kCompleted;
}

// Hooks the folio in if the entry is still empty; kNoPage: the entry took no page, since somebody was quicker or the area maps
// frames.
FaultOutcome Vm::finish_fault(VmFault& vmf, phys::Folio& folio) {
  const FuncGraph::Call traced(graph_, __func__);
  if (!pte_alloc(vmf)) return FaultOutcome::kOom;
  parts_.scheduler.charge(parts_.scheduler.costs().fault_map);
  sim::SpinGuard guard(vmf.mm().page_table_lock);
  if (!vmf.pte->none()) return FaultOutcome::kNoPage;
  if (vmf.vma.has(VmFlags::kPfnMap)) {  // vmf_insert_pfn: a frame, not a page that is counted and found by rmap
    *vmf.pte = arch::pte_mkspecial(arch::mk_pte(parts_.phys.page_to_pfn(folio), vma_page_prot(vmf.vma)));
    return FaultOutcome::kNoPage;
  }
  do_set_pte(vmf, folio, vmf.address, vmf.pte);
  return FaultOutcome::kNone;
}

void Vm::do_set_pte(VmFault& vmf, phys::Folio& folio, VirtAddr address, arch::Pte* pte) {
  Vma& vma = vmf.vma;
  const bool write = vmf.write();
  arch::Pte entry = arch::mk_pte(parts_.phys.page_to_pfn(folio), vma_page_prot(vma));
  if (write) entry = maybe_mkwrite(arch::pte_mkdirty(entry), vma);
  if (write && !vma.has(VmFlags::kShared)) {
    vmf.mm().add_counter(Rss::kAnonPages, 1);
    rmap_.page_add_new_anon_rmap(folio, vma, address);
    folio_add_lru_vma(folio, vma);
  } else {
    vmf.mm().add_counter(mm_counter(folio), 1);
    rmap_.page_add_file_rmap(folio, vma);
  }
  *pte = entry;
}

}  // namespace quire::vm
