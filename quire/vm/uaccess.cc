// The kernel's access to user memory: copy_from_user, copy_to_user. The fault path is the program's own.
#include <algorithm>
#include <cstring>

#include "quire/vm/vm.h"

namespace quire::vm {

// Page by page: `each(host pointer or null, done, n)` moves n bytes. Nothing may preempt between access and move.
template <class Each>
std::uint64_t Vm::for_user_pages(Mm& mm, VirtAddr address, std::uint64_t length, arch::Access kind, Each&& each) {
  const bool real = parts_.phys.data_mode() == phys::DataMode::kData;
  std::uint64_t done = 0;
  while (done < length) {
    const VirtAddr at = address + done;
    const AccessOutcome outcome = access(mm, at, kind);
    if (!outcome.ok()) break;
    const std::uint64_t bytes = std::min(length - done, kPageSize - page_offset(at));
    if (real) each(to_host(outcome.phys), done, bytes);
    parts_.scheduler.charge(parts_.scheduler.costs().memcpy_bytes(bytes));
    done += bytes;
  }
  return done;
}

std::uint64_t Vm::copy_from_user(Mm& mm, std::span<std::byte> to, VirtAddr from) {
  return for_user_pages(
      mm, from, to.size(), arch::Access::kRead,
      [&](std::byte* page, std::uint64_t done, std::uint64_t bytes) { std::memcpy(to.data() + done, page, bytes); });
}

std::uint64_t Vm::copy_to_user(Mm& mm, VirtAddr to, std::span<const std::byte> from) {
  return for_user_pages(
      mm, to, from.size(), arch::Access::kWrite,
      [&](std::byte* page, std::uint64_t done, std::uint64_t bytes) { std::memcpy(page, from.data() + done, bytes); });
}

std::uint64_t Vm::touch_user(Mm& mm, VirtAddr address, std::uint64_t length, arch::Access kind) {
  std::uint64_t done = 0;
  while (done < length) {
    if (!access(mm, address + done, kind).ok()) break;
    done += std::min(length - done, kPageSize - page_offset(address + done));
  }
  return done;
}

}  // namespace quire::vm
