// Who makes the processors forget translations of kernel addresses. The vmalloc floor owns the interface; a floor above that
// knows more of the processors may bring its own.
#pragma once

#include <cstdint>

#include "quire/base/types.h"
#include "quire/sim/scheduler.h"

namespace quire::kvirt {

class KernelTlb {
 public:
  virtual ~KernelTlb() = default;
  // When it returns no CPU holds a translation of the range.
  virtual void flush_tlb_kernel_range(Range<VirtAddr> range) = 0;
};

// What every machine has: kernel mappings do not go through arch::Tlb here, so a flush is its cost (an interrupt to the other
// CPUs; then page by page, or everything when that is beyond tlb_single_page_flush_ceiling) and a count.
class CountingKernelTlb final : public KernelTlb {
 public:
  explicit CountingKernelTlb(sim::Scheduler& scheduler) : scheduler_(scheduler) {}
  void flush_tlb_kernel_range(Range<VirtAddr> range) override {
    constexpr std::uint64_t kSinglePageFlushCeiling = 33;
    const sim::CostModel& costs = scheduler_.costs();
    const std::uint64_t pages = range.size() >> kPageShift;
    if (scheduler_.cpus() > 1) scheduler_.charge(costs.ipi);
    scheduler_.charge(pages > kSinglePageFlushCeiling ? costs.tlb_flush_all : pages * costs.tlb_flush_page);
    ++flushes_;
  }
  [[nodiscard]] std::uint64_t flushes() const { return flushes_; }

 private:
  sim::Scheduler& scheduler_;
  std::uint64_t flushes_ = 0;
};

}  // namespace quire::kvirt
