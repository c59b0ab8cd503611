// Names, sizes and the life of files on a simulated disk.
#include "quire/file/file_system.h"

#include <algorithm>

#include "quire/base/bug.h"
#include "quire/file/writeback.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

namespace {

sim::DiskConfig disk_config(const FileSystemConfig& config, const sim::Scheduler& scheduler) {
  return config.disk ? *config.disk : sim::DiskConfig::from_costs(scheduler.costs());
}

}  // namespace

FileSystem::FileSystem(Filemap& filemap, Writeback& writeback, slab::KmemCache<DiskInode>& inodes, DentryCache& dentries,
                       const FileSystemConfig& config)
    : SuperBlock(config.dev, config.name),
      filemap_(filemap),
      writeback_(writeback),
      services_(filemap.services()),
      config_(config),
      disk_(services_.scheduler, disk_config(config, services_.scheduler), &services_.faults),
      inode_cache_(inodes),
      dentries_(dentries) {}

FileSystem::~FileSystem() {
  while (Dentry* name = names_.first()) d_delete(*name);
  while (Inode* inode = s_inodes_.pop_front()) {
    writeback_.forget(*inode);
    inode->mapping.abandon();
    if (Dentry* last = disk_inode(*inode).i_dentry) dentries_.d_free(*last);
    inode_cache_.free(&disk_inode(*inode));
  }
}

// --- names ------------------------------------------------------------------------------------------------------------

Result<DiskInode*> FileSystem::create(std::string_view path, std::unique_ptr<BackingSource> source,
                                      std::optional<std::uint64_t> ino) {
  const std::uint64_t size = source == nullptr ? 0 : source->size();
  if (size > kMaxLfsFilesize) return fail(Errno::kFBig);
  const auto check = [&]() -> Status {
    if (find_name(path) != nullptr || (ino && lookup_ino(*ino) != nullptr)) return fail(Errno::kExist);
    if (align_up(size, kPageSize) > config_.capacity - used_bytes_) return fail(Errno::kNoSpc);
    return {};
  };
  if (Status may = check(); !may) return fail(may.error());
  while (!ino && lookup_ino(next_ino_) != nullptr) ++next_ino_;
  const std::uint64_t number = ino ? *ino : next_ino_++;
  Dentry* dentry = dentries_.d_alloc(path);
  if (dentry == nullptr) return fail(Errno::kNoMem);
  const AddressSpaceInit mapping = filemap_.mapping_init(*this);
  const InodeInit init{.sb = *this, .ino = number, .mapping = mapping, .i_rwsem = filemap_.i_rwsem_class()};
  DiskInode* inode = inode_cache_.alloc(phys::Gfp::kKernel, init, std::move(source));
  if (inode == nullptr) {
    dentries_.d_free(*dentry);
    return fail(Errno::kNoMem);
  }
  if (Status may = check(); !may) {  // others ran while memory was found
    inode_cache_.free(inode);
    dentries_.d_free(*dentry);
    return fail(may.error());
  }
  inode->i_count = 0;  // the name keeps it
  inode->i_size = size;
  inode->disk_start = next_disk_start_;
  next_disk_start_ += align_up(size, kMiB) + kMiB;
  if (reserve(*inode, size) < size) bug("disk space was checked");
  s_inodes_.push_back(*inode);
  inodes_.insert(*inode);
  ++nr_inodes_;
  dentry->d_inode = inode;
  names_.insert(*dentry);
  return inode;
}

Dentry* FileSystem::find_name(std::string_view path) const {
  Dentry* found = names_.partition_point([path](const Dentry& dentry) { return dentry.name() < path; });
  return found != nullptr && found->name() == path ? found : nullptr;
}

void FileSystem::d_delete(Dentry& dentry) {
  names_.erase(dentry);
  dentries_.d_free(dentry);
}

DiskInode* FileSystem::lookup(std::string_view path) const {
  const Dentry* dentry = find_name(path);
  return dentry == nullptr ? nullptr : &disk_inode(*dentry->d_inode);
}

DiskInode* FileSystem::lookup_ino(std::uint64_t ino) const {
  DiskInode* found = inodes_.partition_point([ino](const DiskInode& inode) { return inode.ino < ino; });
  return found != nullptr && found->ino == ino ? found : nullptr;
}

Status FileSystem::link(std::string_view existing, std::string_view path) {
  if (find_name(existing) == nullptr) return fail(Errno::kNoEnt);
  if (find_name(path) != nullptr) return fail(Errno::kExist);
  Dentry* dentry = dentries_.d_alloc(path);
  if (dentry == nullptr) return fail(Errno::kNoMem);
  DiskInode* inode = lookup(existing);  // others ran while memory was found
  if (inode == nullptr || find_name(path) != nullptr) {
    dentries_.d_free(*dentry);
    return fail(inode == nullptr ? Errno::kNoEnt : Errno::kExist);
  }
  dentry->d_inode = inode;
  names_.insert(*dentry);
  ++inode->i_nlink;
  return {};
}

void FileSystem::drop_name(Dentry& dentry) {
  DiskInode& inode = disk_inode(*dentry.d_inode);
  QUIRE_BUG_ON(inode.i_nlink == 0 || inode.i_dentry != nullptr);
  ++inode.i_count;
  --inode.i_nlink;
  if (inode.i_nlink == 0) {
    inode.i_dentry = &dentry;
  } else {
    dentries_.d_free(dentry);
  }
  iput(inode);
}

Status FileSystem::unlink(std::string_view path) {
  Dentry* dentry = find_name(path);
  if (dentry == nullptr) return fail(Errno::kNoEnt);
  names_.erase(*dentry);
  drop_name(*dentry);
  return {};
}

Status FileSystem::rename(std::string_view from, std::string_view to, Replace replace) {
  if (find_name(from) == nullptr) return fail(Errno::kNoEnt);
  Dentry* dentry = dentries_.d_alloc(to);  // the new name, before the old one goes
  if (dentry == nullptr) return fail(Errno::kNoMem);
  Dentry* old = find_name(from);
  Dentry* target = find_name(to);
  const bool refused = target != nullptr && replace == Replace::kNo;
  if (old == nullptr || refused || (target != nullptr && target->d_inode == old->d_inode)) {
    dentries_.d_free(*dentry);
    if (old == nullptr) return fail(Errno::kNoEnt);
    if (refused) return fail(Errno::kExist);
    return {};  // two names of one file: nothing happens
  }
  // The names change at once: others run as soon as something is freed.
  dentry->d_inode = old->d_inode;
  names_.erase(*old);
  if (target != nullptr) names_.erase(*target);
  names_.insert(*dentry);
  dentries_.d_free(*old);
  if (target != nullptr) drop_name(*target);
  return {};
}

std::string FileSystem::path_of(const Inode& inode) const {
  std::string path;
  names_.for_each([&](const Dentry& dentry) {
    if (dentry.d_inode == &inode && path.empty()) path = dentry.name();
  });
  const Dentry* last = static_cast<const DiskInode&>(inode).i_dentry;
  return last != nullptr ? std::string(last->name()) + " (deleted)" : path;
}

void FileSystem::evict_inode(Inode& inode) {
  inodes_.erase(disk_inode(inode));  // the number is free for another file at once
  --nr_inodes_;
  release_beyond(disk_inode(inode), 0);
  writeback_.inode_io_list_del(inode);
  filemap_.truncate_inode_pages_final(inode.mapping);
  s_inodes_.erase(inode);
  if (Dentry* last = disk_inode(inode).i_dentry) dentries_.d_free(*last);
  inode_cache_.free(&disk_inode(inode));
}

// --- space ------------------------------------------------------------------------------------------------------------

std::uint64_t FileSystem::reserve(DiskInode& inode, std::uint64_t end) {
  const std::uint64_t wanted = align_up(end, kPageSize);
  if (wanted > inode.charged) {
    const std::uint64_t room = (config_.capacity - used_bytes_) & kPageMask;
    const std::uint64_t more = std::min(wanted - inode.charged, room);
    inode.charged += more;
    used_bytes_ += more;
  }
  return std::min(end, inode.charged);
}

void FileSystem::release_beyond(DiskInode& inode, std::uint64_t size) {
  const std::uint64_t keep = align_up(size, kPageSize);
  if (keep >= inode.charged) return;
  used_bytes_ -= inode.charged - keep;
  inode.charged = keep;
}

// --- calls ------------------------------------------------------------------------------------------------------------

Result<std::uint64_t> FileSystem::read_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) {
  return filemap_.filemap_read(file, pos, len, to);
}

Result<std::uint64_t> FileSystem::write_iter(File& file, std::uint64_t& pos, std::uint64_t len, IovIter& from) {
  DiskInode& inode = disk_inode(file.inode());
  Result<std::uint64_t> written = 0;
  {
    const sim::WriteGuard guard(inode.i_rwsem);
    if (any(file.f_mode, FileMode::kAppend)) pos = inode.i_size;
    if (len == 0) return 0;
    if (pos >= kMaxLfsFilesize) return fail(Errno::kFBig);
    const std::uint64_t end = pos + std::min(len, kMaxLfsFilesize - pos);
    const std::uint64_t room = reserve(inode, end);
    if (room <= pos) return fail(Errno::kNoSpc);
    written = filemap_.generic_perform_write(file, pos, room - pos, from);
  }
  if (!written) return written;
  const std::uint64_t start = pos;
  pos += *written;
  if (any(file.f_mode, FileMode::kDsync) && *written > 0) {
    if (Status synced = fsync_range(inode, start, pos - 1, SyncKind::kFdatasync); !synced) return fail(synced.error());
  }
  return written;
}

Result<FilemapFault> FileSystem::fault(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io, FaultTry tried) {
  return filemap_.filemap_fault(file, index, hint, unlock_for_io, tried);
}
void FileSystem::map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) {
  filemap_.filemap_map_pages(file, first, last, map);
}
Status FileSystem::page_mkwrite(File& file, phys::Folio& folio) { return filemap_.filemap_page_mkwrite(file, folio); }

Status FileSystem::truncate(Inode& inode, std::uint64_t size) {
  if (size > kMaxLfsFilesize) return fail(Errno::kFBig);
  const sim::WriteGuard guard(inode.i_rwsem);
  const sim::WriteGuard invalidate(inode.mapping.invalidate_lock());
  if (size > inode.i_size) filemap_.zero_tail_of_eof_page(inode);
  const std::uint64_t old_size = inode.i_size;
  inode.i_size = size;
  if (size < old_size) {
    filemap_.truncate_pagecache(inode, size);
    disk_inode(inode).backing.truncate(size);
    release_beyond(disk_inode(inode), size);
  }
  if (size != old_size) writeback_.mark_inode_dirty(inode, InodeState::kDirtyDatasync);
  return {};
}

// Zeroes [from, to) of one page of the file, in the cache and so, later, on the disk.
void FileSystem::zero_edge(DiskInode& inode, Pgoff index, std::uint64_t from, std::uint64_t to, Status& status) {
  if (from >= to || index.value() >= inode.size_pages() || !status) return;
  for (;;) {
    const Result<phys::Folio*> folio = filemap_.read_mapping_folio(inode.mapping, index);
    if (!folio) {
      status = fail(folio.error());
      return;
    }
    const bool locked = filemap_.folio_lock_mapping(**folio, inode.mapping);
    if (locked) {
      filemap_.zero_folio_range(**folio, from, to);
      filemap_.folio_mark_dirty(**folio);
      phys::folio_unlock(services_.phys, **folio);
    }
    filemap_.folio_put(**folio);
    if (locked) return;
  }
}

Status FileSystem::punch_hole(DiskInode& inode, std::uint64_t offset, std::uint64_t end) {
  end = std::min(end, align_up(inode.i_size, kPageSize));
  if (offset >= end) return {};
  const Pgoff first(bytes_to_pages_up(offset));
  const Pgoff stop(end >> kPageShift);
  Status status;
  if (first > stop) {  // inside one page
    zero_edge(inode, stop, offset % kPageSize, end % kPageSize, status);
    return status;
  }
  if (offset % kPageSize != 0) zero_edge(inode, Pgoff(offset >> kPageShift), offset % kPageSize, kPageSize, status);
  zero_edge(inode, stop, 0, end % kPageSize, status);
  if (!status || first == stop) return status;
  filemap_.truncate_pagecache_range(inode, pages_to_bytes(first.value()), pages_to_bytes(stop.value()) - 1);
  inode.backing.punch_hole(first, stop);
  return {};
}

Status FileSystem::fallocate(Inode& generic, FallocateMode mode, std::uint64_t offset, std::uint64_t len) {
  DiskInode& inode = disk_inode(generic);
  if (len == 0) return fail(Errno::kInval);
  if (offset > kMaxLfsFilesize || len > kMaxLfsFilesize - offset) return fail(Errno::kFBig);
  const bool punch = any(mode, FallocateMode::kPunchHole);
  const bool zero = any(mode, FallocateMode::kZeroRange);
  if ((punch && zero) || (punch && !any(mode, FallocateMode::kKeepSize))) return fail(Errno::kOpNotSupp);
  const std::uint64_t end = offset + len;
  const sim::WriteGuard guard(inode.i_rwsem);
  const sim::WriteGuard invalidate(inode.mapping.invalidate_lock());
  if (!punch && reserve(inode, end) < end) return fail(Errno::kNoSpc);
  if (punch || zero) {
    if (Status punched = punch_hole(inode, offset, end); !punched) return punched;
  }
  if (!punch && !any(mode, FallocateMode::kKeepSize) && end > inode.i_size) {
    filemap_.zero_tail_of_eof_page(inode);
    inode.i_size = end;
  }
  writeback_.mark_inode_dirty(inode, InodeState::kDirtyDatasync);
  return {};
}

Status FileSystem::fsync_range(Inode& inode, std::uint64_t start, std::uint64_t end, SyncKind /*kind*/) {
  // Metadata is the host's: both kinds write data only.
  return filemap_.filemap_write_and_wait_range(inode.mapping, start, end);
}

Result<std::uint64_t> FileSystem::seek(Inode& inode, std::uint64_t pos, SeekKind kind) {
  if (pos >= inode.i_size) return fail(Errno::kNxio);
  return kind == SeekKind::kData ? pos : inode.i_size;  // no extent map: all of it is data
}

void FileSystem::validate() {
  std::uint64_t charged = 0;
  inodes_.validate();
  inodes_.for_each([&](DiskInode& inode) {
    charged += inode.charged;
    inode.mapping.validate();
  });
  QUIRE_BUG_ON(inodes_.count() != nr_inodes_);
  QUIRE_BUG_ON(charged != used_bytes_ || used_bytes_ > config_.capacity);
  names_.validate();
  names_.for_each(
      [&](const Dentry& name) { QUIRE_BUG_ON(lookup_ino(name.d_inode->ino) != name.d_inode || name.d_inode->i_nlink == 0); });
}

}  // namespace quire::file
