// Bitmap against std::vector<bool>.
#include "quire/base/bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "quire/base/rng.h"

namespace quire {
namespace {

std::size_t find(const std::vector<bool>& model, std::size_t from, bool wanted) {
  while (from < model.size() && model[from] != wanted) ++from;
  return std::min(from, model.size());
}

std::size_t find_area(const std::vector<bool>& model, std::size_t from, std::size_t count, std::size_t alignment) {
  for (std::size_t start = from; start + count <= model.size(); ++start) {
    if (start % alignment == 0 && find(model, start, true) >= start + count) return start;
  }
  return model.size();
}

TEST(BitmapProperty, RandomOperationsMatchTheModel) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Rng rng(seed);
    const std::size_t size = 1 + rng.below(300);
    std::vector<std::uint64_t> words(Bitmap::words_for(size) + 1, 0);
    words.back() = 0x5555;  // not ours
    Bitmap map(std::span<std::uint64_t>(words.data(), words.size() - 1), size);
    std::vector<bool> model(size, false);
    for (int op = 0; op < 1'000; ++op) {
      const std::size_t first = rng.below(size);
      const std::size_t count = rng.below(size - first + 1);
      const bool value = rng.chance(1, 2);
      if (rng.chance(1, 2)) {
        ASSERT_EQ(value ? map.test_and_set(first) : map.test_and_clear(first), model[first]);
        model[first] = value;
      } else if (rng.chance(1, 4)) {
        if (value) {
          map.set_range(first, count);
        } else {
          map.clear_range(first, count);
        }
        std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, value);
      }
      const auto from = static_cast<std::ptrdiff_t>(first);
      ASSERT_EQ(map.count(first, count),
                static_cast<std::size_t>(
                    std::count(model.begin() + from, model.begin() + from + static_cast<std::ptrdiff_t>(count), true)));
      ASSERT_EQ(map.find_next(first), find(model, first, true));
      ASSERT_EQ(map.find_next_zero(first), find(model, first, false));
      const std::size_t alignment = std::size_t{1} << rng.below(5);
      const std::size_t want = 1 + rng.below(20);
      ASSERT_EQ(map.find_zero_area(first, want, alignment), find_area(model, first, want, alignment)) << "seed " << seed;
    }
    ASSERT_EQ(words.back(), 0x5555u);
  }
}

}  // namespace
}  // namespace quire
