#include "quire/arch/mmu.h"

namespace quire::arch {

WalkResult Mmu::refill(Asid asid, PhysAddr root, VirtAddr va, Access access, Privilege privilege) {
  const WalkResult walk = tables_->walk(root, va, access, privilege);
  if (walk) {
    tlb_.insert(asid, va, walk);
  } else {
    tlb_.forget(asid, va);
  }
  return walk;
}

}  // namespace quire::arch
