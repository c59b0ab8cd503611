// The page fault: from the exception to handle_pte_fault.
#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"
#include "quire/vm/vm_fault.h"

namespace quire::vm {

namespace {

AccessOutcome signal(Signal number, SiCode code) {
  return {.phys = PhysAddr(0), .status = AccessStatus::kSignal, .signal = number, .si_code = code};
}

// Does the area forbid what the access wanted? (x86's access_error: a fetch from a page that is not executable faults the
// page in first and is refused when it is present.)
bool access_error(arch::FaultCode code, const Vma& vma) {
  if (any(code, arch::FaultCode::kWrite)) return !vma.has(VmFlags::kWrite);
  if (any(code, arch::FaultCode::kProt)) return true;
  return !vma.has(VmFlags::kAccessFlags);
}

}  // namespace

AccessOutcome Vm::access_slow(Mm& mm, VirtAddr address, arch::Access kind) {
  while (true) {
    parts_.scheduler.sync_point();
    arch::Mmu& mmu = this->mmu();
    if (!mmu.loaded(mm.context_id)) {
      shootdown_.switch_mm(mm);
      if (const auto* hit = tlb_hit(mmu, mm, address, kind)) return {.phys = hit->translate(address)};
    }
    parts_.scheduler.charge(parts_.scheduler.costs().tlb_walk);
    const arch::WalkResult walk = mmu.refill(address, kind, arch::Privilege::kUser);
    if (walk) return {.phys = walk.pa};
    if (walk.outcome == arch::WalkOutcome::kGeneralProtection) return signal(Signal::kSegv, SiCode::kKernel);
    const AccessOutcome outcome = exc_page_fault(mm, address, walk.code);
    if (!outcome.ok()) return outcome;
  }
}

// do_user_addr_fault. kOk: restart the instruction.
AccessOutcome Vm::exc_page_fault(Mm& mm, VirtAddr address, arch::FaultCode code) {
  const FuncGraph::Call traced(graph_, __func__);
  const sim::CostModel& costs = parts_.scheduler.costs();
  page_fault_user_([&] {
    const sim::Task* task = parts_.scheduler.current();
    return PageFaultUser{
        .address = address.value(), .ip = task != nullptr ? task->ip : 0, .error_code = static_cast<std::uint32_t>(code)};
  });
  parts_.scheduler.charge(costs.page_fault_entry);
  if (address >= mm.task_size) return signal(Signal::kSegv, SiCode::kSegvMapErr);

  FaultFlags flags = FaultFlags::kUser;  // mmap_lock is given back, once, where a device is waited for
  if (any(code, arch::FaultCode::kWrite)) flags |= FaultFlags::kWrite;
  if (any(code, arch::FaultCode::kInstr)) flags |= FaultFlags::kInstruction;

  FaultOutcome outcome;
  do {
    sim::ReleasableReadGuard mmap_lock(mm.mmap_lock);
    if (mm.killed()) return signal(Signal::kKill, SiCode::kNone);
    parts_.scheduler.charge(costs.vma_lookup);
    Vma* vma = mm.mm_vmas.find(address);
    if (vma == nullptr) return signal(Signal::kSegv, SiCode::kSegvMapErr);
    if (vma->vm_start > address) {
      if (!vma->has(VmFlags::kGrowsDown) || !expand_stack(*vma, address)) {
        return signal(Signal::kSegv, SiCode::kSegvMapErr);
      }
    }
    if (access_error(code, *vma)) return signal(Signal::kSegv, SiCode::kSegvAccErr);
    outcome = handle_mm_fault(*vma, address, flags, &mmap_lock);
    flags |= FaultFlags::kTried;
  } while (any(outcome, FaultOutcome::kRetry) && !mm.killed());
  if (mm.killed()) return signal(Signal::kKill, SiCode::kNone);
  if (!any(outcome, FaultOutcome::kError)) return {};
  if (any(outcome, FaultOutcome::kOom)) return {.phys = PhysAddr(0), .status = AccessStatus::kOom};
  if (any(outcome, FaultOutcome::kSigbus)) return signal(Signal::kBus, SiCode::kBusAdrErr);
  return signal(Signal::kSegv, SiCode::kSegvMapErr);
}

FaultOutcome Vm::handle_mm_fault(Vma& vma, VirtAddr address, FaultFlags flags, sim::ReleasableReadGuard* mmap_lock) {
  const FuncGraph::Call traced(graph_, __func__);
  parts_.phys.vmstat().count_vm_event(phys::VmEvent::kPgfault);
  Mm& mm = *vma.vm_mm;
  const bool droppable = vma.has(VmFlags::kDroppable);
  FaultOutcome outcome = do_handle_mm_fault(vma, address, flags, mmap_lock);  // the area may be gone then
  if (droppable) [[unlikely]]
    outcome = outcome & ~FaultOutcome::kOom;  // the access tries again
  const bool gave_back = any(outcome, FaultOutcome::kRetry | FaultOutcome::kCompleted);
  QUIRE_BUG_ON(mmap_lock != nullptr ? mmap_lock->held() == gave_back : gave_back);
  // mm_account_fault: one that failed or has to be tried again is neither minor nor major. Tried again, it is major.
  if (any(outcome, FaultOutcome::kError | FaultOutcome::kRetry)) return outcome;
  const bool major = any(outcome, FaultOutcome::kMajor) || any(flags, FaultFlags::kTried);
  ++(major ? mm.maj_flt : mm.min_flt);
  return outcome;
}

FaultOutcome Vm::do_handle_mm_fault(Vma& vma, VirtAddr address, FaultFlags flags, sim::ReleasableReadGuard* mmap_lock) {
  VmFault vmf{.vma = vma,
              .address = align_down(address, kPageSize),
              .pgoff = vma.linear_page_index(address),
              .flags = flags,
              .mmap_lock = mmap_lock};
  if (vma.has(VmFlags::kHugeTlb)) [[unlikely]] {
    const FaultOutcome done =
        hooks_ != nullptr ? hooks_->hugetlb_fault(vma, vmf.address, flags, mmap_lock) : FaultOutcome::kFallback;
    return any(done, FaultOutcome::kFallback) ? FaultOutcome::kSigbus : done;
  }
  if (hooks_ != nullptr) [[unlikely]] {
    const FaultOutcome done = hooks_->create_huge_pmd(vma, vmf.address, flags);
    if (!any(done, FaultOutcome::kFallback)) return done;
  }
  vmf.pte = pgtable_.pte_offset(*vma.vm_mm, vmf.address);
  if (vmf.pte != nullptr) vmf.orig_pte = *vmf.pte;
  if (hooks_ != nullptr) [[unlikely]] {
    const FaultOutcome done = ask_hooks(vmf);
    if (!any(done, FaultOutcome::kFallback)) return done;
  }
  return handle_pte_fault(vmf);
}

// What the entry itself gives a later mechanism a reason for.
FaultOutcome Vm::ask_hooks(const VmFault& vmf) {
  Vma& vma = vmf.vma;
  const arch::Pte entry = vmf.orig_pte;
  if (entry.none()) {
    if (!vma.has(VmFlags::kUffdMissing)) return FaultOutcome::kFallback;
    return hooks_->handle_userfault(vma, vmf.address, vmf.flags, UffdReason::kMissing, vmf.mmap_lock);
  }
  if (!entry.present()) return FaultOutcome::kFallback;
  if (entry.protnone() && vma.has(VmFlags::kAccessFlags)) return hooks_->do_numa_page(vma, vmf.address, vmf.flags);
  if (!vmf.write() || !arch::pte_uffd_wp(entry) || !vma.has(VmFlags::kUffdWp)) return FaultOutcome::kFallback;
  return hooks_->handle_userfault(vma, vmf.address, vmf.flags, UffdReason::kWriteProtect, vmf.mmap_lock);
}

FaultOutcome Vm::handle_pte_fault(VmFault& vmf) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  const FuncGraph::Call traced(graph_, __func__);
  if (vmf.orig_pte.none()) return vmf.vma.is_anonymous() ? do_anonymous_page(vmf) : do_fault(vmf);
  if (!vmf.orig_pte.present()) return do_swap_page(vmf);
  Mm& mm = vmf.mm();
  mm.page_table_lock.lock();
  if (*vmf.pte != vmf.orig_pte) {
    mm.page_table_lock.unlock();
    return FaultOutcome::kNone;
  }
  arch::Pte entry = vmf.orig_pte;
  if (vmf.write() || vmf.unshare()) {
    if (!arch::pte_write(entry)) return do_wp_page(vmf);  // unlocks
    if (vmf.write()) entry = arch::pte_mkdirty(entry);
  }
  *vmf.pte = arch::pte_mkyoung(entry);
  mm.page_table_lock.unlock();
  return FaultOutcome::kNone;
}

// Before a wait for a device: mmap_lock goes, so that the wait holds nobody up, and the file is held instead (`false`: it may not
// go). The area may be gone from then on; the fault ends with kRetry or kCompleted, after an fput().
bool Vm::maybe_unlock_mmap_for_io(const VmFault& vmf, file::File& file) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  if (!vmf.may_unlock()) return false;
  parts_.vfs.fget(file);
  vmf.mmap_lock->release();
  return true;
}

// The table of the entry is there from now on: tables go with mmap_lock held for writing only.
bool Vm::pte_alloc(VmFault& vmf) {
  if (vmf.pte == nullptr) vmf.pte = pgtable_.pte_alloc(vmf.mm(), vmf.address);
  return vmf.pte != nullptr;
}

phys::Folio* Vm::vma_alloc_folio(Vma&, VirtAddr) { return parts_.phys.folio_alloc(phys::Gfp::kHighUserMovable); }

// A new anonymous folio joins the LRU, the unevictable list at once when its area is locked.
void Vm::folio_add_lru_vma(phys::Folio& folio, Vma& vma) {
  if (vma.has(VmFlags::kLocked) && !vma.has(VmFlags::kSpecial)) [[unlikely]] {
    parts_.lru.mlock_new_folio(folio);
  } else {
    parts_.lru.folio_add_lru(folio);
  }
}

FaultOutcome Vm::do_anonymous_page(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  Vma& vma = vmf.vma;
  Mm& mm = vmf.mm();
  if (vma.has(VmFlags::kShared)) return FaultOutcome::kSigbus;
  if (!pte_alloc(vmf)) return FaultOutcome::kOom;
  const arch::Pgprot prot = vma_page_prot(vma);

  if (!vmf.write()) {
    const arch::Pte zero = arch::pte_mkspecial(arch::mk_pte(parts_.phys.page_to_pfn(*zero_page_), prot));
    sim::SpinGuard guard(mm.page_table_lock);
    if (vmf.pte->none()) *vmf.pte = zero;
    return FaultOutcome::kNone;
  }

  if (!rmap_.anon_vma_prepare(vma)) return FaultOutcome::kOom;
  phys::Folio* folio = vma_alloc_folio(vma, vmf.address);
  if (folio == nullptr) return FaultOutcome::kOom;
  parts_.phys.clear_page(*folio);
  phys::folio_set_uptodate(*folio);
  parts_.scheduler.charge(parts_.scheduler.costs().fault_map);
  const arch::Pte entry = maybe_mkwrite(arch::pte_mkdirty(arch::mk_pte(parts_.phys.page_to_pfn(*folio), prot)), vma);
  {
    sim::SpinGuard guard(mm.page_table_lock);
    if (vmf.pte->none()) [[likely]] {
      mm.add_counter(Rss::kAnonPages, 1);
      rmap_.page_add_new_anon_rmap(*folio, vma, vmf.address);
      folio_add_lru_vma(*folio, vma);
      *vmf.pte = entry;
      return FaultOutcome::kNone;
    }
  }
  parts_.lru.folio_put(*folio);  // another task was quicker
  return FaultOutcome::kNone;
}

}  // namespace quire::vm
