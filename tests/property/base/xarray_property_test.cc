// XArray against std::map: every operation, sparse and dense indices, values and pointers, marks, memory that runs out.
#include "quire/base/xarray.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <array>
#include <map>
#include <optional>

#include "quire/base/rng.h"
#include "xa_heap.h"

namespace quire {
namespace {

struct Slot {
  XaEntry entry;
  std::array<bool, kXaMarks> marks{};
};

// Keeps what it is told of each leaf, as the list of shadow-only nodes does.
struct Observer final : XaNodeObserver {
  struct Leaf {
    unsigned count = 0;
    unsigned nr_values = 0;
    bool operator==(const Leaf&) const = default;
  };
  void node_changed(XaNode& node) override {
    ASSERT_EQ(node.shift, 0);
    ASSERT_LE(node.nr_values, node.count);
    if (node.count == 0) {
      leaves.erase(&node);
    } else {
      leaves[&node] = Leaf{node.count, node.nr_values};
    }
  }
  std::map<const XaNode*, Leaf> leaves;
};

class Pair {
 public:
  explicit Pair(std::uint64_t seed) : rng_(seed) { array_.set_observer(&observer_); }

  void step() {
    const std::uint64_t index = pick_index();
    switch (rng_.below(10)) {
      case 0:
      case 1:
      case 2: store(index, pick_entry()); break;
      case 3:
      case 4: erase(index); break;
      case 5: cmpxchg(index); break;
      case 6: mark(index); break;
      case 7: search(index); break;
      case 8: scarce(index); break;
      default: lookup(index); break;
    }
  }

  void check_all() {
    array_.validate();
    ASSERT_EQ(array_.node_count(), heap_.live());
    auto expected = model_.begin();
    array_.for_each([&](std::uint64_t index, XaEntry entry) {
      ASSERT_NE(expected, model_.end());
      ASSERT_EQ(index, expected->first);
      ASSERT_EQ(entry, expected->second.entry);
      for (XaMark m = 0; m < kXaMarks; ++m) ASSERT_EQ(array_.get_mark(index, m), expected->second.marks[m]);
      ++expected;
    });
    ASSERT_EQ(expected, model_.end());
    check_observer();
    for (XaMark m = 0; m < kXaMarks; ++m) {
      bool any = false;
      for (const auto& [index, slot] : model_) any = any || slot.marks[m];
      ASSERT_EQ(array_.marked(m), any);
    }
  }

  void erase_all() {
    while (!model_.empty()) erase(model_.begin()->first);
    ASSERT_TRUE(array_.empty());
    ASSERT_EQ(heap_.live(), 0u);
    ASSERT_TRUE(observer_.leaves.empty());
  }

 private:
  // What was told last is what the model has at each leaf, and no leaf was left out or kept too long.
  void check_observer() {
    std::map<const XaNode*, Observer::Leaf> expected;
    for (const auto& [index, slot] : model_) {
      const XaNode* leaf = array_.leaf(index);
      if (leaf == nullptr) continue;  // index 0 alone needs no node
      ++expected[leaf].count;
      expected[leaf].nr_values += slot.entry.is_value() ? 1 : 0;
    }
    ASSERT_EQ(observer_.leaves, expected);
  }

  // Mostly small and dense, at times anywhere on the axis, at times its very ends, often one already in use.
  std::uint64_t pick_index() {
    switch (rng_.below(8)) {
      case 0: return rng_();
      case 1: return rng_() >> rng_.below(64);
      case 2: return rng_.chance(1, 2) ? rng_.below(3) : ~std::uint64_t{0} - rng_.below(3);
      case 3:
      case 4: {
        if (model_.empty()) return 0;
        const auto at = model_.lower_bound(rng_() >> rng_.below(64));
        return at == model_.end() ? model_.begin()->first : at->first;
      }
      default: return rng_.below(1000);
    }
  }
  XaEntry pick_entry() {
    if (rng_.chance(1, 2)) return XaValue(rng_() & kXaValueMax);
    return XaEntry(&objects_[rng_.below(objects_.size())]);
  }
  XaEntry in_model(std::uint64_t index) const {
    const auto at = model_.find(index);
    return at == model_.end() ? XaEntry() : at->second.entry;
  }

  void store(std::uint64_t index, XaEntry entry) {
    const Result<XaEntry> old = array_.store(index, entry);
    ASSERT_TRUE(old.has_value());
    ASSERT_EQ(*old, in_model(index));
    model_[index].entry = entry;
  }
  void erase(std::uint64_t index) {
    ASSERT_EQ(array_.erase(index), in_model(index));
    model_.erase(index);
  }
  void cmpxchg(std::uint64_t index) {
    const XaEntry old = rng_.chance(2, 3) ? in_model(index) : pick_entry();
    const XaEntry entry = rng_.chance(1, 4) ? XaEntry() : pick_entry();
    const XaEntry was = in_model(index);
    ASSERT_EQ(*array_.cmpxchg(index, old, entry), was);
    if (was != old) return;
    if (entry.empty()) {
      model_.erase(index);
    } else {
      model_[index].entry = entry;
    }
  }
  void mark(std::uint64_t index) {
    const auto m = static_cast<XaMark>(rng_.below(kXaMarks));
    const bool set = rng_.chance(2, 3);
    if (set) {
      array_.set_mark(index, m);
    } else {
      array_.clear_mark(index, m);
    }
    if (const auto at = model_.find(index); at != model_.end()) at->second.marks[m] = set;
  }
  void lookup(std::uint64_t index) {
    ASSERT_EQ(array_.load(index), in_model(index));
    const auto at = model_.find(index);
    for (XaMark m = 0; m < kXaMarks; ++m) ASSERT_EQ(array_.get_mark(index, m), at != model_.end() && at->second.marks[m]);
  }
  void search(std::uint64_t start) {
    const std::uint64_t max = start + (rng_() >> rng_.below(64)) < start ? ~std::uint64_t{0} : start + rng_.below(5000);
    auto at = model_.lower_bound(start);
    check_found(array_.find(start, max), at != model_.end() && at->first <= max ? at : model_.end());

    const auto m = static_cast<XaMark>(rng_.below(kXaMarks));
    while (at != model_.end() && at->first <= max && !at->second.marks[m]) ++at;
    check_found(array_.find_marked(start, max, m), at != model_.end() && at->first <= max ? at : model_.end());

    auto before = model_.upper_bound(start);
    const std::uint64_t min = start - (start == 0 ? 0 : rng_.below(start));
    if (before == model_.begin()) {
      check_found(array_.find_last(start, min), model_.end());
    } else {
      --before;
      check_found(array_.find_last(start, min), before->first >= min ? before : model_.end());
    }
  }
  using Place = std::map<std::uint64_t, Slot>::iterator;
  void check_found(const std::optional<XArray::Found>& found, Place expected) {
    ASSERT_EQ(found.has_value(), expected != model_.end());
    if (!found) return;
    ASSERT_EQ(found->index, expected->first);
    ASSERT_EQ(found->entry, expected->second.entry);
  }
  // A store with a few nodes to spare at most: it succeeds, or nothing has changed.
  void scarce(std::uint64_t index) {
    const std::size_t before = heap_.live();
    const XaEntry entry = pick_entry();
    const XaEntry was = in_model(index);
    heap_.set_limit(before + rng_.below(4));
    const Result<XaEntry> stored = array_.store(index, entry);
    heap_.set_limit(~std::size_t{0});
    if (stored) {
      ASSERT_EQ(*stored, was);
      model_[index].entry = entry;
    } else {
      ASSERT_EQ(stored.error(), Errno::kNoMem);
      ASSERT_EQ(heap_.live(), before);
      ASSERT_TRUE(was.empty());  // replacing needs no memory
      ASSERT_TRUE(array_.load(index).empty());
    }
  }

  Rng rng_;
  std::array<std::uint64_t, 8> objects_{};
  XaHeap heap_;
  Observer observer_;
  XArray array_{heap_};
  std::map<std::uint64_t, Slot> model_;
};

TEST(XArrayProperty, LongRandomRun) {
  Pair pair(5);
  for (int op = 0; op < 300'000 && !testing::Test::HasFatalFailure(); ++op) {
    pair.step();
    if (op % 10'000 == 0) pair.check_all();
  }
  pair.check_all();
  pair.erase_all();
}

TEST(XArrayProperty, ShortRunsCheckedAfterEveryOperation) {
  for (std::uint64_t seed = 0; seed < 200 && !testing::Test::HasFatalFailure(); ++seed) {
    Pair pair(seed);
    for (int op = 0; op < 200; ++op) {
      pair.step();
      pair.check_all();
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "seed " << seed << " op " << op;
    }
    pair.erase_all();
  }
}

TEST(XArrayProperty, AnyIndicesComeBackSorted) {
  EXPECT_TRUE(rc::check("stored indices are iterated in order", [](const std::map<std::uint64_t, std::uint8_t>& entries) {
    XaHeap heap;
    XArray array(heap);
    for (const auto& [index, value] : entries) RC_ASSERT(array.store(index, XaValue(value)).has_value());
    array.validate();
    std::map<std::uint64_t, std::uint8_t> seen;
    std::optional<std::uint64_t> before;
    array.for_each([&](std::uint64_t index, XaEntry entry) {
      RC_ASSERT(!before || *before < index);
      before = index;
      seen[index] = static_cast<std::uint8_t>(entry.value().value());
    });
    RC_ASSERT(seen == entries);
    array.clear();
    RC_ASSERT(heap.live() == 0u);
  }));
}

}  // namespace
}  // namespace quire
