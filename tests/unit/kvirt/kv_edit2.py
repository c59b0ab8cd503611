exec(open('/tmp/kv_edit1.py').read().split("K='quire")[0])
K='quire/kvirt/'
# --- init_mm: recursive empty tables, gfp, flush
sub(K+'init_mm.h',[
("""  InitMm(phys::PhysMem& phys, const KernelLayout& layout);
""","""  InitMm(phys::PhysMem& phys, const KernelLayout& layout, KernelTlb& tlb);
"""),
("""#include "quire/kvirt/kernel_layout.h"
""","""#include "quire/kvirt/kernel_layout.h"
#include "quire/kvirt/kernel_tlb.h"
"""),
("""there; a table that holds nothing makes way. va and pa are aligned to the leaf. May sleep.
  [[nodiscard]] Status map(VirtAddr va, PhysAddr pa, arch::Pgprot prot, unsigned level = arch::kPteLevel);
""","""there; a table that holds nothing, or only tables that hold nothing, makes way. va and pa are aligned to the leaf. Tables
  // are allocated with `gfp`; may sleep as that may.
  [[nodiscard]] Status map(VirtAddr va, PhysAddr pa, arch::Pgprot prot, unsigned level = arch::kPteLevel,
                           phys::Gfp gfp = phys::Gfp::kKernel);
"""),
("""  [[nodiscard]] Result<PhysAddr> table_for(VirtAddr va, unsigned level);
  [[nodiscard]] Result<PhysAddr> table_alloc(unsigned level);
""","""  [[nodiscard]] Result<PhysAddr> table_for(VirtAddr va, unsigned level, phys::Gfp gfp);
  [[nodiscard]] Result<PhysAddr> table_alloc(unsigned level, phys::Gfp gfp);
"""),
("""  bool free_empty_table(const Found& at);
""","""  bool free_empty_table(const Found& at, VirtAddr va);
"""),
("""  KernelLayout layout_;
  arch::PageTables tables_;
""","""  KernelLayout layout_;
  KernelTlb& tlb_;
  arch::PageTables tables_;
"""),
])
sub(K+'init_mm.cc',[
("""InitMm::InitMm(phys::PhysMem& phys, const KernelLayout& layout)
    : phys_(phys),
      layout_(layout),
""","""InitMm::InitMm(phys::PhysMem& phys, const KernelLayout& layout, KernelTlb& tlb)
    : phys_(phys),
      layout_(layout),
      tlb_(tlb),
"""),
("table_alloc(g.levels);","table_alloc(g.levels, phys::Gfp::kKernel);"),
("table_for(at, g.levels - 1);","table_for(at, g.levels - 1, phys::Gfp::kKernel);"),
("table_for(at, arch::kPteLevel);","table_for(at, arch::kPteLevel, phys::Gfp::kKernel);"),
("Result<PhysAddr> InitMm::table_alloc(unsigned level) {","Result<PhysAddr> InitMm::table_alloc(unsigned level, phys::Gfp gfp) {"),
("phys_.alloc_page(phys::Gfp::kKernel);  // lowmem","phys_.alloc_page(gfp);  // lowmem"),
("Result<PhysAddr> InitMm::table_for(VirtAddr va, unsigned level) {","Result<PhysAddr> InitMm::table_for(VirtAddr va, unsigned level, phys::Gfp gfp) {"),
("table_alloc(at.level - 1);","table_alloc(at.level - 1, gfp);"),
("""bool InitMm::empty(PhysAddr table, unsigned level) const {
  for (unsigned i = 0; i < layout_.geometry.entries(level); ++i) {
    if (tables_.read_entry(table, i) != 0) return false;
  }
  return true;
}

// Takes the empty table under this entry away, for a huge leaf (pmd_free_pte_page).
bool InitMm::free_empty_table(const Found& at) {
  const PhysAddr below(at.entry & arch::kPteFrameMask);
  if (!empty(below, at.level - 1)) return false;
  tables_.write_entry(at.table, at.index, 0);
  table_free(below, at.level - 1);
  return true;
}
""","""// No leaf in the table, nor in any below it.
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
"""),
("""arch::Pgprot prot, unsigned level) {
  const std::uint64_t span""","""arch::Pgprot prot, unsigned level, phys::Gfp gfp) {
  const std::uint64_t span"""),
("auto table = table_for(va, level);","auto table = table_for(va, level, gfp);"),
("""    if (!free_empty_table({.table = *table, .index = index, .level = level, .entry = old})) return fail(Errno::kExist);
""","""    if (!free_empty_table({.table = *table, .index = index, .level = level, .entry = old}, va)) return fail(Errno::kExist);
    // Other tasks may have run, but the range is ours alone.
    QUIRE_BUG_ON(tables_.read_entry(*table, index) != 0);
"""),
])
sub(K+'kernel_space.cc',[("init_mm_(phys, layout),","init_mm_(phys, layout, tlb_),")])
sub(K+'ioremap.cc',[
("""    while (level > arch::kPteLevel && !fits(g.entry_span(level))) --level;
    if (Status s = init_mm_.map(va, pa, prot, level); !s) return s;
""","""    while (level > arch::kPteLevel && !fits(g.entry_span(level))) --level;
    Status mapped = init_mm_.map(va, pa, prot, level);
    // A table there that is in use: smaller leaves go into it.
    while (!mapped && mapped.error() == Errno::kExist && level > arch::kPteLevel) mapped = init_mm_.map(va, pa, prot, --level);
    if (!mapped) return mapped;
"""),
])
sub('tests/unit/kvirt/ioremap_test.cc',[
("""TEST(IoremapOnI386, Leaves""","""TEST_F(IoremapTest, ALargeLeafTakesThePlaceOfTablesThatHoldNothing) {
  const IoMem mixed = io.ioremap(PhysAddr(0x1'4000'0000), kGiB + 2 * kMiB + kPageSize);
  ASSERT_TRUE(mixed);
  io.iounmap(mixed);
  ASSERT_TRUE(m.vmalloc().areas().purge_vmap_area_lazy());
  const std::uint64_t tables = m.space->init_mm().buddy_tables();
  const std::uint64_t flushes = m.space->tlb_flushes();
  const IoMem again = io.ioremap(PhysAddr(0x1'4000'0000), 2 * kGiB);
  ASSERT_TRUE(again);
  EXPECT_EQ(again.va(), mixed.va());
  for (const std::uint64_t at : {std::uint64_t{0}, kGiB}) {
    const auto found = m.space->init_mm().translate(again.va() + at);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->level, arch::kPudLevel);
    EXPECT_EQ(found->pa, PhysAddr(0x1'4000'0000 + at));
  }
  EXPECT_EQ(m.space->init_mm().buddy_tables(), tables - 2) << "a table of PMDs and the table of PTEs below it";
  EXPECT_EQ(m.space->tlb_flushes(), flushes + 1) << "before they are freed";
  m.validate();
  io.iounmap(again);
  m.validate();
}

TEST(IoremapOnI386, Leaves"""),
])
# --- device sizes
sub(K+'mmio_device.h',[
("""  // `width` is 1, 2""","""  // How many bytes it answers for.
  [[nodiscard]] virtual std::uint64_t bytes() const = 0;
  // `width` is 1, 2"""),
("""  // The device answers for the range from now on; it must outlive its registration. kInval: an empty range or one that is not
  // made of 8-byte words; kBusy: another device is there.
""","""  // The device answers for the range from now on; it must outlive its registration. A range shorter than the device shows its
  // beginning. kInval: an empty range, one that is not made of 8-byte words, or one longer than the device; kBusy: another
  // device is there.
"""),
])
sub(K+'mmio_bus.cc',[
("""#include <algorithm>

#include "quire/kvirt/mmio_device.h"
""","""#include "quire/kvirt/mmio_device.h"

#include <algorithm>
"""),
("""% 8 != 0) return fail(Errno::kInval);
""","""% 8 != 0) return fail(Errno::kInval);
  if (range.size() > device.bytes()) return fail(Errno::kInval);
"""),
])
sub(K+'frame_buffer.h',[("[[nodiscard]] std::uint64_t bytes() const { return memory_.size(); }","[[nodiscard]] std::uint64_t bytes() const override { return memory_.size(); }")])
sub(K+'register_file.h',[("""  [[nodiscard]] std::optional<""","""  [[nodiscard]] std::uint64_t bytes() const override { return kBytes; }
  [[nodiscard]] std::optional<""")])
sub('tests/unit/kvirt/ioremap_test.cc',[("""  EXPECT_TRUE(io.bus().remove(registers));
""","""  constexpr PhysAddr kFree(0xd000'0000);
  FrameBuffer small{64, 16};
  EXPECT_EQ(io.bus().add({kFree, kFree + small.bytes() + 8}, small).error(), Errno::kInval) << "longer than the device";
  EXPECT_EQ(io.bus().find(kFree).device, nullptr);
  EXPECT_TRUE(io.bus().add({kFree, kFree + small.bytes() / 2}, small)) << "its beginning";
  EXPECT_TRUE(io.bus().remove(small));
  EXPECT_TRUE(io.bus().remove(registers));
""")])
