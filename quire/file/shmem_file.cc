// Shmem as a file system: inodes, the calls, and its address-space operations.
#include <algorithm>
#include <array>

#include "quire/base/bug.h"
#include "quire/file/shmem.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;

namespace {

constexpr std::array<std::byte, kPageSize> kZeroes{};
constexpr Seals kWriteSeals = Seals::kWrite | Seals::kFutureWrite;

}  // namespace

Result<ShmemInode*> Shmem::shmem_get_inode(std::uint64_t size, ShmemAccount account, std::string_view name) {
  if (size > kMaxLfsFilesize) return fail(Errno::kInval);
  const AddressSpaceInit mapping = filemap_.mapping_init(*this);
  const InodeInit init{.sb = *this, .ino = next_ino_++, .mapping = mapping, .i_rwsem = filemap_.i_rwsem_class()};
  ShmemInode* inode = inode_cache_.alloc(phys::Gfp::kKernelAccount, init);
  if (inode == nullptr) return fail(Errno::kNoMem);
  inode->account = account;
  inode->i_dentry = dentries_.d_alloc(name);
  const Status enough = inode->i_dentry == nullptr ? fail(Errno::kNoMem) : shmem_acct_size(*inode, size);
  if (!enough) {
    free_inode(*inode);
    return fail(enough.error());
  }
  inode->i_dentry->d_inode = inode;
  inode->i_size = size;
  inode->i_nlink = 0;
  s_inodes_.push_back(*inode);
  return inode;
}

void Shmem::evict_inode(Inode& generic) {
  ShmemInode& inode = shmem_inode(generic);
  inode.mapping.flags_ |= AddressSpaceFlag::kExiting;
  shmem_truncate_range(inode, 0, kToTheEnd);
  QUIRE_BUG_ON(inode.alloced != 0 || inode.mapping.nrpages() != 0);
  static_cast<void>(shmem_acct_size(inode, 0));  // giving back does not fail
  s_inodes_.erase(inode);
  free_inode(inode);
}

void Shmem::free_inode(ShmemInode& inode) {
  if (inode.i_dentry != nullptr) dentries_.d_free(*inode.i_dentry);
  inode_cache_.free(&inode);
}

// --- calls ------------------------------------------------------------------------------------------------------------

Result<std::uint64_t> Shmem::read_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) {
  ShmemInode& inode = shmem_inode(file.inode());
  const bool data = services_.phys.data_mode() == phys::DataMode::kData;
  std::uint64_t done = 0;
  Status status;
  while (done < len && pos < inode.i_size) {
    services_.scheduler.sync_point();
    const Result<ShmemGet> got = shmem_get_folio(inode, Pgoff(pos >> kPageShift), SgpType::kRead);
    if (!got) {
      if (got.error() != Errno::kInval) status = fail(got.error());  // kInval: truncated meanwhile
      break;
    }
    Folio* folio = got->folio;
    if (folio != nullptr) phys::folio_unlock(services_.phys, *folio);
    const std::uint64_t offset = pos % kPageSize;
    const std::uint64_t size = inode.i_size;
    const std::uint64_t bytes = pos < size ? std::min({kPageSize - offset, len - done, size - pos}) : 0;
    if (folio != nullptr && offset == 0) services_.lru.mark_folio_accessed(*folio);
    const std::byte* from = folio == nullptr ? kZeroes.data() : services_.phys.page_address(*folio);
    filemap_.charge_copy(bytes);
    const std::uint64_t copied = to.copy_to_iter(done, std::span(data ? from + offset : nullptr, bytes));
    if (folio != nullptr) filemap_.folio_put(*folio);
    done += copied;
    pos += copied;
    if (copied < bytes) status = fail(Errno::kFault);
    if (copied < bytes || bytes == 0) break;
  }
  if (done == 0 && !status) return fail(status.error());
  return done;
}

Result<std::uint64_t> Shmem::write_iter(File& file, std::uint64_t& pos, std::uint64_t len, IovIter& from) {
  ShmemInode& inode = shmem_inode(file.inode());
  const sim::WriteGuard guard(inode.i_rwsem);
  if (any(file.f_mode, FileMode::kAppend)) pos = inode.i_size;
  if (len == 0) return 0;
  if (pos >= kMaxLfsFilesize) return fail(Errno::kFBig);
  len = std::min(len, kMaxLfsFilesize - pos);
  const bool data = services_.phys.data_mode() == phys::DataMode::kData;
  std::uint64_t written = 0;
  Status status;
  while (written < len) {
    const std::uint64_t offset = pos % kPageSize;
    const std::uint64_t bytes = from.fault_in_readable(written, std::min(kPageSize - offset, len - written));
    if (bytes == 0) {
      status = fail(Errno::kFault);
      break;
    }
    if (any(inode.seals, kWriteSeals) || (any(inode.seals, Seals::kGrow) && pos + bytes > inode.i_size)) {
      status = fail(Errno::kPerm);
      break;
    }
    const Result<ShmemGet> got = shmem_get_folio(inode, Pgoff(pos >> kPageShift), SgpType::kWrite);
    if (!got) {
      status = fail(got.error());
      break;
    }
    Folio& folio = *got->folio;
    filemap_.charge_copy(bytes);
    std::byte* to = data ? services_.phys.page_address(folio) + offset : nullptr;
    const std::uint64_t copied = from.copy_from_iter(written, std::span(to, bytes));
    if (!phys::folio_test_uptodate(folio)) {
      filemap_.zero_folio_range(folio, 0, offset);
      filemap_.zero_folio_range(folio, offset + copied, kPageSize);
      phys::folio_set_uptodate(folio);
    }
    if (copied > 0) filemap_.folio_mark_dirty(folio);
    pos += copied;
    written += copied;
    inode.i_size = std::max(inode.i_size, pos);
    phys::folio_unlock(services_.phys, folio);
    filemap_.folio_put(folio);
    services_.scheduler.sync_point();
  }
  if (written == 0 && !status) return fail(status.error());
  return written;
}

Result<FilemapFault> Shmem::fault(File& file, Pgoff index, FaultHint /*hint*/, UnlockForIo /*unlock_for_io*/,
                                  FaultTry /*tried*/) {
  ShmemInode& inode = shmem_inode(file.inode());
  const sim::ReadGuard guard(inode.mapping.invalidate_lock());
  const Result<ShmemGet> got = shmem_get_folio(inode, index, SgpType::kCache);
  if (!got) return fail(got.error() == Errno::kInval ? Errno::kFault : got.error());
  phys::folio_unlock(services_.phys, *got->folio);
  return FilemapFault{.folio = got->folio, .cost = got->cost};
}

void Shmem::map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) {
  filemap_.filemap_map_pages(file, first, last, map);
}

Status Shmem::page_mkwrite(File& file, Folio& folio) { return filemap_.filemap_page_mkwrite(file, folio); }

Status Shmem::truncate(Inode& generic, std::uint64_t size) {
  if (size > kMaxLfsFilesize) return fail(Errno::kFBig);
  ShmemInode& inode = shmem_inode(generic);
  const sim::WriteGuard guard(inode.i_rwsem);
  const sim::WriteGuard invalidate(inode.mapping.invalidate_lock());
  const std::uint64_t old_size = inode.i_size;
  if (size != old_size && any(inode.seals, size < old_size ? Seals::kShrink : Seals::kGrow)) return fail(Errno::kPerm);
  if (Status enough = shmem_acct_size(inode, size); !enough) return enough;
  inode.i_size = size;
  // Zeroes behind the end, where a mapping may have stored something. Growth does not: it becomes part of the file.
  if (size <= old_size) shmem_cut(inode, size);
  return {};
}

void Shmem::shmem_cut(ShmemInode& inode, std::uint64_t size) {
  const Pgoff hole(bytes_to_pages_up(size));
  const std::uint64_t pages = kToTheEnd - hole.value();
  filemap_.unmap_mapping_range(inode.mapping, hole, pages, EvenCows::kYes);
  shmem_truncate_range(inode, size, kToTheEnd);
  filemap_.unmap_mapping_range(inode.mapping, hole, pages, EvenCows::kYes);  // private copies that a fault made meanwhile
}

// A hole that ends within the first page takes every other page out of its mappings: where Linux's last byte of whole pages
// would be is then 0 - 1 (seen on 6.18; 6.1 reckons the same way).
void Shmem::shmem_punch(ShmemInode& inode, std::uint64_t start, std::uint64_t end) {
  const std::uint64_t first = bytes_to_pages_up(start);
  const std::uint64_t stop = end + 1 < kPageSize ? kToTheEnd : (end + 1) >> kPageShift;
  if (stop > first) filemap_.unmap_mapping_range(inode.mapping, Pgoff(first), stop - first, EvenCows::kNo);
  shmem_truncate_range(inode, start, end);
}

// Pages for [first, last); those that are there already stay. On an error what it made, and nobody has touched, is given back.
Status Shmem::shmem_allocate_range(ShmemInode& inode, std::uint64_t first, std::uint64_t last) {
  if (config_.max_blocks != 0 && last - first > config_.max_blocks) return fail(Errno::kNoSpc);
  for (std::uint64_t index = first; index < last; ++index) {
    const Result<ShmemGet> got = shmem_get_folio(inode, Pgoff(index), SgpType::kFalloc);
    if (!got) {
      shmem_undo_fallocate(inode, first, index);
      return fail(got.error());
    }
    // Dirty, so that reclaim does not take the promise back.
    filemap_.folio_mark_dirty(*got->folio);
    phys::folio_unlock(services_.phys, *got->folio);
    filemap_.folio_put(*got->folio);
    services_.scheduler.sync_point();
  }
  return {};
}

void Shmem::shmem_undo_fallocate(ShmemInode& inode, std::uint64_t first, std::uint64_t last) {
  for (std::uint64_t index = first; index < last; ++index) {
    Folio* folio = filemap_.filemap_lock_folio(inode.mapping, Pgoff(index));
    if (folio == nullptr) continue;
    if (!phys::folio_test_uptodate(*folio)) filemap_.truncate_folio(inode.mapping, *folio);
    phys::folio_unlock(services_.phys, *folio);
    filemap_.folio_put(*folio);
  }
  shmem_recalc_inode(inode);
}

Status Shmem::fallocate(Inode& generic, FallocateMode mode, std::uint64_t offset, std::uint64_t len) {
  ShmemInode& inode = shmem_inode(generic);
  if (len == 0) return fail(Errno::kInval);
  if (offset > kMaxLfsFilesize || len > kMaxLfsFilesize - offset) return fail(Errno::kFBig);
  const bool punch = any(mode, FallocateMode::kPunchHole);
  if (any(mode, FallocateMode::kZeroRange) || (punch && !any(mode, FallocateMode::kKeepSize))) {
    return fail(Errno::kOpNotSupp);
  }
  const sim::WriteGuard guard(inode.i_rwsem);
  const std::uint64_t end = offset + len;
  if (punch ? any(inode.seals, kWriteSeals) : any(inode.seals, Seals::kGrow) && end > inode.i_size) return fail(Errno::kPerm);
  if (punch) {
    const sim::WriteGuard invalidate(inode.mapping.invalidate_lock());
    shmem_punch(inode, offset, end - 1);
    return {};
  }
  if (Status allocated = shmem_allocate_range(inode, offset >> kPageShift, bytes_to_pages_up(end)); !allocated) {
    return allocated;
  }
  if (!any(mode, FallocateMode::kKeepSize)) inode.i_size = std::max(inode.i_size, end);
  return {};
}

Status Shmem::fsync_range(Inode&, std::uint64_t, std::uint64_t, SyncKind) { return {}; }

// A page of fallocate that nobody has touched is a hole.
Result<std::uint64_t> Shmem::seek(Inode& inode, std::uint64_t pos, SeekKind kind) {
  if (pos >= inode.i_size) return fail(Errno::kNxio);
  const XArray& i_pages = inode.mapping.i_pages();
  const auto is_data = [](XaEntry entry) {
    return entry.is_value() || (entry.is_pointer() && phys::folio_test_uptodate(*entry.pointer<Folio>()));
  };
  std::uint64_t index = pos >> kPageShift;
  if (kind == SeekKind::kData) {
    auto found = i_pages.find(index, inode.size_pages() - 1);
    while (found && !is_data(found->entry)) found = i_pages.next(found->index, inode.size_pages() - 1);
    if (!found) return fail(Errno::kNxio);
    return std::max(pos, pages_to_bytes(found->index));
  }
  while (index < inode.size_pages() && is_data(i_pages.load(index))) ++index;
  return std::min(std::max(pos, pages_to_bytes(index)), inode.i_size);
}

// --- AddressSpaceOps --------------------------------------------------------------------------------------------------

Status Shmem::read_folio(AddressSpace&, Folio&) { bug("shmem has nothing to read from: shmem_get_folio fills folios"); }
void Shmem::readahead(ReadaheadControl&) { bug("shmem has no readahead"); }

Result<WritepageOutcome> Shmem::writepage(Folio& folio, WritebackControl&) { return shmem_writepage(folio); }
Status Shmem::writepages(AddressSpace&, WritebackControl&) { return {}; }

bool Shmem::dirty_folio(AddressSpace&, Folio& folio) { return !phys::folio_test_set_dirty(folio); }

std::string Shmem::path_of(const Inode& inode) const {
  const Dentry* dentry = static_cast<const ShmemInode&>(inode).i_dentry;
  const std::string_view name = dentry != nullptr && dentry->len != 0 ? dentry->name() : "dev/zero";
  return "/" + std::string(name) + " (deleted)";
}

}  // namespace quire::file
