#include "quire/arch/page_tables.h"

#include <gtest/gtest.h>

#include "table_arena.h"

namespace quire::arch {
namespace {

constexpr VirtAddr kVa(0x7f12'3456'7000);
constexpr std::uint64_t kA = 1 << 5;
constexpr std::uint64_t kD = 1 << 6;

class WalkTest : public testing::TestWithParam<unsigned> {
 protected:
  WalkResult walk(VirtAddr va, Access access, Privilege privilege = Privilege::kUser) {
    return arena_.tables().walk(arena_.root(), va, access, privilege);
  }
  TableArena arena_{GetParam() == 4 ? Geometry::x86_64_4level() : Geometry::x86_64_5level()};
};
INSTANTIATE_TEST_SUITE_P(Levels, WalkTest, testing::Values(4u, 5u));

Pgprot without_accessed(Pgprot prot) { return Pgprot{prot.bits & ~PteBits::kAccessed}; }

TEST_P(WalkTest, ReadSetsAccessedWriteSetsDirty) {
  arena_.map(kVa, Pfn(0x42), without_accessed(kPageShared));
  const WalkResult read = walk(kVa + 0x123, Access::kRead);
  ASSERT_TRUE(read);
  EXPECT_EQ(read.pa, PhysAddr(0x42123));
  EXPECT_EQ(read.level, kPteLevel);
  EXPECT_EQ(read.rights, Rights::kUser | Rights::kWrite);
  EXPECT_EQ(arena_.entry(kVa) & (kA | kD), kA);

  const WalkResult write = walk(kVa, Access::kWrite);
  ASSERT_TRUE(write);
  EXPECT_EQ(write.rights, Rights::kUser | Rights::kWrite | Rights::kDirty);
  EXPECT_EQ(arena_.entry(kVa) & (kA | kD), kA | kD);
  EXPECT_EQ(write.entry, &arena_.entry(kVa));
}

TEST_P(WalkTest, AccessedIsSetOnEveryLevelUsed) {
  arena_.map(kVa, Pfn(1), without_accessed(kPageReadonly));
  for (unsigned l = 2; l <= GetParam(); ++l) arena_.entry(kVa, l) &= ~kA;
  ASSERT_TRUE(walk(kVa, Access::kRead));
  for (unsigned l = 1; l <= GetParam(); ++l) EXPECT_EQ(arena_.entry(kVa, l) & kA, kA) << l;
}

TEST_P(WalkTest, NotPresentGivesTheAccessInTheCode) {
  EXPECT_EQ(walk(kVa, Access::kRead).code, FaultCode::kUser);
  EXPECT_EQ(walk(kVa, Access::kWrite).code, FaultCode::kUser | FaultCode::kWrite);
  EXPECT_EQ(walk(kVa, Access::kExec).code, FaultCode::kUser | FaultCode::kInstr);
  EXPECT_EQ(walk(kVa, Access::kRead, Privilege::kKernel).code, FaultCode::kNone);
  EXPECT_EQ(walk(kVa, Access::kRead).outcome, WalkOutcome::kPageFault);
  EXPECT_EQ(walk(kVa, Access::kRead).level, GetParam());
  arena_.map(kVa, Pfn(1), kPageReadonly);
  EXPECT_EQ(walk(kVa + kPageSize, Access::kRead).level, kPteLevel);
}

TEST_P(WalkTest, RightsViolationsHaveTheProtectionBit) {
  arena_.map(kVa, Pfn(1), without_accessed(kPageReadonly));
  EXPECT_EQ(walk(kVa, Access::kWrite).code, FaultCode::kProt | FaultCode::kWrite | FaultCode::kUser);
  EXPECT_EQ(walk(kVa, Access::kExec).code, FaultCode::kProt | FaultCode::kInstr | FaultCode::kUser);
  EXPECT_EQ(walk(kVa, Access::kWrite, Privilege::kKernel).code, FaultCode::kProt | FaultCode::kWrite);  // CR0.WP
  EXPECT_EQ(arena_.entry(kVa) & (kA | kD), 0u);  // a walk that faults leaves no trace
  EXPECT_TRUE(walk(kVa, Access::kRead, Privilege::kKernel));
}

TEST_P(WalkTest, KernelPagesAreClosedToUsersAndUserPagesToKernelFetches) {
  arena_.map(kVa, Pfn(1), Pgprot{PteBits::kPresent | PteBits::kRw});
  EXPECT_EQ(walk(kVa, Access::kRead).code, FaultCode::kProt | FaultCode::kUser);
  EXPECT_TRUE(walk(kVa, Access::kWrite, Privilege::kKernel));
  EXPECT_TRUE(walk(kVa, Access::kExec, Privilege::kKernel));
  arena_.map(kVa, Pfn(1), kPageReadonlyExec);
  EXPECT_TRUE(walk(kVa, Access::kExec));
  EXPECT_EQ(walk(kVa, Access::kExec, Privilege::kKernel).code, FaultCode::kProt | FaultCode::kInstr);
}

TEST_P(WalkTest, EveryLevelCanTakeRightsAway) {
  arena_.map(kVa, Pfn(1), kPageSharedExec);
  for (unsigned l = 2; l <= GetParam(); ++l) {
    std::uint64_t& entry = arena_.entry(kVa, l);
    const std::uint64_t whole = entry;
    entry = whole & ~static_cast<std::uint64_t>(PteBits::kRw);
    EXPECT_FALSE(walk(kVa, Access::kWrite)) << l;
    entry = whole & ~static_cast<std::uint64_t>(PteBits::kUser);
    EXPECT_FALSE(walk(kVa, Access::kRead)) << l;
    entry = whole | static_cast<std::uint64_t>(PteBits::kNx);
    EXPECT_FALSE(walk(kVa, Access::kExec)) << l;
    EXPECT_TRUE(walk(kVa, Access::kRead)) << l;
    entry = whole;
  }
  EXPECT_TRUE(walk(kVa, Access::kExec));
}

TEST_P(WalkTest, HugeLeaves) {
  arena_.map(kVa, Pfn(512 * 3), without_accessed(kPageShared), kPmdLevel);
  const WalkResult two_m = walk(kVa + 0x123, Access::kWrite);
  ASSERT_TRUE(two_m);
  EXPECT_EQ(two_m.level, kPmdLevel);
  EXPECT_EQ(two_m.pa, PhysAddr(3 * kPmdSize + ((kVa.value() + 0x123) % kPmdSize)));
  EXPECT_EQ(arena_.entry(kVa, kPmdLevel) & (kA | kD), kA | kD);
  EXPECT_EQ(arena_.tables().lookup(arena_.root(), kVa), nullptr);

  const VirtAddr other(0x1'4000'0000);
  arena_.map(other, Pfn(512 * 512 * 2), kPageReadonly, kPudLevel);
  const WalkResult one_g = walk(other + 0x1234'5678, Access::kRead);
  ASSERT_TRUE(one_g);
  EXPECT_EQ(one_g.level, kPudLevel);
  EXPECT_EQ(one_g.pa, PhysAddr(2 * kPudSize + 0x1234'5678));
}

TEST_P(WalkTest, ReservedBitsFault) {
  const FaultCode reserved = FaultCode::kProt | FaultCode::kRsvd | FaultCode::kUser;
  arena_.map(kVa, Pfn(512 * 3 + 2), kPageShared, kPmdLevel);  // a 2 MiB page that is not aligned
  EXPECT_EQ(walk(kVa, Access::kRead).code, reserved);
  const VirtAddr other(0x1'4000'0000);
  arena_.map(other, Pfn(1), kPageShared);
  arena_.entry(other, 4) |= static_cast<std::uint64_t>(PteBits::kPse);  // no 512 GiB pages
  EXPECT_EQ(walk(other, Access::kRead).code, reserved);
  if (GetParam() == 4) {
    arena_.map(VirtAddr(0x5000), Pfn(std::uint64_t{1} << 36), kPageShared);  // beyond 46 physical bits
    EXPECT_EQ(walk(VirtAddr(0x5000), Access::kRead).code, reserved);
  }
}

TEST_P(WalkTest, NonCanonicalIsAGeneralProtectionFault) {
  const VirtAddr hole(std::uint64_t{1} << (arena_.tables().geometry().virtual_bits - 1));
  EXPECT_EQ(walk(hole, Access::kRead).outcome, WalkOutcome::kGeneralProtection);
}

TEST_P(WalkTest, ProtNoneFaultsAsNotPresent) {
  arena_.map(kVa, Pfn(1), kPageNone);
  const WalkResult result = walk(kVa, Access::kRead);
  EXPECT_FALSE(result);
  EXPECT_EQ(result.code, FaultCode::kUser);
}

TEST_P(WalkTest, ProbeChangesNothing) {
  arena_.map(kVa, Pfn(5), without_accessed(kPageShared));
  const std::uint64_t before = arena_.entry(kVa);
  const WalkResult now = arena_.tables().probe(arena_.root(), kVa + 8);
  ASSERT_TRUE(now);
  EXPECT_EQ(now.pa, PhysAddr(0x5008));
  EXPECT_EQ(now.rights, Rights::kUser | Rights::kWrite);
  EXPECT_EQ(arena_.entry(kVa), before);
  EXPECT_FALSE(arena_.tables().probe(arena_.root(), kVa + kPageSize));
}

TEST_P(WalkTest, LookupAndTheFiveStepsMeetAtTheSameEntry) {
  const PageTables& tables = arena_.tables();
  EXPECT_EQ(tables.lookup(arena_.root(), kVa), nullptr);
  arena_.map(kVa, Pfn(5), kPageShared);
  Pgd* pgd = tables.pgd_offset(arena_.root(), kVa);
  ASSERT_FALSE(tables.pgd_none(*pgd));
  ASSERT_TRUE(tables.pgd_present(*pgd));
  P4d* p4d = tables.p4d_offset(pgd, kVa);
  ASSERT_FALSE(p4d_none(*p4d));
  Pud* pud = tables.pud_offset(p4d, kVa);
  Pmd* pmd = tables.pmd_offset(pud, kVa);
  Pte* pte = tables.pte_offset(pmd, kVa);
  EXPECT_EQ(pte, tables.lookup(arena_.root(), kVa));
  EXPECT_EQ(pmd, tables.lookup_pmd(arena_.root(), kVa));
  EXPECT_EQ(pte_pfn(*pte), Pfn(5));
  EXPECT_EQ(static_cast<void*>(p4d) == static_cast<void*>(pgd), GetParam() == 4);
}

TEST_P(WalkTest, BoundariesCoverARangeOnce) {
  const PageTables& tables = arena_.tables();
  const VirtAddr begin(kGiB - kPageSize);
  const VirtAddr end(kGiB + 3 * kPmdSize + kPageSize);
  unsigned pmds = 0;
  for (VirtAddr at = begin; at != end; at = tables.pmd_addr_end(at, end)) ++pmds;
  EXPECT_EQ(pmds, 5u);
  EXPECT_EQ(tables.pud_addr_end(begin, end), VirtAddr(kGiB));
  EXPECT_EQ(tables.p4d_addr_end(begin, end), end);
  EXPECT_EQ(tables.pgd_addr_end(begin, end), end);
}

}  // namespace
}  // namespace quire::arch
