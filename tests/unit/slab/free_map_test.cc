// The classic layout's free maps: in the struct Page, on the slab where there are more objects than a word has bits, and off it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "quire/slab/classic_slab.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using testing::HasSubstr;

class FreeMap : public testing::TestWithParam<std::size_t> {};

std::vector<void*> whole_slabs(KmemCacheBase& cache, std::size_t slabs) {
  std::vector<void*> objects(slabs * cache.geometry().num);
  for (void*& p : objects) p = cache.alloc(kGfp);
  return objects;
}

TEST_P(FreeMap, AnyOrderOfFreesLeavesTheSlabsWhole) {
  SlabMachine m;
  KmemCacheBase& cache = *m.slab->kmem_cache_create("mapped", GetParam(), 0, SlabFlags::kNone).value();
  for (const std::size_t step : {1u, 3u, 7u}) {
    std::vector<void*> objects = whole_slabs(cache, 5);
    EXPECT_EQ(cache.objects_in_use(), objects.size());
    for (std::size_t first = 0; first < step; ++first) {
      for (std::size_t i = first; i < objects.size(); i += step) cache.free(objects[i]);
      m.slab->kmem_cache_shrink(cache);
      m.slab->validate();
    }
    EXPECT_EQ(cache.total_slabs(), 0u);
  }
}

class FreeMapOfSeveral : public FreeMap {};

TEST_P(FreeMapOfSeveral, TheLowestFreeObjectIsTakenFirst) {
  SlabMachine m;
  KmemCacheBase& cache = *m.slab->kmem_cache_create("mapped", GetParam(), 0, SlabFlags::kNone).value();
  const std::uint32_t num = cache.geometry().num;
  ASSERT_GE(num, 4u);
  std::vector<void*> objects = whole_slabs(cache, 1);
  std::ranges::sort(objects);
  for (const std::uint32_t i : {num - 1, 0u, num / 2}) cache.free(objects[i]);
  m.slab->kmem_cache_shrink(cache);  // from the CPU's array to the slab
  EXPECT_EQ(cache.total_slabs(), 1u);
  for (const std::uint32_t i : {0u, num / 2, num - 1}) EXPECT_EQ(cache.alloc(kGfp), objects[i]) << i;
  cache.free_bulk(objects);
}

TEST_P(FreeMap, AnObjectThatIsFreeAlreadyIsSeenAtTheFlush) {
  // A death test's child shares the arena (a shared mapping) with its parent, so it makes a machine of its own.
  const auto free_again = [](std::size_t size) {
    SlabMachine m;
    KmemCacheBase& cache = *m.slab->kmem_cache_create("mapped", size, 0, SlabFlags::kNone).value();
    std::vector<void*> objects = whole_slabs(cache, 2);
    cache.free(objects.front());
    m.slab->kmem_cache_shrink(cache);
    // One object that is a whole slab has gone with it.
    if (cache.total_slabs() == 2 && (cache.owns(objects.front()) || !cache.owns(objects.back()))) return;
    cache.free(objects.front());
    m.slab->kmem_cache_shrink(cache);
  };
  EXPECT_DEATH(free_again(GetParam()), "freed twice|is no slab object");
}

// 8 to 48: a map on the slab; 64 to 350: in the Page, nearly a whole word and a part of one; from 512 on: off the slab.
INSTANTIATE_TEST_SUITE_P(Sizes, FreeMap, testing::Values(8, 16, 48, 64, 72, 350, 512, 1000, 4096, 9000));
// Where a slab has objects to choose from.
INSTANTIATE_TEST_SUITE_P(Sizes, FreeMapOfSeveral, testing::Values(8, 16, 48, 64, 72, 350, 512, 1000));

TEST(SlabPage, WhereObjectsBeginIsNoMapcount) {
  SlabMachine m;
  KmemCacheBase& cache = *m.slab->kmem_cache_create("mapped", 64, 0, SlabFlags::kNone).value();
  void* p = cache.alloc(kGfp);
  const phys::Page& page = m.phys->virt_to_page(p);
  EXPECT_GT(page.mapcount, 0);
  EXPECT_THAT(m.phys->dump_page(page, ""), HasSubstr(" mapcount:0 "));
  cache.free(p);
}

TEST(KfreeDeath, APlaceThatNoSlabIsNear) {
  EXPECT_DEATH(
      {
        SlabMachine m;
        int local = 0;
        m.slab->kfree(&local);
      },
      HasSubstr("kmalloc never gave"));
  EXPECT_DEATH(
      {
        SlabMachine m;
        m.slab->kfree(m.phys->phys_to_virt(m.phys->arena().end() - kPageSize));
      },
      HasSubstr("kmalloc never gave"));
}

TEST(KfreeDeath, APageBesideSlabs) {
  EXPECT_DEATH(
      {
        SlabMachine m;
        m.slab->kfree(m.phys->page_address(*m.phys->alloc_page(kGfp)));
      },
      HasSubstr("kmalloc never gave"));
}

TEST(Kfree, SeveralCpusAndCachesInTurn) {
  SlabMachine m({.cpus = 2});
  const auto work = [&] {
    std::array<void*, 12> own{};
    for (int round = 0; round < 50; ++round) {
      for (std::size_t i = 0; i < own.size(); ++i) own[i] = m.slab->kmalloc(std::size_t{8} << i % 6, kGfp);
      m.scheduler.sleep_for(100);
      for (void* p : own) m.slab->kfree(p);
    }
  };
  for (int i = 0; i < 4; ++i) m.scheduler.spawn("worker", work);
  m.scheduler.run();
  m.slab->validate();  // no object is in two arrays, or in one of another cache
  for (const SlabInfo& row : m.slab->slabinfo()) {
    if (row.name.starts_with("kmalloc-")) {
      EXPECT_EQ(row.objects_in_use, 0u) << row.name;
    }
  }
}

}  // namespace
}  // namespace quire::slab
