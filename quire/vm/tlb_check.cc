#include "quire/vm/tlb_check.h"

#include <fmt/format.h>

#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

std::string_view what_is_wrong(arch::Staleness s) {
  switch (s) {
    case arch::Staleness::kFresh: return "nothing";
    case arch::Staleness::kUnmapped: return "no longer mapped";
    case arch::Staleness::kOtherFrame: return "mapped to another frame";
    case arch::Staleness::kRights: return "with fewer rights";
    case arch::Staleness::kDirty: return "with a clean entry";
  }
  return "?";
}

std::string_view occasion(StaleTranslation::When when) {
  switch (when) {
    case StaleTranslation::When::kAtRest: return "can be used";
    case StaleTranslation::When::kUsed: return "was used";
    case StaleTranslation::When::kFreed: return "reaches a frame that is being freed";
  }
  return "?";
}

// Could the CPU use translations of this id? It runs under it, or would find it up to date.
bool usable(const CpuTlbState& state, unsigned asid, const Mm* mm) {
  const TlbContext& ctx = state.ctxs[asid];
  if (state.loaded_mm_asid == asid && ctx.ctx_id != 0 && state.mmu.loaded(ctx.ctx_id)) return true;
  return mm != nullptr && ctx.tlb_gen == mm->tlb_gen;
}

}  // namespace

std::string StaleTranslation::text() const {
  return fmt::format("stale TLB entry {}: CPU {} has {:#x} of address space {} at frame {:#x}, which is {}", occasion(when),
                     cpu, address.value(), context, frame.value() >> kPageShift, what_is_wrong(what));
}

void TlbChecker::report(const std::optional<StaleTranslation>& found) const {
  if (!found) return;
  if (!listener_) bug(found->text());
  listener_(*found);
}

Mm* TlbChecker::mm_of(std::uint64_t context) {
  for (Mm& mm : vm_.mms()) {
    if (mm.context_id == context) return &mm;
  }
  return nullptr;
}

// An entry of the CPU against the tables of the Mm that its id stands for.
std::optional<StaleTranslation> TlbChecker::judge(unsigned cpu, const arch::TlbEntry& entry) {
  const CpuTlbState& state = vm_.shootdown().cpu_state(cpu);
  const unsigned asid = entry.asid() - 1;
  QUIRE_BUG_ON(asid >= kTlbNrDynAsids);
  const TlbContext& ctx = state.ctxs[asid];
  const Mm* mm = mm_of(ctx.ctx_id);
  if (!usable(state, asid, mm)) return std::nullopt;
  const VirtAddr address(entry.vpn << kPageShift);
  StaleTranslation found{.cpu = cpu, .context = ctx.ctx_id, .address = address, .frame = entry.frame};
  if (mm == nullptr) {
    found.what = arch::Staleness::kUnmapped;
    return found;
  }
  if (mm->tlb_flush_pending + mm->fork_flush_pending != 0) return std::nullopt;
  if (ctx.tlb_gen != mm->tlb_gen && vm_.shootdown().pending(cpu)) return std::nullopt;
  found.what = state.mmu.tlb().staleness(entry.asid(), address, vm_.pgtable().tables().probe(mm->pgd, address));
  if (found.what == arch::Staleness::kFresh) return std::nullopt;
  return found;
}

std::optional<StaleTranslation> TlbChecker::find() {
  std::optional<StaleTranslation> found;
  for (unsigned cpu = 0; cpu < vm_.parts().scheduler.cpus() && !found; ++cpu) {
    vm_.shootdown().cpu_state(cpu).mmu.tlb().for_each([&](const arch::TlbEntry& entry) {
      if (!found) found = judge(cpu, entry);
    });
  }
  return found;
}

std::optional<StaleTranslation> TlbChecker::find_reaching(Pfn first, std::uint64_t pages) {
  std::optional<StaleTranslation> found;
  const Range<PhysAddr> frames{pfn_to_phys(first), pfn_to_phys(first + pages)};
  for (unsigned cpu = 0; cpu < vm_.parts().scheduler.cpus() && !found; ++cpu) {
    const CpuTlbState& state = vm_.shootdown().cpu_state(cpu);
    bool may = false;
    for (PhysAddr at = frames.begin; at < frames.end && !may; at += kPageSize) may = state.mmu.tlb().may_reach(at);
    if (!may) continue;
    state.mmu.tlb().for_each([&](const arch::TlbEntry& entry) {
      const std::uint64_t bytes = entry.pages() << kPageShift;
      if (found || entry.frame >= frames.end || entry.frame + bytes <= frames.begin) return;
      const unsigned asid = entry.asid() - 1;
      const std::uint64_t context = state.ctxs[asid].ctx_id;
      if (!usable(state, asid, mm_of(context))) return;
      found = StaleTranslation{.when = StaleTranslation::When::kFreed,
                               .cpu = cpu,
                               .context = context,
                               .address = VirtAddr(entry.vpn << kPageShift),
                               .frame = entry.frame,
                               .what = arch::Staleness::kUnmapped};
    });
  }
  return found;
}

std::optional<StaleTranslation> TlbChecker::find_used(Mm& mm, VirtAddr address) {
  const unsigned cpu = vm_.parts().scheduler.cpu();
  const CpuTlbState& state = vm_.shootdown().cpu_state(cpu);
  if (mm.tlb_flush_pending + mm.fork_flush_pending != 0) return std::nullopt;
  if (state.ctxs[state.loaded_mm_asid].tlb_gen != mm.tlb_gen && vm_.shootdown().pending(cpu)) return std::nullopt;
  const arch::WalkResult now = vm_.pgtable().tables().probe(mm.pgd, address);
  const arch::Staleness what = state.mmu.tlb().staleness(CpuTlbState::kern_pcid(state.loaded_mm_asid), address, now);
  if (what == arch::Staleness::kFresh) return std::nullopt;
  return StaleTranslation{.when = StaleTranslation::When::kUsed,
                          .cpu = cpu,
                          .context = mm.context_id,
                          .address = address,
                          .frame = now.pa,
                          .what = what};
}

}  // namespace quire::vm
