// Which address space a CPU has loaded: switches, address-space ids, and lazy CPUs.
#include <algorithm>

#include "quire/vm/tlb_shootdown.h"

namespace quire::vm {

// The id that stands for the context `next` already, or the one whose turn it is; then its entries are another's.
unsigned TlbShootdown::choose_new_asid(CpuTlbState& state, std::uint64_t next) {
  for (unsigned asid = 0; asid < kTlbNrDynAsids; ++asid) {
    if (state.ctxs[asid].ctx_id == next) return asid;
  }
  const unsigned asid = state.next_asid;
  state.next_asid = (asid + 1) % kTlbNrDynAsids;
  return asid;
}

void TlbShootdown::load(CpuTlbState& state, Mm& mm, unsigned asid) {
  state.loaded_mm = &mm;
  state.loaded_mm_asid = asid;
  state.mmu.load(mm.context_id, CpuTlbState::kern_pcid(asid), mm.pgd);
}

// A load of CR3 that forgets the id's entries; from here on it stands for `now`.
void TlbShootdown::flush_loaded(unsigned cpu, const TlbContext& now, FlushSite site) {
  CpuTlbState& state = *cpus_[cpu];
  state.ctxs[state.loaded_mm_asid] = now;
  if (omitted(site)) return;
  state.mmu.tlb().flush_asid(CpuTlbState::kern_pcid(state.loaded_mm_asid));
  if (cpu == scheduler_.cpu()) scheduler_.charge(scheduler_.costs().tlb_flush_all);
  ++stats_.switch_flushes;
  tlb_flush([] { return TlbFlush{TlbFlushReason::kOnTaskSwitch, kTlbFlushAll}; });
}

void TlbShootdown::switch_mm(Mm& mm) {
  const unsigned cpu = scheduler_.cpu();
  CpuTlbState& state = *cpus_[cpu];
  const TlbContext now{mm.context_id, mm.tlb_gen};
  scheduler_.context().mm_context = mm.context_id;
  if (state.loaded_mm == &mm) {
    load(state, mm, state.loaded_mm_asid);
    if (state.ctxs[state.loaded_mm_asid].tlb_gen != mm.tlb_gen) flush_loaded(cpu, now, FlushSite::kLazyBack);
    return;
  }
  ++stats_.switches;
  if (state.loaded_mm != nullptr) state.loaded_mm->cpumask.clear(cpu);
  mm.cpumask.set(cpu);
  const unsigned asid = choose_new_asid(state, mm.context_id);
  const TlbContext was = state.ctxs[asid];
  load(state, mm, asid);
  if (was.ctx_id != mm.context_id) {
    flush_loaded(cpu, now, FlushSite::kNewAsid);
  } else if (was.tlb_gen != mm.tlb_gen) {
    flush_loaded(cpu, now, FlushSite::kSwitch);
  } else {
    tlb_flush([] { return TlbFlush{TlbFlushReason::kOnTaskSwitch, 0}; });
  }
}

void TlbShootdown::enter_lazy_tlb(const Mm& mm) {
  std::uint64_t& used = scheduler_.context().mm_context;
  if (used == mm.context_id) used = 0;
}

// The CPU loads init_mm; the entries of the id that it leaves stay, with the generation they have.
void TlbShootdown::leave_mm(unsigned cpu) {
  CpuTlbState& state = *cpus_[cpu];
  state.loaded_mm->cpumask.clear(cpu);
  state.loaded_mm = nullptr;
  state.mmu.unload();
  state.loaded_mm_asid = choose_new_asid(state, kInitMmContext);
  if (state.ctxs[state.loaded_mm_asid].ctx_id != kInitMmContext) {
    flush_loaded(cpu, {kInitMmContext, 1}, FlushSite::kNewAsid);
  } else {
    tlb_flush([] { return TlbFlush{TlbFlushReason::kOnTaskSwitch, 0}; });
  }
}

void TlbShootdown::mm_gone(Mm& mm) {
  mm.cpumask.for_each([this](unsigned cpu) { leave_mm(cpu); });
}

bool TlbShootdown::is_lazy(unsigned cpu, const Mm& mm) const {
  // Boot context stands on the CPU that it says it does; in an interrupt the CPU's task counts.
  const bool here = cpu == scheduler_.cpu() && !scheduler_.in_interrupt();
  const sim::Task* task = here ? &scheduler_.context() : scheduler_.running(cpu);
  return task == nullptr || task->mm_context != mm.context_id;
}

void TlbShootdown::validate() const {
  for (unsigned cpu = 0; cpu < cpus_.size(); ++cpu) {
    const CpuTlbState& state = *cpus_[cpu];
    state.mmu.tlb().validate();
    for (unsigned a = 0; a < kTlbNrDynAsids; ++a) {
      for (unsigned b = 0; b < a; ++b) {
        QUIRE_BUG_ON(state.ctxs[a].ctx_id != 0 && state.ctxs[a].ctx_id == state.ctxs[b].ctx_id);
      }
    }
    if (state.loaded_mm == nullptr) {
      QUIRE_BUG_ON(!state.mmu.loaded(0) || state.ctxs[state.loaded_mm_asid].ctx_id != kInitMmContext);
      continue;
    }
    QUIRE_BUG_ON(!state.mmu.loaded(0) && !state.mmu.loaded(state.loaded_mm->context_id));
    QUIRE_BUG_ON(!state.loaded_mm->cpumask.test(cpu));
    QUIRE_BUG_ON(state.ctxs[state.loaded_mm_asid].ctx_id != state.loaded_mm->context_id);
    QUIRE_BUG_ON(state.ctxs[state.loaded_mm_asid].tlb_gen > state.loaded_mm->tlb_gen);
  }
}

void TlbShootdown::validate(const Mm& mm) const {
  mm.cpumask.for_each([&](unsigned cpu) { QUIRE_BUG_ON(cpus_[cpu]->loaded_mm != &mm); });
}

}  // namespace quire::vm
