#include "quire/phys/memblock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

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

TEST(Memblock, BottomUpAboveTheKernelFallsBackToTopDown) {
  Memblock m;
  m.add(pa(0x10'0000, 0x80'0000));
  m.set_direction(MemblockDirection::kBottomUp, PhysAddr(0x40'0000));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x40'0000));
  m.reserve(pa(0x40'0000, 0x80'0000));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x3f'f000));
}

TEST(Memblock, LimitsHoldForARangeAndTheLowerOneGivesWayForOthers) {
  Memblock m;
  m.add(pa(0x10'0000, 0x80'0000));
  m.set_current_limit(PhysAddr(0x60'0000));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x5f'f000));
  const MemblockAllocSpec above{.size = 0x10'0000, .align = 0x1000, .min = PhysAddr(0x5f'0000)};
  EXPECT_EQ(m.phys_alloc_range(above), std::nullopt);
  EXPECT_EQ(m.alloc(above), PhysAddr(0x4f'f000));
}

TEST(Memblock, FlagsDecideWhatIsGivenOut) {
  Memblock m;
  m.add(pa(0x10'0000, 0x80'0000));
  m.mark(pa(0x70'0000, 0x80'0000), MemblockFlag::kNoMap);
  EXPECT_EQ(m.memory().size(), 2u);
  EXPECT_TRUE(m.is_memory(PhysAddr(0x70'0000)));
  EXPECT_FALSE(m.is_map_memory(PhysAddr(0x70'0000)));
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x6f'f000));
  m.clear(pa(0x70'0000, 0x80'0000), MemblockFlag::kNoMap);
  EXPECT_EQ(m.memory().size(), 1u);
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x7f'f000));
  // What can be unplugged is left alone only where movable_node asks for it.
  m.mark(pa(0x30'0000, 0x80'0000), MemblockFlag::kHotplug);
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x7f'e000));
  m.set_movable_node(true);
  EXPECT_EQ(m.alloc({.size = 0x1000, .align = 0x1000}), PhysAddr(0x2f'f000));
}

TEST(Memblock, MirroredMemoryComesFirstWhileThereIsSome) {
  Memblock m;
  m.add(pa(0x10'0000, 0x80'0000));
  m.mark(pa(0x20'0000, 0x20'2000), MemblockFlag::kMirror);
  EXPECT_EQ(m.alloc({.size = 0x2000, .align = 0x1000}), PhysAddr(0x20'0000));
  EXPECT_EQ(m.alloc({.size = 0x2000, .align = 0x1000}), PhysAddr(0x7f'e000));
}

TEST(Memblock, CappingToARangeKeepsWhatIsNotMapped) {
  Memblock m;
  m.add(pa(0x10'0000, 0x80'0000));
  m.mark(pa(0x70'0000, 0x78'0000), MemblockFlag::kNoMap);
  m.reserve(pa(0x18'0000, 0x28'0000));
  m.reserve(pa(0x60'0000, 0x61'0000));
  m.cap_memory_range(pa(0x20'0000, 0x40'0000));
  EXPECT_THAT(m.memory(), ElementsAre(MemblockRegion{pa(0x20'0000, 0x40'0000)},
                                      MemblockRegion{pa(0x70'0000, 0x78'0000), kNoNode, MemblockFlag::kNoMap}));
  EXPECT_THAT(m.reserved(), ElementsAre(MemblockRegion{pa(0x20'0000, 0x28'0000)}));
}

TEST(Memblock, AFullArrayMovesIntoTheMemoryItDescribes) {
  constexpr std::uint64_t kBytes = 4 * kMiB;
  std::vector<std::byte> backing(kBytes);
  Memblock m;
  m.add(pa(0, kBytes));
  m.allow_resize(backing.data());
  // Every other page, so that nothing merges.
  std::uint64_t reserved = 0;
  for (; reserved < 128; ++reserved) ASSERT_TRUE(m.reserve(pa(reserved * 0x2000, reserved * 0x2000 + 0x1000)));
  EXPECT_EQ(m.reserved_capacity(), 128u);
  EXPECT_EQ(m.reserved_size(), 128u * 0x1000);
  ASSERT_TRUE(m.reserve(pa(reserved * 0x2000, reserved * 0x2000 + 0x1000)));
  // 256 regions of 24 bytes take two pages, from the top.
  EXPECT_EQ(m.reserved_capacity(), 256u);
  ASSERT_THAT(m.places(), ElementsAre(pa(kBytes - 0x2000, kBytes)));
  EXPECT_TRUE(m.is_reserved(PhysAddr(kBytes - 0x2000)));
  m.validate();
  for (++reserved; reserved < 300; ++reserved) ASSERT_TRUE(m.reserve(pa(reserved * 0x2000, reserved * 0x2000 + 0x1000)));
  // The next doubling needs three pages and gives the two back.
  EXPECT_EQ(m.reserved_capacity(), 512u);
  EXPECT_THAT(m.places(), ElementsAre(pa(kBytes - 0x5000, kBytes - 0x2000)));
  EXPECT_FALSE(m.is_reserved(PhysAddr(kBytes - 0x2000)));
  EXPECT_EQ(m.reserved_size(), 303u * 0x1000);
  // A copy, and what is left after discard, does not need that memory.
  const Memblock copy = m;
  EXPECT_THAT(m.discard(), ElementsAre(pa(kBytes - 0x5000, kBytes - 0x2000)));
  std::fill(backing.begin(), backing.end(), std::byte{0xff});
  copy.validate();
  m.validate();
  EXPECT_EQ(copy.reserved_size(), 303u * 0x1000);
  EXPECT_EQ(m.reserved().size(), copy.reserved().size());
}

TEST(Memblock, WithoutMemoryTheHundredAndTwentyNinthRegionIsRefused) {
  Memblock m;
  m.add(pa(0, 4 * kMiB));
  for (std::uint64_t i = 0; i < 128; ++i) ASSERT_TRUE(m.reserve(pa(i * 0x2000, i * 0x2000 + 0x1000)));
  EXPECT_TRUE(m.complete());
  EXPECT_EQ(m.reserve(pa(0x30'0000, 0x30'1000)).error(), Errno::kNoMem);
  EXPECT_EQ(m.reserved().size(), 128u);
  EXPECT_FALSE(m.is_reserved(PhysAddr(0x30'0000)));
  EXPECT_FALSE(m.complete());
  EXPECT_TRUE(m.reserve(pa(0x2000, 0x2800)));  // all of it is reserved already
}

TEST(Memblock, NothingOfSizeZeroAndNotThePageAtZero) {
  Memblock m;
  m.add(pa(0, 0x3000));
  EXPECT_EQ(m.alloc({.size = 0}), std::nullopt);
  EXPECT_EQ(m.alloc({.size = 0x3000, .align = 0x1000}), std::nullopt);
  EXPECT_EQ(m.alloc({.size = 0x2000, .align = 0x1000}), PhysAddr(0x1000));
}

}  // namespace
}  // namespace quire::phys
