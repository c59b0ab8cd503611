// Writing dirty pages back: who is dirty, when it is written, and when a writer has to wait (Linux's fs/fs-writeback.c and
// mm/page-writeback.c).
//
//   folio_mark_dirty → inode on b_dirty ── flusher task ── b_io → a_ops.writepages → disk
//                                            ▲ every dirty_writeback_centisecs, inodes older than dirty_expire_centisecs
//                                            ▲ dirty + writeback over the background limit
//                                            ▲ sync, reclaim (wakeup_flusher_threads)
//   generic_perform_write → balance_dirty_pages: over (background + limit) / 2 the writer sleeps
//
// Invariant: an inode is on a list exactly when InodeState::kDirtyPages is set. b_dirty is in order of dirtied_when.
// Locks: the lists change only between sync points (wb->list_lock in Linux). kSync keeps two writers off one inode.
//
// Differs from Linux: one flusher and one pair of lists for all disks of a machine (Linux: one a backing device); the write
// bandwidth is measured over the whole machine; a task's rate is bandwidth × pos_ratio / 1 with Linux's cubic pos_ratio,
// without the per-device control loop; the dirtied-pages counter that decides when to look is per CPU, not per task;
// no cgroup writeback, no laptop mode.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/base/result.h"
#include "quire/file/events.h"
#include "quire/file/filemap.h"
#include "quire/sim/wait_queue.h"

namespace quire::file {

// vm.dirty_* (defaults as /proc/sys/vm). A *_bytes that is not 0 stands in for its ratio.
struct DirtyTunables {
  std::uint32_t dirty_background_ratio = 10;
  std::uint64_t dirty_background_bytes = 0;
  std::uint32_t dirty_ratio = 20;
  std::uint64_t dirty_bytes = 0;
  std::uint32_t dirty_writeback_centisecs = 500;  // 0: no periodic writeback
  std::uint32_t dirty_expire_centisecs = 3000;
};

struct DirtyLimits {  // pages
  std::uint64_t background = 0;
  std::uint64_t dirty = 0;
};

class Writeback {
 public:
  Writeback(Filemap& filemap, const DirtyTunables& tunables = {});
  Writeback(const Writeback&) = delete;
  Writeback& operator=(const Writeback&) = delete;

  // Spawns the flusher (a daemon task, "kworker/u:flush"). At boot.
  void start_flusher();

  [[nodiscard]] DirtyTunables& tunables() { return tunables_; }
  // Pages that may become dirty: free pages less reserves, and the file lists (global_dirtyable_memory).
  [[nodiscard]] std::uint64_t global_dirtyable_memory() const;
  [[nodiscard]] DirtyLimits global_dirty_limits() const;
  [[nodiscard]] std::uint64_t nr_dirty() const;
  [[nodiscard]] std::uint64_t nr_writeback() const;

  // --- inodes ---
  // Puts an inode on b_dirty if it is clean (__mark_inode_dirty).
  void mark_inode_dirty(Inode& inode, InodeState what);
  // The inode is being evicted: takes it off its list, waiting for whoever writes it just now.
  void inode_io_list_del(Inode& inode);
  // The same without waiting, when the machine is taken down.
  void forget(Inode& inode);

  // --- writers ---
  // A page of a file with a disk behind it has become dirty on this CPU, or dirty again without having been written: it
  // does not count twice (folio_account_dirtied, folio_account_redirty).
  void account_dirtied();
  void account_redirtied();
  // Called by who writes to `mapping`: waits when too much has been dirtied since the last look. Memory without a disk
  // behind it never waits. May sleep; ends early when the task is killed.
  void balance_dirty_pages_ratelimited(const AddressSpace& mapping);
  // Told by the end of writeback, for the bandwidth estimate.
  void wb_writeout_add(std::uint64_t pages);
  [[nodiscard]] std::uint64_t write_bandwidth() const { return write_bandwidth_; }  // bytes/s

  // --- the flusher's work ---
  // Reclaim met dirty pages: write everything that is dirty now, soon. Does not sleep.
  void wakeup_flusher_threads(WbReason reason);
  // Writes what is dirty in a file system at this moment and waits for it (sync_inodes_sb). Errors stay in the mappings.
  void sync_inodes(SuperBlock& sb);

  // Writes one inode's pages within `wbc`, alone (I_SYNC), and puts it where it belongs afterwards.
  Status writeback_single_inode(Inode& inode, WritebackControl& wbc);

  [[nodiscard]] bool has_dirty_io() const { return !b_dirty_.empty() || !b_io_.empty(); }
  [[nodiscard]] InodeIoList& b_dirty() { return b_dirty_; }
  void validate() const;

  Tracepoint<WritebackDirtyFolio> writeback_dirty_folio;
  Tracepoint<WritebackWritePages> writeback_single_inode_event;
  Tracepoint<WritebackStart> writeback_start;
  Tracepoint<BalanceDirtyPages> balance_dirty_pages_event;

 private:
  struct Work {
    WbReason reason = WbReason::kBackground;
    std::uint64_t nr_pages = kWriteAll;
    sim::Nanos dirtied_before = sim::kNever;
  };
  void flusher();
  void wait_for_work();
  void wb_do_writeback();
  void wb_writeback(const Work& work);
  std::uint64_t writeback_sb_inodes(const Work& work, std::uint64_t nr_pages);
  [[nodiscard]] std::uint64_t writeback_chunk_size(std::uint64_t nr_pages) const;
  void queue_io(sim::Nanos dirtied_before);
  void requeue_inode(Inode& inode, const WritebackControl& wbc);
  void unlink_inode(Inode& inode);
  void wait_for_inode(Inode& inode);
  [[nodiscard]] bool over_background_thresh() const;
  void wake_flusher();
  void balance_dirty_pages(std::uint64_t pages_dirtied);
  [[nodiscard]] sim::Nanos dirty_pause(const DirtyLimits& limits, std::uint64_t dirty, std::uint64_t pages) const;
  void update_bandwidth();

  Filemap& filemap_;
  phys::PhysMem& phys_;
  sim::Scheduler& scheduler_;
  DirtyTunables tunables_;
  InodeIoList b_dirty_;  // dirty, oldest first
  InodeIoList b_io_;     // picked for this round
  sim::WaitQueue flusher_wait_;
  sim::WaitQueue sync_wait_;           // for I_SYNC
  std::uint64_t start_all_pages_ = 0;  // pages that wakeup_flusher_threads still asks for (WB_start_all)
  WbReason start_all_reason_ = WbReason::kVmscan;
  enum class FlusherState : std::uint8_t { kNone, kAsleep, kWoken, kRunning } flusher_state_ = FlusherState::kNone;
  sim::Nanos last_old_flush_ = 0;
  std::vector<std::uint64_t> bdp_ratelimits_;  // pages dirtied since the last look, one a CPU
  std::uint64_t write_bandwidth_;              // bytes/s
  sim::Nanos bw_time_stamp_ = 0;
  std::uint64_t written_since_stamp_ = 0;  // pages
};

}  // namespace quire::file
