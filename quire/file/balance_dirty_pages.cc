// How many dirty pages a machine may have, and how writers are held to it.
//
// Below (background + limit) / 2 a writer runs free. Above, it sleeps after every kDirtyPause pages for as long as the disk
// takes for them, stretched or shortened by how far the dirty count is from the setpoint between that and the limit.
#include <algorithm>

#include "quire/base/bug.h"
#include "quire/file/inode.h"
#include "quire/file/writeback.h"
#include "quire/phys/task_flags.h"

namespace quire::file {

using phys::NodeStat;
using phys::ZoneStat;

namespace {

constexpr std::uint64_t kDirtyPause = 32;                  // pages between two looks: 128 KiB
constexpr sim::Nanos kMaxPause = 200 * sim::kMillisecond;  // MAX_PAUSE
constexpr sim::Nanos kBandwidthInterval = 200 * sim::kMillisecond;
constexpr std::uint64_t kMinBandwidth = 1 * kMiB;

}  // namespace

std::uint64_t Writeback::global_dirtyable_memory() const {
  const auto free = static_cast<std::uint64_t>(phys_.global_zone_page_state(ZoneStat::kNrFreePages));
  const std::int64_t file =
      phys_.global_node_page_state(NodeStat::kNrInactiveFile) + phys_.global_node_page_state(NodeStat::kNrActiveFile);
  return free - std::min(free, phys_.totalreserve_pages()) + static_cast<std::uint64_t>(file) + 1;
}

DirtyLimits Writeback::global_dirty_limits() const {
  const std::uint64_t available = global_dirtyable_memory();
  const auto pages = [available](std::uint64_t bytes, std::uint32_t ratio) {
    return bytes != 0 ? bytes_to_pages_up(bytes) : available * ratio / 100;
  };
  DirtyLimits limits{.background = pages(tunables_.dirty_background_bytes, tunables_.dirty_background_ratio),
                     .dirty = pages(tunables_.dirty_bytes, tunables_.dirty_ratio)};
  if (limits.background >= limits.dirty) limits.background = limits.dirty / 2;
  return limits;
}

bool Writeback::over_background_thresh() const { return nr_dirty() > global_dirty_limits().background; }

void Writeback::account_dirtied() { ++bdp_ratelimits_[scheduler_.cpu()]; }

void Writeback::account_redirtied() {
  std::uint64_t& dirtied = bdp_ratelimits_[scheduler_.cpu()];
  dirtied -= std::min<std::uint64_t>(dirtied, 1);
}

void Writeback::balance_dirty_pages_ratelimited(const AddressSpace& mapping) {
  if (!mapping.host().sb.can_writeback()) return;
  std::uint64_t& dirtied = bdp_ratelimits_[scheduler_.cpu()];
  if (dirtied < kDirtyPause) [[likely]]
    return;
  const std::uint64_t pages = dirtied;
  dirtied = 0;
  // Nobody to wait for without a flusher, and boot cannot wait.
  if (flusher_state_ != FlusherState::kNone && scheduler_.current() != nullptr) balance_dirty_pages(pages);
}

// Linux's cubic: 1 at the setpoint, 2 at the free-run ceiling, 0 at the limit. In 1/1024.
static std::uint64_t pos_ratio_polynom(std::uint64_t setpoint, std::uint64_t dirty, std::uint64_t limit) {
  constexpr std::int64_t kOne = 1024;
  const auto span = static_cast<std::int64_t>(std::max<std::uint64_t>(limit - setpoint, 1));
  const std::int64_t x = (static_cast<std::int64_t>(setpoint) - static_cast<std::int64_t>(dirty)) * kOne / span;
  const std::int64_t cube = x * x / kOne * x / kOne;
  return static_cast<std::uint64_t>(std::clamp<std::int64_t>(kOne + cube, 0, 2 * kOne));
}

sim::Nanos Writeback::dirty_pause(const DirtyLimits& limits, std::uint64_t dirty, std::uint64_t pages) const {
  // wb_max_pause: no longer than the disk needs for an eighth of a second's worth of what is dirty, in jiffies.
  const std::uint64_t pages_per_32nd = (write_bandwidth_ >> kPageShift) / 32;
  const sim::Nanos most = std::min<sim::Nanos>(kMaxPause, (dirty / (1 + pages_per_32nd) + 1) * sim::kJiffy);
  const std::uint64_t freerun = (limits.background + limits.dirty) / 2;
  const std::uint64_t ratio = pos_ratio_polynom((freerun + limits.dirty) / 2, dirty, limits.dirty);
  const std::uint64_t rate = write_bandwidth_ / 1024 * ratio;  // bytes/s
  if (rate == 0) return most;
  return std::min(most, sim::CostModel::transfer_time(pages_to_bytes(pages), rate));
}

void Writeback::balance_dirty_pages(std::uint64_t pages_dirtied) {
  for (;;) {
    const DirtyLimits limits = global_dirty_limits();
    const std::uint64_t dirty = nr_dirty() + nr_writeback();
    if (nr_dirty() > limits.background && flusher_state_ == FlusherState::kAsleep) wake_flusher();
    if (dirty <= (limits.background + limits.dirty) / 2) return;
    update_bandwidth();
    const sim::Nanos pause = dirty_pause(limits, dirty, pages_dirtied);
    balance_dirty_pages_event([&] {
      return BalanceDirtyPages{.limit = limits.dirty,
                               .setpoint = (limits.background + 3 * limits.dirty) / 4,
                               .dirty = dirty,
                               .dirty_ratelimit = write_bandwidth_ / kKiB,
                               .dirtied = pages_dirtied,
                               .pause = pause / sim::kMillisecond};
    });
    scheduler_.sleep_for(std::max<sim::Nanos>(pause, 1));
    if (dirty < limits.dirty) return;  // within the limit the pause was the price; beyond it, wait until it is not
    if (phys::task_test(scheduler_, phys::TaskFlag::kOomVictim)) return;  // killed: what it will free is worth more
  }
}

// --- bandwidth ----------------------------------------------------------------------------------------------------------

void Writeback::wb_writeout_add(std::uint64_t pages) { written_since_stamp_ += pages; }

// An average that forgets by an eighth every 200 ms in which something was written.
void Writeback::update_bandwidth() {
  const sim::Nanos now = scheduler_.now();
  if (now < bw_time_stamp_ + kBandwidthInterval) return;
  const sim::Nanos elapsed = now - bw_time_stamp_;
  // A long silence says nothing about the disk.
  if (written_since_stamp_ > 0 && elapsed < sim::kSecond) {
    // Under 18 GB in under a second: fits 64 bits.
    const std::uint64_t measured = pages_to_bytes(written_since_stamp_) * sim::kSecond / elapsed;
    write_bandwidth_ = std::max(kMinBandwidth, write_bandwidth_ - write_bandwidth_ / 8 + measured / 8);
  }
  bw_time_stamp_ = now;
  written_since_stamp_ = 0;
}

}  // namespace quire::file
