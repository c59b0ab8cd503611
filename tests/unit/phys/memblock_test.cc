#include "quire/phys/memblock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/rng.h"

namespace quire::phys {
namespace {

using ::testing::ElementsAre;

Range<PhysAddr> pa(std::uint64_t begin, std::uint64_t end) { return {PhysAddr(begin), PhysAddr(end)}; }

TEST(Memblock, NeighboursOfOneNodeMerge) {
  Memblock m;
  m.add(pa(0x1000, 0x2000), Nid(0));
  m.add(pa(0x3000, 0x4000), Nid(0));
  m.add(pa(0x2000, 0x3000), Nid(0));
  EXPECT_THAT(m.memory(), ElementsAre(MemblockRegion{pa(0x1000, 0x4000), Nid(0)}));
  m.add(pa(0x4000, 0x5000), Nid(1));
  EXPECT_EQ(m.memory().size(), 2u);
}

TEST(Memblock, OverlapsAddNothingTwice) {
  Memblock m;
  m.add(pa(0x1000, 0x3000));
  m.add(pa(0x2000, 0x5000));
  EXPECT_EQ(m.memory_size(), 0x4000u);
  m.validate();
}

TEST(Memblock, FreePunchesAHole) {
  Memblock m;
  m.reserve(pa(0x1000, 0x5000));
  m.free(pa(0x2000, 0x3000));
  EXPECT_EQ(m.reserved().size(), 2u);
  EXPECT_EQ(m.reserved_size(), 0x3000u);
  EXPECT_FALSE(m.is_reserved(PhysAddr(0x2000)));
  EXPECT_TRUE(m.is_reserved(PhysAddr(0x3000)));
}

TEST(Memblock, AllocatesTopDownAlignedBelowTheLimit) {
  Memblock m;
  m.add(pa(0x10'0000, 0x80'0000));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x7f'f000));
  EXPECT_EQ(m.alloc({.size = 0x10'0000, .align = 0x20'0000}), PhysAddr(0x60'0000));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000, .max = PhysAddr(0x40'0000)}), PhysAddr(0x3f'f000));
  EXPECT_EQ(m.alloc({.size = 0x100'0000}), std::nullopt);
}

TEST(Memblock, BottomUpAndNodes) {
  Memblock m;
  m.add(pa(0x10'0000, 0x20'0000), Nid(0));
  m.add(pa(0x20'0000, 0x30'0000), Nid(1));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000, .nid = Nid(0)}), PhysAddr(0x1f'f000));
  m.set_direction(MemblockDirection::kBottomUp);
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000, .nid = Nid(1)}), PhysAddr(0x20'0000));
  const MemblockAllocSpec too_big{
      .size = 0x18'0000, .align = 0x1000, .nid = Nid(1), .node_rule = MemblockAllocSpec::Node::kExact};
  EXPECT_EQ(m.alloc(too_big), std::nullopt);
}

TEST(Memblock, FreeRangesAreMemoryMinusReserved) {
  Memblock m;
  m.add(pa(0x1000, 0x4000), Nid(0));
  m.add(pa(0x6000, 0x9000), Nid(1));
  m.reserve(pa(0x3000, 0x7000));
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  m.for_each_free_range([&](Range<PhysAddr> r, Nid) { ranges.emplace_back(r.begin.value(), r.end.value()); });
  EXPECT_THAT(ranges, ElementsAre(std::pair(0x1000u, 0x3000u), std::pair(0x7000u, 0x9000u)));
}

// Against a bitmap of pages.
TEST(Memblock, RandomOperationsAgreeWithABitmap) {
  constexpr std::uint64_t kPages = 256;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    Memblock m;
    std::array<bool, kPages> memory{};
    std::array<bool, kPages> reserved{};
    for (int op = 0; op < 300; ++op) {
      const std::uint64_t a = rng.below(kPages);
      const std::uint64_t b = a + 1 + rng.below(kPages - a);
      const auto range = pa(a << 12, b << 12);
      switch (rng.below(4)) {
        case 0:
          m.add(range, Nid(static_cast<int>(rng.below(2))));
          std::fill(&memory[a], &memory[b - 1] + 1, true);
          break;
        case 1:
          m.remove(range);
          std::fill(&memory[a], &memory[b - 1] + 1, false);
          break;
        case 2:
          m.reserve(range);
          std::fill(&reserved[a], &reserved[b - 1] + 1, true);
          break;
        default:
          m.free(range);
          std::fill(&reserved[a], &reserved[b - 1] + 1, false);
          break;
      }
      m.validate();
    }
    std::array<bool, kPages> free{};
    m.for_each_free_range([&](Range<PhysAddr> r, Nid) {
      for (std::uint64_t p = r.begin.value() >> 12; p < r.end.value() >> 12; ++p) free[p] = true;
    });
    for (std::uint64_t p = 0; p < kPages; ++p) {
      ASSERT_EQ(m.is_memory(PhysAddr(p << 12)), memory[p]) << "seed " << seed << " page " << p;
      ASSERT_EQ(m.is_reserved(PhysAddr(p << 12)), reserved[p]);
      ASSERT_EQ(free[p], memory[p] && !reserved[p]);
    }
  }
}

}  // namespace
}  // namespace quire::phys
