#include "quire/file/vfs.h"

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::file {

Vfs::Vfs(const FileServices& services, const VfsConfig& config)
    : filemap_(services, config.read),
      writeback_(filemap_, config.dirty),
      filp_(services.slab, "filp", slab::SlabFlags::kHwCacheAlign),
      names_cache_(services.slab, "names_cache", slab::SlabFlags::kHwCacheAlign),
      dentries_(services.slab),
      inode_cache_(services.slab, "ext4_inode_cache", slab::SlabFlags::kReclaimAccount),
      shmem_(filemap_, dentries_, config.shmem) {}

Vfs::~Vfs() = default;

FileSystem& Vfs::mount(const FileSystemConfig& config) {
  mounts_.push_back(std::make_unique<FileSystem>(filemap_, writeback_, inode_cache_, dentries_, config));
  return *mounts_.back();
}

FileSystem* Vfs::find_mount(std::uint32_t dev) {
  for (const auto& mount : mounts_) {
    if (mount->dev() == dev) return mount.get();
  }
  return nullptr;
}

// --- inodes and files -------------------------------------------------------------------------------------------------

void Vfs::iput(Inode& inode) { file::iput(inode); }

Result<Filename> Vfs::getname(std::string_view path) {
  PathBuffer* buffer = names_cache_.alloc(phys::Gfp::kKernel);
  if (buffer == nullptr) return fail(Errno::kNoMem);
  Filename name(names_cache_, *buffer, path);
  if (path.size() >= PathBuffer::kPathMax) return fail(Errno::kNameTooLong);
  return name;
}

Result<File*> Vfs::open(Inode& inode, FileMode mode) {
  iget(inode);  // its last name may go while memory is found
  File* file = filp_.alloc(phys::Gfp::kKernel, inode, mode, filemap_.tunables().ra_pages);
  if (file == nullptr) {
    iput(inode);
    return fail(Errno::kNoMem);
  }
  ++open_files_;
  return file;
}

void Vfs::fput(File& file) {
  QUIRE_BUG_ON(file.f_count == 0);
  if (--file.f_count > 0) return;
  Inode& inode = file.inode();
  file.sb().release(file);
  filp_.free(&file);
  --open_files_;
  iput(inode);
}

Result<File*> Vfs::shmem_file_setup(std::uint64_t size, ShmemAccount account, std::string_view name) {
  const Result<ShmemInode*> inode = shmem_.shmem_get_inode(size, account, name);
  if (!inode) return fail(inode.error());
  Result<File*> file = open(**inode, FileMode::kRead | FileMode::kWrite);
  iput(**inode);
  return file;
}

// --- reading and writing ----------------------------------------------------------------------------------------------

Result<std::uint64_t> Vfs::read(File& file, std::uint64_t len, IovIter& to) {
  const Result<std::uint64_t> n = pread(file, file.f_pos, len, to);
  if (n) file.f_pos += *n;
  return n;
}

Result<std::uint64_t> Vfs::pread(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) {
  if (!any(file.f_mode, FileMode::kRead)) return fail(Errno::kBadF);
  if (pos > kMaxLfsFilesize) return fail(Errno::kInval);
  return file.sb().read_iter(file, pos, std::min(len, kMaxRwCount), to);
}

Result<std::uint64_t> Vfs::write(File& file, std::uint64_t len, IovIter& from) {
  if (!any(file.f_mode, FileMode::kWrite)) return fail(Errno::kBadF);
  std::uint64_t pos = file.f_pos;
  const Result<std::uint64_t> n = file.sb().write_iter(file, pos, std::min(len, kMaxRwCount), from);
  if (n) file.f_pos = pos;
  return n;
}

Result<std::uint64_t> Vfs::pwrite(File& file, std::uint64_t pos, std::uint64_t len, IovIter& from) {
  if (!any(file.f_mode, FileMode::kWrite)) return fail(Errno::kBadF);
  if (pos > kMaxLfsFilesize) return fail(Errno::kInval);
  return file.sb().write_iter(file, pos, std::min(len, kMaxRwCount), from);
}

Status Vfs::ftruncate(File& file, std::uint64_t size) {
  if (!any(file.f_mode, FileMode::kWrite)) return fail(Errno::kInval);
  return file.sb().truncate(file.inode(), size);
}

Status Vfs::fallocate(File& file, FallocateMode mode, std::uint64_t offset, std::uint64_t len) {
  if (!any(file.f_mode, FileMode::kWrite)) return fail(Errno::kBadF);
  return file.sb().fallocate(file.inode(), mode, offset, len);
}

// --- synchronisation --------------------------------------------------------------------------------------------------

Status Vfs::fsync(File& file, SyncKind kind) { return file.sb().fsync_range(file.inode(), 0, kMaxLfsFilesize, kind); }

Status Vfs::sync_file_range(File& file, std::uint64_t offset, std::uint64_t nbytes, SyncFileRange flags) {
  if (offset > kMaxLfsFilesize || nbytes > kMaxLfsFilesize - offset) return fail(Errno::kInval);
  if (&file.sb() == &shmem_) return {};
  const std::uint64_t end = nbytes == 0 ? kMaxLfsFilesize : offset + nbytes - 1;
  AddressSpace& mapping = file.mapping();
  if (any(flags, SyncFileRange::kWaitBefore)) {
    if (Status waited = filemap_.filemap_fdatawait_range(mapping, offset, end); !waited) return waited;
  }
  if (any(flags, SyncFileRange::kWrite)) {
    const SyncMode mode = all(flags, SyncFileRange::kWaitBefore | SyncFileRange::kWrite | SyncFileRange::kWaitAfter)
                              ? SyncMode::kAll
                              : SyncMode::kNone;
    if (Status written = filemap_.filemap_fdatawrite_range(mapping, offset, end, mode); !written) return written;
  }
  if (any(flags, SyncFileRange::kWaitAfter)) return filemap_.filemap_fdatawait_range(mapping, offset, end);
  return {};
}

Status Vfs::msync_range(File& file, std::uint64_t start, std::uint64_t end, MsyncMode mode) {
  // MS_ASYNC does nothing since Linux 2.6.19: the pages are dirty already and the flusher will come.
  if (mode == MsyncMode::kAsync || start >= end) return {};
  return file.sb().fsync_range(file.inode(), start, end - 1, SyncKind::kFdatasync);
}

void Vfs::sync() {
  writeback_.wakeup_flusher_threads(WbReason::kSync);
  for_each_mount([this](FileSystem& mount) { writeback_.sync_inodes(mount); });
}

void Vfs::syncfs(File& file) {
  if (file.sb().can_writeback()) writeback_.sync_inodes(file.sb());
}

// --- advice -----------------------------------------------------------------------------------------------------------

Status Vfs::fadvise(File& file, std::uint64_t offset, std::uint64_t len, Fadvice advice) {
  // Length 0, and any that wraps, means to the end.
  const std::uint64_t end = len == 0 || offset + len < offset ? kMaxLfsFilesize : offset + len;  // bytes, not included
  AddressSpace& mapping = file.mapping();
  switch (advice) {
    case Fadvice::kNormal:
      file.f_ra.ra_pages = filemap_.tunables().ra_pages;
      file.f_mode = file.f_mode & ~FileMode::kRandom;
      break;
    case Fadvice::kRandom: file.f_mode |= FileMode::kRandom; break;
    case Fadvice::kSequential:
      file.f_ra.ra_pages = filemap_.tunables().ra_pages * 2;
      file.f_mode = file.f_mode & ~FileMode::kRandom;
      break;
    case Fadvice::kWillNeed: return readahead(file, offset, end - offset);
    case Fadvice::kNoReuse: break;
    case Fadvice::kDontNeed: {
      if (&file.sb() == &shmem_) break;
      static_cast<void>(filemap_.filemap_fdatawrite_range(mapping, offset, end - 1, SyncMode::kNone));
      // Only whole pages: the edges may be wanted.
      const std::uint64_t first = bytes_to_pages_up(offset);
      std::uint64_t stop = end >> kPageShift;
      if (end >= file.inode().i_size) stop = std::max(stop, file.inode().size_pages());
      if (stop <= first) break;
      drain_and_invalidate(mapping, Pgoff(first), Pgoff(stop - 1));
      break;
    }
  }
  return {};
}

// Pages that still wait in an LRU batch are in use; drain before giving up on them.
void Vfs::drain_and_invalidate(AddressSpace& mapping, Pgoff first, Pgoff last) {
  lru::Lru& lru = filemap_.services().lru;
  lru.lru_add_drain();
  const std::uint64_t before = mapping.nrpages();
  const std::uint64_t dropped = filemap_.invalidate_mapping_pages(mapping, first, last);
  if (dropped == before) return;
  lru.lru_add_drain_all();
  filemap_.invalidate_mapping_pages(mapping, first, last);
}

Status Vfs::readahead(File& file, std::uint64_t offset, std::uint64_t count) {
  if (!any(file.f_mode, FileMode::kRead)) return fail(Errno::kBadF);
  if (&file.sb() == &shmem_ || count == 0) return {};
  const std::uint64_t end = std::min(offset + count < offset ? kMaxLfsFilesize : offset + count, file.inode().i_size);
  if (offset >= end) return {};
  const std::uint64_t first = offset >> kPageShift;
  filemap_.force_page_cache_readahead(file, Pgoff(first), bytes_to_pages_up(end) - first);
  return {};
}

void Vfs::drop_pagecache() {
  filemap_.services().phys.vmstat().count_vm_event(phys::VmEvent::kDropPagecache);
  filemap_.services().lru.lru_add_drain_all();
  for_each_mount([this](FileSystem& mount) {
    mount.for_each_inode(
        [this](Inode& inode) { filemap_.invalidate_mapping_pages(inode.mapping, Pgoff(0), Pgoff(XArray::kMaxIndex)); });
  });
}

void Vfs::validate() {
  for (const auto& mount : mounts_) mount->validate();
  shmem_.validate();
  writeback_.validate();
}

}  // namespace quire::file
