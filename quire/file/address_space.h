// An inode's memory: its cached folios, who maps it, and how its pages get in and out (Linux's struct address_space).
//
//   i_pages   index → Folio*            cached (marks: dirty, writeback, towrite)
//                   → XaValue           a shadow of a folio that reclaim took (regular files),
//                                       a swap entry (shmem)
//                   → nothing           a hole
//   i_mmap    interval tree of MappingNode: the areas that map this file, by page offset
//
// Locks, outermost first:  Inode::i_rwsem → invalidate_lock → folio lock → i_mmap_rwsem → i_pages_lock.
//   invalidate_lock  shared: a fault or read that is about to fill the cache; exclusive: truncate and hole punch.
//   folio lock       holds a folio in its place: a locked folio of this mapping is neither truncated nor reclaimed.
//   i_pages_lock     every change of i_pages, in task and in interrupt context (I/O completions).
// Lookups take no lock (RCU in Linux), for which i_pages must be whole at every sync point: a store never allocates under
// the lock, its nodes come from a preloaded pool, and there is no sync point between a load and folio_try_get.
//
// Difference from Linux: no private_data/buffer heads; errors are two bits (AS_EIO, AS_ENOSPC) consumed by the next fsync
// of any file (errseq_t keeps one cursor an open file).
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/flags.h"
#include "quire/base/interval_tree.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/base/xarray.h"
#include "quire/phys/folio.h"
#include "quire/sim/lock_guards.h"

namespace quire::file {

class AddressSpace;
struct Inode;
struct ReadaheadControl;
struct WritebackControl;

// Marks of i_pages (PAGECACHE_TAG_*).
inline constexpr unsigned kTagDirty = 0;
inline constexpr unsigned kTagWriteback = 1;
inline constexpr unsigned kTagTowrite = 2;

// What writepage made of a folio.
enum class WritepageOutcome : std::uint8_t {
  kStarted,   // under writeback, unlocked
  kActivate,  // AOP_WRITEPAGE_ACTIVATE: not now; dirty again and still locked, reclaim should keep it
};

// What a mapping does to move its pages (Linux's address_space_operations). One object a kind of file system.
class AddressSpaceOps {
 public:
  virtual ~AddressSpaceOps() = default;

  // Starts reading a locked folio; the end of the I/O sets it uptodate (or not: an error) and unlocks it.
  virtual Status read_folio(AddressSpace& mapping, phys::Folio& folio) = 0;
  // Starts reading a run of locked folios that were just added to the cache.
  virtual void readahead(ReadaheadControl& rac) = 0;
  // Writes one locked folio whose dirty bit was cleared for I/O.
  virtual Result<WritepageOutcome> writepage(phys::Folio& folio, WritebackControl& wbc) = 0;
  // Writes dirty folios of the range in `wbc`, in order of index.
  virtual Status writepages(AddressSpace& mapping, WritebackControl& wbc) = 0;
  // Sets the dirty bit and accounts for it; true when the folio was clean.
  virtual bool dirty_folio(AddressSpace& mapping, phys::Folio& folio) = 0;
  // Before a folio leaves the cache: gives up private data. False keeps the folio. (No implementation has any yet.)
  virtual bool release_folio(phys::Folio&) { return true; }
  // What a value entry of i_pages is: a shadow that may be dropped at any time, or (shmem) a page's place in swap.
  [[nodiscard]] virtual bool values_are_shadows() const { return true; }
};

// An area's place in the files' reverse map; vm::Vma embeds one. Pages [first, last] of the file, both included.
struct MappingNode : IntervalNode {};

enum class AddressSpaceFlag : std::uint8_t {
  kNone = 0,
  kEio = 1,      // AS_EIO: a write of a page failed
  kEnospc = 2,   // AS_ENOSPC
  kExiting = 4,  // AS_EXITING: final truncate of a dying inode
};

}  // namespace quire::file

template <>
inline constexpr bool quire::kIsFlags<quire::file::AddressSpaceFlag> = true;

namespace quire::file {

// What every address space of a machine is built from; see Filemap::mapping_init.
struct AddressSpaceInit {
  AddressSpaceOps& a_ops;
  XaNodeSource& nodes;
  XaNodeObserver* shadow_nodes;  // keeps the list of nodes that hold nothing but shadows; null where there are none
  sim::Scheduler& scheduler;
  sim::LockClass& i_pages_lock;
  sim::LockClass& i_mmap_rwsem;
  sim::LockClass& invalidate_lock;
};

// An XArray that knows whose it is, so that the shadow shrinker finds the lock that goes with a node.
struct PageArray : XArray {
  PageArray(XaNodeSource& nodes, AddressSpace& owner) : XArray(nodes), mapping(owner) {}
  AddressSpace& mapping;
};

class AddressSpace {
 public:
  AddressSpace(Inode& host, const AddressSpaceInit& init);
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;
  ~AddressSpace();

  // The address space of a folio in the page cache; null for anonymous folios and folios that left the cache
  // (folio_mapping, without its swap-cache case).
  [[nodiscard]] static AddressSpace* of(const phys::Folio& folio);

  [[nodiscard]] Inode& host() const { return host_; }
  [[nodiscard]] AddressSpaceOps& a_ops() const { return *a_ops_; }

  [[nodiscard]] XArray& i_pages() { return i_pages_; }
  [[nodiscard]] const XArray& i_pages() const { return i_pages_; }
  [[nodiscard]] sim::SpinLock& i_pages_lock() { return i_pages_lock_; }
  [[nodiscard]] sim::RwSemaphore& i_mmap_rwsem() { return i_mmap_rwsem_; }
  [[nodiscard]] sim::RwSemaphore& invalidate_lock() { return invalidate_lock_; }

  [[nodiscard]] std::uint64_t nrpages() const { return nrpages_; }
  [[nodiscard]] bool mapping_tagged(unsigned tag) const { return i_pages_.marked(tag); }

  // i_mmap; the caller holds i_mmap_rwsem for writing.
  void i_mmap_insert(MappingNode& node, Pgoff first, std::uint64_t pages);
  void i_mmap_remove(MappingNode& node);
  [[nodiscard]] bool mapping_mapped() const { return !i_mmap_.empty(); }
  // Calls f(MappingNode&) for each area that maps a page of [first, last]; i_mmap_rwsem held for reading.
  template <class F>
  void i_mmap_for_each(Pgoff first, Pgoff last, F&& f) {
    i_mmap_.for_each(first.value(), last.value(), [&f](IntervalNode& n) { f(static_cast<MappingNode&>(n)); });
  }

  // How many areas are shared and may be written (i_mmap_writable), mmap calls that are about to make one included; below 0
  // there shall be none. Needs no lock, and is right at each moment, whatever happens to the areas.
  [[nodiscard]] bool mapping_writably_mapped() const { return i_mmap_writable_ > 0; }
  [[nodiscard]] Status mapping_map_writable();   // one more; kPerm: denied
  [[nodiscard]] Status mapping_deny_writable();  // none from now on; kBusy: there is one
  void mapping_allow_writable();                 // one more of what there is already; or takes a denial back
  void mapping_unmap_writable();

  // AS_EIO / AS_ENOSPC. filemap_check_errors reports and clears them.
  void mapping_set_error(Errno error);
  [[nodiscard]] Status filemap_check_errors();

  // Forgets its pages and areas where they lie: the machine is being taken down and its memory goes as a whole.
  void abandon();

  // Walks everything: nrpages, each folio's mapping and index, marks against flags. Any context.
  void validate() const;

 private:
  friend class Filemap;
  friend class Shmem;
  friend class Writeback;

  Inode& host_;
  AddressSpaceOps* a_ops_;
  PageArray i_pages_;
  std::uint64_t nrpages_ = 0;
  std::uint64_t writeback_index_ = 0;  // where a range_cyclic writepages goes on
  IntervalTree i_mmap_;
  std::int32_t i_mmap_writable_ = 0;
  AddressSpaceFlag flags_ = AddressSpaceFlag::kNone;
  sim::SpinLock i_pages_lock_;
  sim::RwSemaphore i_mmap_rwsem_;
  sim::RwSemaphore invalidate_lock_;
};

// Do private copies of a file's pages go with them? With the file's end they do, with a hole that is punched they stay.
enum class EvenCows : std::uint8_t { kNo, kYes };

// What the page cache asks of the floor that maps files (vm implements it; a machine without one has no mappings).
class MappingUpcalls {
 public:
  virtual ~MappingUpcalls() = default;
  // Takes pages [first, first + count) of the file out of every page table (unmap_mapping_pages).
  virtual void unmap_mapping_pages(AddressSpace& mapping, Pgoff first, std::uint64_t count, EvenCows even_cows) = 0;
  // Write-protects and cleans every PTE of a locked folio; the number of PTEs that were dirty or writable.
  virtual int folio_mkclean(phys::Folio& folio) = 0;
};

}  // namespace quire::file
