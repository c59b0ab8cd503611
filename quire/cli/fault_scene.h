// The moments before a fault: a process whose next access faults in the way that is asked for.
#pragma once

#include <array>
#include <string_view>

#include "quire/arch/access.h"
#include "quire/base/user_error.h"
#include "quire/kernel/machine.h"

namespace quire::cli {

// The access that will fault.
struct FaultScene {
  VirtAddr address;
  arch::Access access = arch::Access::kRead;
};

struct FaultKind {
  std::string_view name;
  std::string_view what;  // "the first write to anonymous memory"
  Checked<FaultScene> (*prepare)(kernel::Machine& machine, vm::Mm& mm);
};

// In order of the fault tree.
[[nodiscard]] const std::array<FaultKind, 14>& fault_kinds_table();
// In upper or lower case; nullptr: there is none.
[[nodiscard]] const FaultKind* find_fault_kind(std::string_view name);

}  // namespace quire::cli
