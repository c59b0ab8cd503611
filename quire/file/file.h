// An open file (Linux's struct file): the inode, how it was opened, its position and its readahead state. A descriptor
// and every area that maps the file hold a reference (Vfs::fget, Vfs::fput).
#pragma once

#include <cstdint>

#include "quire/base/flags.h"
#include "quire/file/inode.h"

namespace quire::file {

enum class FileMode : std::uint8_t {
  kNone = 0,
  kRead = 1,    // FMODE_READ
  kWrite = 2,   // FMODE_WRITE
  kAppend = 4,  // O_APPEND
  kRandom = 8,  // FMODE_RANDOM: POSIX_FADV_RANDOM
  kDsync = 16,  // O_DSYNC or O_SYNC: a write waits for its writeback
};

}  // namespace quire::file
template <>
inline constexpr bool quire::kIsFlags<quire::file::FileMode> = true;

namespace quire::file {

// file_ra_state: the readahead window of one open file. Pages.
//
//        |<----- async_size ---------|
//     |------------------- size -------------------->|
//     |==================#===========================|
//     ^start             ^page marked PG_readahead
struct FileRaState {
  std::uint64_t start = 0;
  std::uint32_t size = 0;
  std::uint32_t async_size = 0;
  std::uint32_t ra_pages = 0;   // largest window; 0 switches readahead off
  std::uint32_t mmap_miss = 0;  // faults that missed the cache, less those that hit
  std::int64_t prev_pos = -1;   // where the last read ended
};

class File;

// Who wants to hear of the areas that map a file (f_op->mmap, vm_ops->open and ->close): each that comes to be, by mmap or from
// another by fork, a split or a move, and each that goes. mmap_lock is held for writing. Such areas are never merged.
class AreaOps {
 public:
  virtual Status mmap(File& file) = 0;  // an error: there is nothing left to map; the area does not come to be
  virtual void vm_open(File& file) = 0;
  virtual void vm_close(File& file) = 0;  // the area's reference to the file is still there

 protected:
  ~AreaOps() = default;
};

class File {
 public:
  File(Inode& inode, FileMode mode, std::uint32_t ra_pages) : inode_(inode), f_mode(mode) { f_ra.ra_pages = ra_pages; }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[nodiscard]] Inode& inode() const { return inode_; }
  [[nodiscard]] AddressSpace& mapping() const { return inode_.mapping; }
  [[nodiscard]] SuperBlock& sb() const { return inode_.sb; }

 private:
  Inode& inode_;

 public:
  FileMode f_mode;
  AreaOps* area_ops = nullptr;
  std::uint32_t f_count = 1;
  std::uint64_t f_pos = 0;
  FileRaState f_ra;
};

}  // namespace quire::file
