// Where later mechanisms enter the fault tree. None is built yet; a hook that answers kFallback leaves the fault to the
// ordinary path. (Files have their own entry: file::SuperBlock::fault and map_pages, which is where DAX will come in.)
//
// All are called with mmap_lock held. One that waits for another task which needs it (a userfaultfd's reader) releases the lock
// that it is given, which is null where the caller wants it held, and answers kRetry: the fault begins anew.
#pragma once

#include "quire/sim/lock_guards.h"
#include "quire/vm/fault_outcome.h"
#include "quire/vm/vma.h"

namespace quire::vm {

// Why a userfaultfd hears of a fault (VM_UFFD_MISSING, VM_UFFD_WP).
enum class UffdReason : std::uint8_t { kMissing, kWriteProtect };

// Addresses are page aligned and within the area.
class FaultHooks {
 public:
  virtual ~FaultHooks() = default;
  // Every fault on an area of VM_HUGETLB; kFallback there is SIGBUS.
  virtual FaultOutcome hugetlb_fault(Vma&, VirtAddr, FaultFlags, sim::ReleasableReadGuard* /*mmap_lock*/) {
    return FaultOutcome::kFallback;
  }
  // Before the page tables of the lowest level are looked at.
  virtual FaultOutcome create_huge_pmd(Vma&, VirtAddr, FaultFlags) { return FaultOutcome::kFallback; }
  // A present entry that is marked inaccessible, in an area that may be accessed. It has to make the entry accessible: the
  // ordinary path would not.
  virtual FaultOutcome do_numa_page(Vma&, VirtAddr, FaultFlags) { return FaultOutcome::kFallback; }
  // Nothing is mapped there (in a file's area: whether or not its page is cached), or a write meets an entry that the userfaultfd
  // has write-protected (pte_mkuffd_wp), in an area that it watches for that reason.
  virtual FaultOutcome handle_userfault(Vma&, VirtAddr, FaultFlags, UffdReason, sim::ReleasableReadGuard* /*mmap_lock*/) {
    return FaultOutcome::kFallback;
  }
};

}  // namespace quire::vm
