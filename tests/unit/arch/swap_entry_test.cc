#include "quire/arch/swap_entry.h"

#include <gtest/gtest.h>

#include "quire/base/rng.h"

namespace quire::arch {
namespace {

TEST(SwapEntry, NeverLooksPresentNorNoneAndComesBack) {
  Rng rng(1);
  for (int i = 0; i < 100'000; ++i) {
    const SwapEntry entry{static_cast<unsigned>(rng.below(32)), (rng() >> 14) >> rng.below(50)};
    if (entry.offset > kSwapOffsetMax) continue;
    const Pte pte = swp_entry_to_pte(entry);
    ASSERT_TRUE(is_swap_pte(pte)) << entry.type << " " << entry.offset;
    ASSERT_FALSE(pte_present(pte) || pte.hw_present() || pte_none(pte));
    ASSERT_EQ(pte_to_swp_entry(pte), entry);
    ASSERT_EQ(pmd_to_swp_entry(swp_entry_to_pmd(entry)), entry);
  }
}

TEST(SwapEntry, TheExtremesRoundTrip) {
  for (const unsigned type : {0u, 1u, kMaxSwapFiles - 1, 31u}) {
    for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1}, kSwapOffsetMax}) {
      const SwapEntry entry{type, offset};
      EXPECT_TRUE(is_swap_pte(swp_entry_to_pte(entry)));
      EXPECT_EQ(pte_to_swp_entry(swp_entry_to_pte(entry)), entry);
      EXPECT_EQ(SwapEntry::from_value(entry.value()), entry);
      EXPECT_LE(entry.value(), ~std::uint64_t{0} >> 1);  // fits an XaValue
    }
  }
}

TEST(SwapEntry, LayoutIsLinuxs) {
  // type in bits 59..63, the inverted offset in 9..58
  EXPECT_EQ(swp_entry_to_pte({3, 0x1234}).value(),
            (std::uint64_t{3} << 59) | ((~(std::uint64_t{0x1234} << 9)) & 0x07ff'ffff'ffff'fe00));
  EXPECT_EQ((SwapEntry{2, 7}).value(), (std::uint64_t{2} << 58) | 7);
}

TEST(SwapEntry, FlagBitsDoNotDisturbTheEntry) {
  const SwapEntry entry{5, 0x3'0000'0001};
  Pte pte = swp_entry_to_pte(entry);
  EXPECT_FALSE(pte_swp_exclusive(pte) || pte_swp_soft_dirty(pte) || pte_swp_uffd_wp(pte));
  pte = pte_swp_mkexclusive(pte_swp_mksoft_dirty(pte_swp_mkuffd_wp(pte)));
  EXPECT_TRUE(pte_swp_exclusive(pte) && pte_swp_soft_dirty(pte) && pte_swp_uffd_wp(pte));
  EXPECT_TRUE(is_swap_pte(pte));
  EXPECT_EQ(pte_to_swp_entry(pte), entry);
  EXPECT_TRUE(pte_same(pte_swp_clear_uffd_wp(pte_swp_clear_soft_dirty(pte_swp_clear_exclusive(pte))), swp_entry_to_pte(entry)));
}

TEST(MigrationEntry, CarriesFrameKindYoungAndDirty) {
  const Pfn pfn(0xab'cdef'0123);
  SwapEntry e = make_migration_entry(MigrationKind::kWrite, pfn);
  EXPECT_TRUE(is_migration_entry(e) && is_writable_migration_entry(e) && non_swap_entry(e));
  EXPECT_FALSE(is_migration_entry_young(e) || is_migration_entry_dirty(e));
  e = make_migration_entry_dirty(make_migration_entry_young(e));
  const SwapEntry back = pte_to_swp_entry(swp_entry_to_pte(e));
  EXPECT_TRUE(is_migration_entry_young(back) && is_migration_entry_dirty(back));
  EXPECT_EQ(migration_entry_to_pfn(back), pfn);
  EXPECT_TRUE(is_readable_exclusive_migration_entry(make_migration_entry(MigrationKind::kReadExclusive, pfn)));
  EXPECT_FALSE(is_writable_migration_entry(make_migration_entry(MigrationKind::kRead, pfn)));
  EXPECT_FALSE(is_migration_entry(SwapEntry{kMaxSwapFiles - 1, 5}));
  EXPECT_TRUE(is_hwpoison_entry(make_hwpoison_entry(pfn)));
}

}  // namespace
}  // namespace quire::arch
