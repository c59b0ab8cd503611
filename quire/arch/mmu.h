// The MMU of one simulated CPU: TLB in front, walker behind. translate() is what an instruction's memory access does.
//
//   TLB hit with the rights needed ............ done
//   miss, or rights or D missing in the entry .. walk, set A/D, refill
//   the walk faults ............................ entry of that page dropped (as x86 does), #PF or #GP for the caller
#pragma once

#include "quire/arch/page_tables.h"
#include "quire/arch/tlb.h"

namespace quire::arch {

class Mmu {
 public:
  Mmu(const PageTables& tables, const TlbConfig& config = {}) : tables_(&tables), tlb_(config) {}

  // The TLB entry that serves the access, or nullptr when none does at present: then call refill().
  [[nodiscard]] TlbEntry* lookup(Asid asid, VirtAddr va, Access access, Privilege privilege) {
    TlbEntry* entry = tlb_.lookup(asid, va);
    return entry != nullptr && entry->permits(access, privilege) ? entry : nullptr;
  }

  // Walks the tables under root and remembers the translation.
  WalkResult refill(Asid asid, PhysAddr root, VirtAddr va, Access access, Privilege privilege);

  // Both together: physical address of va, or the fault.
  WalkResult translate(Asid asid, PhysAddr root, VirtAddr va, Access access, Privilege privilege) {
    if (TlbEntry* entry = lookup(asid, va, access, privilege)) [[likely]] {
      WalkResult hit;
      hit.outcome = WalkOutcome::kTranslated;
      hit.level = static_cast<std::uint8_t>(entry->level);
      hit.rights = entry->rights;
      hit.pa = entry->translate(va);
      return hit;
    }
    return refill(asid, root, va, access, privilege);
  }

  [[nodiscard]] Tlb& tlb() { return tlb_; }
  [[nodiscard]] const Tlb& tlb() const { return tlb_; }
  [[nodiscard]] const PageTables& tables() const { return *tables_; }

 private:
  const PageTables* tables_;
  Tlb tlb_;
};

}  // namespace quire::arch
