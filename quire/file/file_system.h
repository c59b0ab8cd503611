// A file system on a simulated disk: inodes by number and by path, their bytes behind them (Backing), and the disk that
// gives reading and writing its time.
//
// Names are dentries in one flat tree of paths, since directories are no memory-management matter. Each file occupies one
// extent of the disk, so that its sequential I/O is sequential on the disk too. What lies on the disk (Backing) is the host's.
//
// Locks: Inode::i_rwsem for size and names' targets; the tables change only between sync points.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "quire/base/rbtree.h"
#include "quire/base/result.h"
#include "quire/file/backing.h"
#include "quire/file/dentry.h"
#include "quire/file/file.h"
#include "quire/file/filemap.h"
#include "quire/sim/disk.h"
#include "quire/slab/kmem_cache.h"

namespace quire::file {

struct DiskInode : Inode {
  DiskInode(const InodeInit& init, std::unique_ptr<BackingSource> source) : Inode(init), backing(std::move(source)) {}
  Backing backing;
  std::uint64_t disk_start = 0;  // bytes on the disk
  std::uint64_t charged = 0;     // bytes of the disk that are taken for it
  Dentry* i_dentry = nullptr;    // its last name once that is taken away: what maps shows while somebody holds the file
  RbNode i_hash;                 // in the file system's inodes
};

struct DiskInodeByIno {
  bool operator()(const DiskInode& a, const DiskInode& b) const { return a.ino < b.ino; }
};

struct FileSystemConfig {
  std::uint32_t dev = 0x801;  // MKDEV(8, 1) as stat prints it
  std::string name = "ext4";
  std::uint64_t capacity = 1ull << 44;                 // bytes that all files together may take; kNoSpc beyond
  std::optional<sim::DiskConfig> disk = std::nullopt;  // nullopt: latencies and bandwidth of the cost model
};

class FileSystem final : public SuperBlock, private AddressSpaceOps {
 public:
  // `inodes`: the machine's one cache of disk inodes ("ext4_inode_cache"), shared by all its file systems, as `dentries` is.
  FileSystem(Filemap& filemap, Writeback& writeback, slab::KmemCache<DiskInode>& inodes, DentryCache& dentries,
             const FileSystemConfig& config);
  ~FileSystem() override;

  // --- names ---
  // A new file with the bytes of `source` (null: empty). The name holds it; no reference is returned to drop.
  // `ino`: a number of the caller's choice (a trace's), else the next free one. kExist, kNoMem, kNoSpc.
  Result<DiskInode*> create(std::string_view path, std::unique_ptr<BackingSource> source = nullptr,
                            std::optional<std::uint64_t> ino = std::nullopt);
  // The file of that path or number; no reference taken (the name holds it). nullptr: none.
  [[nodiscard]] DiskInode* lookup(std::string_view path) const;
  [[nodiscard]] DiskInode* lookup_ino(std::uint64_t ino) const;
  // Another name for the same file. kNoEnt, kExist, kNoMem.
  Status link(std::string_view existing, std::string_view path);
  // Takes a name away; the file goes with its last name and last use. kNoEnt.
  Status unlink(std::string_view path);
  // Replaces `to` if it exists, or is kExist then (RENAME_NOREPLACE). kNoEnt, kNoMem.
  enum class Replace : std::uint8_t { kNo, kYes };
  Status rename(std::string_view from, std::string_view to, Replace replace = Replace::kYes);

  // --- SuperBlock ---
  Result<std::uint64_t> read_iter(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) override;
  Result<std::uint64_t> write_iter(File& file, std::uint64_t& pos, std::uint64_t len, IovIter& from) override;
  [[nodiscard]] bool maps_huge_aligned() const override { return true; }
  Result<FilemapFault> fault(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io, FaultTry tried) override;
  void map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) override;
  Status page_mkwrite(File& file, phys::Folio& folio) override;
  Status truncate(Inode& inode, std::uint64_t size) override;
  Status fallocate(Inode& inode, FallocateMode mode, std::uint64_t offset, std::uint64_t len) override;
  Status fsync_range(Inode& inode, std::uint64_t start, std::uint64_t end, SyncKind kind) override;
  Result<std::uint64_t> seek(Inode& inode, std::uint64_t pos, SeekKind kind) override;
  void evict_inode(Inode& inode) override;
  [[nodiscard]] std::string path_of(const Inode& inode) const override;  // the first name in order; looks at all

  [[nodiscard]] sim::Disk& disk() { return disk_; }
  [[nodiscard]] std::uint64_t used_bytes() const { return used_bytes_; }
  [[nodiscard]] std::size_t nr_inodes() const { return nr_inodes_; }
  void validate();

 private:
  // AddressSpaceOps
  Status read_folio(AddressSpace& mapping, phys::Folio& folio) override;
  void readahead(ReadaheadControl& rac) override;
  Result<WritepageOutcome> writepage(phys::Folio& folio, WritebackControl& wbc) override;
  Status writepages(AddressSpace& mapping, WritebackControl& wbc) override;
  bool dirty_folio(AddressSpace& mapping, phys::Folio& folio) override;

  enum class IoStatus : std::uint8_t { kOk, kFailed };
  // Contiguous pages that go to the disk as one request.
  struct WriteRun {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    IoStatus status = IoStatus::kOk;
  };
  static constexpr std::uint64_t kMaxRunPages = 256;  // BIO_MAX_VECS

  static DiskInode& disk_inode(Inode& inode) { return static_cast<DiskInode&>(inode); }
  void submit_read(AddressSpace& mapping, Pgoff first, std::uint64_t count);
  void submit_write(AddressSpace& mapping, const WriteRun& run);
  void end_read_run(AddressSpace& mapping, Pgoff first, std::uint64_t count, IoStatus status);
  void end_write_run(AddressSpace& mapping, Pgoff first, std::uint64_t count, IoStatus status);
  void add_to_write_run(DiskInode& inode, phys::Folio& folio, WriteRun& run);
  void store_folio(DiskInode& inode, phys::Folio& folio);
  void zero_edge(DiskInode& inode, Pgoff index, std::uint64_t from, std::uint64_t to, Status& status);
  [[nodiscard]] Status punch_hole(DiskInode& inode, std::uint64_t offset, std::uint64_t end);
  [[nodiscard]] Dentry* find_name(std::string_view path) const;
  // The name, which stands in no tree any more, is given up; with the last one goes a file that nobody holds.
  void drop_name(Dentry& dentry);
  void d_delete(Dentry& dentry);
  // Takes disk space up to byte `end` of the file; gives how far it reaches.
  [[nodiscard]] std::uint64_t reserve(DiskInode& inode, std::uint64_t end);
  void release_beyond(DiskInode& inode, std::uint64_t size);

  Filemap& filemap_;
  Writeback& writeback_;
  const FileServices& services_;
  FileSystemConfig config_;
  sim::Disk disk_;
  slab::KmemCache<DiskInode>& inode_cache_;
  DentryCache& dentries_;
  DentryTree names_;
  RbTree<DiskInode, &DiskInode::i_hash, DiskInodeByIno> inodes_;
  std::size_t nr_inodes_ = 0;
  std::uint64_t next_ino_ = 12;  // ext4's first
  std::uint64_t next_disk_start_ = 0;
  std::uint64_t used_bytes_ = 0;
};

}  // namespace quire::file
