// Dirty inodes and the flusher that writes them.
#include "quire/file/writeback.h"

#include <algorithm>

#include "quire/base/bug.h"
#include "quire/file/inode.h"

namespace quire::file {

using phys::NodeStat;

namespace {

constexpr std::uint64_t kInitBandwidth = 100 * kMiB;  // INIT_BW, bytes/s
constexpr std::uint64_t kMinWritebackPages = 4096 >> (kPageShift - 10);
constexpr sim::Nanos kCentisecond = 10 * sim::kMillisecond;

std::string_view reason_name(WbReason reason) {
  switch (reason) {
    case WbReason::kBackground: return "background";
    case WbReason::kVmscan: return "vmscan";
    case WbReason::kSync: return "sync";
    case WbReason::kPeriodic: return "periodic";
    case WbReason::kFree: return "free_more_memory";
  }
  return "unknown";
}

}  // namespace

Writeback::Writeback(Filemap& filemap, const DirtyTunables& tunables)
    : writeback_dirty_folio(filemap.services().traces),
      writeback_single_inode_event(filemap.services().traces),
      writeback_start(filemap.services().traces),
      balance_dirty_pages_event(filemap.services().traces),
      filemap_(filemap),
      phys_(filemap.services().phys),
      scheduler_(filemap.services().scheduler),
      tunables_(tunables),
      flusher_wait_(scheduler_, "flusher", sim::Sleep::kIdle),
      sync_wait_(scheduler_, "I_SYNC"),
      bdp_ratelimits_(scheduler_.cpus()),
      write_bandwidth_(kInitBandwidth) {
  filemap.set_writeback(this);
}

void Writeback::start_flusher() {
  QUIRE_BUG_ON(flusher_state_ != FlusherState::kNone);
  flusher_state_ = FlusherState::kWoken;
  scheduler_.spawn("kworker/u:flush", [this] { flusher(); }, {.kind = sim::TaskKind::kDaemon});
}

// --- which inodes are dirty -------------------------------------------------------------------------------------------

void Writeback::mark_inode_dirty(Inode& inode, InodeState what) {
  inode.i_state |= what;
  if (inode.i_io_list.linked() || any(inode.i_state, InodeState::kFreeing)) return;
  const bool first = !has_dirty_io();
  inode.dirtied_when = scheduler_.now();
  // The clocks of the CPUs differ a little; the list stays in order.
  if (Inode* last = b_dirty_.back_or_null()) inode.dirtied_when = std::max(inode.dirtied_when, last->dirtied_when);
  // An inode that is being written is put in its place when that ends.
  if (any(inode.i_state, InodeState::kSync)) return;
  b_dirty_.push_back(inode);
  // The flusher sleeps without a limit while nothing is dirty.
  if (first && flusher_state_ == FlusherState::kAsleep) wake_flusher();
}

void Writeback::unlink_inode(Inode& inode) {
  // Either list: unlinking needs no head.
  if (inode.i_io_list.linked()) b_dirty_.erase(inode);
}

void Writeback::wait_for_inode(Inode& inode) {
  sync_wait_.wait_until([&inode] { return !any(inode.i_state, InodeState::kSync); });
}

void Writeback::inode_io_list_del(Inode& inode) {
  wait_for_inode(inode);
  forget(inode);
}

void Writeback::forget(Inode& inode) {
  unlink_inode(inode);
  inode.i_state = inode.i_state & ~(InodeState::kDirtyPages | InodeState::kDirtyDatasync);
}

// Oldest first: moves to b_io what was dirtied by `dirtied_before`.
void Writeback::queue_io(sim::Nanos dirtied_before) {
  while (Inode* inode = b_dirty_.front_or_null()) {
    if (inode->dirtied_when > dirtied_before) break;
    b_dirty_.erase(*inode);
    b_io_.push_back(*inode);
  }
}

// --- writing one ------------------------------------------------------------------------------------------------------

Status Writeback::writeback_single_inode(Inode& inode, WritebackControl& wbc) {
  wait_for_inode(inode);
  inode.i_state |= InodeState::kSync;
  inode.i_state = inode.i_state & ~(InodeState::kDirtyPages | InodeState::kDirtyDatasync);
  unlink_inode(inode);
  const std::uint64_t asked = wbc.nr_to_write;
  const Status status = inode.mapping.a_ops().writepages(inode.mapping, wbc);
  if (wbc.sync_mode == SyncMode::kAll) filemap_.filemap_fdatawait_keep_errors(inode.mapping, 0, kMaxLfsFilesize);
  writeback_single_inode_event(
      [&] { return WritebackWritePages{.ino = inode.ino, .wrote = asked - wbc.nr_to_write, .nr_to_write = asked}; });
  inode.i_state = inode.i_state & ~InodeState::kSync;
  requeue_inode(inode, wbc);
  sync_wait_.wake_all();
  return status;
}

void Writeback::requeue_inode(Inode& inode, const WritebackControl& wbc) {
  if (any(inode.i_state, InodeState::kFreeing)) return;
  if (!inode.mapping.mapping_tagged(kTagDirty)) {
    // The size alone is nothing to write: metadata is the host's.
    inode.i_state = inode.i_state & ~(InodeState::kDirtyPages | InodeState::kDirtyDatasync);
    return;
  }
  inode.i_state |= InodeState::kDirtyPages;
  if (wbc.nr_to_write == 0) {
    b_io_.push_back(inode);  // its slice is used up: on with it after the others (b_more_io)
    return;
  }
  // Dirtied again, or pages were busy: later (redirty_tail).
  inode.dirtied_when = scheduler_.now();
  if (Inode* last = b_dirty_.back_or_null()) inode.dirtied_when = std::max(inode.dirtied_when, last->dirtied_when);
  b_dirty_.push_back(inode);
}

// --- the flusher ------------------------------------------------------------------------------------------------------

std::uint64_t Writeback::writeback_chunk_size(std::uint64_t nr_pages) const {
  const std::uint64_t half_a_second = write_bandwidth_ / kPageSize / 2;
  const std::uint64_t pages = std::min(half_a_second, nr_pages);
  return align_down(pages + kMinWritebackPages, kMinWritebackPages);
}

std::uint64_t Writeback::writeback_sb_inodes(const Work& work, std::uint64_t nr_pages) {
  std::uint64_t wrote = 0;
  Inode* first_again = nullptr;  // an inode that comes up a second time ends the round
  while (Inode* inode = b_io_.front_or_null()) {
    if (inode == first_again) break;
    if (any(inode->i_state, InodeState::kSync)) {
      b_io_.erase(*inode);
      requeue_inode(*inode, WritebackControl{});
      continue;
    }
    WritebackControl wbc{.sync_mode = SyncMode::kNone,
                         .reason = work.reason,
                         .nr_to_write = writeback_chunk_size(nr_pages),
                         .range = WritebackControl::Range::kCyclic};
    const std::uint64_t asked = wbc.nr_to_write;
    // Errors wait in the mapping for whoever syncs the file.
    static_cast<void>(writeback_single_inode(*inode, wbc));
    const std::uint64_t done = asked - wbc.nr_to_write;
    wrote += done;
    nr_pages -= std::min(nr_pages, done);
    if (first_again == nullptr && inode->i_io_list.linked()) first_again = inode;
    if (nr_pages == 0) break;
  }
  return wrote;
}

void Writeback::wb_writeback(const Work& work) {
  writeback_start([&] { return WritebackStart{.reason = reason_name(work.reason), .nr_pages = work.nr_pages}; });
  std::uint64_t left = work.nr_pages;
  while (left > 0) {
    if (work.reason == WbReason::kBackground && !over_background_thresh()) break;
    // Background and periodic work gives way to what somebody waits for.
    if ((work.reason == WbReason::kBackground || work.reason == WbReason::kPeriodic) && start_all_pages_ > 0) break;
    if (b_io_.empty()) queue_io(work.dirtied_before);
    const std::uint64_t wrote = writeback_sb_inodes(work, left);
    update_bandwidth();
    if (wrote == 0) break;
    left -= std::min(left, wrote);
  }
}

void Writeback::wb_do_writeback() {
  if (start_all_pages_ > 0) {
    const Work work{.reason = start_all_reason_, .nr_pages = start_all_pages_};
    start_all_pages_ = 0;
    wb_writeback(work);
  }
  const sim::Nanos interval = tunables_.dirty_writeback_centisecs * kCentisecond;
  if (interval > 0 && scheduler_.now() >= last_old_flush_ + interval) {
    last_old_flush_ = scheduler_.now();
    const sim::Nanos age = tunables_.dirty_expire_centisecs * kCentisecond;
    if (has_dirty_io() && scheduler_.now() > age) {
      wb_writeback({.reason = WbReason::kPeriodic, .nr_pages = nr_dirty(), .dirtied_before = scheduler_.now() - age});
    }
  }
  if (over_background_thresh()) wb_writeback({.reason = WbReason::kBackground});
}

void Writeback::wait_for_work() {
  if (flusher_state_ == FlusherState::kWoken) return;
  flusher_state_ = FlusherState::kAsleep;
  const sim::Nanos interval = tunables_.dirty_writeback_centisecs * kCentisecond;
  const auto woken = [this] { return flusher_state_ == FlusherState::kWoken; };
  if (has_dirty_io() && interval > 0) {
    flusher_wait_.wait_until_timeout(interval, woken);
  } else {
    flusher_wait_.wait_until(woken);
  }
}

void Writeback::flusher() {
  for (;;) {
    wait_for_work();
    flusher_state_ = FlusherState::kRunning;
    wb_do_writeback();
  }
}

void Writeback::wake_flusher() {
  if (flusher_state_ == FlusherState::kNone) return;
  flusher_state_ = FlusherState::kWoken;
  flusher_wait_.wake_all();
}

void Writeback::wakeup_flusher_threads(WbReason reason) {
  if (!has_dirty_io() || start_all_pages_ > 0) return;
  start_all_pages_ = std::max<std::uint64_t>(nr_dirty(), 1);
  start_all_reason_ = reason;
  wake_flusher();
}

// --- sync(2) ----------------------------------------------------------------------------------------------------------

void Writeback::sync_inodes(SuperBlock& sb) {
  sb.for_each_inode([this](Inode& inode) {
    // An inode that the flusher has under its hands is on no list; its state and marks tell.
    const bool busy = any(inode.i_state, InodeState::kSync | InodeState::kDirtyPages);
    if (!busy && !inode.mapping.mapping_tagged(kTagDirty) && !inode.mapping.mapping_tagged(kTagWriteback)) return;
    WritebackControl wbc{.sync_mode = SyncMode::kAll, .reason = WbReason::kSync};
    static_cast<void>(writeback_single_inode(inode, wbc));
  });
}

// --- state ------------------------------------------------------------------------------------------------------------

std::uint64_t Writeback::nr_dirty() const {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, phys_.global_node_page_state(NodeStat::kNrDirty)));
}
std::uint64_t Writeback::nr_writeback() const {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, phys_.global_node_page_state(NodeStat::kNrWriteback)));
}

void Writeback::validate() const {
  sim::Nanos last = 0;
  for (const Inode& inode : b_dirty_) {
    QUIRE_BUG_ON(!any(inode.i_state, InodeState::kDirtyPages | InodeState::kDirtyDatasync));
    QUIRE_BUG_ON(inode.dirtied_when < last);
    last = inode.dirtied_when;
  }
  for (const Inode& inode : b_io_) QUIRE_BUG_ON(!any(inode.i_state, InodeState::kDirtyPages | InodeState::kDirtyDatasync));
}

}  // namespace quire::file
