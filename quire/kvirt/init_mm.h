// The kernel's page tables (init_mm): one root, tables in real frames, made on demand and kept.
//
//   pgd ──► … ──► pmd ──► pte ──► frame       4 KiB
//            │     └ leaf                     2 MiB (4 MiB on i386 without PAE)
//            └ leaf                           1 GiB (x86-64)
//
// The root and the tables right below it that serve the vmalloc area stand from boot on (preallocate_vmalloc_pages), so a
// process's root copies the kernel's half once and shares all that comes later. They lie in the last frames of the kernel's
// image, where there is one (swapper_pg_dir and the brk area); all others come from the buddy as GFP_PGTABLE_KERNEL, and
// those of PMDs count as nr_page_table_pages, as in Linux 6.1.
//
// Who maps keeps a range to himself (an area of the vmalloc tree, a slot of kmap); a leaf is never laid over another.
// Locking: init_mm.page_table_lock (class "init_mm.page_table_lock") while a table is hooked in.
//
// Differs from Linux: tables of the direct map, the image and the vmemmap are not laid out (they are one addition here); a
// PTE table goes away only where a huge leaf takes its place, as there.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quire/arch/page_tables.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/kvirt/kernel_layout.h"
#include "quire/kvirt/kernel_tlb.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::kvirt {

class InitMm {
 public:
  InitMm(phys::PhysMem& phys, const KernelLayout& layout, KernelTlb& tlb);
  ~InitMm();
  InitMm(const InitMm&) = delete;
  InitMm& operator=(const InitMm&) = delete;

  // The root and what is preallocated. kNoMem: there is no memory for them. Once, at boot.
  [[nodiscard]] Status setup();
  // A root's kernel half, copied from ours (clone_pgd_range). `pgd` is a root of the same geometry.
  void copy_kernel_half(PhysAddr pgd) const;

  // Lays a leaf of `level` (1, 2 or 3) over [va, va + its size). kNoMem: no memory for a table. kExist: something is mapped
  // there; a table that holds nothing, or only tables that hold nothing, makes way. va and pa are aligned to the leaf. Tables
  // are allocated with `gfp`; may sleep as that may.
  [[nodiscard]] Status map(VirtAddr va, PhysAddr pa, arch::Pgprot prot, unsigned level = arch::kPteLevel,
                           phys::Gfp gfp = phys::Gfp::kKernel);
  // The same with the tables made beforehand (populate), for those who may not sleep; an old entry is replaced.
  void set_pte(VirtAddr va, PhysAddr pa, arch::Pgprot prot);
  void clear_pte(VirtAddr va);
  // All tables down to level 1 for the range.
  [[nodiscard]] Status populate(Range<VirtAddr> range);
  // Clears every leaf of the range and returns how many 4 KiB pages were mapped; a leaf that lies in it partly is a BUG.
  // Translations are the caller's to flush. (vunmap_range_noflush)
  std::uint64_t unmap(Range<VirtAddr> range);

  struct Translation {
    PhysAddr pa{};
    arch::PteBits bits = arch::PteBits::kNone;  // of the leaf
    unsigned level = 0;
  };
  [[nodiscard]] std::optional<Translation> translate(VirtAddr va) const;
  // Calls f(va, Translation) for each leaf of the range.
  template <class F>
  void for_each_leaf(Range<VirtAddr> range, F&& f) const {
    for (VirtAddr at = range.begin; at < range.end;) {
      const auto found = translate(at);
      if (found) f(at, *found);
      at = next_leaf(at, range.end);
    }
  }

  [[nodiscard]] PhysAddr pgd() const { return pgd_; }
  [[nodiscard]] const arch::PageTables& tables() const { return tables_; }
  [[nodiscard]] const KernelLayout& layout() const { return layout_; }
  // Tables from the buddy, and those in the image.
  [[nodiscard]] std::uint64_t buddy_tables() const { return buddy_tables_; }
  [[nodiscard]] std::uint64_t boot_tables() const { return boot_tables_; }
  [[nodiscard]] std::uint64_t mapped_pages() const { return mapped_pages_; }

  // Walks the kernel's half: tables are tables, counts agree.
  void validate() const;

 private:
  struct Found {
    PhysAddr table{};
    unsigned index = 0;
    unsigned level = 0;
    std::uint64_t entry = 0;
  };
  // The entry on `level` or the first one above that ends the way.
  [[nodiscard]] Found find(VirtAddr va, unsigned level) const;
  // The table of `level` that serves va, made with all above it.
  [[nodiscard]] Result<PhysAddr> table_for(VirtAddr va, unsigned level, phys::Gfp gfp);
  [[nodiscard]] Result<PhysAddr> table_alloc(unsigned level, phys::Gfp gfp);
  void table_free(PhysAddr table, unsigned level);
  [[nodiscard]] std::optional<PhysAddr> take_boot_frame();
  bool free_empty_table(const Found& at, VirtAddr va);
  [[nodiscard]] bool empty(PhysAddr table, unsigned level) const;
  [[nodiscard]] bool is_leaf(std::uint64_t entry, unsigned level) const;
  [[nodiscard]] std::uint64_t pages_of(unsigned level) const { return layout_.geometry.entry_span(level) >> kPageShift; }
  [[nodiscard]] VirtAddr next_leaf(VirtAddr va, VirtAddr end) const;
  void free_below(PhysAddr table, unsigned level);
  struct Census {
    std::uint64_t tables = 0;
    std::uint64_t pages = 0;
  };
  void count(PhysAddr table, unsigned level, Census& census) const;
  [[nodiscard]] unsigned first_kernel_entry() const;

  phys::PhysMem& phys_;
  KernelLayout layout_;
  KernelTlb& tlb_;
  arch::PageTables tables_;
  sim::SpinLock page_table_lock_;
  PhysAddr pgd_{};
  Range<Pfn> boot_frames_{};  // still to be taken, from the end
  Range<Pfn> image_frames_{};
  std::uint64_t buddy_tables_ = 0;
  std::uint64_t boot_tables_ = 0;
  std::uint64_t mapped_pages_ = 0;
  enum class Phase : std::uint8_t { kBooting, kRunning };
  Phase phase_ = Phase::kBooting;
};

}  // namespace quire::kvirt
