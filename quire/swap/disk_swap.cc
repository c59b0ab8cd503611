#include "quire/swap/disk_swap.h"

#include <sys/mman.h>

#include <cstring>

#include "quire/base/bug.h"

namespace quire::swap {

struct DiskSwap::Request {
  explicit Request(DiskSwap& owner) : device(owner) {}
  DiskSwap& device;
  phys::Folio* folio = nullptr;
  SwapIo* io = nullptr;
  std::uint64_t offset = 0;
  sim::DiskOp op = sim::DiskOp::kRead;
  Request* next_free = nullptr;
};

Result<std::unique_ptr<DiskSwap>> DiskSwap::create(const DiskSwapConfig& config, sim::Disk& disk, phys::PhysMem& phys,
                                                   sim::Scheduler& scheduler) {
  if (config.size < 2 * kPageSize || config.size % kPageSize != 0) return fail(Errno::kInval);
  if (any(config.flags, SwapDeviceFlags::kSynchronous)) return fail(Errno::kInval);
  std::unique_ptr<DiskSwap> device(new DiskSwap(config, disk, phys, scheduler));
  if (phys.data_mode() == phys::DataMode::kData) {
    void* bytes = mmap(nullptr, config.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) return fail(Errno::kNoMem);
    device->bytes_ = static_cast<std::byte*>(bytes);
  }
  return device;
}

DiskSwap::DiskSwap(const DiskSwapConfig& config, sim::Disk& disk, phys::PhysMem& phys, sim::Scheduler& scheduler)
    : config_(config), disk_(disk), phys_(phys), request_wait_(scheduler, "swap request") {
  for (unsigned i = 0; i < kRequests; ++i) {
    requests_.push_back(std::make_unique<Request>(*this));
    requests_.back()->next_free = free_requests_;
    free_requests_ = requests_.back().get();
  }
}

DiskSwap::~DiskSwap() {
  if (bytes_ != nullptr) munmap(bytes_, config_.size);
}

DiskSwap::Request& DiskSwap::get_request() {
  request_wait_.wait_until([this] { return free_requests_ != nullptr; });
  Request& request = *free_requests_;
  free_requests_ = request.next_free;
  ++in_flight_;
  return request;
}

void DiskSwap::submit(sim::DiskOp op, std::uint64_t offset, phys::Folio& folio, SwapIo& io) {
  QUIRE_BUG_ON(offset == 0 || offset >= pages());
  Request& request = get_request();
  request.op = op;
  request.offset = offset;
  request.folio = &folio;
  request.io = &io;
  if (op == sim::DiskOp::kWrite && bytes_ != nullptr) {
    std::memcpy(bytes_ + offset * kPageSize, phys_.page_address(folio), kPageSize);
  }
  const auto event = op == sim::DiskOp::kWrite ? phys::VmEvent::kPgpgout : phys::VmEvent::kPgpgin;
  phys_.vmstat().count_vm_events(event, kPageSize / kKiB);
  disk_.submit(op, config_.disk_offset + offset * kPageSize, kPageSize, [&request] { request.device.end_request(request); });
}

Status DiskSwap::write_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) {
  submit(sim::DiskOp::kWrite, offset, folio, io);
  return {};
}

Status DiskSwap::read_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) {
  submit(sim::DiskOp::kRead, offset, folio, io);
  return {};
}

void DiskSwap::end_request(Request& request) {
  phys::Folio& folio = *request.folio;
  SwapIo& io = *request.io;
  const sim::DiskOp op = request.op;
  if (op == sim::DiskOp::kRead && bytes_ != nullptr) {
    std::memcpy(phys_.page_address(folio), bytes_ + request.offset * kPageSize, kPageSize);
  }
  request.folio = nullptr;
  request.next_free = free_requests_;
  free_requests_ = &request;
  --in_flight_;
  request_wait_.wake_one();
  if (op == sim::DiskOp::kWrite) {
    io.end_swap_write(folio, {});
  } else {
    io.end_swap_read(folio, {});
  }
}

void DiskSwap::validate() const {
  std::uint64_t busy = 0;
  for (const auto& request : requests_) {
    if (request->folio == nullptr) continue;
    ++busy;
    const bool marked = request->op == sim::DiskOp::kWrite ? phys::folio_test_writeback(*request->folio)
                                                           : phys::folio_test_locked(*request->folio);
    QUIRE_BUG_ON(!marked);
  }
  QUIRE_BUG_ON(busy != in_flight_);
}

}  // namespace quire::swap
