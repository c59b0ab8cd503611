// The files that traces name, as inodes of one machine. Traces of the same host share files by device and inode number, so
// two programs that read one library share its pages, as they would on the host.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/sim/scheduler.h"

namespace quire::engine {

// A file as a trace names it.
struct FileIdentity {
  std::uint64_t dev = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;  // bytes, when it was met
  std::string_view path;
};

// A reference to an inode, so that it outlives its name.
class InodeHold {
 public:
  explicit InodeHold(file::DiskInode& inode) : inode_(&inode) { ++inode.i_count; }
  ~InodeHold() {
    if (inode_ != nullptr) file::iput(*inode_);
  }
  InodeHold(InodeHold&& other) noexcept : inode_(std::exchange(other.inode_, nullptr)) {}
  InodeHold& operator=(InodeHold&&) = delete;

  file::DiskInode& operator*() const { return *inode_; }
  file::DiskInode* operator->() const { return inode_; }

 private:
  file::DiskInode* inode_;
};

class FileSet {
 public:
  FileSet(file::Vfs& vfs, sim::Scheduler& scheduler) : vfs_(vfs), scheduler_(scheduler) {}

  // The inode of that identity: made with its recorded size when it is new, otherwise grown to that size when the machine
  // knows a smaller one. One that lives on without a name, since somebody has it open, is found by its number; it gets no name.
  Result<InodeHold> inode(const FileIdentity& identity);
  // link(2), unlink(2), rename(2), truncate(2) by the path last seen. A path never seen before is nothing to the machine; a folder's
  // is that of all files below it.
  Status link(std::string_view existing, std::string_view path);
  Status unlink(std::string_view path);
  Status rename(std::string_view from, std::string_view to);
  Status exchange(std::string_view one, std::string_view other);  // RENAME_EXCHANGE
  [[nodiscard]] std::optional<InodeHold> find(std::string_view path) const;

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;  // device, inode number
  struct Named {
    file::FileSystem* fs = nullptr;
    file::DiskInode* inode = nullptr;
    // Inside fs, and what maps shows: its path, or "#" and its number as long as nobody has named it.
    [[nodiscard]] std::string name() const { return fs->path_of(*inode); }
  };
  using PathMap = std::map<std::string, Key, std::less<>>;
  file::FileSystem& mount(std::uint64_t dev);
  Status create(const Key& key, file::FileSystem& fs, const FileIdentity& identity);
  static Result<InodeHold> grown(InodeHold hold, std::uint64_t size);
  static Status name_after(const Named& named, std::string_view path);
  [[nodiscard]] PathMap::iterator at_or_below(std::string_view path);
  Status rename_path(std::string_view from, std::string_view to);
  struct Move {
    std::string from, to;
    Key key;
  };
  void add_moves(std::string_view from, std::string_view to, std::vector<Move>& moves) const;

  file::Vfs& vfs_;
  sim::Scheduler& scheduler_;
  std::map<Key, Named> by_identity_;
  PathMap by_path_;
};

}  // namespace quire::engine
