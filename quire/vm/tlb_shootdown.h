// The TLBs of the machine's CPUs, and who must flush what when page tables change.
//
// A CPU is in an Mm's cpumask from the first translation it caches until a flush of the whole Mm there. A flush removes the
// entries of every CPU in the mask at once; the caller pays for its own and for one IPI round when another CPU is in it.
// reclaim batches: try_to_unmap with kBatchFlush only notes the CPUs, flush_pending() later flushes them all. Until then a
// CPU may still use a translation whose entry is gone, so who is about to judge entries by what they hold (unmap, protect,
// move) settles the Mm's share first: flush_tlb_batched_pending, with page_table_lock held.
//
// Rule for callers: clear or tighten the entry first, then flush, then free or reuse the frame.
#pragma once

#include <memory>
#include <vector>

#include "quire/arch/mmu.h"
#include "quire/base/types.h"
#include "quire/sim/scheduler.h"
#include "quire/vm/cpu_mask.h"
#include "quire/vm/mm.h"

namespace quire::vm {

class TlbShootdown {
 public:
  TlbShootdown(sim::Scheduler& scheduler, const arch::PageTables& tables);

  [[nodiscard]] arch::Mmu& mmu(unsigned cpu) { return *mmus_[cpu]; }

  void flush_tlb_mm(Mm& mm);
  void flush_tlb_range(Mm& mm, Range<VirtAddr> range);
  void flush_tlb_page(Mm& mm, VirtAddr address) { flush_tlb_range(mm, {address, address + kPageSize}); }

  // Deferred flushes (try_to_unmap_flush). All entries of the noted CPUs go.
  enum class Dirty : std::uint8_t { kNo, kYes };
  void defer(Mm& mm, Dirty dirty);
  // Flushes the Mm if entries of it were noted since it was last settled here.
  void flush_tlb_batched_pending(Mm& mm);
  void flush_pending();
  void flush_pending_dirty();  // only when an entry that was noted could still be written through
  [[nodiscard]] bool pending() const { return !pending_.empty(); }

  struct Stats {
    std::uint64_t local_flushes = 0, remote_flushes = 0, ipis = 0, full_flushes = 0;
  };
  [[nodiscard]] const Stats& stats() const { return stats_; }

 private:
  void pay(const CpuMask& mask, std::uint64_t pages);

  sim::Scheduler& scheduler_;
  std::vector<std::unique_ptr<arch::Mmu>> mmus_;  // by CPU; fixed at boot
  CpuMask pending_;
  Dirty pending_dirty_ = Dirty::kNo;
  Stats stats_;
};

}  // namespace quire::vm
