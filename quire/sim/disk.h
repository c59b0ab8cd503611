// When a disk's requests end. Timing only: the bytes are the caller's.
//
// Up to queue_depth requests are served at once; each waits out its latency, then moves its bytes over the one channel,
// in order of submission:
//
//   slot 0  |-- latency --|=transfer=|
//   slot 1   |-- latency --|         |=transfer=|        the channel is shared
//
// A request that begins where the one before it ended skips the seek. Since the channel keeps the order, the end of a
// request is known when it is submitted, and no queue has to be kept.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quire/sim/fault_injection.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

enum class DiskOp : std::uint8_t { kRead, kWrite };

struct DiskConfig {
  std::string_view name = "disk";
  Nanos read_latency = 0;
  Nanos write_latency = 0;
  Nanos seek = 0;               // added when a request does not begin where the one before it ended
  std::uint64_t bandwidth = 1;  // bytes a second, > 0
  unsigned queue_depth = 32;    // > 0
  unsigned slow_factor = 10;    // of latency, when FaultPoint::kIoSlow strikes

  // Latencies and bandwidth of the cost model.
  static DiskConfig from_costs(const CostModel& costs) {
    return DiskConfig{
        .read_latency = costs.disk_read_latency, .write_latency = costs.disk_write_latency, .bandwidth = costs.disk_bandwidth};
  }
};

struct DiskStats {
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  Nanos read_time = 0;  // sum over requests, from submission to end
  Nanos write_time = 0;
  Nanos busy = 0;  // the channel moved bytes
  unsigned in_flight = 0;
  unsigned max_in_flight = 0;
};

class Disk {
 public:
  // `faults` may be null.
  Disk(Scheduler& scheduler, const DiskConfig& config, FaultInjection* faults = nullptr);

  // Calls `done` as an interrupt when the request at byte `offset` has ended; returns that time. The submitter pays
  // CostModel::disk_submit. Whether the request fails is the caller's question to FaultInjection.
  Nanos submit(DiskOp op, std::uint64_t offset, std::uint64_t bytes, const Callback& done);

  [[nodiscard]] const DiskStats& stats() const { return stats_; }
  [[nodiscard]] const DiskConfig& config() const { return config_; }

 private:
  // Callbacks of requests under way, so that the event needs two words only.
  struct Request {
    Callback done;
    std::uint32_t next_free = 0;
  };
  void complete(std::uint32_t request);
  std::uint32_t take_request(const Callback& done);

  Scheduler& scheduler_;
  const DiskConfig config_;
  FaultInjection* faults_;
  std::vector<Nanos> slot_free_;  // ring: when the request queue_depth before this one ends
  std::size_t slot_ = 0;
  Nanos channel_free_ = 0;
  std::uint64_t next_offset_ = 0;
  std::vector<Request> requests_;
  std::uint32_t free_request_ = 0;
  DiskStats stats_;
};

}  // namespace quire::sim
