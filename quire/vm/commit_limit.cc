#include "quire/vm/commit_limit.h"

#include <algorithm>

#include "quire/vm/mm.h"

namespace quire::vm {

std::uint64_t CommitLimit::vm_commit_limit() const {
  const std::uint64_t ram = phys_.totalram_pages();
  const std::uint64_t allowed = tunables_.overcommit_kbytes != 0 ? tunables_.overcommit_kbytes >> (kPageShift - 10)
                                                                 : ram * tunables_.overcommit_ratio / 100;
  return allowed + swap_.total_swap_pages();
}

Status CommitLimit::enough_memory(const Mm* mm, std::uint64_t pages) {
  vm_acct_memory(static_cast<std::int64_t>(pages));
  bool enough = true;
  switch (tunables_.overcommit_memory) {
    case OvercommitMode::kAlways: break;
    case OvercommitMode::kGuess: enough = pages <= phys_.totalram_pages() + swap_.total_swap_pages(); break;
    case OvercommitMode::kNever: {
      const std::uint64_t user = tunables_.user_reserve_kbytes >> (kPageShift - 10);
      const std::uint64_t reserve =
          (tunables_.admin_reserve_kbytes >> (kPageShift - 10)) + (mm == nullptr ? 0 : std::min(mm->total_vm / 32, user));
      const std::uint64_t limit = vm_commit_limit();
      enough = reserve < limit && committed_as() < limit - reserve;
      break;
    }
  }
  if (enough) return {};
  vm_unacct_memory(pages);
  return fail(Errno::kNoMem);
}

}  // namespace quire::vm
