#include <gtest/gtest.h>

#include "quire/slab/slab.h"
#include "quire/slab/slab_geometry.h"

namespace quire::slab {
namespace {

TEST(SlabGeometry, EverySizeAddsUpToTheSlab) {
  for (std::size_t size = 1; size <= 20000; size += size < 2048 ? 1 : 37) {
    for (const std::size_t align : {0, 8, 64, 256}) {
      const auto g = calculate_geometry({.object_size = size, .align = align});
      ASSERT_TRUE(g.has_value()) << size;
      EXPECT_GE(g->size, size);
      EXPECT_EQ(g->size % g->align, 0u);
      EXPECT_GE(g->num, 1u);
      const std::size_t management = g->management == SlabManagement::kOnSlab ? g->management_size : 0;
      EXPECT_EQ(management + g->num * g->size + g->left_over, g->slab_bytes()) << size;
      EXPECT_GE(g->management_size, management_bytes(g->num));
      EXPECT_LE((g->colours - 1) * g->colour_off, g->left_over);
      EXPECT_EQ(g->colour_off % g->align, 0u);
      if (g->management == SlabManagement::kOffSlab) {
        EXPECT_LE(g->num, kMaxObjectsOffSlab);
      }
    }
  }
}

TEST(SlabGeometry, SmallObjectsKeepTheirDescriptorOnTheSlabAndLargeOnesDoNot) {
  const auto small = calculate_geometry({.object_size = 64});
  EXPECT_EQ(small->management, SlabManagement::kOnSlab);
  EXPECT_EQ(small->order, Order(0));
  EXPECT_EQ(small->num, (4096u - 56) / 66);

  const auto page = calculate_geometry({.object_size = 4096, .align = 4096});
  EXPECT_EQ(page->management, SlabManagement::kOffSlab);
  EXPECT_EQ(page->num, 1u);
  EXPECT_EQ(page->left_over, 0u);
}

TEST(SlabGeometry, TakesALargerOrderToWasteLess) {
  // Two objects of 1400 in a page would waste 1296 of 4096; five in two pages waste 1192 of 8192.
  const auto g = calculate_geometry({.object_size = 1400});
  EXPECT_EQ(g->order, Order(1));
  EXPECT_EQ(g->num, 5u);
  // Reclaimable slabs stay single pages, and so does everything on a small machine.
  EXPECT_EQ(calculate_geometry({.object_size = 1400, .flags = SlabFlags::kReclaimAccount})->order, Order(0));
  EXPECT_EQ(calculate_geometry({.object_size = 1400, .max_waste_order = Order(0)})->order, Order(0));
}

TEST(SlabGeometry, DebuggingSurroundsTheObject) {
  for (std::size_t size = 1; size <= 5000; ++size) {
    for (const std::size_t align : {0, 64, 512}) {
      for (const SlabLayoutKind kind : {SlabLayoutKind::kSlab, SlabLayoutKind::kSlub}) {
        const auto plain = calculate_slot({.object_size = size, .align = align}, kind);
        const auto debugged = calculate_slot({.object_size = size, .align = align, .flags = kSlabDebugFlags}, kind);
        ASSERT_TRUE(plain && debugged) << size;
        EXPECT_EQ(plain->left_red_zone, 0u);
        EXPECT_GE(debugged->left_red_zone, sizeof(void*));
        EXPECT_EQ(debugged->left_red_zone % debugged->align, 0u);
        EXPECT_GT(debugged->inuse, size);  // a right red zone of a byte at least
        EXPECT_GE(debugged->tracks, debugged->inuse);
        EXPECT_LE(debugged->left_red_zone + debugged->tracks + 2 * kTrackSize, debugged->size);
        EXPECT_EQ(debugged->size % debugged->align, 0u);
        if (kind == SlabLayoutKind::kSlub) {
          EXPECT_LE(plain->free_pointer + sizeof(void*), plain->size);
          EXPECT_GE(debugged->free_pointer, debugged->inuse);  // poison reaches to the end of the object
          EXPECT_LE(debugged->free_pointer + sizeof(void*), debugged->tracks);
        }
      }
    }
  }
}

TEST(SlabGeometry, LargestAndImpossibleSizes) {
  const auto largest = calculate_geometry({.object_size = kMaxObjectSize});
  ASSERT_TRUE(largest.has_value());
  EXPECT_EQ(largest->order, kMaxSlabOrder);
  EXPECT_EQ(calculate_geometry({.object_size = 0}).error(), Errno::kInval);
  EXPECT_EQ(calculate_geometry({.object_size = kMaxObjectSize + 1}).error(), Errno::kInval);
  EXPECT_EQ(calculate_geometry({.object_size = 64, .align = 48}).error(), Errno::kInval);
  EXPECT_EQ(calculate_geometry({.object_size = 64, .align = 8192}).error(), Errno::kInval);
}

TEST(SlabGeometry, ArraysShrinkAsObjectsGrow) {
  EXPECT_EQ(default_tunables(64).limit, 120u);
  EXPECT_EQ(default_tunables(64).batchcount, 60u);
  EXPECT_EQ(default_tunables(512).limit, 54u);
  EXPECT_EQ(default_tunables(2048).limit, 24u);
  EXPECT_EQ(default_tunables(8192).limit, 8u);
  EXPECT_EQ(default_tunables(1 << 20).limit, 1u);
}

}  // namespace
}  // namespace quire::slab
