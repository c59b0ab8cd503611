#include "quire/arch/pte.h"

#include <gtest/gtest.h>

#include <type_traits>

namespace quire::arch {
namespace {

static_assert(!std::is_convertible_v<Pte, Pmd> && !std::is_convertible_v<std::uint64_t, Pte>);

TEST(Pte, BitsAreX86s) {
  const Pte pte = mk_pte(Pfn(0x12345), kPageShared);
  EXPECT_EQ(pte.value(), 0x8000'0000'1234'5027u);  // NX | frame | A, user, rw, present
  EXPECT_EQ(pte_pfn(pte), Pfn(0x12345));
  EXPECT_EQ(pte_mkdirty(pte).value() & 0x40, 0x40u);
}

TEST(Pte, NoneIsZeroAndNotPresent) {
  EXPECT_TRUE(pte_none(Pte()));
  EXPECT_FALSE(pte_present(Pte()));
  EXPECT_FALSE(pte_young(Pte()));
}

TEST(Pte, EachMkHasItsTest) {
  const Pte base = mk_pte(Pfn(1), Pgprot{PteBits::kPresent | PteBits::kUser | PteBits::kNx});
  EXPECT_FALSE(pte_write(base) || pte_dirty(base) || pte_young(base) || pte_exec(base) || pte_special(base));
  EXPECT_TRUE(pte_write(pte_mkwrite(base)));
  EXPECT_FALSE(pte_write(pte_wrprotect(pte_mkwrite(base))));
  EXPECT_TRUE(pte_dirty(pte_mkdirty(base)) && pte_soft_dirty(pte_mkdirty(base)));
  EXPECT_FALSE(pte_dirty(pte_mkclean(pte_mkdirty(base))));
  EXPECT_TRUE(pte_young(pte_mkyoung(base)));
  EXPECT_FALSE(pte_young(pte_mkold(pte_mkyoung(base))));
  EXPECT_TRUE(pte_exec(pte_mkexec(base)));
  EXPECT_TRUE(pte_special(pte_mkspecial(base)));
  EXPECT_TRUE(pte_devmap(pte_mkdevmap(base)));
  EXPECT_TRUE(pte_uffd_wp(pte_mkuffd_wp(pte_mkwrite(base))));
  EXPECT_FALSE(pte_write(pte_mkuffd_wp(pte_mkwrite(base))));
  EXPECT_EQ(pte_pfn(pte_mkdirty(pte_mkwrite(base))), Pfn(1));
}

TEST(Pte, ProtNoneIsPresentToSoftwareOnly) {
  const Pte pte = mk_pte(Pfn(77), kPageNone);
  EXPECT_TRUE(pte_present(pte));
  EXPECT_TRUE(pte_protnone(pte));
  EXPECT_FALSE(pte.hw_present());
  EXPECT_EQ(pte_pfn(pte), Pfn(77));
}

TEST(Pte, ModifyChangesRightsAndKeepsFrameAccessedAndDirty) {
  const Pte dirty = pte_mkdirty(mk_pte(Pfn(9), kPageShared));
  const Pte readonly = pte_modify(dirty, kPageReadonlyExec);
  EXPECT_FALSE(pte_write(readonly));
  EXPECT_TRUE(pte_exec(readonly));
  EXPECT_TRUE(pte_dirty(readonly) && pte_young(readonly));
  EXPECT_EQ(pte_pfn(readonly), Pfn(9));

  const Pte none = pte_modify(dirty, kPageNone);
  EXPECT_TRUE(pte_protnone(none) && pte_dirty(none));
  EXPECT_TRUE(pte_same(pte_modify(none, kPageShared), dirty));

  const Pte old = pte_mkold(dirty);
  EXPECT_TRUE(pte_dirty(pte_modify(old, kPageReadonly)));
}

TEST(Pte, EntriesInTables) {
  Pte slot = pte_mkdirty(mk_pte(Pfn(3), kPageShared));
  EXPECT_TRUE(ptep_test_and_clear_young(&slot));
  EXPECT_FALSE(ptep_test_and_clear_young(&slot));
  ptep_set_wrprotect(&slot);
  EXPECT_FALSE(pte_write(slot));
  EXPECT_TRUE(pte_dirty(slot));
  const Pte was = ptep_get_and_clear(&slot);
  EXPECT_EQ(pte_pfn(was), Pfn(3));
  EXPECT_TRUE(pte_none(slot));
}

TEST(Pmd, TablesAndLeaves) {
  Pmd pmd;
  pmd_populate(&pmd, PhysAddr(0x5000));
  EXPECT_TRUE(pmd_present(pmd) && !pmd_leaf(pmd));
  EXPECT_EQ(pmd.phys(), PhysAddr(0x5000));
  const Pmd huge(Pfn(512), kPageShared.bits | PteBits::kPse);
  EXPECT_TRUE(pmd_leaf(huge) && pmd_trans_huge(huge));
  EXPECT_FALSE(is_swap_pmd(huge));
  entry_clear(&pmd);
  EXPECT_TRUE(pmd_none(pmd));
}

}  // namespace
}  // namespace quire::arch
