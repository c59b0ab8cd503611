// The walk over i386's tables: 4-byte entries in two levels, and PAE's three.
#include <gtest/gtest.h>

#include "table_arena.h"

namespace quire::arch {
namespace {

constexpr VirtAddr kVa(0xf880'3000);
constexpr std::uint64_t word(PteBits bits) { return static_cast<std::uint64_t>(bits); }
constexpr std::uint64_t kKernel = word(PteBits::kPresent | PteBits::kRw);

// Tables at frames 2, 3, …; the root at frame 1.
class I386Tables {
 public:
  explicit I386Tables(const Geometry& geometry)
      : words_(16 * kPageSize / 8), tables_(reinterpret_cast<std::byte*>(words_.data()), geometry) {}

  // Sets the entry of `level` on the way to va, and points to a table where there is another level below.
  void set(VirtAddr va, unsigned level, std::uint64_t value) {
    PhysAddr table = root();
    for (unsigned l = tables_.geometry().levels; l > level; --l) {
      const unsigned index = tables_.geometry().index(va, l);
      if (tables_.read_entry(table, index) == 0) {
        const std::uint64_t rights = tables_.geometry().has_pdpte(l) ? word(PteBits::kPresent) : kKernel;
        tables_.write_entry(table, index, next_.value() | rights);
        next_ += kPageSize;
      }
      table = PhysAddr(tables_.read_entry(table, index) & kPteFrameMask);
    }
    tables_.write_entry(table, tables_.geometry().index(va, level), value);
  }
  [[nodiscard]] WalkResult walk(VirtAddr va, Access access) const {
    return tables_.walk(root(), va, access, Privilege::kKernel);
  }
  [[nodiscard]] static PhysAddr root() { return PhysAddr(kPageSize); }
  [[nodiscard]] const PageTables& tables() const { return tables_; }

 private:
  std::vector<std::uint64_t> words_;
  PageTables tables_;
  PhysAddr next_{2 * kPageSize};
};

TEST(I386Walk, TwoLevelsOfFourByteEntries) {
  I386Tables t(Geometry::i386());
  t.set(kVa, kPteLevel, 0x1234'5000 | kKernel);
  const WalkResult read = t.walk(kVa + 0x67, Access::kRead);
  ASSERT_TRUE(read);
  EXPECT_EQ(read.pa, PhysAddr(0x1234'5067));
  EXPECT_FALSE(any(read.rights, Rights::kDirty));
  const WalkResult write = t.walk(kVa, Access::kWrite);
  ASSERT_TRUE(write);
  EXPECT_TRUE(any(write.rights, Rights::kDirty));
  EXPECT_TRUE(any(t.walk(kVa, Access::kRead).rights, Rights::kDirty)) << "it stands in the leaf now";
  EXPECT_TRUE(t.walk(kVa, Access::kExec)) << "there is no NX bit";
  EXPECT_EQ(t.walk(kVa + kPageSize, Access::kWrite).code, FaultCode::kWrite) << "the neighbour is not mapped";
  t.set(kVa, kPteLevel, 0x1234'5000 | word(PteBits::kPresent));
  EXPECT_EQ(t.walk(kVa, Access::kWrite).code, FaultCode::kProt | FaultCode::kWrite);
  EXPECT_EQ(t.walk(VirtAddr(0x1'0000'0000), Access::kRead).outcome, WalkOutcome::kGeneralProtection);
}

TEST(I386Walk, ALeafOfFourMiB) {
  I386Tables t(Geometry::i386());
  t.set(kVa, kPmdLevel, 0x0040'0000 | kKernel | word(PteBits::kPse));
  const WalkResult read = t.walk(VirtAddr(0xf8bf'fffc), Access::kRead);
  ASSERT_TRUE(read);
  EXPECT_EQ(read.pa, PhysAddr(0x007f'fffc));
  EXPECT_EQ(read.level, kPmdLevel);
}

TEST(I386Walk, PaeReachesBeyondFourGiBAndKnowsNx) {
  I386Tables t(Geometry::i386_pae());
  t.set(kVa, kPteLevel, 0xf'1234'5000 | kKernel | word(PteBits::kNx));
  const WalkResult read = t.walk(kVa + 1, Access::kRead);
  ASSERT_TRUE(read);
  EXPECT_EQ(read.pa, PhysAddr(0xf'1234'5001));
  EXPECT_TRUE(any(read.rights, Rights::kWrite)) << "the top entries give no rights and take none";
  EXPECT_EQ(t.walk(kVa, Access::kExec).code, FaultCode::kProt | FaultCode::kInstr);
  // Accessed and Dirty never go into the top entries, where they are reserved.
  ASSERT_TRUE(t.walk(kVa, Access::kWrite));
  EXPECT_EQ(t.tables().read_entry(I386Tables::root(), 3) & 0x1e6, 0u);
  t.set(kVa, kPudLevel, t.tables().read_entry(I386Tables::root(), 3) | word(PteBits::kRw));
  EXPECT_EQ(t.walk(kVa, Access::kRead).code, FaultCode::kProt | FaultCode::kRsvd);
}

}  // namespace
}  // namespace quire::arch
