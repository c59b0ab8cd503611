#include "quire/base/bitmap.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

namespace quire {
namespace {

TEST(Bitmap, SetsTestsAndClearsSingleBits) {
  std::array<std::uint64_t, 3> words{};
  Bitmap map(words, 130);
  map.set(0);
  map.set(129);
  EXPECT_TRUE(map.test(0));
  EXPECT_TRUE(map.test(129));
  EXPECT_FALSE(map.test(64));
  EXPECT_TRUE(map.test_and_clear(129));
  EXPECT_FALSE(map.test_and_set(64));
  EXPECT_TRUE(map.test_and_set(64));
  EXPECT_EQ(words[1], 1u);
  EXPECT_EQ(map.count(), 2u);
}

TEST(Bitmap, RangesCrossWordsAndLeaveTheRestAlone) {
  std::array<std::uint64_t, 3> words{};
  Bitmap map(words, 130);
  map.set_range(60, 70);
  EXPECT_EQ(words[0], 0xf000'0000'0000'0000u);
  EXPECT_EQ(words[1], ~std::uint64_t{0});
  EXPECT_EQ(words[2], 0x3u);
  EXPECT_EQ(map.count(), 70u);
  EXPECT_EQ(map.count(62, 4), 4u);
  map.clear_range(64, 64);
  EXPECT_EQ(words[1], 0u);
  EXPECT_EQ(map.count(), 6u);
  map.set_all();
  EXPECT_TRUE(map.all());
  EXPECT_EQ(words[2], 0x3u);  // bits beyond the size stay clear
  map.clear_all();
  EXPECT_TRUE(map.none());
  map.set_range(130, 0);
  EXPECT_TRUE(map.none());
}

TEST(Bitmap, FindStopsAtTheSize) {
  std::array<std::uint64_t, 2> words{0, ~std::uint64_t{0}};
  Bitmap map(words, 70);
  EXPECT_EQ(map.find_next(0), 64u);
  EXPECT_EQ(map.find_next(69), 69u);
  EXPECT_EQ(map.find_next(70), 70u);
  EXPECT_EQ(map.find_next_zero(63), 63u);
  EXPECT_EQ(map.find_next_zero(64), 70u);
  words[1] = std::uint64_t{1} << 63;  // beyond the size
  EXPECT_EQ(map.find_next(0), 70u);
}

TEST(Bitmap, FindZeroAreaHonoursLengthAndAlignment) {
  std::array<std::uint64_t, 2> words{};
  Bitmap map(words, 128);
  map.set(3);
  map.set_range(10, 20);
  EXPECT_EQ(map.find_zero_area(0, 3), 0u);
  EXPECT_EQ(map.find_zero_area(0, 4), 4u);
  EXPECT_EQ(map.find_zero_area(0, 7), 30u);
  EXPECT_EQ(map.find_zero_area(0, 7, 32), 32u);
  EXPECT_EQ(map.find_zero_area(0, 98), 30u);
  EXPECT_EQ(map.find_zero_area(0, 99), 128u);
}

}  // namespace
}  // namespace quire
