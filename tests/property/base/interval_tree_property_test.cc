// IntervalTree against a list of intervals searched from end to end.
#include "quire/base/interval_tree.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "quire/base/rng.h"

namespace quire {
namespace {

struct Item : IntervalNode {
  std::uint64_t serial = 0;
};

std::vector<const Item*> overlapping(const std::vector<std::unique_ptr<Item>>& items, std::uint64_t first, std::uint64_t last) {
  std::vector<const Item*> out;
  for (const auto& item : items) {
    if (item->linked() && item->overlaps(first, last)) out.push_back(item.get());
  }
  std::sort(out.begin(), out.end(),
            [](const Item* a, const Item* b) { return std::pair(a->first, a->serial) < std::pair(b->first, b->serial); });
  return out;
}

void run(std::uint64_t seed, std::size_t ops, std::size_t size, std::uint64_t axis, std::uint64_t longest) {
  Rng rng(seed);
  std::vector<std::unique_ptr<Item>> items;
  for (std::size_t i = 0; i < size; ++i) items.push_back(std::make_unique<Item>());
  IntervalTree tree;
  for (std::size_t op = 0; op < ops; ++op) {
    Item& item = *items[rng.below(size)];
    if (item.linked()) {
      tree.erase(item);
    } else {
      const std::uint64_t first = rng.below(axis);
      item.serial = op;
      tree.insert(item, first, first + rng.below(longest));
    }
    const std::uint64_t first = rng.below(axis);
    const std::uint64_t last = first + rng.below(longest);
    std::vector<const Item*> seen;
    tree.for_each(first, last, [&](IntervalNode& n) { seen.push_back(static_cast<const Item*>(&n)); });
    ASSERT_EQ(seen, overlapping(items, first, last)) << "seed " << seed << " op " << op;
    if (op % 64 == 0) tree.validate();
  }
  tree.validate();
}

TEST(IntervalTreeProperty, LongRandomRun) { run(3, 100'000, 200, 10'000, 300); }

TEST(IntervalTreeProperty, ManyShapes) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) run(seed, 500, 1 + seed, 1 + seed * 3, 1 + seed % 50);
}

TEST(IntervalTreeProperty, AnyIntervalsAnyQuery) {
  EXPECT_TRUE(rc::check("for_each visits just the overlapping ones",
                        [](const std::vector<std::pair<std::uint8_t, std::uint8_t>>& pairs, std::uint8_t a, std::uint8_t b) {
                          std::vector<std::unique_ptr<Item>> items;
                          IntervalTree tree;
                          for (const auto& [x, y] : pairs) {
                            items.push_back(std::make_unique<Item>());
                            items.back()->serial = items.size();
                            tree.insert(*items.back(), std::min(x, y), std::max(x, y));
                          }
                          tree.validate();
                          std::vector<const Item*> seen;
                          tree.for_each(std::min(a, b), std::max(a, b),
                                        [&](IntervalNode& n) { seen.push_back(static_cast<const Item*>(&n)); });
                          RC_ASSERT(seen == overlapping(items, std::min(a, b), std::max(a, b)));
                        }));
}

}  // namespace
}  // namespace quire
