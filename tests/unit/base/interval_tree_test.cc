#include "quire/base/interval_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

namespace quire {
namespace {

using Pair = std::pair<std::uint64_t, std::uint64_t>;

std::vector<Pair> overlapping(const IntervalTree& tree, std::uint64_t first, std::uint64_t last) {
  std::vector<Pair> out;
  tree.for_each(first, last, [&](const IntervalNode& n) { out.emplace_back(n.first, n.last); });
  return out;
}

class IntervalTreeTest : public testing::Test {
 protected:
  IntervalTreeTest() {
    const Pair intervals[] = {{20, 30}, {5, 41}, {25, 26}, {33, 39}, {50, 50}};
    for (std::size_t i = 0; i < nodes_.size(); ++i) tree_.insert(nodes_[i], intervals[i].first, intervals[i].second);
    tree_.validate();
  }
  std::array<IntervalNode, 5> nodes_;
  IntervalTree tree_;
};

TEST_F(IntervalTreeTest, BothEndsBelongToTheInterval) {
  EXPECT_THAT(overlapping(tree_, 50, 50), testing::ElementsAre(Pair(50, 50)));
  EXPECT_THAT(overlapping(tree_, 41, 49), testing::ElementsAre(Pair(5, 41)));
  EXPECT_THAT(overlapping(tree_, 42, 49), testing::IsEmpty());
  EXPECT_THAT(overlapping(tree_, 0, 4), testing::IsEmpty());
  EXPECT_THAT(overlapping(tree_, 51, ~std::uint64_t{0}), testing::IsEmpty());
}

TEST_F(IntervalTreeTest, OverlapsComeInOrderOfTheirStart) {
  EXPECT_THAT(overlapping(tree_, 26, 33), testing::ElementsAre(Pair(5, 41), Pair(20, 30), Pair(25, 26), Pair(33, 39)));
  EXPECT_THAT(overlapping(tree_, 0, ~std::uint64_t{0}), testing::SizeIs(5));
}

TEST_F(IntervalTreeTest, ErasedIntervalsNoLongerOverlap) {
  tree_.erase(nodes_[1]);
  tree_.validate();
  EXPECT_THAT(overlapping(tree_, 26, 33), testing::ElementsAre(Pair(20, 30), Pair(25, 26), Pair(33, 39)));
  EXPECT_FALSE(nodes_[1].linked());
}

TEST_F(IntervalTreeTest, TheVisitedNodeMayBeErased) {
  tree_.for_each(0, 100, [&](IntervalNode& n) { tree_.erase(n); });
  EXPECT_TRUE(tree_.empty());
}

TEST(IntervalTree, ReachesTheEndOfTheAxis) {
  IntervalTree tree;
  IntervalNode node;
  tree.insert(node, ~std::uint64_t{0}, ~std::uint64_t{0});
  EXPECT_EQ(tree.iter_first(~std::uint64_t{0}, ~std::uint64_t{0}), &node);
  EXPECT_EQ(tree.iter_first(0, ~std::uint64_t{0} - 1), nullptr);
}

struct Holder {
  int before = 0;
  IntervalNode rb;
};

TEST(IntervalTreeOf, GivesTheObjectBack) {
  IntervalTreeOf<Holder, &Holder::rb> tree;
  Holder a;
  Holder b;
  tree.insert(a, 1, 4);
  tree.insert(b, 3, 9);
  std::vector<Holder*> seen;
  tree.for_each(4, 4, [&](Holder& h) { seen.push_back(&h); });
  EXPECT_THAT(seen, testing::ElementsAre(&a, &b));
  EXPECT_EQ(tree.iter_first(5, 5), &b);
  EXPECT_EQ(tree.iter_next(a, 0, 10), &b);
  EXPECT_EQ(tree.iter_next(b, 0, 10), nullptr);
  tree.erase(a);
  tree.validate();
  EXPECT_EQ(tree.count(), 1u);
}

TEST(IntervalTreeDeathTest, RefusesAnIntervalThatEndsBeforeItBegins) {
  IntervalTree tree;
  IntervalNode node;
  EXPECT_DEATH(tree.insert(node, 2, 1), "BUG");
}

}  // namespace
}  // namespace quire
