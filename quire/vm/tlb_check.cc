#include "quire/vm/tlb_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

std::string_view occasion(StaleTranslation::When when) {
  switch (when) {
    case StaleTranslation::When::kAtRest: return "can be used";
    case StaleTranslation::When::kUsed: return "was used";
    case StaleTranslation::When::kGathered: return "is left by a gather";
    case StaleTranslation::When::kFreed: return "reaches a frame that is being freed";
  }
  return "?";
}

}  // namespace

std::string StaleTranslation::text() const {
  return fmt::format("stale TLB entry {}: CPU {} has {:#x} of address space {} at frame {:#x}, which is {}", occasion(when),
                     cpu, address.value(), context, frame.value() >> kPageShift, arch::staleness_name(what));
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

// An id can be used when the CPU runs under it, or would find it up to date.
TlbChecker::Ids TlbChecker::ids_of(unsigned cpu) {
  const CpuTlbState& state = vm_.shootdown().cpu_state(cpu);
  Ids ids;
  for (unsigned asid = 0; asid < kTlbNrDynAsids; ++asid) {
    const TlbContext& ctx = state.ctxs[asid];
    if (ctx.ctx_id == 0) continue;
    const Mm* mm = ids.mms[asid] = mm_of(ctx.ctx_id);
    const bool runs = state.loaded_mm_asid == asid && state.mmu.loaded(ctx.ctx_id);
    ids.usable[asid] = runs || (mm != nullptr && ctx.tlb_gen == mm->tlb_gen);
  }
  return ids;
}

// Is somebody still to flush what this id of the CPU has against the tables?
bool TlbChecker::flush_to_come(unsigned cpu, unsigned asid, const Mm& mm, arch::Staleness what, Gathers gathers) {
  if (gathers == Gathers::kMayBeUnderWay && mm.tlb_flush_pending != 0) return true;
  if (mm.fork_flush_pending != 0 && what == arch::Staleness::kRights) return true;
  const TlbShootdown& shootdown = vm_.shootdown();
  return shootdown.cpu_state(cpu).ctxs[asid].tlb_gen != mm.tlb_gen && shootdown.pending(cpu, mm);
}

// An entry of the CPU against the tables of the Mm that its id stands for.
std::optional<StaleTranslation> TlbChecker::judge(unsigned cpu, const Ids& ids, const arch::TlbEntry& entry, Gathers gathers) {
  const unsigned asid = entry.asid() - 1;
  if (!ids.can_use(asid)) return std::nullopt;
  const CpuTlbState& state = vm_.shootdown().cpu_state(cpu);
  const Mm* mm = ids.mms[asid];
  StaleTranslation found{.cpu = cpu,
                         .context = state.ctxs[asid].ctx_id,
                         .address = VirtAddr(entry.vpn << kPageShift),
                         .frame = entry.frame,
                         .what = arch::Staleness::kUnmapped};
  if (mm == nullptr) return found;
  const arch::WalkResult now = vm_.pgtable().tables().probe(mm->pgd, found.address);
  found.what = state.mmu.tlb().staleness(entry.asid(), found.address, now);
  if (found.what == arch::Staleness::kFresh || flush_to_come(cpu, asid, *mm, found.what, gathers)) return std::nullopt;
  return found;
}

std::optional<StaleTranslation> TlbChecker::find() {
  std::optional<StaleTranslation> found;
  for (unsigned cpu = 0; cpu < vm_.parts().scheduler.cpus() && !found; ++cpu) {
    const Ids ids = ids_of(cpu);
    vm_.shootdown().cpu_state(cpu).mmu.tlb().for_each([&](const arch::TlbEntry& entry) {
      if (!found) found = judge(cpu, ids, entry, Gathers::kMayBeUnderWay);
    });
  }
  return found;
}

std::optional<StaleTranslation> TlbChecker::find_after_gather(const Mm& mm) {
  std::optional<StaleTranslation> found;
  for (unsigned cpu = 0; cpu < vm_.parts().scheduler.cpus() && !found; ++cpu) {
    const Ids ids = ids_of(cpu);
    const auto asid = static_cast<unsigned>(std::ranges::find(ids.mms, &mm) - ids.mms.begin());
    if (asid == kTlbNrDynAsids || !ids.usable[asid]) continue;
    vm_.shootdown().cpu_state(cpu).mmu.tlb().for_each([&](const arch::TlbEntry& entry) {
      if (found || entry.asid() != CpuTlbState::kern_pcid(asid)) return;
      found = judge(cpu, ids, entry, Gathers::kDone);
      if (found) found->when = StaleTranslation::When::kGathered;
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
    std::optional<Ids> ids;  // mostly no entry reaches the frame after all
    state.mmu.tlb().for_each([&](const arch::TlbEntry& entry) {
      const std::uint64_t bytes = entry.pages() << kPageShift;
      if (found || entry.frame >= frames.end || entry.frame + bytes <= frames.begin) return;
      if (!ids) ids = ids_of(cpu);
      const unsigned asid = entry.asid() - 1;
      if (!ids->can_use(asid)) return;
      found = StaleTranslation{.when = StaleTranslation::When::kFreed,
                               .cpu = cpu,
                               .context = state.ctxs[asid].ctx_id,
                               .address = VirtAddr(entry.vpn << kPageShift),
                               .frame = entry.frame,
                               .what = arch::Staleness::kUnmapped};
    });
  }
  return found;
}

std::optional<StaleTranslation> TlbChecker::find_used(const Mm& mm, VirtAddr address) {
  const unsigned cpu = vm_.parts().scheduler.cpu();
  const CpuTlbState& state = vm_.shootdown().cpu_state(cpu);
  const unsigned asid = state.loaded_mm_asid;
  const arch::WalkResult now = vm_.pgtable().tables().probe(mm.pgd, address);
  const arch::Staleness what = state.mmu.tlb().staleness(CpuTlbState::kern_pcid(asid), address, now);
  if (what == arch::Staleness::kFresh || flush_to_come(cpu, asid, mm, what, Gathers::kMayBeUnderWay)) return std::nullopt;
  return StaleTranslation{.when = StaleTranslation::When::kUsed,
                          .cpu = cpu,
                          .context = mm.context_id,
                          .address = address,
                          .frame = now.pa,
                          .what = what};
}

}  // namespace quire::vm
