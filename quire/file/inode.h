// An inode: one file's identity, size and memory; and the SuperBlock that it belongs to.
//
// Life: a file system makes it (reference count 1 for the maker), names and open files hold references by iget/iput. With
// the last reference gone, a file that has no name left (nlink 0) is evicted: its pages are dropped, dirty or not, and the
// object goes back to its KmemCache. A file that still has a name stays, with its pages, as Linux's inode cache does.
//
// Locks: i_rwsem for size changes and writes (Linux's inode->i_rwsem); see address_space.h for the order. The count, the
// state bits and the writeback list are changed only between sync points, so they need no lock (i_lock, wb->list_lock).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/flags.h"
#include "quire/base/function_ref.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/file/address_space.h"
#include "quire/sim/lock_guards.h"

namespace quire::file {

class File;
class IovIter;
class SuperBlock;

inline constexpr std::uint64_t kMaxLfsFilesize = (std::uint64_t{1} << 63) - 1;  // MAX_LFS_FILESIZE
inline constexpr std::uint64_t kToTheEnd = ~std::uint64_t{0};  // last byte, or number of pages, of a range without end

// What the type bits of i_mode say.
enum class InodeType : std::uint8_t {
  kRegular,  // S_IFREG, shmem included: has pages
  kFifo,     // S_IFIFO
  kOther,    // a socket, a terminal, a directory: open, and nothing more that memory management sees
};

enum class InodeState : std::uint8_t {
  kNone = 0,
  kDirtyPages = 1,     // I_DIRTY_PAGES: on a writeback list
  kDirtyDatasync = 2,  // the size changed since it was last written
  kSync = 4,           // I_SYNC: being written
  kFreeing = 8,        // I_FREEING: being evicted
};

}  // namespace quire::file

template <>
inline constexpr bool quire::kIsFlags<quire::file::InodeState> = true;

namespace quire::file {

struct InodeInit {
  SuperBlock& sb;
  std::uint64_t ino;
  const AddressSpaceInit& mapping;
  sim::LockClass& i_rwsem;
};

struct Inode {
  explicit Inode(const InodeInit& init)
      : sb(init.sb), ino(init.ino), mapping(*this, init.mapping), i_rwsem(init.mapping.scheduler, init.i_rwsem) {}
  Inode(const Inode&) = delete;
  Inode& operator=(const Inode&) = delete;

  [[nodiscard]] std::uint64_t i_size_read() const { return i_size; }
  // Pages that the size covers.
  [[nodiscard]] std::uint64_t size_pages() const { return bytes_to_pages_up(i_size); }

  SuperBlock& sb;
  std::uint64_t ino;         // a segment of System V gets its id before anybody else sees it; of others it stays
  std::uint64_t i_size = 0;  // bytes
  std::uint32_t i_count = 1;
  std::uint32_t i_nlink = 1;
  InodeType i_type = InodeType::kRegular;
  InodeState i_state = InodeState::kNone;
  std::uint64_t dirtied_when = 0;  // virtual ns of the first dirtying since it was last clean
  ListNode i_io_list;              // Writeback's b_dirty or b_io
  ListNode i_sb_list;              // all inodes of the super block
  AddressSpace mapping;
  sim::RwSemaphore i_rwsem;
};

using InodeIoList = List<Inode, &Inode::i_io_list>;
using InodeSbList = List<Inode, &Inode::i_sb_list>;

// What an area's madvise (or posix_fadvise) says about the order of its faults.
enum class FaultHint : std::uint8_t { kNormal, kSequential, kRandom };
enum class FaultCost : std::uint8_t { kMinor, kMajor };

struct FilemapFault {
  phys::Folio* folio = nullptr;  // uptodate, with a reference, not locked
  FaultCost cost = FaultCost::kMinor;
};

// Called by a fault that is about to wait for a device, each time: its caller may give up locks then, and ignores what the fault
// brings after that.
using UnlockForIo = FunctionRef<void()>;
inline void stay_locked() {}

// Is it the first try of a fault, or the one after locks were given up?
enum class FaultTry : std::uint8_t { kFirst, kAgain };

// What a fault-around callback did with a page.
enum class MapPage : std::uint8_t { kMapped, kSkipped };  // kMapped: the callback keeps the reference it was given
using MapPageCallback = FunctionRef<MapPage(phys::Folio& folio, Pgoff index)>;

enum class FallocateMode : std::uint8_t {
  kNone = 0,
  kKeepSize = 1,
  kPunchHole = 2,  // with kKeepSize
  kZeroRange = 4,
};
enum class SyncKind : std::uint8_t { kFsync, kFdatasync };
enum class SeekKind : std::uint8_t { kData, kHole };

// Drops a reference; the last one to a file without a name evicts it. May sleep.
void iput(Inode& inode);

// A file system as the calls and faults see it (Linux's super_operations, file_operations and vm_operations in one).
class SuperBlock {
 public:
  SuperBlock(std::uint32_t dev, std::string_view name) : dev_(dev), name_(name) {}
  virtual ~SuperBlock() = default;
  SuperBlock(const SuperBlock&) = delete;
  SuperBlock& operator=(const SuperBlock&) = delete;

  [[nodiscard]] std::uint32_t dev() const { return dev_; }
  [[nodiscard]] std::string_view name() const { return name_; }

  // Does the flusher write its pages (BDI_CAP_WRITEBACK)? Who dirties others waits for nobody.
  [[nodiscard]] virtual bool can_writeback() const { return true; }

  // Do its mappings begin where huge pages of them could (thp_get_unmapped_area as f_op->get_unmapped_area)? As ext4's do.
  [[nodiscard]] virtual bool maps_huge_aligned() const { return false; }

  // The kernel's own pages ([vdso]): a program has mapped no file there.
  [[nodiscard]] virtual bool is_special() const { return false; }

  // read_iter / write_iter: bytes done, or an errno when none were. A read at or past the end gives 0. A write moves
  // `pos` to where it ended, and with O_APPEND to the file's end first.
  virtual Result<std::uint64_t> read_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) = 0;
  virtual Result<std::uint64_t> write_iter(File& file, std::uint64_t& pos, std::uint64_t len, IovIter& from) = 0;

  // vm_ops->fault. kNoMem is VM_FAULT_OOM, any other errno SIGBUS (kFault: beyond the end; kIo: the read failed).
  // Counts pgmajfault. Before the caller installs a PTE it locks the folio and checks that it still belongs to the
  // mapping (Filemap::folio_lock_mapping), or truncation could miss it.
  virtual Result<FilemapFault> fault(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io = stay_locked,
                                     FaultTry tried = FaultTry::kFirst) = 0;
  // vm_ops->map_pages, [first, last]: calls back for each cached uptodate folio that can be locked at once; the callback
  // gets it locked, with a reference.
  virtual void map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) = 0;
  // vm_ops->page_mkwrite: a shared page is about to become writable. On success the folio is locked and dirty; kFault
  // when it was truncated meanwhile (the caller retries the fault).
  virtual Status page_mkwrite(File& file, phys::Folio& folio) = 0;

  // ftruncate. Takes i_rwsem.
  virtual Status truncate(Inode& inode, std::uint64_t size) = 0;
  virtual Status fallocate(Inode& inode, FallocateMode mode, std::uint64_t offset, std::uint64_t len) = 0;
  virtual Status fsync_range(Inode& inode, std::uint64_t start, std::uint64_t end, SyncKind kind) = 0;
  // SEEK_DATA / SEEK_HOLE from `pos`; kNxio as Linux.
  virtual Result<std::uint64_t> seek(Inode& inode, std::uint64_t pos, SeekKind kind) = 0;

  // The file's path, as /proc/PID/maps names it; " (deleted)" behind it when it has no name any more.
  [[nodiscard]] virtual std::string path_of(const Inode& inode) const = 0;

  // The last reference to an open file goes (f_op->release). Does not sleep.
  virtual void release(File&) {}
  // The last reference to a file without a name went: drop pages and storage, give the object back.
  virtual void evict_inode(Inode& inode) = 0;

  // Calls f(Inode&) for each inode, which may sleep; what is created or evicted meanwhile may be missed.
  template <class F>
  void for_each_inode(F&& f) {
    Inode* inode = igrab_from(s_inodes_.front_or_null());
    while (inode != nullptr) {
      f(*inode);
      Inode* next = igrab_from(s_inodes_.next_or_null(*inode));
      iput(*inode);
      inode = next;
    }
  }

 private:
  // A reference to the first inode from `inode` on that is not being evicted: it stays on the list while somebody sleeps.
  Inode* igrab_from(Inode* inode) {
    while (inode != nullptr && any(inode->i_state, InodeState::kFreeing)) inode = s_inodes_.next_or_null(*inode);
    if (inode != nullptr) ++inode->i_count;
    return inode;
  }

 protected:
  InodeSbList s_inodes_;

 private:
  std::uint32_t dev_;
  std::string name_;
};

}  // namespace quire::file

template <>
inline constexpr bool quire::kIsFlags<quire::file::FallocateMode> = true;
