// Where later mechanisms enter the fault tree: huge pages, NUMA hints. None is built yet; a hook that answers
// kFallback leaves the fault to the ordinary path.
#pragma once

#include "quire/vm/fault_outcome.h"
#include "quire/vm/vma.h"

namespace quire::vm {

class FaultHooks {
 public:
  virtual ~FaultHooks() = default;
  virtual FaultOutcome create_huge_pmd(Vma&, VirtAddr, FaultFlags) { return FaultOutcome::kFallback; }
  virtual FaultOutcome do_numa_page(Vma&, VirtAddr, FaultFlags) { return FaultOutcome::kFallback; }
};

}  // namespace quire::vm
