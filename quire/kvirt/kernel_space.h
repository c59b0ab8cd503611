// The kernel's address space of one machine: its layout, its page tables (init_mm), and what hands out addresses in it.
//
//   KernelSpace ── layout()    where what lies
//               ├─ init_mm()   the page tables
//               ├─ vmalloc()   vmalloc, vmap, vmallocinfo
//               ├─ kv()        kvmalloc
//               ├─ io()        ioremap and the devices behind it
//               └─ kmap()      kmap, kmap_local, the fixmap
//
// One is made at boot, right after slab, and stands as long as the machine. Locking: each part's own.
#pragma once

#include <memory>
#include <string>

#include "quire/base/result.h"
#include "quire/kvirt/init_mm.h"
#include "quire/kvirt/ioremap.h"
#include "quire/kvirt/kernel_layout.h"
#include "quire/kvirt/kernel_log.h"
#include "quire/kvirt/kernel_tlb.h"
#include "quire/kvirt/kmap.h"
#include "quire/kvirt/kvmalloc.h"
#include "quire/kvirt/vmalloc.h"
#include "quire/phys/phys_mem.h"
#include "quire/slab/slab_system.h"

namespace quire::kvirt {

class KernelSpace {
 public:
  // The machine's architecture comes from `phys`; `geometry` counts on x86-64 (4 or 5 levels). Reads nohugevmalloc from the
  // command line. kNoMem: no memory for the first tables.
  [[nodiscard]] static Result<std::unique_ptr<KernelSpace>> create(
      phys::PhysMem& phys, slab::SlabSystem& slab, const arch::Geometry& geometry = arch::Geometry::x86_64_4level());
  KernelSpace(const KernelSpace&) = delete;
  KernelSpace& operator=(const KernelSpace&) = delete;

  [[nodiscard]] const KernelLayout& layout() const { return init_mm_.layout(); }
  [[nodiscard]] InitMm& init_mm() { return init_mm_; }
  [[nodiscard]] Vmalloc& vmalloc() { return vmalloc_; }
  [[nodiscard]] Kvmalloc& kv() { return kvmalloc_; }
  [[nodiscard]] Ioremap& io() { return ioremap_; }
  [[nodiscard]] Kmap& kmap() { return kmap_; }
  [[nodiscard]] const KernelLog& log() const { return log_; }
  [[nodiscard]] std::uint64_t tlb_flushes() const { return tlb_.flushes(); }
  [[nodiscard]] std::string vmallocinfo() const { return vmalloc_.vmallocinfo(); }

  // The kernel address of what a host pointer shows: of the direct map or of vmalloc's window.
  [[nodiscard]] VirtAddr kva(const void* p) const {
    if (vmalloc_.is_vmalloc_addr(p)) return vmalloc_.kva(p);
    return layout().page_offset + phys_.arena().to_phys(p).value();
  }

  // Page tables, areas and what they hold; for a machine at rest.
  void validate() const;

 private:
  KernelSpace(phys::PhysMem& phys, slab::SlabSystem& slab, const KernelLayout& layout, HugeVmalloc huge);

  phys::PhysMem& phys_;
  KernelLog log_;
  CountingKernelTlb tlb_;
  InitMm init_mm_;
  Vmalloc vmalloc_;
  Kvmalloc kvmalloc_;
  Ioremap ioremap_;
  Kmap kmap_;
};

}  // namespace quire::kvirt
