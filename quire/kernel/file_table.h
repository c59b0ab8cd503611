// A process's open files (Linux's files_struct): what each number refers to. The threads of a process share one; fork copies
// it. An object of the cache "files_cache" with room for 64 files; a table for more comes from kvmalloc, beside it:
//
//   files_struct ── fdt ──▶ Fdtable { max_fds, fd[], open_fds[] }      first the one inside, 64 files
//                                     │     └ bit: the number is open
//                                     └ File*, a reference each
//
// A table only grows, and by Linux's steps: to the next power of two of 128 files that holds the number.
//
// No lock (Linux's file_lock and RCU): changes happen between sync points. Growing and copying may sleep for memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quire/base/bitmap.h"
#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/kvirt/kvmalloc.h"
#include "quire/slab/kmem_cache.h"

namespace quire::kernel {

class FileTables;

class FileTable {
 public:
  static constexpr std::uint32_t kOpenDefault = 64;     // NR_OPEN_DEFAULT: files that the object itself holds
  static constexpr std::uint32_t kOpenMost = 1u << 20;  // fs.nr_open

  explicit FileTable(FileTables& home) : home_(home) {}
  FileTable(const FileTable&) = delete;
  FileTable& operator=(const FileTable&) = delete;

  // What `fd` refers to, or nullptr when it is not open.
  [[nodiscard]] file::File* find(int fd) const;
  // The file with pages behind `fd`; kBadF when it is not open or a pipe, a socket and so on.
  [[nodiscard]] Result<file::File*> file(int fd) const;
  // Makes `fd` refer to `file`, whose reference is taken over; what it referred to is closed. kNoMem, kMFile (beyond
  // fs.nr_open), kBadF (negative): nothing has changed, and the reference is still the caller's. May sleep.
  Status install(int fd, file::File& file);
  // May sleep. kBadF.
  Status close(int fd);
  // dup2: `to` refers to what `from` refers to. kBadF (`from` is not open; `to` is negative or beyond fs.nr_open), kNoMem.
  Status dup(int from, int to);
  void close_all();
  // Every open number, ascending.
  [[nodiscard]] std::vector<int> numbers() const;
  // How many are open, and for how many there is room.
  [[nodiscard]] std::size_t size() const { return open().count(); }
  [[nodiscard]] std::uint32_t max_fds() const { return fdt_->max_fds; }

 private:
  friend class FileTables;
  struct Fdtable {
    std::uint32_t max_fds = kOpenDefault;
    file::File** fd = nullptr;
    Bitmap::Word* open_fds = nullptr;
  };

  [[nodiscard]] Bitmap open() const { return {std::span(fdt_->open_fds, Bitmap::words_for(fdt_->max_fds)), fdt_->max_fds}; }
  [[nodiscard]] file::File* take(std::uint32_t fd);
  Status expand_files(std::uint32_t fd);

  FileTables& home_;
  std::array<Bitmap::Word, kOpenDefault / Bitmap::kWordBits> open_fds_init_{};
  std::array<file::File*, kOpenDefault> fd_array_{};
  Fdtable fdtab_{.max_fds = kOpenDefault, .fd = fd_array_.data(), .open_fds = open_fds_init_.data()};
  Fdtable* fdt_ = &fdtab_;
};

// The file tables of a machine.
class FileTables {
 public:
  FileTables(slab::SlabSystem& slab, kvirt::Kvmalloc& kv, file::Vfs& vfs);

  // An empty table; nullptr when there is no memory. May sleep.
  [[nodiscard]] FileTable* alloc();
  // dup_fd: a copy as fork makes it, every file with a reference more. nullptr: no memory. May sleep.
  [[nodiscard]] FileTable* dup_fd(const FileTable& old);
  // Closes what is open and gives the table back. May sleep.
  void put_files_struct(FileTable& files);

  [[nodiscard]] file::Vfs& vfs() { return vfs_; }

 private:
  friend class FileTable;
  // A table that holds number `fd`.
  [[nodiscard]] FileTable::Fdtable* alloc_fdtable(std::uint32_t fd);
  void free_fdtable(FileTable::Fdtable* fdt);
  void free(FileTable& files);

  slab::SlabSystem& slab_;
  kvirt::Kvmalloc& kv_;
  file::Vfs& vfs_;
  slab::KmemCache<FileTable> cache_;
};

}  // namespace quire::kernel
