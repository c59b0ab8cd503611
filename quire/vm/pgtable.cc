#include "quire/vm/pgtable.h"

#include <algorithm>

#include "quire/vm/mmu_gather.h"

namespace quire::vm {

namespace {

using Entry = arch::TableEntry<struct AnyLevel>;

}  // namespace

PageTableSource::PageTableSource(phys::PhysMem& phys, const arch::Geometry& geometry)
    : phys_(phys), geometry_(geometry), tables_(phys.arena().base(), geometry) {}

namespace {

// Which tables Linux accounts for: those of entries and of their tables have a constructor that does
// (pgtable_pte_page_ctor, pgtable_pmd_page_ctor); an Mm counts one level more (mm_inc_nr_puds).
constexpr unsigned kHighestInNodeStats = arch::kPmdLevel;
constexpr unsigned kHighestInMm = arch::kPudLevel;

}  // namespace

VirtAddr PageTableSource::end_of_hole(const Mm& mm, VirtAddr at, VirtAddr end) {
  unsigned level = geometry_.levels;
  for (; level > arch::kPmdLevel; --level) {
    const std::uint64_t* entry = tables_.lookup_entry(mm.pgd, at, level);
    if (entry == nullptr || *entry == 0) break;
  }
  return geometry_.addr_end(at, end, level);
}

phys::Page* PageTableSource::table_alloc(Mm& mm, unsigned level) {
  phys::Page* page = phys_.alloc_page(phys::Gfp::kKernelAccount | phys::Gfp::kZero);
  if (page == nullptr) return nullptr;
  page->set(phys::PageFlag::kTable);
  if (level <= kHighestInNodeStats) phys_.page_node(*page).stats.add(phys::NodeStat::kNrPageTablePages);
  if (level <= kHighestInMm) ++mm.pgtables_pages;
  return page;
}

// A table that is one no more (the page's destructor).
phys::Page& PageTableSource::table_unaccount(Mm& mm, PhysAddr table, unsigned level) {
  phys::Page& page = phys_.phys_to_page(table);
  QUIRE_BUG_ON(!page.test_and_clear(phys::PageFlag::kTable));
  if (level <= kHighestInNodeStats) phys_.page_node(page).stats.sub(phys::NodeStat::kNrPageTablePages);
  if (level <= kHighestInMm) --mm.pgtables_pages;
  return page;
}

Status PageTableSource::pgd_alloc(Mm& mm) {
  phys::Page* page = table_alloc(mm, geometry_.levels);
  if (page == nullptr) return fail(Errno::kNoMem);
  mm.pgd = phys_.page_to_phys(*page);
  if (init_mm_ != nullptr) init_mm_->copy_kernel_half(mm.pgd);
  return {};
}

void PageTableSource::pgd_free(Mm& mm) { table_free(mm, mm.pgd, geometry_.levels); }

arch::Pte* PageTableSource::pte_alloc(Mm& mm, VirtAddr address) {
  PhysAddr table = mm.pgd;
  for (unsigned level = geometry_.levels; level > arch::kPteLevel; --level) {
    Entry* entry = tables_.table<Entry>(table) + geometry_.index(address, level);
    if (entry->none()) {
      phys::Page* fresh = table_alloc(mm, level - 1);
      if (fresh == nullptr) return nullptr;
      sim::SpinGuard guard(mm.page_table_lock);
      if (entry->none()) {
        arch::entry_populate(entry, phys_.page_to_phys(*fresh));
      } else {
        table_free(mm, phys_.page_to_phys(*fresh), level - 1);  // another task was quicker
      }
    }
    table = entry->phys();
  }
  return tables_.table<arch::Pte>(table) + geometry_.index(address, arch::kPteLevel);
}

void PageTableSource::free_pgtables(Mm& mm, Range<VirtAddr> range, Range<VirtAddr> free, MmuGather& tlb) {
  free_below(mm.pgd, geometry_.levels, VirtAddr(0), range, free, tlb);
}

// Frees the tables under entries whose whole span lies in `free`, and goes down where it lies there in part.
void PageTableSource::free_below(PhysAddr table, unsigned level, VirtAddr base, Range<VirtAddr> range, Range<VirtAddr> free,
                                 MmuGather& tlb) {
  const std::uint64_t span = geometry_.entry_span(level);
  const std::uint64_t skip = range.begin > base ? (range.begin - base) / span : 0;
  for (std::uint64_t i = skip; i < geometry_.entries(level); ++i) {
    const VirtAddr start = base + i * span;
    if (start >= range.end) return;
    Entry* entry = tables_.table<Entry>(table) + i;
    if (entry->none()) continue;
    const PhysAddr below = entry->phys();
    if (level - 1 > arch::kPteLevel) free_below(below, level - 1, start, range, free, tlb);
    if (start < free.begin || start + span > free.end) continue;
    arch::entry_clear(entry);
    tlb.free_table(std::max(start, range.begin), table_unaccount(tlb.mm(), below, level - 1));
  }
}

}  // namespace quire::vm
