#include "quire/vm/tlb_shootdown.h"

namespace quire::vm {

namespace {

// Above this many pages a whole flush is cheaper (tlb_single_page_flush_ceiling).
constexpr std::uint64_t kSinglePageFlushCeiling = 33;

}  // namespace

TlbShootdown::TlbShootdown(sim::Scheduler& scheduler, const arch::PageTables& tables) : scheduler_(scheduler) {
  QUIRE_BUG_ON(scheduler.cpus() > CpuMask::kMaxCpus);
  for (unsigned cpu = 0; cpu < scheduler.cpus(); ++cpu) mmus_.push_back(std::make_unique<arch::Mmu>(tables));
}

void TlbShootdown::flush_tlb_mm(Mm& mm) {
  if (mm.cpumask.empty()) return;
  mm.cpumask.for_each([&](unsigned cpu) { mmus_[cpu]->tlb().flush_asid(mm.context_id); });
  pay(mm.cpumask, kSinglePageFlushCeiling + 1);
  mm.cpumask.clear_all();
}

void TlbShootdown::flush_tlb_range(Mm& mm, Range<VirtAddr> range) {
  if (mm.cpumask.empty()) return;
  const std::uint64_t pages = range.size() >> kPageShift;
  if (pages > kSinglePageFlushCeiling) return flush_tlb_mm(mm);
  mm.cpumask.for_each([&](unsigned cpu) {
    arch::Tlb& tlb = mmus_[cpu]->tlb();
    for (VirtAddr at = range.begin; at < range.end; at += kPageSize) tlb.flush_page(mm.context_id, at);
  });
  pay(mm.cpumask, pages);
}

void TlbShootdown::defer(Mm& mm, Dirty dirty) {
  pending_ |= mm.cpumask;
  mm.tlb_flush_batched = Mm::Deferred::kYes;
  if (dirty == Dirty::kYes) pending_dirty_ = Dirty::kYes;
}

void TlbShootdown::flush_tlb_batched_pending(Mm& mm) {
  if (mm.tlb_flush_batched == Mm::Deferred::kNo) [[likely]]
    return;
  mm.tlb_flush_batched = Mm::Deferred::kNo;
  flush_tlb_mm(mm);
}

void TlbShootdown::flush_pending() {
  if (pending_.empty()) return;
  pending_.for_each([&](unsigned cpu) { mmus_[cpu]->tlb().flush_all(); });
  pay(pending_, kSinglePageFlushCeiling + 1);
  pending_.clear_all();
  pending_dirty_ = Dirty::kNo;
}

void TlbShootdown::flush_pending_dirty() {
  if (pending_dirty_ == Dirty::kYes) flush_pending();
}

// A flush of all CPUs happens at once; its price is the caller's, since it waits for the others' acknowledgement.
void TlbShootdown::pay(const CpuMask& mask, std::uint64_t pages) {
  const sim::CostModel& costs = scheduler_.costs();
  const unsigned self = scheduler_.cpu();
  std::uint64_t others = 0;
  mask.for_each([&](unsigned cpu) { others += cpu != self ? 1 : 0; });
  if (pages > kSinglePageFlushCeiling) {
    scheduler_.charge(costs.tlb_flush_all);
    ++stats_.full_flushes;
  } else {
    scheduler_.charge(pages * costs.tlb_flush_page);
  }
  ++stats_.local_flushes;
  if (others == 0) return;
  scheduler_.charge(costs.ipi);
  stats_.ipis += others;
  ++stats_.remote_flushes;
}

}  // namespace quire::vm
