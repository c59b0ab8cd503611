// RbTree against std::multimap: random inserts and erases of elements with few distinct keys.
#include "quire/base/rbtree.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <memory>
#include <set>
#include <vector>

#include "quire/base/rng.h"

namespace quire {
namespace {

struct Item {
  std::uint64_t key = 0;
  std::uint64_t serial = 0;  // order of insertion
  RbNode rb;
};
struct ByKey {
  bool operator()(const Item& a, const Item& b) const { return a.key < b.key; }
};
using Tree = RbTree<Item, &Item::rb, ByKey>;
using Model = std::set<std::pair<std::uint64_t, std::uint64_t>>;  // (key, serial)

bool same(const Tree& tree, const Model& model) {
  auto expected = model.begin();
  for (Item* item = tree.first(); item != nullptr; item = Tree::next(*item), ++expected) {
    if (expected == model.end() || *expected != std::pair(item->key, item->serial)) return false;
  }
  return expected == model.end();
}

// One run of `ops` operations on at most `size` elements with keys below `keys`; validates every `check_every` steps.
void run(std::uint64_t seed, std::size_t ops, std::size_t size, std::uint64_t keys, std::size_t check_every) {
  Rng rng(seed);
  std::vector<std::unique_ptr<Item>> items;
  for (std::size_t i = 0; i < size; ++i) items.push_back(std::make_unique<Item>());
  Tree tree;
  Model model;
  for (std::size_t op = 0; op < ops; ++op) {
    Item& item = *items[rng.below(size)];
    if (item.rb.linked()) {
      tree.erase(item);
      ASSERT_EQ(model.erase({item.key, item.serial}), 1u);
    } else {
      item.key = rng.below(keys);
      item.serial = op;
      tree.insert(item);
      model.emplace(item.key, item.serial);
    }
    const std::uint64_t probe = rng.below(keys + 1);
    const Item* found = tree.partition_point([&](const Item& i) { return i.key < probe; });
    const auto expected = model.lower_bound({probe, 0});
    ASSERT_EQ(found == nullptr, expected == model.end());
    if (found != nullptr) {
      ASSERT_EQ(std::pair(found->key, found->serial), *expected);
    }
    if (op % check_every == 0) {
      tree.validate();
      ASSERT_TRUE(same(tree, model)) << "seed " << seed << " op " << op;
    }
  }
  tree.validate();
  ASSERT_TRUE(same(tree, model));
}

TEST(RbTreeProperty, LongRandomRun) { run(1, 200'000, 2'000, 500, 1'000); }

TEST(RbTreeProperty, SmallTreesCheckedAfterEveryOperation) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) run(seed, 500, 1 + seed % 40, 1 + seed % 17, 1);
}

TEST(RbTreeProperty, InsertingAnyKeysSortsThemStably) {
  EXPECT_TRUE(rc::check("in-order walk is the stable sort", [](const std::vector<std::uint8_t>& keys) {
    std::vector<Item> items(keys.size());
    Tree tree;
    Model model;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      items[i].key = keys[i];
      items[i].serial = i;
      tree.insert(items[i]);
      model.emplace(keys[i], i);
    }
    tree.validate();
    RC_ASSERT(same(tree, model));
  }));
}

}  // namespace
}  // namespace quire
