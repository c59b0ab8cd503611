// Page-table pages of user address spaces: made on demand, freed with the last area around them.
//
// Tables are frames of the machine (PG_table). Those of the lowest two levels are counted as nr_page_table_pages, those of
// the lowest three in Mm::pgtables_pages; the root, Mm::pgd, in neither. Guarded by mmap_lock (a table is freed only with it held for writing) and
// page_table_lock (a table is hooked in under it).
#pragma once

#include "quire/arch/page_tables.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/kvirt/init_mm.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"
#include "quire/vm/mm.h"

namespace quire::vm {

class MmuGather;

class PageTableSource {
 public:
  PageTableSource(phys::PhysMem& phys, const arch::Geometry& geometry);

  // Whose kernel half every root made from now on gets. None: the kernel's half stays empty.
  void set_init_mm(const kvirt::InitMm* init_mm) { init_mm_ = init_mm; }
  [[nodiscard]] const kvirt::InitMm* init_mm() const { return init_mm_; }

  [[nodiscard]] Status pgd_alloc(Mm& mm);
  void pgd_free(Mm& mm);

  // The pte of `address`, with all tables above it made; null when there is no memory.
  [[nodiscard]] arch::Pte* pte_alloc(Mm& mm, VirtAddr address);
  // The pte of `address`, or null where there is no table.
  [[nodiscard]] arch::Pte* pte_offset(const Mm& mm, VirtAddr address) { return tables_.lookup(mm.pgd, address); }

  // Where no table serves `at`: the end of the hole around it (of the largest entry that is empty), or `end` before that.
  [[nodiscard]] VirtAddr end_of_hole(const Mm& mm, VirtAddr at, VirtAddr end);

  // Calls f(address, pte) for each entry slot of the range for which there is a table; f returns the same Walk as rmap.
  template <class F>
  void for_each_pte(const Mm& mm, Range<VirtAddr> range, F&& f) {
    constexpr std::uint64_t kTableSpan = kPageSize * 512;
    for (VirtAddr at = range.begin; at < range.end;) {
      const VirtAddr end_of_table = align_down(at, kTableSpan) + kTableSpan;
      arch::Pte* pte = pte_offset(mm, at);
      if (pte == nullptr) {
        at = end_of_hole(mm, at, range.end);
        continue;
      }
      const VirtAddr stop = end_of_table < range.end ? end_of_table : range.end;
      for (; at < stop; at += kPageSize, ++pte) f(at, *pte);
    }
  }

  // Frees the tables of `range` that serve addresses of [floor, ceiling) only, where no area is and every entry is clear
  // (free_pgtables). They go with what `tlb` has gathered. mmap_lock held for writing.
  void free_pgtables(Mm& mm, Range<VirtAddr> range, Range<VirtAddr> free, MmuGather& tlb);

  [[nodiscard]] arch::PageTables& tables() { return tables_; }
  [[nodiscard]] const arch::Geometry& geometry() const { return geometry_; }

 private:
  [[nodiscard]] phys::Page* table_alloc(Mm& mm, unsigned level);
  phys::Page& table_unaccount(Mm& mm, PhysAddr table, unsigned level);
  void table_free(Mm& mm, PhysAddr table, unsigned level) { phys_.free_page(table_unaccount(mm, table, level)); }
  void free_below(PhysAddr table, unsigned level, VirtAddr base, Range<VirtAddr> range, Range<VirtAddr> free, MmuGather& tlb);

  phys::PhysMem& phys_;
  arch::Geometry geometry_;
  arch::PageTables tables_;
  const kvirt::InitMm* init_mm_ = nullptr;
};

}  // namespace quire::vm
