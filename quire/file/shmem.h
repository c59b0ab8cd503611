// Memory with a name but no disk: shared anonymous mappings, memfd, System V segments, tmpfs files (Linux's mm/shmem.c).
//
//   i_pages[index]   folio       in the page cache (on the anonymous LRU lists: PG_swapbacked)
//                    swap entry  swapped out; the slot is held once, by this entry
//                    nothing     a hole: reads as zeroes, gets a page at the first touch
//
// Out: reclaim calls shmem_writepage, which moves a dirty locked folio from the page cache to the swap cache and leaves
// the swap entry in its place. In: shmem_get_folio finds the entry, swaps in, and moves the folio back.
//
// Invariants: alloced == folios in the cache + swapped (pages this file is charged for); swapped == swap entries in
// i_pages. A cached folio that was ever touched is dirty: there is no other copy of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "quire/base/result.h"
#include "quire/file/file.h"
#include "quire/file/filemap.h"
#include "quire/slab/kmem_cache.h"

namespace quire::file {

class Vfs;

struct ShmemInode : Inode {
  using Inode::Inode;
  std::uint64_t alloced = 0;  // pages
  std::uint64_t swapped = 0;  // pages
};

// What shmem_get_folio may do about a hole (sgp_type).
enum class SgpType : std::uint8_t {
  kRead,     // SGP_READ: none, no folio for a hole; beyond the end is kInval
  kNoAlloc,  // SGP_NOALLOC: like kRead, but a hole is no folio beyond the end either
  kCache,    // SGP_CACHE: allocate, not beyond the end
  kWrite,    // SGP_WRITE: allocate, the caller dirties it and may go beyond the end
};

struct ShmemGet {
  phys::Folio* folio = nullptr;  // locked, uptodate, with a reference; null: a hole (kRead, kNoAlloc)
  FaultCost cost = FaultCost::kMinor;
};

struct ShmemConfig {
  std::uint32_t dev = 1;
  std::uint64_t max_blocks = 0;  // pages that all files of this instance may take; 0: no limit (kernel-internal mount)
};

class Shmem final : public SuperBlock, private AddressSpaceOps {
 public:
  Shmem(Filemap& filemap, Writeback& writeback, const ShmemConfig& config = {});
  ~Shmem() override;

  // --- files ---
  // A new inode of `size` bytes without a name (nlink 0: it lives while it is open or mapped). kInval, kNoMem.
  [[nodiscard]] Result<ShmemInode*> shmem_get_inode(std::uint64_t size);

  // The folio of `index`, locked; see ShmemGet and SgpType. kInval, kNoMem, kNoSpc, kIo (swap read failed).
  [[nodiscard]] Result<ShmemGet> shmem_get_folio(ShmemInode& inode, Pgoff index, SgpType sgp);
  // Reclaim's writepage for a folio of a shmem mapping.
  [[nodiscard]] Result<WritepageOutcome> shmem_writepage(phys::Folio& folio);
  // Frees pages, swap slots included, of bytes [start, end] (end included; ~0: all).
  void shmem_truncate_range(ShmemInode& inode, std::uint64_t start, std::uint64_t end);

  // --- SuperBlock ---
  Result<std::uint64_t> read_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) override;
  Result<std::uint64_t> write_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& from) override;
  Result<FilemapFault> fault(File& file, Pgoff index, FaultHint hint) override;
  void map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) override;
  Status page_mkwrite(File& file, phys::Folio& folio) override;
  Status truncate(Inode& inode, std::uint64_t size) override;
  Status fallocate(Inode& inode, FallocateMode mode, std::uint64_t offset, std::uint64_t len) override;
  Status fsync_range(Inode& inode, std::uint64_t start, std::uint64_t end, SyncKind kind) override;
  Result<std::uint64_t> seek(Inode& inode, std::uint64_t pos, SeekKind kind) override;
  void evict_inode(Inode& inode) override;

  [[nodiscard]] static bool shmem_mapping(const AddressSpace& mapping, const Shmem& shmem) {
    return &mapping.a_ops() == &shmem;
  }
  // Pages of the file that lie in swap within [first, last] (shmem_partial_swap_usage, for smaps).
  [[nodiscard]] std::uint64_t shmem_swap_usage(ShmemInode& inode, Pgoff first, Pgoff last) const;
  [[nodiscard]] std::uint64_t used_blocks() const { return used_blocks_; }
  [[nodiscard]] const ShmemConfig& config() const { return config_; }
  void set_max_blocks(std::uint64_t pages) { config_.max_blocks = pages; }

  void validate() const;

 private:
  // AddressSpaceOps
  Status read_folio(AddressSpace& mapping, phys::Folio& folio) override;
  void readahead(ReadaheadControl& rac) override;
  Result<WritepageOutcome> writepage(phys::Folio& folio, WritebackControl& wbc) override;
  Status writepages(AddressSpace& mapping, WritebackControl& wbc) override;
  bool dirty_folio(AddressSpace& mapping, phys::Folio& folio) override;

  [[nodiscard]] static ShmemInode& shmem_inode(Inode& inode) { return static_cast<ShmemInode&>(inode); }
  [[nodiscard]] Result<ShmemGet> shmem_swapin_folio(ShmemInode& inode, Pgoff index, swap::SwapEntry entry);
  [[nodiscard]] Result<ShmemGet> shmem_alloc_and_add(ShmemInode& inode, Pgoff index);
  [[nodiscard]] Status shmem_add_to_page_cache(phys::Folio& folio, AddressSpace& mapping, Pgoff index, void* expected);
  void shmem_delete_from_page_cache(phys::Folio& folio, void* entry);
  [[nodiscard]] bool shmem_free_swap(ShmemInode& inode, Pgoff index, void* entry);
  void shmem_undo_folios(ShmemInode& inode, Pgoff first, Pgoff last);
  [[nodiscard]] Status shmem_inode_acct_block(ShmemInode& inode);
  void shmem_inode_unacct_blocks(ShmemInode& inode, std::uint64_t pages);
  [[nodiscard]] bool shmem_confirm_swap(AddressSpace& mapping, Pgoff index, swap::SwapEntry entry) const;

  Filemap& filemap_;
  Writeback& writeback_;
  const FileServices& services_;
  ShmemConfig config_;
  slab::KmemCache<ShmemInode> inode_cache_;
  std::uint64_t next_ino_ = 1;
  std::uint64_t used_blocks_ = 0;
};

}  // namespace quire::file
