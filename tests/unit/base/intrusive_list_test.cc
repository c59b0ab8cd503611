#include "quire/base/intrusive_list.h"

#include <gtest/gtest.h>

#include <vector>

namespace quire {
namespace {

struct Item {
  int value = 0;
  ListNode node;
};
using Items = List<Item, &Item::node>;

std::vector<int> values(Items& items) {
  std::vector<int> out;
  for (Item& i : items) out.push_back(i.value);
  return out;
}

TEST(IntrusiveList, KeepsOrderOfBothEnds) {
  Item a{1, {}}, b{2, {}}, c{3, {}};
  Items items;
  items.push_back(b);
  items.push_front(a);
  items.push_back(c);
  EXPECT_EQ(values(items), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(items.pop_back(), &c);
  EXPECT_FALSE(c.node.linked());
  items.insert_before(b, c);
  EXPECT_EQ(values(items), (std::vector<int>{1, 3, 2}));
  items.move_to_front(b);
  EXPECT_EQ(values(items), (std::vector<int>{2, 1, 3}));
  EXPECT_EQ(items.count(), 3u);
}

TEST(IntrusiveList, SpliceEmptiesTheOther) {
  Item a{1, {}}, b{2, {}}, c{3, {}};
  Items left, right;
  left.push_back(a);
  right.push_back(b);
  right.push_back(c);
  left.splice_front(right);
  EXPECT_TRUE(right.empty());
  EXPECT_EQ(values(left), (std::vector<int>{2, 3, 1}));
  right.splice_back(left);
  EXPECT_EQ(values(right), (std::vector<int>{2, 3, 1}));
  EXPECT_EQ(left.front_or_null(), nullptr);
}

}  // namespace
}  // namespace quire
