// The whole file floor of a machine: page cache, writeback, shmem, the file systems, and the open files.
//
// The calls here are the file half of the system calls: they take i_rwsem where Linux does, move f_pos, and dispatch to
// the file's SuperBlock. Cost of the system call itself (entry, exit) is the kernel floor's to charge.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/base/result.h"
#include "quire/file/dentry.h"
#include "quire/file/file.h"
#include "quire/file/file_system.h"
#include "quire/file/filemap.h"
#include "quire/file/filename.h"
#include "quire/file/memfd.h"
#include "quire/file/shmem.h"
#include "quire/file/writeback.h"

namespace quire::file {

struct VfsConfig {
  ReadTunables read;
  DirtyTunables dirty;
  ShmemConfig shmem;
};

inline constexpr std::uint64_t kMaxRwCount = 0x7ffff000;  // MAX_RW_COUNT: the most that one read or write transfers

// posix_fadvise(2).
enum class Fadvice : std::uint8_t { kNormal, kRandom, kSequential, kWillNeed, kDontNeed, kNoReuse };
// sync_file_range(2).
enum class SyncFileRange : std::uint8_t { kNone = 0, kWaitBefore = 1, kWrite = 2, kWaitAfter = 4 };
// msync(2) without MS_INVALIDATE.
enum class MsyncMode : std::uint8_t { kAsync, kSync };

class Vfs {
 public:
  Vfs(const FileServices& services, const VfsConfig& config = {});
  ~Vfs();
  Vfs(const Vfs&) = delete;
  Vfs& operator=(const Vfs&) = delete;

  [[nodiscard]] Filemap& filemap() { return filemap_; }
  [[nodiscard]] Writeback& writeback() { return writeback_; }
  [[nodiscard]] Shmem& shmem() { return shmem_; }
  [[nodiscard]] DentryCache& dentries() { return dentries_; }
  // A further file system (boot; traces add one a device).
  FileSystem& mount(const FileSystemConfig& config);
  [[nodiscard]] FileSystem* find_mount(std::uint32_t dev);
  [[nodiscard]] const std::vector<std::unique_ptr<FileSystem>>& mounts() const { return mounts_; }

  // --- inodes and files ---
  void iget(Inode& inode) { ++inode.i_count; }
  void iput(Inode& inode);
  // The path of a call while it lasts. kNameTooLong: PATH_MAX bytes or more; kNoMem. May sleep.
  [[nodiscard]] Result<Filename> getname(std::string_view path);
  // An open file with one reference; kNoMem.
  [[nodiscard]] Result<File*> open(Inode& inode, FileMode mode);
  void fget(File& file) { ++file.f_count; }
  void fput(File& file);
  // memfd_create(2): an empty shmem file, "/memfd:NAME" in maps, open for reading and writing. kInval, kNoMem.
  [[nodiscard]] Result<File*> memfd_create(std::string_view name, MemfdFlags flags);
  // An unnamed shmem file of `size` bytes (shmget, MAP_SHARED|MAP_ANONYMOUS), open for reading and writing. `name`: as maps
  // shows it.
  [[nodiscard]] Result<File*> shmem_file_setup(std::uint64_t size, ShmemAccount account = ShmemAccount::kPerPage,
                                               std::string_view name = {});

  // --- calls ---
  // read(2)/write(2) at f_pos, pread/pwrite at `pos`. kBadF when not opened for it.
  Result<std::uint64_t> read(File& file, std::uint64_t len, IovIter& to);
  Result<std::uint64_t> write(File& file, std::uint64_t len, IovIter& from);
  Result<std::uint64_t> pread(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to);
  Result<std::uint64_t> pwrite(File& file, std::uint64_t pos, std::uint64_t len, IovIter& from);
  Status ftruncate(File& file, std::uint64_t size);
  Status fallocate(File& file, FallocateMode mode, std::uint64_t offset, std::uint64_t len);
  Status fsync(File& file, SyncKind kind);
  Status sync_file_range(File& file, std::uint64_t offset, std::uint64_t nbytes, SyncFileRange flags);
  // The file's part of msync over [start, end) bytes of the file.
  Status msync_range(File& file, std::uint64_t start, std::uint64_t end, MsyncMode mode);
  Status fadvise(File& file, std::uint64_t offset, std::uint64_t len, Fadvice advice);
  Status readahead(File& file, std::uint64_t offset, std::uint64_t count);

  void sync();
  // syncfs(2): what is dirty in the file's file system.
  void syncfs(File& file);
  // echo 1 > /proc/sys/vm/drop_caches
  void drop_pagecache();

  [[nodiscard]] std::uint64_t open_files() const { return open_files_; }
  void validate();

 private:
  // f may sleep while another task mounts.
  template <class F>
  void for_each_mount(F&& f) {
    for (std::size_t i = 0; i < mounts_.size(); ++i) f(*mounts_[i]);
  }

  void drain_and_invalidate(AddressSpace& mapping, Pgoff first, Pgoff last);

  Filemap filemap_;
  Writeback writeback_;
  slab::KmemCache<File> filp_;
  NamesCache names_cache_;
  DentryCache dentries_;
  slab::KmemCache<DiskInode> inode_cache_;
  Shmem shmem_;
  std::vector<std::unique_ptr<FileSystem>> mounts_;
  std::uint64_t open_files_ = 0;
};

}  // namespace quire::file

template <>
inline constexpr bool quire::kIsFlags<quire::file::SyncFileRange> = true;
