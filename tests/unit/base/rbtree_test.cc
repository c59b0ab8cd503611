#include "quire/base/rbtree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace quire {
namespace {

struct Item {
  int key = 0;
  int tag = 0;
  RbNode rb;
};
struct ByKey {
  bool operator()(const Item& a, const Item& b) const { return a.key < b.key; }
};
using Tree = RbTree<Item, &Item::rb, ByKey>;

std::vector<int> keys(const Tree& tree) {
  std::vector<int> out;
  tree.for_each([&](const Item& item) { out.push_back(item.key); });
  return out;
}

class RbTreeTest : public testing::Test {
 protected:
  RbTreeTest() {
    int key = 0;
    for (Item& item : items_) {
      item.key = key = (key + 7) % 10;  // 7 4 1 8 5 2 9 6 3 0
      tree_.insert(item);
      tree_.validate();
    }
  }
  Item& with_key(int key) {
    for (Item& item : items_) {
      if (item.key == key) return item;
    }
    ADD_FAILURE();
    return items_[0];
  }

  std::array<Item, 10> items_;
  Tree tree_;
};

TEST(RbTree, EmptyTreeHasNoEnds) {
  Tree tree;
  EXPECT_TRUE(tree.empty());
  EXPECT_EQ(tree.first(), nullptr);
  EXPECT_EQ(tree.last(), nullptr);
  EXPECT_EQ(tree.partition_point([](const Item&) { return false; }), nullptr);
  tree.validate();
}

TEST_F(RbTreeTest, KeepsOrder) {
  EXPECT_THAT(keys(tree_), testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(tree_.first()->key, 0);
  EXPECT_EQ(tree_.last()->key, 9);
  EXPECT_EQ(Tree::next(with_key(4))->key, 5);
  EXPECT_EQ(Tree::prev(with_key(4))->key, 3);
  EXPECT_EQ(Tree::next(with_key(9)), nullptr);
  EXPECT_EQ(Tree::prev(with_key(0)), nullptr);
}

TEST_F(RbTreeTest, PartitionPointIsTheFirstNotBefore) {
  EXPECT_EQ(tree_.partition_point([](const Item& i) { return i.key < 6; })->key, 6);
  EXPECT_EQ(tree_.partition_point([](const Item& i) { return i.key <= 6; })->key, 7);
  EXPECT_EQ(tree_.partition_point([](const Item& i) { return i.key < 100; }), nullptr);
}

TEST_F(RbTreeTest, ErasedNodesAreUnlinkedAndMayReturn) {
  for (int key : {4, 0, 9, 7}) {
    tree_.erase(with_key(key));
    tree_.validate();
    EXPECT_FALSE(with_key(key).rb.linked());
  }
  EXPECT_THAT(keys(tree_), testing::ElementsAre(1, 2, 3, 5, 6, 8));
  tree_.insert(with_key(7));
  EXPECT_THAT(keys(tree_), testing::ElementsAre(1, 2, 3, 5, 6, 7, 8));
  EXPECT_TRUE(with_key(7).rb.linked());
}

TEST_F(RbTreeTest, ErasingAllLeavesAnEmptyTree) {
  for (Item& item : items_) tree_.erase(item);
  EXPECT_TRUE(tree_.empty());
}

TEST(RbTree, EqualKeysKeepInsertionOrder) {
  std::array<Item, 6> items;
  Tree tree;
  for (int i = 0; i < 6; ++i) {
    items[static_cast<std::size_t>(i)].key = i % 2;
    items[static_cast<std::size_t>(i)].tag = i;
    tree.insert(items[static_cast<std::size_t>(i)]);
  }
  std::vector<int> tags;
  tree.for_each([&](const Item& item) { tags.push_back(item.tag); });
  EXPECT_THAT(tags, testing::ElementsAre(0, 2, 4, 1, 3, 5));
}

TEST(RbTree, InsertAtTakesTheCallersOwnDescent) {
  Item root{.key = 5, .tag = 0, .rb = {}};
  Item left{.key = 3, .tag = 0, .rb = {}};
  Tree tree;
  tree.insert_at(root, nullptr, tree.root_link());
  tree.insert_at(left, &root.rb, &root.rb.left);
  tree.validate();
  EXPECT_EQ(tree.first(), &left);
}

// Sums of keys below each node.
struct Summed {
  long key = 0;
  long sum = 0;
  RbNode rb;
};
struct SummedByKey {
  bool operator()(const Summed& a, const Summed& b) const { return a.key < b.key; }
};
struct SumBelow {
  static Summed& of(RbNode& rb) { return *reinterpret_cast<Summed*>(reinterpret_cast<char*>(&rb) - offsetof(Summed, rb)); }
  static bool update(RbNode& rb) {
    long sum = of(rb).key;
    for (RbNode* child : {rb.left, rb.right}) sum += child == nullptr ? 0 : of(*child).sum;
    const bool changed = of(rb).sum != sum;
    of(rb).sum = sum;
    return changed;
  }
};

TEST(RbTree, SummariesFollowInsertEraseAndPropagate) {
  std::array<Summed, 20> items;
  RbTree<Summed, &Summed::rb, SummedByKey, SumBelow> tree;
  long expected = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i].key = static_cast<long>((i * 7) % 20) * 10;
    expected += items[i].key;
    tree.insert(items[i]);
    EXPECT_EQ(tree.root()->sum, expected);
  }
  items[3].key += 5;  // does not change its place
  tree.propagate(items[3]);
  EXPECT_EQ(tree.root()->sum, expected + 5);
  expected += 5;
  for (std::size_t i = 0; i + 1 < items.size(); ++i) {
    expected -= items[i].key;
    tree.erase(items[i]);
    tree.validate();
    EXPECT_EQ(tree.root()->sum, expected);
  }
}

}  // namespace
}  // namespace quire
