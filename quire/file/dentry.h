// A name of a file (Linux's struct dentry): an object of the cache "dentry". A name of up to 31 bytes lies in the object, a
// longer one in an allocation of its own (kmalloc), as in Linux.
//
// Names of disk files are whole paths in one flat tree per file system (FileSystem), since directories are no
// memory-management matter; a pipe's or a shmem file's stands in no tree. A name of a disk file stays until it is taken away:
// it is the directory entry, too, so reclaim does not prune it (Linux keeps the directory on the disk and prunes dentries).
//
// No lock: they change between sync points. Making one may sleep for memory.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "quire/base/rbtree.h"
#include "quire/slab/kmem_cache.h"

namespace quire::file {

struct Inode;

struct Dentry {
  static constexpr std::size_t kInlineLen = 32;  // DNAME_INLINE_LEN, the last of it unused

  [[nodiscard]] std::string_view name() const { return {name_at, len}; }

  RbNode d_hash;             // in the names of its file system
  Inode* d_inode = nullptr;  // the file; null while it is nobody's yet
  char* name_at = nullptr;   // d_iname, or an allocation
  std::uint32_t len = 0;     // bytes
  std::array<char, kInlineLen> d_iname{};
};

class DentryCache {
 public:
  explicit DentryCache(slab::SlabSystem& slab);

  // d_alloc: a dentry of that name, in no tree. nullptr: no memory. May sleep.
  [[nodiscard]] Dentry* d_alloc(std::string_view name);
  // Gives back a dentry that stands in no tree.
  void d_free(Dentry& dentry);

 private:
  slab::SlabSystem& slab_;
  slab::KmemCache<Dentry> cache_;
};

struct DentryByName {
  bool operator()(const Dentry& a, const Dentry& b) const { return a.name() < b.name(); }
};
using DentryTree = RbTree<Dentry, &Dentry::d_hash, DentryByName>;

}  // namespace quire::file
