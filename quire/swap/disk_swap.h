// A swap area on a simulated disk: the disk gives the time, the bytes (in data mode) lie outside the machine's memory, as
// a disk's do. Asynchronous: a written page is under writeback, and a page being read stays locked, until the disk's
// event. What a write stores is the page as it was when the write was started.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quire/phys/phys_mem.h"
#include "quire/sim/disk.h"
#include "quire/sim/wait_queue.h"
#include "quire/swap/swap_device.h"

namespace quire::swap {

struct DiskSwapConfig {
  std::string name = "/dev/sda2";
  std::uint64_t size = 0;                                // bytes, with the header page
  std::uint64_t disk_offset = 0;                         // where on the disk the area begins, bytes
  SwapDeviceFlags flags = SwapDeviceFlags::kSolidState;  // kNone: a disk that seeks
};

class DiskSwap final : public SwapDevice {
 public:
  // kNoMem when the host gives no address space for the area's bytes.
  [[nodiscard]] static Result<std::unique_ptr<DiskSwap>> create(const DiskSwapConfig& config, sim::Disk& disk,
                                                                phys::PhysMem& phys, sim::Scheduler& scheduler);
  ~DiskSwap() override;

  [[nodiscard]] std::string_view name() const override { return config_.name; }
  [[nodiscard]] std::uint64_t pages() const override { return config_.size >> kPageShift; }
  [[nodiscard]] SwapDeviceFlags flags() const override { return config_.flags; }
  [[nodiscard]] Status write_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) override;
  [[nodiscard]] Status read_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) override;
  void free_slot(std::uint64_t offset) override { (void)offset; }
  void validate() const override;

  [[nodiscard]] std::uint64_t in_flight() const { return in_flight_; }

 private:
  struct Request;
  static constexpr unsigned kRequests = 128;  // BLKDEV_DEFAULT_RQ: a writer waits when so many are on their way

  DiskSwap(const DiskSwapConfig& config, sim::Disk& disk, phys::PhysMem& phys, sim::Scheduler& scheduler);
  [[nodiscard]] Request& get_request();
  void submit(sim::DiskOp op, std::uint64_t offset, phys::Folio& folio, SwapIo& io);
  void end_request(Request& request);

  DiskSwapConfig config_;
  sim::Disk& disk_;
  phys::PhysMem& phys_;
  std::byte* bytes_ = nullptr;  // host memory, one page a slot; none in dataless mode
  std::vector<std::unique_ptr<Request>> requests_;
  Request* free_requests_ = nullptr;
  sim::WaitQueue request_wait_;
  std::uint64_t in_flight_ = 0;
};

}  // namespace quire::swap
