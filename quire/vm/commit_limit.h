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

// Who runs; the floor that has processes implements it. Null: a task of the kernel's own, or nobody.
class CurrentMm {
 public:
  virtual ~CurrentMm() = default;
  [[nodiscard]] virtual const Mm* current_mm() const = 0;
};

class CommitLimit final : public file::CommitAccounting {
 public:
  CommitLimit(phys::PhysMem& phys, swap::SwapSystem& swap, const VmTunables& tunables)
      : phys_(phys), swap_(swap), tunables_(tunables) {}

  // Accounts `pages` more, or kNoMem: always in mode 1; in mode 0 unless it is more than RAM and swap together; in mode 2
  // while Committed_AS stays below CommitLimit less reserves, a part of `mm` among them: that of who asks, which for a fork is
  // the parent. (security_vm_enough_memory_mm)
  Status vm_enough_memory(const Mm& mm, std::uint64_t pages) { return enough_memory(&mm, pages); }
  // For memory of no address space; it is the current one that asks.
  Status security_vm_enough_memory(std::uint64_t pages) override {
    return enough_memory(current_ == nullptr ? nullptr : current_->current_mm(), pages);
  }
  void set_current(const CurrentMm* current) { current_ = current; }
  void vm_acct_memory(std::int64_t pages) { committed_as_ += pages; }
  void vm_unacct_memory(std::uint64_t pages) override { committed_as_ -= static_cast<std::int64_t>(pages); }

  [[nodiscard]] std::uint64_t vm_commit_limit() const;  // pages (CommitLimit)
  [[nodiscard]] std::uint64_t committed_as() const { return committed_as_ > 0 ? static_cast<std::uint64_t>(committed_as_) : 0; }

 private:
  Status enough_memory(const Mm* mm, std::uint64_t pages);

  phys::PhysMem& phys_;
  swap::SwapSystem& swap_;
  const VmTunables& tunables_;
  const CurrentMm* current_ = nullptr;
  std::int64_t committed_as_ = 0;
};

}  // namespace quire::vm
