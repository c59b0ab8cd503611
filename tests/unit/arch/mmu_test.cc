#include "quire/arch/mmu.h"

#include <gtest/gtest.h>

#include "table_arena.h"

namespace quire::arch {
namespace {

constexpr VirtAddr kVa(0x40'0000);
constexpr Asid kAsid = 3;

class MmuTest : public testing::Test {
 protected:
  WalkResult access(Access a, VirtAddr va = kVa) { return mmu_.translate(kAsid, arena_.root(), va, a, Privilege::kUser); }
  Pte pte() { return *arena_.tables().lookup(arena_.root(), kVa); }

  TableArena arena_;
  Mmu mmu_{arena_.tables()};
};

TEST_F(MmuTest, AFaultIsNotRemembered) {
  EXPECT_FALSE(access(Access::kRead));
  arena_.map(kVa, Pfn(6), kPageShared);
  EXPECT_EQ(access(Access::kRead).pa, PhysAddr(0x6000));  // no flush needed after not-present → present
}

TEST_F(MmuTest, AWriteThroughACleanEntryWalksAgainAndSetsDirty) {
  arena_.map(kVa, Pfn(6), kPageShared);
  ASSERT_TRUE(access(Access::kRead));
  EXPECT_FALSE(pte_dirty(pte()));
  ASSERT_TRUE(access(Access::kWrite));
  EXPECT_TRUE(pte_dirty(pte()));
  const std::uint64_t walks = mmu_.tlb().stats().insertions;
  ASSERT_TRUE(access(Access::kWrite));
  ASSERT_TRUE(access(Access::kRead));
  EXPECT_EQ(mmu_.tlb().stats().insertions, walks);
}

TEST_F(MmuTest, WithoutAFlushTheOldTranslationLivesOn) {
  arena_.map(kVa, Pfn(6), kPageShared);
  ASSERT_TRUE(access(Access::kWrite));
  arena_.map(kVa, Pfn(7), kPageShared);
  EXPECT_EQ(access(Access::kRead).pa, PhysAddr(0x6000));
  EXPECT_EQ(mmu_.tlb().staleness(kAsid, kVa, arena_.tables().probe(arena_.root(), kVa)), Staleness::kOtherFrame);
  mmu_.tlb().flush_page(kAsid, kVa);
  EXPECT_EQ(access(Access::kRead).pa, PhysAddr(0x7000));
}

TEST_F(MmuTest, MoreRightsNeedNoFlush) {
  arena_.map(kVa, Pfn(6), kPageReadonly);
  ASSERT_TRUE(access(Access::kRead));
  EXPECT_EQ(access(Access::kWrite).code, FaultCode::kProt | FaultCode::kWrite | FaultCode::kUser);
  arena_.map(kVa, Pfn(6), kPageShared);
  EXPECT_TRUE(access(Access::kWrite));
}

TEST_F(MmuTest, OnlyTheLoadedAddressSpaceIsServed) {
  arena_.map(kVa, Pfn(6), kPageShared);
  constexpr std::uint64_t kContext = 0x1'0000'0007;
  EXPECT_EQ(mmu_.lookup_in(kContext, kVa, Access::kRead, Privilege::kUser), nullptr);
  mmu_.load(kContext, kAsid, arena_.root());
  EXPECT_EQ(mmu_.lookup_in(kContext, kVa, Access::kRead, Privilege::kUser), nullptr);
  EXPECT_EQ(mmu_.refill(kVa + 3, Access::kRead, Privilege::kUser).pa, PhysAddr(0x6003));
  EXPECT_NE(mmu_.lookup_in(kContext, kVa, Access::kRead, Privilege::kUser), nullptr);
  EXPECT_EQ(mmu_.lookup_in(kContext + 1, kVa, Access::kRead, Privilege::kUser), nullptr);
  mmu_.load(kContext + 1, kAsid + 1, arena_.root());
  EXPECT_EQ(mmu_.lookup_in(kContext + 1, kVa, Access::kRead, Privilege::kUser), nullptr);  // another PCID
  mmu_.load(kContext, kAsid, arena_.root());
  EXPECT_NE(mmu_.lookup_in(kContext, kVa, Access::kRead, Privilege::kUser), nullptr);  // nothing was flushed
  mmu_.unload();
  EXPECT_FALSE(mmu_.loaded(kContext));
  EXPECT_EQ(mmu_.lookup_in(kContext, kVa, Access::kRead, Privilege::kUser), nullptr);
}

TEST_F(MmuTest, ClearingAccessedIsNotSeenUntilTheEntryGoes) {
  arena_.map(kVa, Pfn(6), kPageShared);
  ASSERT_TRUE(access(Access::kRead));
  Pte* ptep = arena_.tables().lookup(arena_.root(), kVa);
  EXPECT_TRUE(ptep_test_and_clear_young(ptep));
  ASSERT_TRUE(access(Access::kRead));
  EXPECT_FALSE(pte_young(pte()));
  EXPECT_EQ(mmu_.tlb().staleness(kAsid, kVa, arena_.tables().probe(arena_.root(), kVa)), Staleness::kFresh);
  mmu_.tlb().flush_page(kAsid, kVa);
  ASSERT_TRUE(access(Access::kRead));
  EXPECT_TRUE(pte_young(pte()));
}

}  // namespace
}  // namespace quire::arch
