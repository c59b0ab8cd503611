// Memory with a name but no disk: shared anonymous mappings, memfd, System V segments, tmpfs files (Linux's mm/shmem.c).
//
//   i_pages[index]   folio       in the page cache (on the anonymous LRU lists: PG_swapbacked)
//                    swap entry  swapped out; the slot is held once, by this entry
//                    nothing     a hole: reads as zeroes, gets a page at the first touch
//
// Out: reclaim calls shmem_writepage, which moves a dirty locked folio from the page cache to the swap cache and leaves
// the swap entry in its place. In: shmem_get_folio finds the entry, swaps in, and moves the folio back.
//
// Invariants: swapped == swap entries in i_pages; alloced (pages the file is charged for) >= folios in the cache + swapped:
// reclaim drops a clean folio (all zeroes, never written) without asking, which shmem_recalc_inode notices later.
// A folio that was ever written is dirty while it is in the page cache: there is no other copy of it.
// A folio that fallocate made is dirty, too, but not uptodate until somebody touches it, and zeroed only then; till then it
// is read as the hole that it was.
//
// Locks: i_rwsem for write, truncate and fallocate; invalidate_lock shared for faults, exclusive for truncate and hole punch
// (Linux: a wait queue of its own for the punch).
#pragma once

#include <cstdint>

#include "quire/base/result.h"
#include "quire/file/dentry.h"
#include "quire/file/file.h"
#include "quire/file/filemap.h"
#include "quire/file/memfd.h"
#include "quire/slab/kmem_cache.h"

namespace quire::file {

// When a file's pages are promised (Committed_AS): all at its creation, or each as it comes (VM_NORESERVE: tmpfs, memfd).
enum class ShmemAccount : std::uint8_t { kPerPage, kWhole };

// Who keeps count of what is promised; vm implements it. Without one everything is.
class CommitAccounting {
 public:
  virtual ~CommitAccounting() = default;
  virtual Status security_vm_enough_memory(std::uint64_t pages) = 0;  // accounts for them, or kNoMem
  virtual void vm_unacct_memory(std::uint64_t pages) = 0;
};

struct ShmemInode : Inode {
  using Inode::Inode;
  ShmemAccount account = ShmemAccount::kPerPage;
  std::uint64_t committed = 0;                                          // pages accounted for as a whole
  std::uint64_t alloced = 0;                                            // pages
  std::uint64_t swapped = 0;                                            // pages
  std::uint64_t in_flight = 0;                                          // charged, on their way into the cache
  Dentry* i_dentry = nullptr;                                           // a name in no tree, as alloc_file_pseudo gives it one
  enum class Locked : std::uint8_t { kNo, kYes } locked = Locked::kNo;  // SHM_LOCK: its pages do not go to swap
  Seals seals = Seals::kSeal;                                           // see memfd.h
  enum class Executable : std::uint8_t { kNo, kYes } executable = Executable::kNo;  // any x of i_mode
};

// What shmem_get_folio may do about a hole (sgp_type).
enum class SgpType : std::uint8_t {
  kRead,    // SGP_READ: no folio for a hole; beyond the end is kInval
  kCache,   // SGP_CACHE: allocate, but not beyond the end
  kWrite,   // SGP_WRITE: allocate, the caller fills and dirties it and may go beyond the end
  kFalloc,  // SGP_FALLOC: as kWrite, but nobody fills it
};

struct ShmemGet {
  phys::Folio* folio = nullptr;  // locked, with a reference, and uptodate unless for kWrite or kFalloc; null: a hole (kRead)
  FaultCost cost = FaultCost::kMinor;
};

struct ShmemConfig {
  std::uint32_t dev = 1;
  std::uint64_t max_blocks = 0;  // pages that all files of this instance may take; 0: no limit (kernel-internal mount)
};

class Shmem final : public SuperBlock, private AddressSpaceOps {
 public:
  Shmem(Filemap& filemap, DentryCache& dentries, const ShmemConfig& config = {});
  ~Shmem() override;

  // --- files ---
  // A new inode of `size` bytes in no directory (nlink 0: it lives while it is open or mapped), which maps shows as `name`.
  // kInval, kNoMem.
  [[nodiscard]] Result<ShmemInode*> shmem_get_inode(std::uint64_t size, ShmemAccount account = ShmemAccount::kPerPage,
                                                    std::string_view name = {});
  void set_commit(CommitAccounting* commit) { commit_ = commit; }
  // Pages that its files have been promised.
  [[nodiscard]] std::uint64_t committed() const;

  // The folio of `index`, locked; see ShmemGet and SgpType. kInval, kNoMem, kNoSpc, kIo (swap read failed).
  [[nodiscard]] Result<ShmemGet> shmem_get_folio(ShmemInode& inode, Pgoff index, SgpType sgp);
  // Reclaim's writepage for a folio of a shmem mapping.
  [[nodiscard]] Result<WritepageOutcome> shmem_writepage(phys::Folio& folio);
  // Frees pages, swap slots included, of bytes [start, end] (end included; ~0: all).
  void shmem_truncate_range(ShmemInode& inode, std::uint64_t start, std::uint64_t end);

  // The file of that number that memfd_create made, or nullptr: it has gone. No reference taken; looks at all inodes.
  [[nodiscard]] ShmemInode* find_memfd(std::uint64_t ino);
  // F_ADD_SEALS of a file that was opened for writing, see memfd.h.
  Status memfd_add_seals(ShmemInode& inode, Seals seals);

  // --- SuperBlock ---
  [[nodiscard]] bool can_writeback() const override { return false; }
  Result<std::uint64_t> read_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) override;
  Result<std::uint64_t> write_iter(File& file, std::uint64_t& pos, std::uint64_t len, IovIter& from) override;
  Result<FilemapFault> fault(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io, FaultTry tried) override;
  void map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) override;
  Status page_mkwrite(File& file, phys::Folio& folio) override;
  Status truncate(Inode& inode, std::uint64_t size) override;
  Status fallocate(Inode& inode, FallocateMode mode, std::uint64_t offset, std::uint64_t len) override;
  Status fsync_range(Inode& inode, std::uint64_t start, std::uint64_t end, SyncKind kind) override;
  Result<std::uint64_t> seek(Inode& inode, std::uint64_t pos, SeekKind kind) override;
  void evict_inode(Inode& inode) override;
  [[nodiscard]] std::string path_of(const Inode& inode) const override;

  [[nodiscard]] bool shmem_mapping(const AddressSpace& mapping) const { return &mapping.host().sb == this; }
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
  [[nodiscard]] bool values_are_shadows() const override { return false; }

  [[nodiscard]] static ShmemInode& shmem_inode(Inode& inode) { return static_cast<ShmemInode&>(inode); }
  [[nodiscard]] Result<ShmemGet> shmem_swapin_folio(ShmemInode& inode, Pgoff index, swap::SwapEntry entry);
  [[nodiscard]] Result<ShmemGet> shmem_alloc_and_add(ShmemInode& inode, Pgoff index);
  [[nodiscard]] Result<ShmemGet> shmem_get_cached(ShmemInode& inode, Pgoff index, SgpType sgp);
  void shmem_clear_folio(phys::Folio& folio);
  // `expected`: what i_pages holds there now (nothing, or the swap entry); kExist when it does not any more.
  [[nodiscard]] Status shmem_add_to_page_cache(phys::Folio& folio, AddressSpace& mapping, Pgoff index, XaEntry expected);
  void shmem_delete_from_page_cache(ShmemInode& inode, phys::Folio& folio, swap::SwapEntry entry);
  void shmem_free_swap(ShmemInode& inode, std::uint64_t index, XaEntry entry);
  void shmem_undo_entry(ShmemInode& inode, std::uint64_t index, XaEntry entry);
  void shmem_zero_partial(ShmemInode& inode, Pgoff index, std::uint64_t from, std::uint64_t to);
  // shmem_reacct_size: what is promised as a whole follows the size.
  [[nodiscard]] Status shmem_acct_size(ShmemInode& inode, std::uint64_t size);
  [[nodiscard]] Status shmem_inode_acct_block(ShmemInode& inode);
  void shmem_inode_unacct_blocks(ShmemInode& inode, std::uint64_t pages);
  void shmem_recalc_inode(ShmemInode& inode);
  [[nodiscard]] Status shmem_allocate_range(ShmemInode& inode, std::uint64_t first, std::uint64_t last);
  [[nodiscard]] Status memfd_wait_for_pins(AddressSpace& mapping);
  void shmem_undo_fallocate(ShmemInode& inode, std::uint64_t first, std::uint64_t last);
  void free_inode(ShmemInode& inode);
  void shmem_cut(ShmemInode& inode, std::uint64_t size);
  void shmem_punch(ShmemInode& inode, std::uint64_t start, std::uint64_t end);

  Filemap& filemap_;
  const FileServices& services_;
  CommitAccounting* commit_ = nullptr;
  ShmemConfig config_;
  DentryCache& dentries_;
  slab::KmemCache<ShmemInode> inode_cache_;
  std::uint64_t next_ino_ = 1;
  std::uint64_t used_blocks_ = 0;
};

}  // namespace quire::file
