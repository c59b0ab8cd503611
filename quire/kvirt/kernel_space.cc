#include "quire/kvirt/kernel_space.h"

#include <algorithm>

#include "quire/base/command_words.h"

namespace quire::kvirt {

namespace {

// The end of the memory that the direct map covers: all of it, or on i386 up to HighMem.
PhysAddr low_memory(phys::PhysMem& phys) {
  Pfn end{};
  phys.for_each_populated_zone([&](const phys::Zone& zone) {
    const bool high = zone.type() == phys::ZoneType::kHighMem ||
                      (zone.type() == phys::ZoneType::kMovable && phys.has_zone(phys::ZoneType::kHighMem));
    if (!high) end = std::max(end, zone.end_pfn());
  });
  return pfn_to_phys(end);
}

KernelLayout layout_of(phys::PhysMem& phys, const arch::Geometry& geometry) {
  if (phys.arch() == phys::Arch::kX86_64) return KernelLayout::x86_64(geometry, low_memory(phys));
  return KernelLayout::i386(phys.arch(), low_memory(phys), phys.scheduler().cpus());
}

}  // namespace

KernelSpace::KernelSpace(phys::PhysMem& phys, slab::SlabSystem& slab, const KernelLayout& layout, HugeVmalloc huge)
    : phys_(phys),
      log_(phys),
      tlb_(phys.scheduler()),
      init_mm_(phys, layout, tlb_),
      vmalloc_(phys, slab, init_mm_, tlb_, log_, huge),
      kvmalloc_(slab, vmalloc_, log_),
      ioremap_(phys, slab, init_mm_, vmalloc_, log_),
      kmap_(phys, init_mm_, tlb_, log_) {}

Result<std::unique_ptr<KernelSpace>> KernelSpace::create(phys::PhysMem& phys, slab::SlabSystem& slab,
                                                         const arch::Geometry& geometry) {
  const bool no_huge = std::ranges::count(command_words(phys.config().cmdline), "nohugevmalloc", &CommandWord::name) != 0;
  const HugeVmalloc huge = no_huge ? HugeVmalloc::kOff : HugeVmalloc::kOn;
  std::unique_ptr<KernelSpace> space(new KernelSpace(phys, slab, layout_of(phys, geometry), huge));
  if (Status s = space->init_mm_.setup(); !s) return fail(s.error());
  if (Status s = space->vmalloc_.setup(); !s) return fail(s.error());
  return space;
}

void KernelSpace::validate() const {
  init_mm_.validate();
  vmalloc_.validate();
  ioremap_.validate();
  kmap_.validate();
}

}  // namespace quire::kvirt
