// The map of areas against a plain sorted vector.
#include "quire/vm/vma_tree.h"

#include <algorithm>
#include <memory>

#include "quire/base/rng.h"
#include "vm_machine.h"

namespace quire::vm {
namespace {

constexpr VirtAddr at(std::uint64_t page) { return VirtAddr(page * kPageSize); }

class VmaTreeTest : public ::testing::Test {
 protected:
  Vma& add(std::uint64_t first, std::uint64_t end, VmFlags flags = VmFlags::kRead) {
    vmas_.push_back(std::make_unique<Vma>(mm_, Range<VirtAddr>{at(first), at(end)}, flags, Pgoff(first)));
    EXPECT_TRUE(tree_.reserve());
    tree_.insert(*vmas_.back());
    return *vmas_.back();
  }

  VmMachine machine_;
  Mm& mm_ = machine_.mm_alloc();
  VmaTree::NodeCache nodes_{machine_.slab, "maple_node"};
  VmaTree tree_{nodes_, 4 * kPageSize};
  std::vector<std::unique_ptr<Vma>> vmas_;

  void TearDown() override {
    while (Vma* vma = tree_.first()) tree_.erase(*vma);
  }
};

TEST_F(VmaTreeTest, FindGivesTheAreaOrTheNextOne) {
  Vma& a = add(10, 20);
  Vma& b = add(30, 31);
  EXPECT_EQ(tree_.find(at(0)), &a);
  EXPECT_EQ(tree_.find(at(19)), &a);
  EXPECT_EQ(tree_.find(at(20)), &b);
  EXPECT_EQ(tree_.find(at(31)), nullptr);
  EXPECT_EQ(tree_.lookup(at(25)), nullptr);
  EXPECT_EQ(tree_.find_intersection({at(20), at(30)}), nullptr);
  EXPECT_EQ(tree_.find_intersection({at(20), at(31)}), &b);
  EXPECT_EQ(tree_.find_prev(at(25)), &a);
  EXPECT_EQ(tree_.find_prev(at(5)), nullptr);
  EXPECT_EQ(tree_.find_prev(at(50)), &b);
}

TEST_F(VmaTreeTest, GapsKeepClearOfAStacksGuard) {
  add(10, 20);
  add(40, 50, VmFlags::kGrowsDown);
  EXPECT_EQ(tree_.highest_gap(16 * kPageSize, {at(0), at(50)}), at(20));
  EXPECT_EQ(tree_.highest_gap(17 * kPageSize, {at(0), at(50)}), std::nullopt);
  EXPECT_EQ(tree_.highest_gap(2 * kPageSize, {at(0), at(60)}), at(58));
  EXPECT_EQ(tree_.lowest_gap(10 * kPageSize, {at(0), at(60)}), at(0));
  EXPECT_EQ(tree_.lowest_gap(11 * kPageSize, {at(0), at(60)}), at(20));
  EXPECT_EQ(tree_.lowest_gap(3 * kPageSize, {at(35), at(53)}), at(50));
}

// Thousands of areas: nodes split, lend and join on several levels, and every area is found from every side.
TEST_F(VmaTreeTest, KeepsItsShapeWhileThousandsComeAndGo) {
  Rng rng(11);
  constexpr std::uint64_t kPlaces = 6000;
  std::vector<std::unique_ptr<Vma>> by_place(kPlaces);
  const auto toggle = [&](std::uint64_t place) {
    if (by_place[place] != nullptr) {
      tree_.erase(*by_place[place]);
      by_place[place] = nullptr;
      return;
    }
    by_place[place] =
        std::make_unique<Vma>(mm_, Range<VirtAddr>{at(3 * place + 1), at(3 * place + 3)}, VmFlags::kRead, Pgoff(0));
    ASSERT_TRUE(tree_.reserve());
    tree_.insert(*by_place[place]);
  };
  for (std::uint64_t place = kPlaces; place-- > 0;) toggle(place);  // as mmap places areas: downwards
  EXPECT_GE(tree_.height(), 4u);
  tree_.validate();
  for (int step = 0; step < 20000; ++step) {
    toggle(rng.below(kPlaces));
    if (step % 1000 == 0) tree_.validate();
  }
  const Vma* above = nullptr;
  for (std::uint64_t place = kPlaces; place-- > 0;) {
    if (by_place[place] != nullptr) above = by_place[place].get();
    ASSERT_EQ(tree_.find(at(3 * place)), above);
    ASSERT_EQ(tree_.lookup(at(3 * place + 2)), by_place[place].get());
  }
  for (std::uint64_t place = 0; place < kPlaces; ++place) {
    if (by_place[place] != nullptr) toggle(place);
  }
  tree_.validate();
  EXPECT_TRUE(tree_.empty());
  EXPECT_EQ(tree_.height(), 0u);
}

// Highest and lowest gap, find and iteration against a scan, over random insertions, removals and moved bounds.
TEST_F(VmaTreeTest, AgreesWithAScan) {
  Rng rng(7);
  constexpr std::uint64_t kPages = 400;
  for (int step = 0; step < 3000; ++step) {
    const std::uint64_t first = rng.below(kPages);
    const std::uint64_t end = first + 1 + rng.below(6);
    Vma* hit = tree_.find_intersection({at(first), at(end)});
    if (hit == nullptr) {
      add(first, end, rng.chance(1, 8) ? VmFlags::kGrowsDown : VmFlags::kRead);
    } else if (rng.chance(1, 3) && hit->pages() > 1) {
      tree_.adjust(*hit, {hit->vm_start + kPageSize, hit->vm_end});
    } else {
      tree_.erase(*hit);
      std::erase_if(vmas_, [&](const auto& v) { return v.get() == hit; });
    }
    tree_.validate();

    std::ranges::sort(vmas_, {}, [](const auto& v) { return v->vm_start; });
    const std::uint64_t length = (1 + rng.below(12)) * kPageSize;
    const VirtAddr low = at(rng.below(kPages / 2));
    const Range<VirtAddr> limits{low, low + (1 + rng.below(kPages)) * kPageSize};
    std::optional<VirtAddr> highest;
    std::optional<VirtAddr> lowest;
    VirtAddr from(0);
    const auto consider = [&](VirtAddr to) {
      const Range<VirtAddr> gap = Range<VirtAddr>{from, to}.intersect(limits);
      if (gap.size() < length) return;
      highest = VirtAddr(gap.end.value() - length);
      if (!lowest) lowest = gap.begin;
    };
    for (const auto& vma : vmas_) {
      consider(tree_.start_with_gap(*vma));
      from = vma->vm_end;
    }
    consider(limits.end);
    ASSERT_EQ(tree_.highest_gap(length, limits), highest) << "step " << step;
    ASSERT_EQ(tree_.lowest_gap(length, limits), lowest) << "step " << step;
  }
}

}  // namespace
}  // namespace quire::vm
