// The MMU of one simulated CPU: TLB in front, walker behind. translate() is what an instruction's memory access does.
//
//   TLB hit with the rights needed ............ done
//   miss, or rights or D missing in the entry .. walk, set A/D, refill
//   the walk faults ............................ entry of that page dropped (as x86 does), #PF or #GP for the caller
//
// What CR3 says is load()ed: a PCID and a root, under a name that the software above gives the address space. lookup_in() and
// refill() are for the loaded one; with unload() every lookup_in() fails until somebody has looked at what happened meanwhile.
// (lookup and translate with an id and a root of one's own are for who keeps no such state.)
#pragma once

#include "quire/arch/page_tables.h"
#include "quire/arch/tlb.h"

namespace quire::arch {

class Mmu {
 public:
  Mmu(const PageTables& tables, const TlbConfig& config = {}) : tables_(&tables), tlb_(config) {}

  // --- CR3 -------------------------------------------------------------------------------------------------------------
  // `context` is never 0.
  void load(std::uint64_t context, Asid pcid, PhysAddr root) {
    context_ = context;
    pcid_ = pcid;
    root_ = root;
  }
  void unload() { context_ = 0; }
  [[nodiscard]] bool loaded(std::uint64_t context) const { return context_ == context; }
  // The TLB entry that serves the access in that address space; nullptr when none does at present or it is not loaded.
  [[nodiscard]] TlbEntry* lookup_in(std::uint64_t context, VirtAddr va, Access access, Privilege privilege) {
    if (context_ != context) [[unlikely]]
      return nullptr;
    return lookup(pcid_, va, access, privilege);
  }
  // Walks the loaded tables and remembers the translation.
  WalkResult refill(VirtAddr va, Access access, Privilege privilege) { return refill(pcid_, root_, va, access, privilege); }

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
      hit.level = entry->level;
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
  std::uint64_t context_ = 0;
  Asid pcid_ = 0;
  PhysAddr root_{};
  Tlb tlb_;
};

}  // namespace quire::arch
