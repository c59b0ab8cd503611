// Overcommit accounting (vm.overcommit_memory): how much memory areas promise, and whether one more promise is allowed.
// Committed_AS is the sum of what VM_ACCOUNT areas may need: every page of a private writable area, and shared
// memory (shmem's files come through file::CommitAccounting).
#pragma once

#include <cstdint>

#include "quire/base/result.h"
#include "quire/file/shmem.h"
#include "quire/phys/phys_mem.h"
#include "quire/swap/swap_system.h"
#include "quire/vm/limits.h"

namespace quire::vm {

struct Mm;

class CommitLimit final : public file::CommitAccounting {
 public:
  CommitLimit(phys::PhysMem& phys, swap::SwapSystem& swap, const VmTunables& tunables)
      : phys_(phys), swap_(swap), tunables_(tunables) {}

  // Accounts `pages` more, or kNoMem: always in mode 1; in mode 0 unless it is more than RAM and swap together; in mode 2
  // while Committed_AS stays below CommitLimit less reserves. (security_vm_enough_memory_mm)
  Status vm_enough_memory(const Mm& mm, std::uint64_t pages) { return enough_memory(&mm, pages); }
  // For memory of no address space: no reserve is left for the user's own.
  Status security_vm_enough_memory(std::uint64_t pages) override { return enough_memory(nullptr, pages); }
  void vm_acct_memory(std::int64_t pages) { committed_as_ += pages; }
  void vm_unacct_memory(std::uint64_t pages) override { committed_as_ -= static_cast<std::int64_t>(pages); }

  [[nodiscard]] std::uint64_t vm_commit_limit() const;  // pages (CommitLimit)
  [[nodiscard]] std::uint64_t committed_as() const { return committed_as_ > 0 ? static_cast<std::uint64_t>(committed_as_) : 0; }

 private:
  Status enough_memory(const Mm* mm, std::uint64_t pages);

  phys::PhysMem& phys_;
  swap::SwapSystem& swap_;
  const VmTunables& tunables_;
  std::int64_t committed_as_ = 0;
};

}  // namespace quire::vm
