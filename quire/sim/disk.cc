#include "quire/sim/disk.h"

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::sim {
namespace {

constexpr std::uint32_t kNoRequest = ~std::uint32_t{0};

}  // namespace

Disk::Disk(Scheduler& scheduler, const DiskConfig& config, FaultInjection* faults)
    : scheduler_(scheduler), config_(config), faults_(faults), slot_free_(config.queue_depth), free_request_(kNoRequest) {
  QUIRE_BUG_ON(config.queue_depth == 0 || config.bandwidth == 0);
  requests_.reserve(config.queue_depth);
}

Nanos Disk::submit(DiskOp op, std::uint64_t offset, std::uint64_t bytes, const Callback& done) {
  const Nanos submitted = scheduler_.now();
  scheduler_.charge(scheduler_.costs().disk_submit);

  Nanos latency = op == DiskOp::kRead ? config_.read_latency : config_.write_latency;
  if (offset != next_offset_) latency += config_.seek;
  if (faults_ != nullptr && faults_->should_fail(FaultPoint::kIoSlow, bytes)) latency *= config_.slow_factor;
  next_offset_ = offset + bytes;

  const Nanos begin = std::max(scheduler_.now(), slot_free_[slot_]);
  const Nanos transfer = CostModel::transfer_time(bytes, config_.bandwidth);
  const Nanos end = std::max(begin + latency, channel_free_) + transfer;
  channel_free_ = end;
  slot_free_[slot_] = end;
  slot_ = (slot_ + 1) % slot_free_.size();

  const bool read = op == DiskOp::kRead;
  ++(read ? stats_.reads : stats_.writes);
  (read ? stats_.read_bytes : stats_.written_bytes) += bytes;
  (read ? stats_.read_time : stats_.write_time) += end - submitted;
  stats_.busy += transfer;
  stats_.max_in_flight = std::max(stats_.max_in_flight, ++stats_.in_flight);

  const std::uint32_t request = take_request(done);
  scheduler_.at(end, [this, request] { complete(request); });
  return end;
}

std::uint32_t Disk::take_request(const Callback& done) {
  std::uint32_t index = free_request_;
  if (index == kNoRequest) {
    index = static_cast<std::uint32_t>(requests_.size());
    requests_.emplace_back();
  } else {
    free_request_ = requests_[index].next_free;
  }
  requests_[index].done = done;
  return index;
}

void Disk::complete(std::uint32_t request) {
  Callback done = requests_[request].done;
  requests_[request].next_free = free_request_;
  free_request_ = request;
  --stats_.in_flight;
  scheduler_.charge(scheduler_.costs().interrupt);
  if (done) done();
}

}  // namespace quire::sim
