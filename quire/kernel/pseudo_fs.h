// The file system behind descriptors that name no file: pipes (Linux's pipefs), and what is open and nothing more to memory
// management: sockets, terminals, directories. Their struct files come from "filp" as any other.
//
//   pipe(2)   inode ("inode_cache") ── Pipe (kmalloc)     two files of that inode, one an end; it goes with the second
//             └ dentry
//   others    a file of one inode that all share (Linux: an inode and a dentry each, of their own kind)
//
// No pages: what memory management asks of the inodes fails as on Linux's pipes. No lock beyond the pipe's.
#pragma once

#include <cstdint>
#include <string>

#include "quire/base/bug.h"
#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/kernel/pipe.h"
#include "quire/slab/kmem_cache.h"

namespace quire::kernel {

class PseudoFs final : public file::SuperBlock, private file::AddressSpaceOps {
 public:
  PseudoFs(phys::PhysMem& phys, slab::SlabSystem& slab, file::Vfs& vfs);
  ~PseudoFs() override;

  struct PipeFiles {
    file::File* read = nullptr;
    file::File* write = nullptr;
  };
  // create_pipe_files: both ends, each with a reference that is the caller's. kNoMem. May sleep.
  [[nodiscard]] Result<PipeFiles> create_pipe_files();
  // A file that is open and nothing more. kNoMem. May sleep.
  [[nodiscard]] Result<file::File*> open_other();

  // The pipe behind an open file; nullptr when it is none.
  [[nodiscard]] static Pipe* pipe_of(const file::File& file);

  // --- SuperBlock ---
  [[nodiscard]] bool can_writeback() const override { return false; }
  Result<std::uint64_t> read_iter(file::File& file, std::uint64_t pos, std::uint64_t len, file::IovIter& to) override;
  Result<std::uint64_t> write_iter(file::File& file, std::uint64_t& pos, std::uint64_t len, file::IovIter& from) override;
  Result<file::FilemapFault> fault(file::File&, Pgoff, file::FaultHint, file::UnlockForIo, file::FaultTry) override {
    return fail(Errno::kFault);
  }
  void map_pages(file::File&, Pgoff, Pgoff, file::MapPageCallback) override {}
  Status page_mkwrite(file::File&, phys::Folio&) override { return fail(Errno::kFault); }
  Status truncate(file::Inode&, std::uint64_t) override { return fail(Errno::kInval); }
  Status fallocate(file::Inode&, file::FallocateMode, std::uint64_t, std::uint64_t) override { return fail(Errno::kSPipe); }
  Status fsync_range(file::Inode&, std::uint64_t, std::uint64_t, file::SyncKind) override { return fail(Errno::kInval); }
  Result<std::uint64_t> seek(file::Inode&, std::uint64_t, file::SeekKind) override { return fail(Errno::kSPipe); }
  void release(file::File& file) override;
  void evict_inode(file::Inode& inode) override;
  [[nodiscard]] std::string path_of(const file::Inode& inode) const override;  // "pipe:[3]", "socket:[4]"

 private:
  struct PipeInode : file::Inode {
    using Inode::Inode;
    Pipe* i_pipe = nullptr;
    file::Dentry* i_dentry = nullptr;
  };

  [[nodiscard]] PipeInode* new_inode(file::InodeType type);
  [[nodiscard]] PipeInode* get_pipe_inode();
  void free_inode(PipeInode& inode);

  // AddressSpaceOps: there are no pages.
  Status read_folio(file::AddressSpace&, phys::Folio&) override { return fail(Errno::kIo); }
  void readahead(file::ReadaheadControl&) override { bug("a pipe has no readahead"); }
  Result<file::WritepageOutcome> writepage(phys::Folio&, file::WritebackControl&) override { return fail(Errno::kIo); }
  Status writepages(file::AddressSpace&, file::WritebackControl&) override { return {}; }
  bool dirty_folio(file::AddressSpace&, phys::Folio&) override { return false; }

  phys::PhysMem& phys_;
  slab::SlabSystem& slab_;
  file::Vfs& vfs_;
  slab::KmemCache<PipeInode> inode_cache_;
  PipeInode* other_ = nullptr;  // of the files that are nothing more than open
  std::uint64_t next_ino_ = 1;
};

}  // namespace quire::kernel
