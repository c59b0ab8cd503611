// The classic layout's array that the CPUs of a node share, between their own arrays and the slabs.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

#include "quire/slab/classic_slab.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using phys::Gfp;

class SharedArray : public testing::Test {
 protected:
  explicit SharedArray(const MachineSpec& spec = {.cpus = 2}) : m(spec) {}

  KmemCacheBase& create(std::size_t size, SlabFlags flags = SlabFlags::kNone) {
    return *m.slab->kmem_cache_create("between", size, 0, flags).value();
  }
  void on_cpu(unsigned cpu, const std::function<void()>& body) {
    m.scheduler.spawn("task", body, {.cpu = cpu});
    ASSERT_TRUE(m.scheduler.run().done());
    m.slab->validate();
  }
  static std::vector<void*> take(KmemCacheBase& cache, std::size_t count) {
    std::vector<void*> objects(count);
    for (void*& p : objects) {
      p = cache.alloc(kGfp);
      EXPECT_NE(p, nullptr);
    }
    return objects;
  }
  static void give(KmemCacheBase& cache, const std::vector<void*>& objects) {
    for (void* p : objects) cache.free(p);
  }
  static const KmemCacheNode& node(const KmemCacheBase& cache, int nid = 0) {
    return static_cast<const ClassicSlab&>(cache.layout()).node_of(cache, Nid(nid));
  }
  // Arrays that lie in kmalloc's caches; nobody else uses these here.
  std::uint64_t arrays() const {
    std::uint64_t in_use = 0;
    for (const SlabInfo& row : m.slab->slabinfo()) {
      if (row.name.starts_with("kmalloc-")) in_use += row.objects_in_use;
    }
    return in_use;
  }

  SlabMachine m;
};

class SharedArrayNodes : public SharedArray {
 protected:
  SharedArrayNodes() : SharedArray({.ram = 128 * kMiB, .cpus = 4, .nodes = 2}) {}
};

class SharedArrayOneCpu : public SharedArray {
 protected:
  SharedArrayOneCpu() : SharedArray({.cpus = 1}) {}
};

TEST_F(SharedArray, ObjectsGoFromOneCpuToAnotherPastTheSlabs) {
  KmemCacheBase& cache = create(64);
  std::vector<void*> objects;
  on_cpu(0, [&] {
    objects = take(cache, 300);
    give(cache, objects);
  });
  const KmemCacheNode& there = node(cache);
  ASSERT_NE(there.shared, nullptr);
  const std::uint32_t avail = there.shared->avail;
  ASSERT_GE(avail, 180u);  // all but what is left in the CPU's array
  const std::uint64_t free_objects = there.free_objects;
  const std::uint64_t slabs = there.total_slabs;
  on_cpu(1, [&] {
    const std::set<void*> freed(objects.begin(), objects.end());
    const std::vector<void*> got = take(cache, 120);
    for (void* p : got) EXPECT_TRUE(freed.contains(p));
    EXPECT_EQ(there.shared->avail, avail - 120);
    EXPECT_EQ(cache.objects_in_use(), 120u);
    give(cache, got);
  });
  EXPECT_EQ(there.free_objects, free_objects);
  EXPECT_EQ(there.total_slabs, slabs);
  EXPECT_EQ(cache.objects_in_use(), 0u);
}

TEST_F(SharedArray, BulkTakesFromItToo) {
  KmemCacheBase& cache = create(64);
  on_cpu(0, [&] {
    std::vector<void*> objects(500);
    ASSERT_TRUE(cache.alloc_bulk(kGfp, objects));
    cache.free_bulk(objects);
  });
  EXPECT_EQ(node(cache).shared->avail, 380u);
  const std::uint64_t free_objects = node(cache).free_objects;
  on_cpu(1, [&] {
    std::vector<void*> objects(350);
    ASSERT_TRUE(cache.alloc_bulk(kGfp, objects));
    EXPECT_EQ(node(cache).shared->avail, 30u);
    EXPECT_EQ(node(cache).free_objects, free_objects);
    cache.free_bulk(objects);
  });
}

TEST_F(SharedArray, WhatDoesNotFitGoesToTheSlabs) {
  KmemCacheBase& cache = create(256);
  on_cpu(0, [&] { give(cache, take(cache, 2000)); });
  const SlabInfo row = m.slab->slabinfo(cache);
  EXPECT_EQ(row.sharedfactor, 8u);
  EXPECT_EQ(row.sharedavail, 8 * row.batchcount);
  EXPECT_EQ(row.sharedavail, node(cache).shared->limit);
  EXPECT_EQ(row.objects_in_use, 0u);
  EXPECT_GT(node(cache).free_objects, 0u);
  EXPECT_EQ(row.num_objs - node(cache).free_objects, row.active_objs);
}

TEST_F(SharedArray, ReapEmptiesItBitByBitWhenItIsIdle) {
  KmemCacheBase& cache = create(64);
  on_cpu(0, [&] { give(cache, take(cache, 700)); });
  on_cpu(1, [&] { give(cache, take(cache, 1)); });  // which takes from it
  std::uint32_t before = node(cache).shared->avail;
  m.slab->cache_reap(SlabSystem::ReapMode::kPeriodic);
  EXPECT_EQ(node(cache).shared->avail, before);  // it was used since the last reap
  m.slab->cache_reap(SlabSystem::ReapMode::kPeriodic);
  EXPECT_EQ(node(cache).shared->avail, before - 96);  // a fifth of its room
  int rounds = 0;
  for (; node(cache).shared->avail != 0 && rounds < 50; ++rounds) {
    m.slab->cache_reap(SlabSystem::ReapMode::kPeriodic);
    m.slab->validate();
  }
  EXPECT_GT(rounds, 3);
  EXPECT_EQ(m.slab->slabinfo(cache).sharedavail, 0u);
}

TEST_F(SharedArray, ShrinkAndDestroyGiveItBack) {
  KmemCacheBase& cache = create(64);
  // Twice: the first round frees descriptors of slabs into a cache it has been through already.
  const auto reap = [&] {
    for (int i = 0; i < 2; ++i) m.slab->cache_reap(SlabSystem::ReapMode::kAll);
  };
  reap();
  const std::int64_t pages = m.slab_pages();
  for (int round = 0; round < 2; ++round) {
    on_cpu(1, [&] { give(cache, take(cache, 700)); });
    EXPECT_EQ(arrays(), 1u);
    m.slab->kmem_cache_shrink(cache);
    EXPECT_EQ(node(cache).shared, nullptr);
    EXPECT_EQ(cache.total_slabs(), 0u);
    EXPECT_EQ(arrays(), 0u);
    m.slab->validate();
  }
  on_cpu(0, [&] { give(cache, take(cache, 700)); });
  reap();
  EXPECT_EQ(arrays(), 0u);
  EXPECT_EQ(m.slab_pages(), pages);
  on_cpu(0, [&] { give(cache, take(cache, 700)); });
  EXPECT_TRUE(m.slab->kmem_cache_destroy(cache).has_value());
  EXPECT_EQ(arrays(), 0u);
}

// The caches that the arrays lie in overflow, too.
TEST_F(SharedArray, KmallocsOwnCachesHaveThem) {
  on_cpu(0, [&] {
    for (const std::size_t size : {4096u, 2048u, 1024u, 512u, 8u}) {
      KmemCacheBase& cache = *m.slab->kmalloc_slab(size);
      give(cache, take(cache, 1000));
      EXPECT_NE(node(cache).shared, nullptr) << size;
      EXPECT_GT(m.slab->slabinfo(cache).sharedavail, 0u) << size;
    }
  });
  EXPECT_GE(arrays(), 5u);  // and that of the descriptors
  m.slab->cache_reap(SlabSystem::ReapMode::kAll);
  EXPECT_EQ(arrays(), 0u);
  for (const SlabInfo& row : m.slab->slabinfo()) {
    if (row.name.starts_with("kmalloc-")) {
      EXPECT_EQ(row.num_slabs, 0u) << row.name;
    }
  }
  m.slab->validate();
}

TEST_F(SharedArray, NoneForLargeOrDebuggedObjects) {
  KmemCacheBase& large = *m.slab->kmem_cache_create("large", kPageSize + 8, 0, SlabFlags::kNone).value();
  KmemCacheBase& debugged = *m.slab->kmem_cache_create("debugged", 64, 0, kSlabDebugFlags).value();
  for (KmemCacheBase* cache : {&large, &debugged}) {
    on_cpu(0, [&] { give(*cache, take(*cache, 300)); });
    EXPECT_EQ(node(*cache).shared, nullptr) << cache->name();
    EXPECT_EQ(m.slab->slabinfo(*cache).sharedfactor, 0u) << cache->name();
  }
}

TEST_F(SharedArrayOneCpu, NoneWhereThereIsOneCpu) {
  KmemCacheBase& cache = create(64);
  on_cpu(0, [&] { give(cache, take(cache, 300)); });
  EXPECT_EQ(node(cache).shared, nullptr);
  EXPECT_EQ(m.slab->slabinfo(cache).sharedfactor, 0u);
}

TEST_F(SharedArrayNodes, EachNodeKeepsItsOwnObjects) {
  KmemCacheBase& cache = create(64);
  on_cpu(0, [&] {
    std::vector<void*> objects;
    for (int i = 0; i < 600; ++i) objects.push_back(cache.alloc_node(kGfp, Nid(i % 2)));
    give(cache, objects);
  });
  ASSERT_NE(node(cache, 0).shared, nullptr);
  EXPECT_EQ(node(cache, 1).shared, nullptr);
  ASSERT_GT(node(cache, 0).shared->avail, 0u);
  for (std::uint32_t i = 0; i < node(cache, 0).shared->avail; ++i) {
    EXPECT_EQ(m.phys->virt_to_page(node(cache, 0).shared->entries()[i]).nid(), Nid(0));
  }
  EXPECT_EQ(cache.objects_in_use(), 0u);
  m.slab->kmem_cache_shrink(cache);
  EXPECT_EQ(cache.total_slabs(), 0u);
}

// It is an aid, not a need: without memory objects go to their slabs, and the next overflow asks again.
TEST_F(SharedArray, WithoutMemoryItWaits) {
  std::set<bool> made;
  for (const std::uint64_t keep : {0u, 1u, 2u, 4u, 64u, 128u, 256u}) {
    KmemCacheBase& cache = create(64);
    std::vector<void*> objects;
    on_cpu(0, [&] { objects = take(cache, 200); });
    m.slab->cache_reap(SlabSystem::ReapMode::kAll);
    m.exhaust(keep);
    on_cpu(0, [&] { give(cache, objects); });
    made.insert(node(cache).shared != nullptr);
    EXPECT_EQ(cache.objects_in_use(), 0u);
    m.release();
    on_cpu(0, [&] { give(cache, take(cache, 300)); });
    EXPECT_NE(node(cache).shared, nullptr);
    EXPECT_TRUE(m.slab->kmem_cache_destroy(cache).has_value());
    EXPECT_EQ(arrays(), 0u);
  }
  EXPECT_EQ(made, (std::set<bool>{false, true}));
}

}  // namespace
}  // namespace quire::slab
