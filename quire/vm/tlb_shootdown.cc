#include "quire/vm/tlb_shootdown.h"

#include <algorithm>
#include <utility>

namespace quire::vm {

using phys::VmEvent;

TlbShootdown::TlbShootdown(sim::Scheduler& scheduler, const arch::PageTables& tables, phys::VmStat& vmstat,
                           TraceRegistry& traces, const arch::TlbConfig& config)
    : tlb_flush(traces), scheduler_(scheduler), vmstat_(vmstat) {
  QUIRE_BUG_ON(scheduler.cpus() > sim::CpuMask::kMaxCpus);
  for (unsigned cpu = 0; cpu < scheduler.cpus(); ++cpu) cpus_.push_back(std::make_unique<CpuTlbState>(tables, config));
}

void TlbShootdown::flush_tlb_mm(Mm& mm, FlushSite site) { flush_tlb_range(mm, kAllAddresses, site, FreedTables::kYes); }

void TlbShootdown::flush_tlb_range(Mm& mm, Range<VirtAddr> range, FlushSite site, FreedTables freed_tables) {
  if (omitted(site)) return;
  std::uint64_t pages = range.size() >> kPageShift;
  if (pages > kTlbSinglePageFlushCeiling) pages = kTlbFlushAll;
  ++mm.tlb_gen;                          // inc_mm_tlb_gen
  const sim::CpuMask mask = mm.cpumask;  // those that leave it now change it
  flush_cpus(mask, {&mm, range, pages, freed_tables});
}

arch::Pte TlbShootdown::ptep_clear_flush(Mm& mm, arch::Pte* pte, VirtAddr address, FlushSite site) {
  const arch::Pte old = arch::ptep_get_and_clear(pte);
  const bool accessible = !old.protnone() || mm.tlb_flush_pending != 0;  // pte_accessible
  if (accessible) flush_tlb_page(mm, address, site);
  return old;
}

// By an interrupt where another CPU is concerned, else by ourselves.
void TlbShootdown::flush_cpus(const sim::CpuMask& mask, const Info& info) {
  if (mask.empty()) return;
  const unsigned self = scheduler_.cpu();
  if (mask.any_but(self)) return flush_tlb_multi(mask, info);
  flush_tlb_func(self, info);
}

void TlbShootdown::flush_tlb_multi(const sim::CpuMask& mask, const Info& info) {
  vmstat_.count_vm_event(VmEvent::kNrTlbRemoteFlush);
  ++stats_.remote_flushes;
  tlb_flush([&] { return TlbFlush{TlbFlushReason::kRemoteSendIpi, info.pages}; });
  const unsigned self = scheduler_.cpu();
  std::uint64_t interrupted = 0;
  mask.for_each([&](unsigned cpu) {
    CpuTlbState& state = *cpus_[cpu];
    // A CPU whose task has gone over to another Mm since it was noted in a batch has nothing of this one in use.
    if (state.loaded_mm == nullptr || (info.mm != nullptr && state.loaded_mm != info.mm)) return;
    if (info.freed_tables == FreedTables::kNo && is_lazy(cpu, *state.loaded_mm)) {
      state.mmu.unload();  // it compares generations before it goes on
      ++stats_.lazy_skipped;
      return;
    }
    if (cpu != self) ++interrupted;
    flush_tlb_func(cpu, info);
  });
  if (interrupted == 0) return;
  stats_.ipis += interrupted;
  scheduler_.charge(scheduler_.costs().ipi);
}

// What a CPU does when it is told.
void TlbShootdown::flush_tlb_func(unsigned cpu, const Info& info) {
  const bool local = cpu == scheduler_.cpu();
  CpuTlbState& state = *cpus_[cpu];
  if (!local) vmstat_.count_vm_event(VmEvent::kNrTlbRemoteFlushReceived);
  if (state.loaded_mm == nullptr) return;
  if (is_lazy(cpu, *state.loaded_mm)) return leave_mm(cpu);
  const std::uint64_t invalidated = flush_local(state, info);
  if (invalidated == 0 && info.mm != nullptr) return;  // an earlier flush did our work
  if (local && invalidated != 0) {
    ++stats_.local_flushes;
    const bool whole = invalidated == kTlbFlushAll;
    vmstat_.count_vm_events(whole ? VmEvent::kNrTlbLocalFlushAll : VmEvent::kNrTlbLocalFlushOne,
                            whole ? 1 : static_cast<std::int64_t>(invalidated));
    // The others do the same at the same time, on their own clocks.
    const sim::CostModel& costs = scheduler_.costs();
    scheduler_.charge(whole ? costs.tlb_flush_all : invalidated * costs.tlb_flush_page);
  }
  tlb_flush([&] {
    const TlbFlushReason here = info.mm != nullptr ? TlbFlushReason::kLocalMmShootdown : TlbFlushReason::kLocalShootdown;
    return TlbFlush{local ? here : TlbFlushReason::kRemoteShootdown, invalidated};
  });
}

// Brings the loaded id up to date; how many pages were invalidated, kTlbFlushAll, or 0: it was.
std::uint64_t TlbShootdown::flush_local(CpuTlbState& state, const Info& info) {
  TlbContext& ctx = state.ctxs[state.loaded_mm_asid];
  const std::uint64_t mm_tlb_gen = state.loaded_mm->tlb_gen;
  if (ctx.tlb_gen == mm_tlb_gen) return 0;
  arch::Tlb& tlb = state.mmu.tlb();
  const arch::Asid pcid = CpuTlbState::kern_pcid(state.loaded_mm_asid);
  // Page by page only where this is the one flush that the CPU has not seen.
  const bool partial = info.mm != nullptr && info.pages != kTlbFlushAll && ctx.tlb_gen + 1 == mm_tlb_gen;
  ctx.tlb_gen = mm_tlb_gen;
  if (!partial) {
    tlb.flush_asid(pcid);
    ++stats_.full_flushes;
    return kTlbFlushAll;
  }
  for (VirtAddr at = info.range.begin; at < info.range.end; at += kPageSize) tlb.flush_page(pcid, at);
  return info.pages;
}

// --- deferred flushes ----------------------------------------------------------------------------------------------------

bool TlbShootdown::should_defer_flush(const Mm& mm) const { return mm.cpumask.any_but(scheduler_.cpu()); }

void TlbShootdown::defer(Mm& mm, Dirty dirty) {
  sim::UnmapBatch& noted = batch();
  ++mm.tlb_gen;
  ++mm.tlb_flush_batched.pending;
  mm.last_deferred = ++stats_.deferred;
  if (!noted.flush_required) {
    noted.flush_required = true;
    noted.first = mm.last_deferred;
    open_batches_.push_back(noted);
  }
  noted.cpumask |= mm.cpumask;
  noted.writable |= dirty == Dirty::kYes;
  noted.last = mm.last_deferred;
}

void TlbShootdown::flush_tlb_batched_pending(Mm& mm) {
  Mm::DeferredFlushes& batched = mm.tlb_flush_batched;
  if (batched.pending == batched.flushed) [[likely]]
    return;
  batched.flushed = batched.pending;
  flush_tlb_mm(mm, FlushSite::kBatchPending);
}

void TlbShootdown::flush_pending() {
  sim::UnmapBatch& noted = batch();
  if (!noted.flush_required) return;
  const sim::CpuMask mask = noted.cpumask;
  open_batches_.erase(noted);
  noted = sim::UnmapBatch();
  if (omitted(FlushSite::kUnmapBatch)) return;
  flush_cpus(mask, {nullptr, {}, kTlbFlushAll, FreedTables::kNo});
}

void TlbShootdown::flush_pending_dirty() {
  if (batch().writable) flush_pending();
}

bool TlbShootdown::pending(unsigned cpu, const Mm& mm) const {
  return std::ranges::any_of(open_batches_, [&](const sim::UnmapBatch& b) {
    return b.cpumask.test(cpu) && b.first <= mm.last_deferred && mm.last_deferred <= b.last;
  });
}

}  // namespace quire::vm
