// Life of an address space: mm_alloc … exit_mmap.
#include "quire/vm/mm.h"

#include "quire/vm/mmu_gather.h"
#include "quire/vm/vm.h"

namespace quire::vm {

Result<Mm*> Vm::mm_alloc() {
  Mm* mm = mm_cache_.alloc(phys::Gfp::kKernel, *this, parts_.scheduler, maple_node_cache_, mmap_lock_class_,
                           page_table_lock_class_, next_context_id_);
  if (mm == nullptr) return fail(Errno::kNoMem);
  ++next_context_id_;
  if (Status made = pgtable_.pgd_alloc(*mm); !made) {
    mm_cache_.free(mm);
    return fail(made.error());
  }
  mm->mm_vmas.set_stack_guard(tunables_.stack_guard_gap * kPageSize);
  mm->task_size = pgtable_.geometry().task_size;
  arch_pick_mmap_layout(*mm, Personality::kAddrNoRandomize);
  mms_.push_back(*mm);
  return mm;
}

void Vm::mmput(Mm& mm) {
  QUIRE_BUG_ON(mm.mm_users == 0);
  if (--mm.mm_users != 0) return;
  exit_mmap(mm);
  mmdrop(mm);
}

void Vm::mmdrop(Mm& mm) {
  QUIRE_BUG_ON(mm.mm_count == 0);
  if (--mm.mm_count != 0) return;
  QUIRE_BUG_ON(mm.mm_users != 0);
  shootdown_.mm_gone(mm);
  pgtable_.pgd_free(mm);
  for (const std::int64_t counter : mm.rss_stat) QUIRE_BUG_ON(counter != 0);
  QUIRE_BUG_ON(mm.pgtables_pages != 0);
  mms_.erase(mm);
  mm_cache_.free(&mm);
}

void Vm::exit_mmap(Mm& mm) {
  sim::WriteGuard guard(mm.mmap_lock);
  mm.flags |= MmFlags::kExiting;
  shootdown_.enter_lazy_tlb(mm);
  {
    MmuGather tlb(*this, mm, FlushSite::kExit, MmuGather::Scope::kFullMm);
    for (Vma& vma : mm.mm_vmas) unmap_page_range(tlb, vma, vma.range(), ZapCows::kAreaGoes);
    mm.flags |= MmFlags::kOomSkip;
    for (Vma& vma : mm.mm_vmas) unlink_rmap(vma);
    const Range<VirtAddr> user_space{VirtAddr(0), pgtable_.geometry().task_size + kPageSize};
    pgtable_.free_pgtables(mm, user_space, user_space, tlb);
    tlb.finish();
  }
  std::uint64_t accounted = 0;
  while (Vma* vma = mm.mm_vmas.first()) {
    if (vma->has(VmFlags::kAccount)) accounted += vma->pages();
    vm_stat_account(mm, vma->vm_flags, -static_cast<std::int64_t>(vma->pages()));
    if (vma->has(VmFlags::kLocked)) mm.locked_vm -= vma->pages();
    mm.mm_vmas.erase(*vma);
    --mm.map_count;
    vm_area_free(*vma);
    parts_.scheduler.sync_point();
  }
  commit_.vm_unacct_memory(accounted);
}

}  // namespace quire::vm
