#include "quire/arch/geometry.h"

#include <gtest/gtest.h>

namespace quire::arch {
namespace {

constexpr Geometry k4 = Geometry::x86_64_4level();
constexpr Geometry k5 = Geometry::x86_64_5level();

TEST(Geometry, IndicesSplitAnAddress) {
  const VirtAddr va((1ull << 39) * 3 + (1ull << 30) * 5 + (1ull << 21) * 7 + (1ull << 12) * 511 + 9);
  EXPECT_EQ(pgd_index(va, k4), 3u);
  EXPECT_EQ(pud_index(va), 5u);
  EXPECT_EQ(pmd_index(va), 7u);
  EXPECT_EQ(pte_index(va), 511u);
  EXPECT_EQ(p4d_index(va, k4), 0u);
  EXPECT_EQ(p4d_index(va, k5), 3u);
  EXPECT_EQ(pgd_index(va + (1ull << 48), k5), 1u);
  EXPECT_EQ(k4.index(va, kPudLevel), pud_index(va));
  EXPECT_EQ(k4.entries(kPteLevel), 512u);
}

TEST(Geometry, UserSpaceEndsWhereLinuxSays) {
  EXPECT_EQ(k4.task_size, VirtAddr(0x7fff'ffff'f000));
  EXPECT_EQ(k5.task_size, VirtAddr(0xff'ffff'ffff'f000));
  EXPECT_EQ(k5.default_map_window, VirtAddr(0x7fff'ffff'f000));
  EXPECT_TRUE(k4.is_user(VirtAddr(0x7fff'ffff'efff)));
  EXPECT_FALSE(k4.is_user(VirtAddr(0x7fff'ffff'f000)));
}

TEST(Geometry, CanonicalAddresses) {
  EXPECT_TRUE(k4.canonical(VirtAddr(0x7fff'ffff'ffff)));
  EXPECT_FALSE(k4.canonical(VirtAddr(0x8000'0000'0000)));
  EXPECT_TRUE(k4.canonical(VirtAddr(0xffff'8000'0000'0000)));
  EXPECT_TRUE(k5.canonical(VirtAddr(0x8000'0000'0000)));
  EXPECT_FALSE(k5.canonical(VirtAddr(1ull << 56)));
}

TEST(Geometry, AddrEndStopsAtBoundaryOrEnd) {
  EXPECT_EQ(k4.addr_end(VirtAddr(0x1000), VirtAddr(kGiB), kPmdLevel), VirtAddr(kPmdSize));
  EXPECT_EQ(k4.addr_end(VirtAddr(kPmdSize), VirtAddr(kGiB), kPmdLevel), VirtAddr(2 * kPmdSize));
  EXPECT_EQ(k4.addr_end(VirtAddr(0x1000), VirtAddr(0x3000), kPmdLevel), VirtAddr(0x3000));
  EXPECT_EQ(k4.addr_end(VirtAddr(0x1000), VirtAddr(kTiB), kPudLevel), VirtAddr(kGiB));
  // the last entry of the address space: the boundary wraps to 0
  const VirtAddr last(~std::uint64_t{0} << 21);
  EXPECT_EQ(k4.addr_end(last, VirtAddr(0), kPmdLevel), VirtAddr(0));
  EXPECT_EQ(k4.addr_end(last, last + 0x5000, kPmdLevel), last + 0x5000);
}

}  // namespace
}  // namespace quire::arch
