#include "quire/base/types.h"

#include <gtest/gtest.h>

#include <type_traits>

#include "quire/base/flags.h"
#include "quire/base/result.h"

namespace quire {
namespace {

enum class Colour : unsigned { kNone = 0, kRed = 1, kBlue = 2 };

}  // namespace

template <>
inline constexpr bool kIsFlags<Colour> = true;

namespace {

TEST(Types, AddressesOfDifferentSpacesDoNotMix) {
  static_assert(!std::is_convertible_v<PhysAddr, VirtAddr>);
  static_assert(!std::is_constructible_v<PhysAddr, VirtAddr>);
  static_assert(!std::is_convertible_v<std::uint64_t, Pfn>);
  EXPECT_EQ(phys_to_pfn(PhysAddr(0x12345fff)), Pfn(0x12345));
  EXPECT_EQ(pfn_to_phys(Pfn(0x12345)), PhysAddr(0x12345000));
}

TEST(Types, RangeIsHalfOpen) {
  const Range<Pfn> r{Pfn(10), Pfn(20)};
  EXPECT_EQ(r.size(), 10u);
  EXPECT_TRUE(r.contains(Pfn(10)));
  EXPECT_FALSE(r.contains(Pfn(20)));
  EXPECT_FALSE(r.overlaps({Pfn(20), Pfn(30)}));
  EXPECT_TRUE((r.intersect({Pfn(20), Pfn(30)}).empty()));
  EXPECT_EQ((Range<Pfn>{Pfn(5), Pfn(2)}.size()), 0u);
}

TEST(Types, AlignmentRoundsTheWayItSays) {
  EXPECT_EQ(align_down(VirtAddr(0x1fff), kPageSize), VirtAddr(0x1000));
  EXPECT_EQ(align_up(VirtAddr(0x1001), kPageSize), VirtAddr(0x2000));
  EXPECT_EQ(align_up(VirtAddr(0x1000), kPageSize), VirtAddr(0x1000));
}

TEST(Flags, BitOperations) {
  const Colour both = Colour::kRed | Colour::kBlue;
  EXPECT_TRUE(any(both, Colour::kBlue));
  EXPECT_FALSE(all(Colour::kRed, both));
  EXPECT_EQ(both & ~Colour::kRed, Colour::kBlue);
}

TEST(Result, ErrnoHasLinuxNumberAndName) {
  const Result<int> r = fail(Errno::kNoMem);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(static_cast<int>(r.error()), 12);
  EXPECT_EQ(errno_name(r.error()), "ENOMEM");
}

}  // namespace
}  // namespace quire
