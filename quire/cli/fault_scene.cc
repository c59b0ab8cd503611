#include "quire/cli/fault_scene.h"

#include <fmt/format.h>

#include <algorithm>

#include "quire/arch/swap_entry.h"
#include "quire/file/backing.h"
#include "quire/file/iov_iter.h"
#include "quire/phys/page_wait.h"

namespace quire::cli {

namespace {

using arch::Access;
using vm::Advice;
using vm::MapFlags;
using vm::Prot;

constexpr std::uint64_t kAreaPages = 64;
constexpr std::uint64_t kAreaBytes = kAreaPages * kPageSize;
constexpr std::uint64_t kFilePages = 32;  // the file ends in the middle of its area
constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;

std::unexpected<UserError> no_scene(std::string_view what, Errno error) {
  return user_error(
      fmt::format("the fault could not be prepared: {} gave {}; give more --ram or less --fill", what, errno_name(error)));
}

// The page in the middle of an anonymous area, whose neighbour was touched: the page tables are there.
Checked<VirtAddr> anonymous(kernel::Machine& machine, vm::Mm& mm, Prot prot = kReadWrite) {
  vm::Vm& vm = machine.vm();
  const auto area = vm.mmap(mm, VirtAddr(0), kAreaBytes, prot, MapFlags::kAnonymous | MapFlags::kPrivate, nullptr, 0);
  if (!area) return no_scene("mmap", area.error());
  const auto neighbour = vm.access(mm, *area, any(prot, Prot::kWrite) ? Access::kWrite : Access::kRead);
  if (!neighbour.ok()) return no_scene("the first access", Errno::kNoMem);
  return *area + kAreaBytes / 2;
}

Checked<VirtAddr> touched(kernel::Machine& machine, vm::Mm& mm, Access access) {
  const auto page = anonymous(machine, mm);
  if (page && !machine.vm().access(mm, *page, access).ok()) return no_scene("an access", Errno::kNoMem);
  return page;
}

enum class Cached : bool { kNo, kYes };

// A mapped file's page.
Checked<VirtAddr> mapped_file(kernel::Machine& machine, vm::Mm& mm, MapFlags flags, Cached cached) {
  file::FileSystemConfig config;
  config.disk = sim::DiskConfig::from_costs(machine.scheduler().costs());
  file::Vfs& vfs = machine.vfs();
  const auto inode = vfs.mount(config).create("mapped", std::make_unique<file::ZeroBacking>(kFilePages * kPageSize));
  if (!inode) return no_scene("creating a file", inode.error());
  const auto file = vfs.open(**inode, file::FileMode::kRead | file::FileMode::kWrite);
  if (!file) return no_scene("opening a file", file.error());
  if (cached == Cached::kYes) {
    file::NullIter nowhere;
    const auto read = vfs.pread(**file, 0, kFilePages * kPageSize, nowhere);
    if (!read) return no_scene("reading a file", read.error());
  }
  const auto area = machine.vm().mmap(mm, VirtAddr(0), kAreaBytes, kReadWrite, flags, *file, 0);
  vfs.fput(**file);
  if (!area) return no_scene("mmap", area.error());
  return *area + kFilePages / 2 * kPageSize;
}

Checked<FaultScene> scene(const Checked<VirtAddr>& address, Access access) {
  if (!address) return std::unexpected(address.error());
  return FaultScene{.address = *address, .access = access};
}

Checked<FaultScene> anon_read(kernel::Machine& machine, vm::Mm& mm) { return scene(anonymous(machine, mm), Access::kRead); }
Checked<FaultScene> anon_write(kernel::Machine& machine, vm::Mm& mm) { return scene(anonymous(machine, mm), Access::kWrite); }
Checked<FaultScene> zero_write(kernel::Machine& machine, vm::Mm& mm) {
  return scene(touched(machine, mm, Access::kRead), Access::kWrite);
}

enum class Child : bool { kLives, kEnded };

Checked<FaultScene> after_fork(kernel::Machine& machine, vm::Mm& mm, Child child) {
  const auto page = touched(machine, mm, Access::kWrite);
  if (!page) return std::unexpected(page.error());
  const auto copy = machine.vm().dup_mm(mm);
  if (!copy) return no_scene("fork", copy.error());
  if (child == Child::kEnded) machine.vm().mmput(**copy);
  return FaultScene{.address = *page, .access = Access::kWrite};
}
Checked<FaultScene> cow(kernel::Machine& machine, vm::Mm& mm) { return after_fork(machine, mm, Child::kLives); }
Checked<FaultScene> reuse(kernel::Machine& machine, vm::Mm& mm) { return after_fork(machine, mm, Child::kEnded); }

Checked<FaultScene> file_read(kernel::Machine& machine, vm::Mm& mm) {
  return scene(mapped_file(machine, mm, MapFlags::kPrivate, Cached::kNo), Access::kRead);
}
Checked<FaultScene> file_cached(kernel::Machine& machine, vm::Mm& mm) {
  return scene(mapped_file(machine, mm, MapFlags::kPrivate, Cached::kYes), Access::kRead);
}
Checked<FaultScene> file_private(kernel::Machine& machine, vm::Mm& mm) {
  return scene(mapped_file(machine, mm, MapFlags::kPrivate, Cached::kYes), Access::kWrite);
}
Checked<FaultScene> file_shared(kernel::Machine& machine, vm::Mm& mm) {
  return scene(mapped_file(machine, mm, MapFlags::kShared, Cached::kYes), Access::kWrite);
}

// What was written to a disk stays in the swap cache until reclaim comes by again; a clean page goes from it here. False: it is
// not swapped out, or not written yet.
bool leave_swap_cache(kernel::Machine& machine, vm::Mm& mm, VirtAddr page) {
  const arch::Pte* pte = machine.vm().pgtable().pte_offset(mm, page);
  if (pte == nullptr || !arch::is_swap_pte(*pte)) return false;
  phys::Folio* folio = machine.swap().lookup_swap_cache(arch::pte_to_swp_entry(*pte));
  if (folio == nullptr) return true;
  phys::folio_lock(machine.phys(), *folio);
  phys::folio_wait_writeback(machine.phys(), *folio);
  const bool clean = phys::folio_test_swapcache(*folio) && !phys::folio_test_dirty(*folio);
  if (clean) machine.swap().delete_from_swap_cache(*folio);
  phys::folio_unlock(machine.phys(), *folio);
  machine.vfs().filemap().folio_put(*folio);
  return clean;
}

Checked<FaultScene> swapped(kernel::Machine& machine, vm::Mm& mm) {
  const auto page = touched(machine, mm, Access::kWrite);
  if (!page) return std::unexpected(page.error());
  bool gone = false;
  for (int tenths = 0; tenths < 100 && !gone; ++tenths) {
    const Status out = machine.vm().madvise(mm, *page, kPageSize, Advice::kPageOut);
    if (!out) return no_scene("madvise(MADV_PAGEOUT)", out.error());
    machine.scheduler().sleep_for(100 * sim::kMillisecond, sim::Sleep::kInterruptible);
    gone = leave_swap_cache(machine, mm, *page);
  }
  if (!gone) {
    return user_error(
        "--kind swap: the page was still in memory ten seconds after it was paged out; give more --swap or less --fill");
  }
  return FaultScene{.address = *page, .access = Access::kRead};
}

Checked<FaultScene> stack(kernel::Machine& machine, vm::Mm& mm) {
  const auto top = machine.vm().setup_stack(mm);
  if (!top) return no_scene("making a stack", top.error());
  const vm::Vma* area = mm.mm_vmas.find(*top - kPageSize);
  return FaultScene{.address = area->vm_start - 2 * kPageSize, .access = Access::kWrite};
}

Checked<FaultScene> segv_maperr(kernel::Machine& machine, vm::Mm& mm) {
  const auto page = anonymous(machine, mm);
  if (page) {
    if (const Status gone = machine.vm().munmap(mm, *page, kPageSize); !gone) return no_scene("munmap", gone.error());
  }
  return scene(page, Access::kRead);
}
Checked<FaultScene> segv_accerr(kernel::Machine& machine, vm::Mm& mm) {
  return scene(anonymous(machine, mm, Prot::kRead), Access::kWrite);
}
Checked<FaultScene> sigbus(kernel::Machine& machine, vm::Mm& mm) {
  auto page = mapped_file(machine, mm, MapFlags::kShared, Cached::kNo);
  if (page) *page += kFilePages * kPageSize;
  return scene(page, Access::kRead);
}

}  // namespace

const std::array<FaultKind, 14>& fault_kinds_table() {
  static constexpr std::array<FaultKind, 14> kKinds{{
      {"anon-read", "the first read of anonymous memory", anon_read},
      {"anon-write", "the first write to anonymous memory", anon_write},
      {"zero-write", "a write where the zero page was read", zero_write},
      {"cow", "a write to a page that a child shares", cow},
      {"reuse", "a write to a page whose other user has gone", reuse},
      {"file-read", "a read of a mapped file that is not in the page cache", file_read},
      {"file-cached", "a read of a mapped file that is in the page cache", file_cached},
      {"file-private", "the first write to a private mapping of a file", file_private},
      {"file-shared", "the first write to a shared mapping of a file", file_shared},
      {"swap", "a read of a page that is swapped out", swapped},
      {"stack", "a write below the stack", stack},
      {"segv-maperr", "a read where nothing is mapped", segv_maperr},
      {"segv-accerr", "a write where only reading is allowed", segv_accerr},
      {"sigbus", "a read beyond a mapped file's end", sigbus},
  }};
  return kKinds;
}

const FaultKind* find_fault_kind(std::string_view name) {
  const auto& kinds = fault_kinds_table();
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  const auto* it =
      std::ranges::find_if(kinds, [&](const FaultKind& kind) { return std::ranges::equal(kind.name, name, {}, {}, lower); });
  return it == kinds.end() ? nullptr : it;
}

}  // namespace quire::cli
