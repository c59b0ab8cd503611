#include "quire/file/memfd.h"

#include <array>
#include <string_view>

#include "quire/file/vfs.h"
#include "quire/phys/task_flags.h"
#include "quire/sim/lock_guards.h"

namespace quire::file {

namespace {

constexpr int kLastScan = 4;  // LAST_SCAN
constexpr std::string_view kPrefix = "memfd:";

// Does anybody but the page cache and page tables hold it?
bool pinned(const phys::Folio& folio) { return phys::folio_ref_count(folio) - phys::folio_mapcount(folio) != 1; }

// Null: a file of another kind, which cannot be sealed.
ShmemInode* shmem_inode_of(const File& file) {
  return dynamic_cast<const Shmem*>(&file.sb()) != nullptr ? static_cast<ShmemInode*>(&file.inode()) : nullptr;
}

}  // namespace

Result<Seals> memfd_get_seals(const File& file) {
  const ShmemInode* inode = shmem_inode_of(file);
  if (inode == nullptr) return fail(Errno::kInval);
  return inode->seals;
}

Status memfd_add_seals(File& file, Seals seals) {
  if (!any(file.f_mode, FileMode::kWrite)) return fail(Errno::kPerm);
  if (any(seals, ~Seals::kAll)) return fail(Errno::kInval);
  ShmemInode* inode = shmem_inode_of(file);
  if (inode == nullptr) return fail(Errno::kInval);
  return static_cast<Shmem&>(file.sb()).memfd_add_seals(*inode, seals);
}

// By its name, too: a segment of System V is numbered by its id.
ShmemInode* Shmem::find_memfd(std::uint64_t ino) {
  for (Inode& inode : s_inodes_) {
    if (inode.ino != ino || any(inode.i_state, InodeState::kFreeing)) continue;
    if (shmem_inode(inode).i_dentry->name().starts_with(kPrefix)) return &shmem_inode(inode);
  }
  return nullptr;
}

Status Shmem::memfd_add_seals(ShmemInode& inode, Seals seals) {
  const sim::WriteGuard guard(inode.i_rwsem);
  if (any(inode.seals, Seals::kSeal)) return fail(Errno::kPerm);
  if (any(seals, Seals::kExec) && inode.executable == ShmemInode::Executable::kYes) {
    seals |= Seals::kShrink | Seals::kGrow | Seals::kWrite | Seals::kFutureWrite;  // what may be run stays as it is
  }
  if (any(seals, Seals::kWrite) && !any(inode.seals, Seals::kWrite)) {
    if (Status denied = inode.mapping.mapping_deny_writable(); !denied) return denied;
    if (Status waited = memfd_wait_for_pins(inode.mapping); !waited) {
      inode.mapping.mapping_allow_writable();
      return waited;
    }
  }
  inode.seals |= seals;
  return {};
}

// Nobody may map the file for writing any more; who pinned a page of it while it was mapped has 150 ms to let it go. A task that
// is being killed sleeps no more: what is held then counts as held for good.
Status Shmem::memfd_wait_for_pins(AddressSpace& mapping) {
  constexpr unsigned kTagPinned = kTagTowrite;  // of which shmem has no other use
  XArray& i_pages = mapping.i_pages();
  const auto held = [](XaEntry entry) { return entry.is_pointer() && pinned(*entry.pointer<phys::Folio>()); };
  services_.lru.lru_add_drain();
  {
    const sim::SpinGuard guard(mapping.i_pages_lock());
    i_pages.for_each([&](std::uint64_t index, XaEntry entry) {
      if (held(entry)) i_pages.set_mark(index, kTagPinned);
    });
  }
  Status result{};
  for (int scan = 0; scan <= kLastScan && i_pages.marked(kTagPinned); ++scan) {
    if (scan == 0) {
      services_.lru.lru_add_drain_all();
    } else if (!phys::task_test(services_.scheduler, phys::TaskFlag::kOomVictim)) {  // schedule_timeout_killable
      services_.scheduler.sleep_for((sim::kSecond << scan) / 200);
    }
    const sim::SpinGuard guard(mapping.i_pages_lock());
    i_pages.for_marked(0, XArray::kMaxIndex, kTagPinned, [&](std::uint64_t index, XaEntry entry) {
      if (held(entry) && scan == kLastScan) result = fail(Errno::kBusy);
      if (!held(entry) || scan == kLastScan) i_pages.clear_mark(index, kTagPinned);
    });
  }
  return result;
}

Result<File*> Vfs::memfd_create(std::string_view name, MemfdFlags flags) {
  constexpr std::uint32_t kHugeSizeBits = 63u << 26;  // MFD_HUGE_*
  const bool huge = any(flags, MemfdFlags::kHugeTlb);
  const auto known = MemfdFlags::kAll | static_cast<MemfdFlags>(huge ? kHugeSizeBits : 0);
  if (any(flags, ~known) || all(flags, MemfdFlags::kExec | MemfdFlags::kNoexecSeal)) return fail(Errno::kInval);
  if (name.size() > kMfdNameMaxLen) return fail(Errno::kInval);
  if (huge) return fail(Errno::kNoMem);  // no pool of huge pages
  std::array<char, kPrefix.size() + kMfdNameMaxLen> whole;
  kPrefix.copy(whole.data(), kPrefix.size());
  name.copy(whole.data() + kPrefix.size(), name.size());
  const Result<ShmemInode*> made =
      shmem_.shmem_get_inode(0, ShmemAccount::kPerPage, std::string_view(whole.data(), kPrefix.size() + name.size()));
  if (!made) return fail(made.error());
  ShmemInode& inode = **made;
  if (any(flags, MemfdFlags::kNoexecSeal)) {
    inode.executable = ShmemInode::Executable::kNo;
    inode.seals = Seals::kExec;
  } else {
    inode.executable = ShmemInode::Executable::kYes;
    if (any(flags, MemfdFlags::kAllowSealing)) inode.seals = Seals::kNone;
  }
  Result<File*> file = open(inode, FileMode::kRead | FileMode::kWrite);
  iput(inode);
  return file;
}

}  // namespace quire::file
