// The page cache: the folios of every AddressSpace of a machine, and the ways in and out (Linux's mm/filemap.c,
// readahead.c, truncate.c).
//
//   read ───── filemap_read ──────┐                        ┌─ filemap_remove_folio ◀─ truncate, invalidate
//   fault ──── filemap_fault ─────┤─▶ i_pages ─▶ folio ────┤
//   write ──── generic_perform_write ┘   ▲                 └─ remove_mapping (shadow) ◀─ reclaim
//                                        └─ filemap_add_folio ◀─ readahead (I/O in virtual time)
//
// A folio in the cache: mapping and index are set, one reference belongs to the cache, PG_locked holds it in place.
// Not uptodate and locked means that its read is on the way; not uptodate and unlocked, that the read failed (EIO).
//
// Counters: nr_file_pages (and nr_shmem), nr_dirty, nr_zone_write_pending, nr_writeback, nr_dirtied, nr_written, pgpgin,
// pgpgout, pgmajfault, workingset_*. Locks: see address_space.h.
//
// Differs from Linux: folios are single pages; no direct I/O. A folio whose read failed stays, not uptodate, and whoever wants it reads again, as in Linux.
#pragma once

#include <cstdint>
#include <span>

#include "quire/base/function_ref.h"
#include "quire/base/result.h"
#include "quire/base/tracepoint.h"
#include "quire/base/types.h"
#include "quire/file/address_space.h"
#include "quire/file/events.h"
#include "quire/file/file.h"
#include "quire/file/iov_iter.h"
#include "quire/file/writeback_control.h"
#include "quire/file/xa_preload.h"
#include "quire/lru/lru.h"
#include "quire/lru/shadow_nodes.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/fault_injection.h"
#include "quire/sim/lock_guards.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"
#include "quire/swap/swap_system.h"

namespace quire::file {

class Writeback;

// The floors below, as every part of this one needs them.
struct FileServices {
  phys::PhysMem& phys;
  slab::SlabSystem& slab;
  slab::XaNodeCache& nodes;  // the machine's one cache of xarray nodes
  lru::Lru& lru;
  swap::SwapSystem& swap;
  sim::Scheduler& scheduler;
  sim::FaultInjection& faults;
  TraceRegistry& traces;
};

struct ReadTunables {
  std::uint32_t ra_pages = 32;            // read_ahead_kb / 4: largest readahead window of a newly opened file
  std::uint32_t io_pages = 320;           // largest request of the device (max_sectors_kb / 4)
  std::uint32_t fault_around_pages = 16;  // fault_around_bytes / 4 KiB, for vm
};

// A run of readahead on its way into the cache (struct readahead_control).
struct ReadaheadControl {
  AddressSpace& mapping;
  FileRaState* ra;  // null: no window to keep (force_page_cache_readahead of a bare mapping)
  Pgoff index;      // first page of the request, later of the batch that is handed to a_ops.readahead
  std::uint64_t nr_pages = 0;
};

class Filemap final : private lru::ShadowArrays {
 public:
  explicit Filemap(const FileServices& services, const ReadTunables& tunables = {});
  ~Filemap() override;
  Filemap(const Filemap&) = delete;
  Filemap& operator=(const Filemap&) = delete;

  void set_upcalls(MappingUpcalls* upcalls) { upcalls_ = upcalls; }
  void set_writeback(Writeback* writeback) { writeback_ = writeback; }
  [[nodiscard]] const FileServices& services() const { return services_; }
  [[nodiscard]] ReadTunables& tunables() { return tunables_; }
  [[nodiscard]] AddressSpaceInit mapping_init(AddressSpaceOps& a_ops);
  [[nodiscard]] sim::LockClass& i_rwsem_class() { return i_rwsem_class_; }

  // --- lookup (filemap.cc) ---
  // The cached folio with a reference; nullptr for a hole, a shadow or a swap entry. Does not sleep.
  [[nodiscard]] phys::Folio* filemap_get_folio(AddressSpace& mapping, Pgoff index);
  // The same, locked and still in the mapping (FGP_LOCK). May sleep.
  [[nodiscard]] phys::Folio* filemap_lock_folio(AddressSpace& mapping, Pgoff index);
  // Locks a folio the caller holds a reference to; false, and unlocked again, when it left the mapping meanwhile.
  [[nodiscard]] bool folio_lock_mapping(phys::Folio& folio, const AddressSpace& mapping);
  // Folios of [first, last] with references, in order, up to `out.size()`; optionally only those with a mark.
  // Returns how many; `first` moves behind the last one (filemap_get_folios, find_get_pages_range_tag).
  std::size_t filemap_get_folios(AddressSpace& mapping, Pgoff& first, Pgoff last, std::span<phys::Folio*> out);
  std::size_t filemap_get_folios_tag(AddressSpace& mapping, Pgoff& first, Pgoff last, unsigned tag,
                                     std::span<phys::Folio*> out);
  // True when pages [first, last] hold a cached folio that is not a shadow (mincore, filemap_range_has_page).
  [[nodiscard]] bool filemap_range_has_page(AddressSpace& mapping, Pgoff first, Pgoff last);
  void folio_put(phys::Folio& folio) { services_.lru.folio_put(folio); }

  // --- in and out (filemap.cc) ---
  [[nodiscard]] phys::Folio* filemap_alloc_folio(phys::Gfp gfp);
  // Locks a new folio and puts it at `index`, with a reference for the cache and a place on the LRU; a shadow found there
  // makes a workingset refault. kExist: somebody was quicker. kNoMem. On an error the folio is unlocked again.
  [[nodiscard]] Status filemap_add_folio(AddressSpace& mapping, phys::Folio& folio, Pgoff index, phys::Gfp gfp);
  // Takes a locked folio out and drops the cache's reference (filemap_remove_folio).
  void filemap_remove_folio(phys::Folio& folio);
  // Reclaim's: takes a locked, clean, unmapped folio out if nobody but the caller and the cache refers to it, and leaves a
  // shadow (entries of a dying mapping get none). Page cache and swap cache alike. The caller frees the folio, whose
  // reference count is then 0 (__remove_mapping). False: it is in use or dirty.
  enum class Reclaimed : std::uint8_t { kNo, kYes };  // kNo: no shadow (invalidation)
  [[nodiscard]] bool remove_mapping(phys::Folio& folio, Reclaimed reclaimed = Reclaimed::kYes);
  // Puts `to` (locked, in no mapping) in the place of `from` (locked, unmapped, not under writeback), dirty if that was. False,
  // and nothing changed, when others than the cache and the caller hold `from`. The cache's reference moves along; the bytes
  // are the caller's affair, who has `to` locked and not uptodate until they are there. (folio_migrate_mapping)
  [[nodiscard]] bool folio_migrate_mapping(phys::Folio& from, phys::Folio& to);

  // --- dirty and writeback state (folio_dirty.cc) ---
  // True when the folio was clean. Any folio: an anonymous one just gets its bit (folio_mark_dirty).
  bool folio_mark_dirty(phys::Folio& folio);
  // Cleans a locked folio before it is written: PTEs first, so that a later store faults again. False: it was clean.
  [[nodiscard]] bool folio_clear_dirty_for_io(phys::Folio& folio);
  // The folio goes away with its changes (folio_cancel_dirty).
  void folio_cancel_dirty(phys::Folio& folio);
  // Not written after all (folio_redirty_for_writepage).
  void folio_redirty_for_writepage(WritebackControl& wbc, phys::Folio& folio);
  // Marks a locked, cleaned folio as under writeback; the end of the I/O wakes who waits and, when reclaim asked for it
  // (PG_reclaim), moves the folio to the tail of its list.
  void folio_start_writeback(phys::Folio& folio);
  void folio_end_writeback(phys::Folio& folio);
  void folio_wait_stable(phys::Folio& folio);
  // a_ops.dirty_folio of page caches with writeback (filemap_dirty_folio) and without (noop_dirty_folio).
  bool filemap_dirty_folio(AddressSpace& mapping, phys::Folio& folio);

  // --- reading (filemap_read.cc, filemap_fault.cc) ---
  [[nodiscard]] Result<std::uint64_t> filemap_read(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to);
  [[nodiscard]] Result<FilemapFault> filemap_fault(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io,
                                                   FaultTry tried);
  void filemap_map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map);
  [[nodiscard]] Status filemap_page_mkwrite(File& file, phys::Folio& folio);
  // An uptodate folio with a reference, read if need be, for the kernel's own use (read_mapping_folio).
  [[nodiscard]] Result<phys::Folio*> read_mapping_folio(AddressSpace& mapping, Pgoff index);

  // --- readahead (readahead.cc) ---
  void page_cache_sync_ra(File& file, Pgoff index, std::uint64_t req_count);
  void page_cache_async_ra(File& file, phys::Folio& folio, Pgoff index, std::uint64_t req_count);
  // MADV_WILLNEED, POSIX_FADV_WILLNEED, readahead(2): pages not cached yet, in chunks of 2 MiB.
  void force_page_cache_readahead(File& file, Pgoff index, std::uint64_t nr_pages);
  // The end of a read that was started for [first, first + count): from an event.
  void end_read(AddressSpace& mapping, Pgoff first, std::uint64_t count, Status status);

  // --- writing (filemap_write.cc) ---
  // Through the cache, i_rwsem held for writing. Extends the file; kFBig at the limit of file sizes; short when a page
  // of the source or memory is missing half-way.
  [[nodiscard]] Result<std::uint64_t> generic_perform_write(File& file, std::uint64_t pos, std::uint64_t len, IovIter& from);
  // The file is about to grow: what a mapping stored behind its end must not become part of it.
  void zero_tail_of_eof_page(Inode& inode);
  // Starts writing [start, end] (bytes) and, with kAll, waits; reports AS_EIO/AS_ENOSPC once.
  Status filemap_fdatawrite_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end, SyncMode mode);
  // The same wait, but the error stays for whoever syncs the file (sync(2) reports to nobody).
  void filemap_fdatawait_keep_errors(AddressSpace& mapping, std::uint64_t start, std::uint64_t end);
  Status filemap_fdatawait_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end);
  Status filemap_write_and_wait_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end);
  // Walks dirty folios in order and hands each, locked and cleaned, to `write`, which unlocks it (write_cache_pages). Calls
  // `submit` before it sleeps: pages that `write` has gathered but not sent to the disk yet must not be waited for by
  // whoever we wait for (Linux flushes a task's plug when it sleeps).
  using WriteFolio = FunctionRef<Status(phys::Folio& folio)>;
  using SubmitWrites = FunctionRef<void()>;
  Status write_cache_pages(AddressSpace& mapping, WritebackControl& wbc, WriteFolio write, SubmitWrites submit);

  // --- taking out (truncate.cc) ---
  // Drops bytes [start, end] (end included; ~0: to the end), zeroing the parts of pages at the edges. The caller has
  // unmapped them.
  void truncate_inode_pages_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end);
  // Size is set already; unmaps and drops what lies beyond (truncate_pagecache).
  void truncate_pagecache(Inode& inode, std::uint64_t new_size);
  void truncate_pagecache_range(Inode& inode, std::uint64_t start, std::uint64_t end);
  // Last use: everything, shadows as well (truncate_inode_pages_final).
  void truncate_inode_pages_final(AddressSpace& mapping);
  // Clean, unmapped, unlocked folios of [first, last] (POSIX_FADV_DONTNEED, drop_caches); how many went.
  std::uint64_t invalidate_mapping_pages(AddressSpace& mapping, Pgoff first, Pgoff last);
  void unmap_mapping_range(AddressSpace& mapping, Pgoff first, std::uint64_t count, EvenCows even_cows);

  [[nodiscard]] XaPreload& preload() { return preload_; }
  [[nodiscard]] const lru::ShadowNodes& shadow_nodes() const { return shadow_nodes_; }
  // Marks, flags and counters of one mapping's folios agree.
  void validate(AddressSpace& mapping) const;

  MmFilemapAddToPageCacheTracepoint mm_filemap_add_to_page_cache;
  MmFilemapDeleteFromPageCacheTracepoint mm_filemap_delete_from_page_cache;

 private:
  friend class Shmem;
  friend class FileSystem;
  enum class ReadaheadTrigger : std::uint8_t { kMiss, kMarker };

  // lru::ShadowArrays
  Outcome reclaim_shadow_node(XaNode& node) override;

  void account_add(AddressSpace& mapping, phys::Folio& folio);
  void account_remove(AddressSpace& mapping, phys::Folio& folio);
  // Stores the folio where there is no other; kAnyValue: a value found there is handed back in `replaced`; kExpected: only
  // over the entry that `replaced` holds.
  enum class XaReplace : std::uint8_t { kAnyValue, kExpected };
  [[nodiscard]] Status xa_add_folio(AddressSpace& mapping, phys::Folio& folio, Pgoff index, phys::Gfp gfp, XaReplace replace,
                                    XaEntry* replaced);
  void filemap_remove_folio_locked(AddressSpace& mapping, phys::Folio& folio, XaEntry shadow);
  [[nodiscard]] bool remove_swap_mapping(phys::Folio& folio, Reclaimed reclaimed);
  void folio_account_dirtied(AddressSpace& mapping, phys::Folio& folio);
  void folio_account_cleaned(phys::Folio& folio);

  [[nodiscard]] Result<phys::Folio*> filemap_get_page(File& file, Pgoff index, std::uint64_t last);
  [[nodiscard]] Result<phys::Folio*> filemap_create_folio(File& file, Pgoff index);
  [[nodiscard]] Status filemap_read_folio(AddressSpace& mapping, phys::Folio& folio);
  [[nodiscard]] Status filemap_update_page(AddressSpace& mapping, phys::Folio& folio);
  [[nodiscard]] Status fault_folio_uptodate(AddressSpace& mapping, phys::Folio& folio, UnlockForIo unlock_for_io);
  void do_sync_mmap_readahead(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io);
  void do_async_mmap_readahead(File& file, phys::Folio& folio, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io);

  enum class WindowChoice : std::uint8_t { kInitial, kKeep, kAsAsked, kNothing };
  void ondemand_readahead(ReadaheadControl& rac, ReadaheadTrigger trigger, std::uint64_t req_size);
  WindowChoice choose_window(AddressSpace& mapping, FileRaState& ra, Pgoff at, ReadaheadTrigger trigger, std::uint64_t req_size,
                             std::uint64_t max);
  bool try_context_readahead(AddressSpace& mapping, FileRaState& ra, Pgoff index, std::uint64_t req_size, std::uint64_t max);
  void do_page_cache_ra(ReadaheadControl& rac, std::uint64_t nr_to_read, std::uint64_t lookahead_size);
  void ra_submit(ReadaheadControl& rac);
  void read_pages(ReadaheadControl& rac);

  [[nodiscard]] Result<phys::Folio*> write_begin(File& file, std::uint64_t pos, std::uint64_t len);
  std::uint64_t write_end(File& file, phys::Folio& folio, std::uint64_t pos, std::uint64_t len, std::uint64_t copied);
  [[nodiscard]] bool lock_for_writepage(AddressSpace& mapping, phys::Folio& folio, const WritebackControl& wbc,
                                        SubmitWrites submit);
  void tag_pages_for_writeback(AddressSpace& mapping, Pgoff first, Pgoff last);
  void zero_folio_range(phys::Folio& folio, std::uint64_t from, std::uint64_t to);
  void truncate_entry(AddressSpace& mapping, std::uint64_t index, XaEntry entry);
  [[nodiscard]] bool mapping_evict_folio(AddressSpace& mapping, phys::Folio& folio);
  void zero_partial_folio(AddressSpace& mapping, Pgoff index, std::uint64_t from, std::uint64_t to);
  void truncate_folio(AddressSpace& mapping, phys::Folio& folio);
  void charge_copy(std::uint64_t bytes);

  FileServices services_;
  ReadTunables tunables_;
  MappingUpcalls* upcalls_ = nullptr;
  Writeback* writeback_ = nullptr;
  XaPreload preload_;
  lru::ShadowNodes shadow_nodes_;
  sim::LockClass& i_pages_lock_class_;
  sim::LockClass& i_mmap_rwsem_class_;
  sim::LockClass& invalidate_lock_class_;
  sim::LockClass& i_rwsem_class_;
};

}  // namespace quire::file
