#include "quire/file/memfd.h"

#include <array>

#include "quire/file/vfs.h"

namespace quire::file {

namespace {

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
  const sim::WriteGuard guard(inode->i_rwsem);
  if (any(inode->seals, Seals::kSeal)) return fail(Errno::kPerm);
  if (any(seals, Seals::kExec) && inode->executable == ShmemInode::Executable::kYes) {
    seals |= Seals::kShrink | Seals::kGrow | Seals::kWrite | Seals::kFutureWrite;  // what may be run stays as it is
  }
  if (any(seals, Seals::kWrite) && !any(inode->seals, Seals::kWrite) && inode->mapping.mapping_writably_mapped()) {
    return fail(Errno::kBusy);
  }
  inode->seals |= seals;
  return {};
}

Result<File*> Vfs::memfd_create(std::string_view name, MemfdFlags flags) {
  constexpr std::string_view kPrefix = "memfd:";
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
