// process_vm_readv(2), process_vm_writev(2) and process_madvise(2): one process at another's memory.
//
// Pages of the other process are pinned, copied and let go, 16 at a time (Linux: up to 1,024 of a long part), so a transfer
// ends at the first page that cannot be reached, on either side; what was copied before counts. (The manual promises less:
// whole parts.)
#include <algorithm>
#include <array>

#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

constexpr std::size_t kPagesAtOnce = 16;             // PVM_MAX_PP_ARRAY_COUNT
constexpr std::uint64_t kMaxTransfer = 0x7fff'f000;  // MAX_RW_COUNT: of the local parts, or of those to advise

// The parts together, or what is wrong with them (import_iovec).
Result<std::uint64_t> iov_length(std::span<const UserIovec> parts) {
  if (parts.size() > kUioMaxIov) return fail(Errno::kInval);
  std::uint64_t bytes = 0;
  for (const UserIovec& part : parts) {
    if (static_cast<std::int64_t>(part.iov_len) < 0) return fail(Errno::kInval);
    bytes += std::min(part.iov_len, kMaxTransfer - bytes);
  }
  return bytes;
}

bool access_ok(const Mm& mm, const UserIovec& part) {
  return part.iov_len <= mm.task_size.value() && part.iov_base.value() <= mm.task_size.value() - part.iov_len;
}

}  // namespace

// Where in the local parts a transfer stands.
struct Vm::IovWalk {
  Mm& mm;
  std::span<const UserIovec> parts;
  std::uint64_t left = 0;  // bytes, of all parts
  std::uint64_t done_in_part = 0;

  // What lies ahead in one piece.
  [[nodiscard]] UserIovec piece() {
    while (parts.front().iov_len == done_in_part) {
      parts = parts.subspan(1);
      done_in_part = 0;
    }
    return {parts.front().iov_base + done_in_part, std::min(left, parts.front().iov_len - done_in_part)};
  }
  void advance(std::uint64_t bytes) {
    done_in_part += bytes;
    left -= bytes;
  }
};

// One pinned page, from `offset` on; false: a local address that cannot be reached.
bool Vm::process_vm_rw_page(IovWalk& local, phys::Page& page, Range<std::uint64_t> span, arch::Access kind) {
  const bool real = parts_.phys.data_mode() == phys::DataMode::kData;
  const bool write = kind == arch::Access::kWrite;
  std::byte* bytes = real ? parts_.phys.page_address(page) + span.begin : nullptr;
  for (std::uint64_t done = 0; done < span.size() && local.left != 0;) {
    const UserIovec piece = local.piece();
    const std::uint64_t want = std::min(span.size() - done, piece.iov_len);
    std::uint64_t moved = 0;
    if (!real) {
      moved = touch_user(local.mm, piece.iov_base, want, write ? arch::Access::kRead : arch::Access::kWrite);
      parts_.scheduler.charge(parts_.scheduler.costs().memcpy_bytes(moved));
    } else if (write) {
      moved = copy_from_user(local.mm, {bytes + done, want}, piece.iov_base);
    } else {
      moved = copy_to_user(local.mm, piece.iov_base, {bytes + done, want});
    }
    local.advance(moved);
    done += moved;
    if (moved < want) return false;
  }
  return true;
}

Status Vm::process_vm_rw_single(IovWalk& local, Mm& remote, const UserIovec& part, arch::Access kind) {
  const bool write = kind == arch::Access::kWrite;
  std::array<phys::Page*, kPagesAtOnce> pages;
  for (std::uint64_t done = 0; done < part.iov_len && local.left != 0;) {
    const VirtAddr at = part.iov_base + done;
    const std::uint64_t offset = page_offset(at);
    const std::uint64_t wanted = bytes_to_pages_up(offset + (part.iov_len - done));
    const auto batch = std::span(pages).first(std::min<std::uint64_t>(wanted, kPagesAtOnce));
    const Result<std::uint64_t> got = pin_user_pages(remote, at, batch, kind);
    if (!got) return fail(Errno::kFault);
    bool reached = true;
    std::uint64_t skip = offset;
    for (phys::Page* page : batch.first(*got)) {
      const std::uint64_t bytes = std::min(kPageSize - skip, part.iov_len - done);
      if (reached) reached = process_vm_rw_page(local, *page, {skip, skip + bytes}, kind);
      done += bytes;
      skip = 0;
    }
    const auto pinned = batch.first(*got);
    write ? unpin_user_pages_dirty_lock(pinned) : unpin_user_pages(pinned);
    if (!reached) return fail(Errno::kFault);
  }
  return {};
}

Result<std::uint64_t> Vm::process_vm_rw(Mm& mm, std::span<const UserIovec> local, Result<Mm*> remote,
                                        std::span<const UserIovec> parts, std::uint64_t flags, arch::Access kind) {
  if (flags != 0) return fail(Errno::kInval);
  const Result<std::uint64_t> bytes = iov_length(local);
  if (!bytes) return bytes;
  for (const UserIovec& part : local) {
    if (!access_ok(mm, part)) return fail(Errno::kFault);
  }
  if (*bytes == 0) return 0;
  if (const Result<std::uint64_t> other = iov_length(parts); !other || *other == 0) return other;
  if (!remote) return fail(remote.error());

  IovWalk walk{.mm = mm, .parts = local, .left = *bytes};
  Status status{};
  mmget(**remote);  // its process may end meanwhile
  for (const UserIovec& part : parts) {
    status = process_vm_rw_single(walk, **remote, part, kind);
    if (!status || walk.left == 0) break;
  }
  mmput(**remote);
  const std::uint64_t copied = *bytes - walk.left;
  if (copied == 0 && !status) return fail(status.error());
  return copied;
}

Result<std::uint64_t> Vm::process_vm_readv(Mm& mm, std::span<const UserIovec> local, Result<Mm*> remote,
                                           std::span<const UserIovec> from, std::uint64_t flags) {
  return process_vm_rw(mm, local, remote, from, flags, arch::Access::kRead);
}

Result<std::uint64_t> Vm::process_vm_writev(Mm& mm, std::span<const UserIovec> local, Result<Mm*> remote,
                                            std::span<const UserIovec> to, std::uint64_t flags) {
  return process_vm_rw(mm, local, remote, to, flags, arch::Access::kWrite);
}

Result<std::uint64_t> Vm::process_madvise(Mm& caller, Result<Mm*> target, std::span<const UserIovec> parts, Advice advice,
                                          std::uint32_t flags) {
  if (flags != 0) return fail(Errno::kInval);
  const Result<std::uint64_t> bytes = iov_length(parts);
  if (!bytes) return bytes;
  for (const UserIovec& part : parts) {
    if (!access_ok(caller, part)) return fail(Errno::kFault);
  }
  if (!target) return fail(target.error());
  // On another process only what changes no byte of it; on oneself any advice (6.13; before, these four only).
  const bool harmless =
      advice == Advice::kCold || advice == Advice::kPageOut || advice == Advice::kWillNeed || advice == Advice::kCollapse;
  if (*target != &caller && !harmless) return fail(Errno::kInval);
  std::uint64_t left = *bytes;
  Status advised{};
  mmget(**target);  // its process may end meanwhile
  for (const UserIovec& part : parts) {
    if (left == 0) break;
    const std::uint64_t length = std::min(part.iov_len, left);
    advised = madvise(**target, part.iov_base, length, advice);
    if (!advised) break;
    left -= length;
  }
  mmput(**target);
  if (left == *bytes && !advised) return fail(advised.error());
  return *bytes - left;
}

}  // namespace quire::vm
