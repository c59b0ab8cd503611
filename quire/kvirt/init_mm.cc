#include "quire/kvirt/init_mm.h"

#include <cstring>

namespace quire::kvirt {

using arch::PteBits;

namespace {

constexpr std::uint64_t word(PteBits bits) { return static_cast<std::uint64_t>(bits); }
// Of a PDPTE of PAE, which gives no rights.
constexpr std::uint64_t kPdpteBits = word(PteBits::kPresent);
// The image must be larger than its tables by far, or it is none that could hold them.
constexpr std::uint64_t kLeastImagePages = 1024;
constexpr std::uint64_t kBootFrames = 160;

Range<Pfn> find_image(phys::PhysMem& phys) {
  for (const phys::Resource& top : phys.iomem().top()) {
    for (const phys::Resource& r : top.children) {
      if (r.name == "Kernel code") return {phys_to_pfn(r.range.begin), phys_to_pfn(r.range.end)};
    }
  }
  return {};
}

}  // namespace

InitMm::InitMm(phys::PhysMem& phys, const KernelLayout& layout, KernelTlb& tlb)
    : phys_(phys),
      layout_(layout),
      tlb_(tlb),
      tables_(phys.arena().base(), layout.geometry),
      page_table_lock_(phys.scheduler(), phys.scheduler().locks().lock_class("init_mm.page_table_lock")) {
  const Range<Pfn> image = find_image(phys);
  if (image.size() < kLeastImagePages) return;
  image_frames_ = {image.end - kBootFrames, image.end};
  boot_frames_ = image_frames_;
}

InitMm::~InitMm() {
  if (pgd_ == PhysAddr(0)) return;
  for (unsigned i = first_kernel_entry(); i < layout_.geometry.entries(layout_.geometry.levels); ++i) {
    const std::uint64_t entry = tables_.read_entry(pgd_, i);
    if (entry == 0 || is_leaf(entry, layout_.geometry.levels)) continue;
    free_below(PhysAddr(entry & arch::kPteFrameMask), layout_.geometry.levels - 1);
  }
  table_free(pgd_, layout_.geometry.levels);
}

void InitMm::free_below(PhysAddr table, unsigned level) {
  if (level > arch::kPteLevel) {
    for (unsigned i = 0; i < layout_.geometry.entries(level); ++i) {
      const std::uint64_t entry = tables_.read_entry(table, i);
      if (entry != 0 && !is_leaf(entry, level)) free_below(PhysAddr(entry & arch::kPteFrameMask), level - 1);
    }
  }
  table_free(table, level);
}

Status InitMm::setup() {
  const arch::Geometry& g = layout_.geometry;
  auto root = table_alloc(g.levels, phys::Gfp::kKernel);
  if (!root) return fail(root.error());
  pgd_ = *root;
  if (!layout_.is_64bit()) {
    // page_table_range_init: kmap and fixmap may not sleep for a table later.
    if (Status s = populate(layout_.pkmap); !s) return s;
  }
  const VirtAddr preallocated = layout_.is_64bit() ? layout_.vmalloc.end : layout_.vmalloc.begin;
  for (VirtAddr at = layout_.vmalloc.begin; at < preallocated; at = g.addr_end(at, preallocated, g.levels)) {
    if (auto table = table_for(at, g.levels - 1, phys::Gfp::kKernel); !table) return fail(table.error());
  }
  if (Status s = populate(layout_.fixmap); !s) return s;
  phase_ = Phase::kRunning;
  return {};
}

unsigned InitMm::first_kernel_entry() const { return layout_.geometry.index(layout_.kernel_begin(), layout_.geometry.levels); }

void InitMm::copy_kernel_half(PhysAddr pgd) const {
  const arch::Geometry& g = layout_.geometry;
  for (unsigned i = first_kernel_entry(); i < g.entries(g.levels); ++i) {
    tables_.write_entry(pgd, i, tables_.read_entry(pgd_, i));
  }
}

// --- tables -----------------------------------------------------------------------------------------------------------

bool InitMm::is_leaf(std::uint64_t entry, unsigned level) const {
  return level == arch::kPteLevel || (level <= layout_.geometry.max_leaf_level && (entry & word(PteBits::kPse)) != 0);
}

// A frame at the end of the kernel's image; none when the image is too small, or its frames are somebody else's after all.
std::optional<PhysAddr> InitMm::take_boot_frame() {
  while (!boot_frames_.empty()) {
    const Pfn pfn = --boot_frames_.end;
    if (phys_.pfn_valid(pfn) && phys_.page_initialised(pfn) && phys_.pfn_to_page(pfn).test(phys::PageFlag::kReserved)) {
      return pfn_to_phys(pfn);
    }
  }
  return std::nullopt;
}

Result<PhysAddr> InitMm::table_alloc(unsigned level, phys::Gfp gfp) {
  if (phase_ == Phase::kBooting) {
    if (const auto frame = take_boot_frame()) {
      std::memset(phys_.phys_to_virt(*frame), 0, kPageSize);
      ++boot_tables_;
      return *frame;
    }
  }
  phys::Page* page = phys_.alloc_page(gfp);  // lowmem on i386, too
  if (page == nullptr) return fail(Errno::kNoMem);
  std::memset(phys_.page_address(*page), 0, kPageSize);
  phys_.scheduler().charge(phys_.scheduler().costs().clear_page);
  page->set(phys::PageFlag::kTable);
  if (level == arch::kPmdLevel) phys_.page_node(*page).stats.add(phys::NodeStat::kNrPageTablePages);
  ++buddy_tables_;
  return phys_.page_to_phys(*page);
}

void InitMm::table_free(PhysAddr table, unsigned level) {
  if (image_frames_.contains(phys_to_pfn(table))) {
    --boot_tables_;
    return;
  }
  phys::Page& page = phys_.phys_to_page(table);
  QUIRE_BUG_ON(!page.test_and_clear(phys::PageFlag::kTable));
  if (level == arch::kPmdLevel) phys_.page_node(page).stats.sub(phys::NodeStat::kNrPageTablePages);
  --buddy_tables_;
  phys_.free_page(page);
}

InitMm::Found InitMm::find(VirtAddr va, unsigned level) const {
  Found at{.table = pgd_, .index = 0, .level = layout_.geometry.levels, .entry = 0};
  for (;; --at.level) {
    at.index = layout_.geometry.index(va, at.level);
    at.entry = tables_.read_entry(at.table, at.index);
    if (at.level == level || at.entry == 0 || is_leaf(at.entry, at.level)) return at;
    at.table = PhysAddr(at.entry & arch::kPteFrameMask);
  }
}

Result<PhysAddr> InitMm::table_for(VirtAddr va, unsigned level, phys::Gfp gfp) {
  for (;;) {
    const Found at = find(va, level + 1);
    if (at.entry != 0) {
      if (is_leaf(at.entry, at.level)) return fail(Errno::kExist);
      return PhysAddr(at.entry & arch::kPteFrameMask);
    }
    auto table = table_alloc(at.level - 1, gfp);
    if (!table) return fail(table.error());
    sim::SpinGuard guard(page_table_lock_);
    if (tables_.read_entry(at.table, at.index) != 0) {
      table_free(*table, at.level - 1);  // another task was quicker
      continue;
    }
    const std::uint64_t bits = layout_.geometry.has_pdpte(at.level) ? kPdpteBits : word(arch::kTableBits);
    tables_.write_entry(at.table, at.index, table->value() | bits);
  }
}

Status InitMm::populate(Range<VirtAddr> range) {
  for (VirtAddr at = range.begin; at < range.end; at = layout_.geometry.addr_end(at, range.end, arch::kPmdLevel)) {
    if (auto table = table_for(at, arch::kPteLevel, phys::Gfp::kKernel); !table) return fail(table.error());
  }
  return {};
}

// No leaf in the table, nor in any below it.
bool InitMm::empty(PhysAddr table, unsigned level) const {
  for (unsigned i = 0; i < layout_.geometry.entries(level); ++i) {
    const std::uint64_t entry = tables_.read_entry(table, i);
    if (entry == 0) continue;
    if (is_leaf(entry, level) || !empty(PhysAddr(entry & arch::kPteFrameMask), level - 1)) return false;
  }
  return true;
}

// Takes the empty table under this entry away, for a huge leaf (pmd_free_pte_page, pud_free_pmd_page). Walkers remember
// where tables are, so they must forget it before the frames are anybody else's.
bool InitMm::free_empty_table(const Found& at, VirtAddr va) {
  const PhysAddr below(at.entry & arch::kPteFrameMask);
  if (!empty(below, at.level - 1)) return false;
  tables_.write_entry(at.table, at.index, 0);
  tlb_.flush_tlb_kernel_range({va, va + kPageSize});
  free_below(below, at.level - 1);
  return true;
}

// --- mapping ----------------------------------------------------------------------------------------------------------

Status InitMm::map(VirtAddr va, PhysAddr pa, arch::Pgprot prot, unsigned level, phys::Gfp gfp) {
  const std::uint64_t span = layout_.geometry.entry_span(level);
  QUIRE_BUG_ON(level > layout_.geometry.max_leaf_level || va.value() % span != 0 || pa.value() % span != 0);
  auto table = table_for(va, level, gfp);
  if (!table) return fail(table.error());
  const unsigned index = layout_.geometry.index(va, level);
  const std::uint64_t old = tables_.read_entry(*table, index);
  if (old != 0) {
    if (is_leaf(old, level)) return fail(Errno::kExist);
    if (!free_empty_table({.table = *table, .index = index, .level = level, .entry = old}, va)) return fail(Errno::kExist);
    // Other tasks may have run, but the range is ours alone.
    QUIRE_BUG_ON(tables_.read_entry(*table, index) != 0);
  }
  std::uint64_t bits = word(prot.bits);
  if (level > arch::kPteLevel) {
    // The third bit of the memory type stands elsewhere in a huge leaf.
    if ((bits & word(PteBits::kPat)) != 0) bits = (bits & ~word(PteBits::kPat)) | word(PteBits::kPatLarge);
    bits |= word(PteBits::kPse);
  }
  if (layout_.geometry.entry_bytes == 4) bits &= ~word(PteBits::kNx);
  tables_.write_entry(*table, index, pa.value() | bits);
  mapped_pages_ += pages_of(level);
  return {};
}

void InitMm::set_pte(VirtAddr va, PhysAddr pa, arch::Pgprot prot) {
  const Found at = find(va, arch::kPteLevel);
  QUIRE_BUG_ON(at.level != arch::kPteLevel);
  std::uint64_t bits = word(prot.bits);
  if (layout_.geometry.entry_bytes == 4) bits &= ~word(PteBits::kNx);
  if (at.entry == 0) ++mapped_pages_;
  tables_.write_entry(at.table, at.index, pa.value() | bits);
}

void InitMm::clear_pte(VirtAddr va) {
  const Found at = find(va, arch::kPteLevel);
  QUIRE_BUG_ON(at.level != arch::kPteLevel);
  if (at.entry == 0) return;
  tables_.write_entry(at.table, at.index, 0);
  --mapped_pages_;
}

VirtAddr InitMm::next_leaf(VirtAddr va, VirtAddr end) const {
  return layout_.geometry.addr_end(va, end, find(va, arch::kPteLevel).level);
}

std::uint64_t InitMm::unmap(Range<VirtAddr> range) {
  std::uint64_t cleared = 0;
  for (VirtAddr va = range.begin; va < range.end;) {
    const Found at = find(va, arch::kPteLevel);
    if (at.entry != 0) {
      const std::uint64_t span = layout_.geometry.entry_span(at.level);
      QUIRE_BUG_ON(va.value() % span != 0 || range.end - va < span);
      tables_.write_entry(at.table, at.index, 0);
      cleared += pages_of(at.level);
    }
    va = layout_.geometry.addr_end(va, range.end, at.level);
  }
  mapped_pages_ -= cleared;
  return cleared;
}

std::optional<InitMm::Translation> InitMm::translate(VirtAddr va) const {
  if (!layout_.geometry.canonical(va) || va < layout_.kernel_begin()) return std::nullopt;
  const Found at = find(va, arch::kPteLevel);
  if (at.entry == 0) return std::nullopt;
  const std::uint64_t offset = va.value() & (layout_.geometry.entry_span(at.level) - 1);
  const std::uint64_t frame = at.entry & arch::kPteFrameMask & ~(layout_.geometry.entry_span(at.level) - 1);
  auto bits = static_cast<PteBits>(at.entry & ~arch::kPteFrameMask);
  if (at.level > arch::kPteLevel) bits |= static_cast<PteBits>(at.entry) & PteBits::kPatLarge;
  return Translation{.pa = PhysAddr(frame + offset), .bits = bits, .level = at.level};
}

// --- checking ---------------------------------------------------------------------------------------------------------

void InitMm::count(PhysAddr table, unsigned level, Census& census) const {
  ++census.tables;
  const Pfn pfn = phys_to_pfn(table);
  QUIRE_BUG_ON(!image_frames_.contains(pfn) && !phys_.pfn_to_page(pfn).test(phys::PageFlag::kTable));
  const unsigned begin = level == layout_.geometry.levels ? first_kernel_entry() : 0;
  for (unsigned i = begin; i < layout_.geometry.entries(level); ++i) {
    const std::uint64_t entry = tables_.read_entry(table, i);
    if (entry == 0) continue;
    QUIRE_BUG_ON((entry & word(PteBits::kPresent)) == 0);
    if (is_leaf(entry, level)) {
      census.pages += pages_of(level);
    } else {
      count(PhysAddr(entry & arch::kPteFrameMask), level - 1, census);
    }
  }
}

void InitMm::validate() const {
  Census census;
  count(pgd_, layout_.geometry.levels, census);
  QUIRE_BUG_ON(census.tables != buddy_tables_ + boot_tables_);
  QUIRE_BUG_ON(census.pages != mapped_pages_);
}

}  // namespace quire::kvirt
