#include "quire/kernel/file_table.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace quire::kernel {

using file::File;

File* FileTable::find(int fd) const {
  const auto number = static_cast<std::uint32_t>(fd);  // a negative one is beyond every table
  return number < fdt_->max_fds ? fdt_->fd[number] : nullptr;
}

Result<File*> FileTable::file(int fd) const {
  File* found = find(fd);
  if (found == nullptr || found->inode().i_type != file::InodeType::kRegular) return fail(Errno::kBadF);
  return found;
}

Status FileTable::install(int fd, File& file) {
  if (fd < 0) return fail(Errno::kBadF);
  const auto number = static_cast<std::uint32_t>(fd);
  if (Status room = expand_files(number); !room) return room;
  open().set(number);
  File* old = std::exchange(fdt_->fd[number], &file);
  if (old != nullptr) home_.vfs_.fput(*old);
  return {};
}

// Another thread may have made the table larger while memory was found.
Status FileTable::expand_files(std::uint32_t fd) {
  while (fd >= fdt_->max_fds) {
    if (fd >= kOpenMost) return fail(Errno::kMFile);
    Fdtable* larger = home_.alloc_fdtable(fd);
    if (larger == nullptr) return fail(Errno::kNoMem);
    if (larger->max_fds <= fdt_->max_fds) {
      home_.free_fdtable(larger);
      continue;
    }
    std::copy_n(fdt_->fd, fdt_->max_fds, larger->fd);
    std::copy_n(fdt_->open_fds, Bitmap::words_for(fdt_->max_fds), larger->open_fds);
    Fdtable* old = std::exchange(fdt_, larger);
    if (old != &fdtab_) home_.free_fdtable(old);
  }
  return {};
}

File* FileTable::take(std::uint32_t fd) {
  open().clear(fd);
  return std::exchange(fdt_->fd[fd], nullptr);
}

Status FileTable::close(int fd) {
  if (find(fd) == nullptr) return fail(Errno::kBadF);
  home_.vfs_.fput(*take(static_cast<std::uint32_t>(fd)));  // may sleep; the number is free from now on
  return {};
}

Status FileTable::dup(int from, int to) {
  File* file = find(from);
  if (file == nullptr || to < 0 || static_cast<std::uint32_t>(to) >= kOpenMost) return fail(Errno::kBadF);
  if (from == to) return {};
  home_.vfs_.fget(*file);
  const Status installed = install(to, *file);
  if (!installed) home_.vfs_.fput(*file);
  return installed;
}

std::vector<int> FileTable::numbers() const {
  std::vector<int> all;
  const Bitmap map = open();
  for (std::size_t fd = map.find_next(0); fd < map.size(); fd = map.find_next(fd + 1)) all.push_back(static_cast<int>(fd));
  return all;
}

void FileTable::close_all() {
  for (std::size_t fd = open().find_next(0); fd < max_fds(); fd = open().find_next(fd + 1)) {
    home_.vfs_.fput(*take(static_cast<std::uint32_t>(fd)));
  }
}

// --- tables -----------------------------------------------------------------------------------------------------------

FileTables::FileTables(slab::SlabSystem& slab, kvirt::Kvmalloc& kv, file::Vfs& vfs)
    : slab_(slab), kv_(kv), vfs_(vfs), cache_(slab, "files_cache", slab::SlabFlags::kHwCacheAlign) {}

FileTable* FileTables::alloc() { return cache_.alloc(phys::Gfp::kKernel, *this); }

FileTable::Fdtable* FileTables::alloc_fdtable(std::uint32_t fd) {
  constexpr std::uint32_t kStep = 1024 / sizeof(File*);
  const std::uint32_t files = std::bit_ceil(fd / kStep + 1) * kStep;
  void* room = slab_.kmalloc(sizeof(FileTable::Fdtable), phys::Gfp::kKernelAccount);
  if (room == nullptr) return nullptr;
  auto* fdt = ::new (room) FileTable::Fdtable{.max_fds = files};
  fdt->fd = static_cast<File**>(kv_.kvcalloc(files, sizeof(File*), phys::Gfp::kKernelAccount));
  // Linux's close_on_exec and a map of full words stand behind open_fds; nobody asks for them here.
  const std::size_t words = Bitmap::words_for(files);
  const std::size_t bytes = std::max<std::size_t>((2 * words + Bitmap::words_for(words)) * sizeof(Bitmap::Word), 64);
  if (fdt->fd != nullptr) fdt->open_fds = static_cast<Bitmap::Word*>(kv_.kvzalloc(bytes, phys::Gfp::kKernelAccount));
  if (fdt->open_fds == nullptr) {
    free_fdtable(fdt);
    return nullptr;
  }
  return fdt;
}

void FileTables::free_fdtable(FileTable::Fdtable* fdt) {
  kv_.kvfree(fdt->fd);
  kv_.kvfree(fdt->open_fds);
  slab_.kfree(fdt);
}

FileTable* FileTables::dup_fd(const FileTable& old) {
  FileTable* copy = alloc();
  if (copy == nullptr) return nullptr;
  // Room for the highest open number, which may grow while memory is found.
  const auto needed = [&old] {
    std::size_t end = 0;
    const Bitmap map = old.open();
    for (std::size_t fd = map.find_next(0); fd < map.size(); fd = map.find_next(fd + 1)) end = fd + 1;
    return static_cast<std::uint32_t>(end);
  };
  while (needed() > copy->max_fds()) {
    if (!copy->expand_files(needed() - 1)) {
      free(*copy);
      return nullptr;
    }
  }
  const Bitmap map = old.open();
  for (std::size_t fd = map.find_next(0); fd < map.size(); fd = map.find_next(fd + 1)) {
    vfs_.fget(*old.fdt_->fd[fd]);
    copy->fdt_->fd[fd] = old.fdt_->fd[fd];
    copy->open().set(fd);
  }
  return copy;
}

void FileTables::put_files_struct(FileTable& files) {
  files.close_all();
  free(files);
}

void FileTables::free(FileTable& files) {
  if (files.fdt_ != &files.fdtab_) free_fdtable(files.fdt_);
  cache_.free(&files);
}

}  // namespace quire::kernel
