#include "quire/base/xarray.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "xa_heap.h"

namespace quire {
namespace {

XaEntry number(std::uint64_t n) { return XaValue(n); }

class XArrayTest : public testing::Test {
 protected:
  void put(std::uint64_t index) { ASSERT_TRUE(array_.store(index, number(index & kXaValueMax)).has_value()); }
  std::vector<std::uint64_t> indices() {
    std::vector<std::uint64_t> out;
    array_.for_each([&](std::uint64_t i, XaEntry) { out.push_back(i); });
    return out;
  }

  XaHeap heap_;
  XArray array_{heap_};
};

TEST(XaEntry, TellsPointersFromValues) {
  int object = 7;
  const XaEntry pointer(&object);
  EXPECT_TRUE(pointer.is_pointer());
  EXPECT_FALSE(pointer.is_value());
  EXPECT_EQ(pointer.pointer<int>(), &object);

  const XaEntry value = XaValue(0);
  EXPECT_TRUE(value.is_value());
  EXPECT_FALSE(value.empty());
  EXPECT_EQ(value.value(), XaValue(0));
  EXPECT_EQ(XaEntry(XaValue(kXaValueMax)).value().value(), kXaValueMax);

  EXPECT_TRUE(XaEntry().empty());
  EXPECT_FALSE(XaEntry().is_pointer());
  EXPECT_EQ(XaEntry().pointer<int>(), nullptr);
}

TEST_F(XArrayTest, IndexZeroAloneNeedsNoNode) {
  EXPECT_TRUE(array_.empty());
  put(0);
  EXPECT_EQ(heap_.live(), 0u);
  EXPECT_EQ(array_.load(0), number(0));
  EXPECT_EQ(array_.load(1), XaEntry());
  EXPECT_EQ(array_.find(0)->index, 0u);
  EXPECT_FALSE(array_.find(1).has_value());
  EXPECT_EQ(array_.erase(0), number(0));
  EXPECT_TRUE(array_.empty());
}

TEST_F(XArrayTest, GrowsAndShrinksWithItsGreatestIndex) {
  put(0);
  put(63);
  EXPECT_EQ(heap_.live(), 1u);
  put(64);
  EXPECT_EQ(heap_.live(), 3u);
  put(~std::uint64_t{0});
  EXPECT_EQ(heap_.live(), 3u + 9u + 10u);  // up to shift 60, and a path of its own down to the last index
  array_.validate();
  array_.erase(~std::uint64_t{0});
  EXPECT_EQ(heap_.live(), 3u);
  array_.erase(64);
  EXPECT_EQ(heap_.live(), 1u);
  array_.erase(63);
  EXPECT_EQ(heap_.live(), 0u);
  EXPECT_EQ(array_.load(0), number(0));
  array_.validate();
}

TEST_F(XArrayTest, StoreReturnsTheOldEntryAndKeepsMarks) {
  EXPECT_EQ(*array_.store(100, number(1)), XaEntry());
  array_.set_mark(100, 2);
  EXPECT_EQ(*array_.store(100, number(2)), number(1));
  EXPECT_TRUE(array_.get_mark(100, 2));
  EXPECT_EQ(*array_.store(100, XaEntry()), number(2));  // storing nothing erases
  EXPECT_TRUE(array_.empty());
  EXPECT_EQ(heap_.live(), 0u);
  EXPECT_FALSE(array_.get_mark(100, 2));
}

TEST_F(XArrayTest, InsertAndCompareExchange) {
  EXPECT_TRUE(array_.insert(5, number(1)).has_value());
  EXPECT_EQ(array_.insert(5, number(2)).error(), Errno::kBusy);
  EXPECT_EQ(*array_.cmpxchg(5, number(9), number(3)), number(1));
  EXPECT_EQ(array_.load(5), number(1));
  EXPECT_EQ(*array_.cmpxchg(5, number(1), number(3)), number(1));
  EXPECT_EQ(array_.load(5), number(3));
  EXPECT_EQ(*array_.cmpxchg(6, XaEntry(), number(4)), XaEntry());
  EXPECT_EQ(array_.load(6), number(4));
  EXPECT_EQ(*array_.cmpxchg(6, number(4), XaEntry()), number(4));
  EXPECT_EQ(array_.load(6), XaEntry());
}

TEST_F(XArrayTest, FindsInOrderAndWithinBounds) {
  const std::vector<std::uint64_t> all = {3, 63, 64, 4095, 4096, 1'000'000, ~std::uint64_t{0} - 1, ~std::uint64_t{0}};
  for (const std::uint64_t i : all) put(i);
  array_.validate();
  EXPECT_EQ(indices(), all);
  EXPECT_EQ(array_.find(4)->index, 63u);
  EXPECT_EQ(array_.find(64)->index, 64u);
  EXPECT_EQ(array_.find(65)->index, 4095u);
  EXPECT_FALSE(array_.find(65, 4094).has_value());
  EXPECT_EQ(array_.find(1'000'001)->index, ~std::uint64_t{0} - 1);
  EXPECT_FALSE(array_.next(~std::uint64_t{0}).has_value());
  EXPECT_EQ(array_.next(4095)->entry, number(4096));
}

TEST_F(XArrayTest, FindLastIsTheMirrorImage) {
  for (const std::uint64_t i : {std::uint64_t{3}, std::uint64_t{64}, std::uint64_t{1'000'000}}) put(i);
  EXPECT_EQ(array_.find_last()->index, 1'000'000u);
  EXPECT_EQ(array_.find_last(999'999)->index, 64u);
  EXPECT_EQ(array_.find_last(64)->index, 64u);
  EXPECT_EQ(array_.find_last(63)->index, 3u);
  EXPECT_FALSE(array_.find_last(2).has_value());
  EXPECT_FALSE(array_.find_last(999'999, 65).has_value());
}

TEST_F(XArrayTest, MarksAreFoundAndClearedWithTheirEntries) {
  for (std::uint64_t i = 0; i < 1000; ++i) put(i);
  for (std::uint64_t i = 0; i < 1000; i += 100) array_.set_mark(i, 1);
  array_.set_mark(2000, 1);  // absent
  array_.validate();
  EXPECT_TRUE(array_.marked(1));
  EXPECT_FALSE(array_.marked(0));
  std::vector<std::uint64_t> seen;
  array_.for_marked(50, 650, 1, [&](std::uint64_t i, XaEntry) { seen.push_back(i); });
  EXPECT_THAT(seen, testing::ElementsAre(100, 200, 300, 400, 500, 600));
  EXPECT_FALSE(array_.find_marked(0, ~std::uint64_t{0}, 0).has_value());

  array_.clear_mark(100, 1);
  EXPECT_EQ(array_.find_marked(1, 999, 1)->index, 200u);
  for (std::uint64_t i = 0; i < 1000; i += 100) array_.erase(i);
  EXPECT_FALSE(array_.marked(1));
  array_.validate();
}

TEST_F(XArrayTest, MarksOfIndexZeroSurviveGrowingAndShrinking) {
  put(0);
  array_.set_mark(0, 0);
  array_.set_mark(0, 2);
  put(5000);
  array_.validate();
  EXPECT_TRUE(array_.get_mark(0, 0));
  EXPECT_FALSE(array_.get_mark(0, 1));
  EXPECT_TRUE(array_.get_mark(0, 2));
  array_.erase(5000);
  EXPECT_TRUE(array_.get_mark(0, 0));
  EXPECT_TRUE(array_.marked(2));
  array_.erase(0);
  EXPECT_FALSE(array_.marked(0));
}

TEST_F(XArrayTest, ForEachMayEraseWhatItVisits) {
  for (std::uint64_t i = 0; i < 300; ++i) put(i * 3);
  array_.for_range(100, 500, [&](std::uint64_t i, XaEntry) { array_.erase(i); });
  array_.validate();
  for (std::uint64_t i = 0; i < 300; ++i) EXPECT_EQ(array_.load(i * 3).empty(), i * 3 >= 100 && i * 3 <= 500) << i * 3;
}

TEST_F(XArrayTest, OutOfMemoryLeavesTheArrayAsItWas) {
  put(0);
  put(70);
  const std::size_t before = heap_.live();
  for (std::size_t spare = 0; spare < 19; ++spare) {
    heap_.set_limit(before + spare);
    const Result<XaEntry> result = array_.store(~std::uint64_t{0}, number(1));
    ASSERT_FALSE(result.has_value()) << spare;
    EXPECT_EQ(result.error(), Errno::kNoMem);
    EXPECT_EQ(heap_.live(), before);
    array_.validate();
    EXPECT_EQ(array_.load(0), number(0));
    EXPECT_EQ(array_.load(70), number(70));
  }
  heap_.set_limit(before + 19);
  EXPECT_TRUE(array_.store(~std::uint64_t{0}, number(1)).has_value());
  EXPECT_TRUE(array_.store(70, number(2)).has_value());  // replacing needs nothing
}

TEST_F(XArrayTest, OutOfMemoryOnAnEmptyArray) {
  heap_.set_limit(1);
  EXPECT_FALSE(array_.store(1'000'000, number(1)).has_value());
  EXPECT_TRUE(array_.empty());
  EXPECT_EQ(heap_.live(), 0u);
  array_.validate();
}

TEST_F(XArrayTest, ClearFreesEveryNode) {
  for (std::uint64_t i = 1; i != 0; i <<= 1) put(i);
  EXPECT_GT(heap_.live(), 10u);
  EXPECT_EQ(array_.node_count(), heap_.live());
  array_.clear();
  EXPECT_EQ(heap_.live(), 0u);
  EXPECT_TRUE(array_.empty());
}

TEST_F(XArrayTest, LeavesKnowTheirArrayAndCountTheirValues) {
  int object = 0;
  put(130);
  put(131);
  ASSERT_TRUE(array_.store(132, XaEntry(&object)).has_value());
  XaNode* leaf = array_.leaf(140);
  ASSERT_NE(leaf, nullptr);
  EXPECT_EQ(&leaf->array(), &array_);
  EXPECT_EQ(leaf->count, 3);
  EXPECT_EQ(leaf->nr_values, 2);
  EXPECT_EQ(array_.leaf(64), nullptr);
}

struct Watcher final : XaNodeObserver {
  void node_changed(XaNode& node) override { log.emplace_back(node.count, node.nr_values); }
  std::vector<std::pair<int, int>> log;
};

TEST_F(XArrayTest, TheObserverSeesEachChangeOfALeaf) {
  using P = std::pair<int, int>;
  Watcher watcher;
  array_.set_observer(&watcher);
  int object = 0;
  ASSERT_TRUE(array_.store(1, XaEntry(&object)).has_value());
  ASSERT_TRUE(array_.store(1, number(5)).has_value());  // the folio left a shadow
  ASSERT_TRUE(array_.store(2, XaEntry(&object)).has_value());
  array_.erase(1);
  array_.erase(2);
  EXPECT_THAT(watcher.log, testing::ElementsAre(P(1, 0), P(1, 1), P(2, 1), P(1, 0), P(0, 0)));
}

}  // namespace
}  // namespace quire
