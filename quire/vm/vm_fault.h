// One page fault on its way through the fault tree (Linux's struct vm_fault).
#pragma once

#include "quire/arch/pte.h"
#include "quire/phys/folio.h"
#include "quire/sim/lock_guards.h"
#include "quire/vm/fault_outcome.h"
#include "quire/vm/vma.h"

namespace quire::vm {

struct VmFault {
  Vma& vma;
  VirtAddr address;  // page aligned
  Pgoff pgoff;       // linear_page_index of address
  FaultFlags flags;
  sim::ReleasableReadGuard* mmap_lock = nullptr;  // null: whoever holds it wants it held to the end
  arch::Pte* pte = nullptr;                       // its entry; null while there is no table
  arch::Pte orig_pte{};                           // what the entry held when the fault was looked at
  phys::Folio* folio = nullptr;                   // do_fault: the file's folio, locked, with a reference

  [[nodiscard]] Mm& mm() const { return *vma.vm_mm; }
  [[nodiscard]] bool write() const { return any(flags, FaultFlags::kWrite); }
  [[nodiscard]] bool unshare() const { return any(flags, FaultFlags::kUnshare); }
  // May mmap_lock be given back (fault_flag_allow_retry_first)?
  [[nodiscard]] bool may_unlock() const { return mmap_lock != nullptr && !any(flags, FaultFlags::kTried); }
};

}  // namespace quire::vm
