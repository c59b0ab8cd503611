// A cache on a machine of several nodes: whose objects serve whom, and how they come home.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "quire/slab/classic_slab.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using phys::Gfp;

// Counts what the allocator asks of reclaim.
struct CountingPressure final : phys::MemoryPressure {
  void wakeup_kswapd(phys::Zone&, Gfp, Order, phys::ZoneType) override {}
  std::uint64_t try_to_free_pages(phys::ZoneList&, Order, Gfp) override {
    ++reclaims;
    return 0;
  }
  bool out_of_memory(Gfp, Order) override { return false; }
  int reclaims = 0;
};

TEST(KmemCacheNodes, AFullNodeIsPassedOverWithoutReclaim) {
  SlabMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  CountingPressure pressure;
  std::vector<phys::Page*> taken;
  while (phys::Page* page = m.phys->alloc_pages(Gfp::kNoWait | Gfp::kNoWarn | Gfp::kThisNode, Order(0), Nid(0))) {
    taken.push_back(page);
  }
  m.phys->set_memory_pressure(&pressure);
  std::vector<void*> objects;
  m.scheduler.spawn("test",
                    [&] {
                      for (int i = 0; i < 2000; ++i) {
                        objects.push_back(m.slab->kmalloc(1024, kGfp));
                        ASSERT_NE(objects.back(), nullptr);
                      }
                    },
                    {.cpu = 0});
  EXPECT_TRUE(m.scheduler.run().done());
  EXPECT_EQ(pressure.reclaims, 0);
  EXPECT_EQ(m.phys->virt_to_page(objects.back()).nid(), Nid(1));
  m.phys->set_memory_pressure(nullptr);
  for (void* object : objects) m.slab->kfree(object);
  for (phys::Page* page : taken) m.phys->free_page(*page);
}

TEST(KmemCacheNodes, AllocNodeTakesFromThatNodeAndFreeBringsItHome) {
  SlabMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  KmemCacheBase* cache = m.slab->kmem_cache_create("numa", 128, 0, SlabFlags::kNone).value();
  std::vector<void*> objects;
  for (int i = 0; i < 400; ++i) {
    objects.push_back(cache->alloc_node(kGfp, Nid(i % 2)));
    EXPECT_EQ(m.phys->virt_to_page(objects.back()).nid(), Nid(i % 2));
  }
  m.slab->validate();
  cache->free_bulk(objects);
  m.slab->validate();
  m.slab->kmem_cache_shrink(*cache);
  EXPECT_EQ(cache->total_slabs(), 0u);
}

// The CPU's array holds what was freed there, whatever its node; who names a node gets none of another.
TEST(KmemCacheNodes, AnArrayWithObjectsOfAnotherNodeServesNobodyWhoNamesHis) {
  SlabMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  KmemCacheBase* cache = m.slab->kmem_cache_create("named", 128, 0, SlabFlags::kNone).value();
  const auto nid_of = [&](const void* p) { return m.phys->virt_to_page(p).nid(); };
  m.scheduler.spawn("task",
                    [&] {
                      const auto stranger_on_top = [&] {
                        void* p = cache->alloc_node(kGfp, Nid(1));
                        ASSERT_EQ(nid_of(p), Nid(1));
                        cache->free(p);
                      };
                      std::vector<void*> objects;
                      for (int i = 0; i < 100; ++i) {
                        stranger_on_top();
                        objects.push_back(cache->alloc_node(kGfp | Gfp::kThisNode, Nid(0)));
                        EXPECT_EQ(nid_of(objects.back()), Nid(0));
                        stranger_on_top();
                        objects.push_back(cache->alloc_node(kGfp, Nid(0)));
                        EXPECT_EQ(nid_of(objects.back()), Nid(0));
                        stranger_on_top();
                        objects.push_back(cache->alloc(kGfp | Gfp::kThisNode));
                        EXPECT_EQ(nid_of(objects.back()), Nid(0));
                      }
                      stranger_on_top();
                      std::vector<void*> bulk(200);
                      ASSERT_TRUE(cache->alloc_bulk(kGfp | Gfp::kThisNode, bulk));
                      for (void* p : bulk) EXPECT_EQ(nid_of(p), Nid(0));
                      cache->free_bulk(bulk);
                      for (void* p : objects) cache->free(p);
                    },
                    {.cpu = 0});
  ASSERT_TRUE(m.scheduler.run().done());
  m.slab->validate();
  EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
}

// A node without memory borrows single objects; its CPUs' arrays are not filled with another node's.
TEST(KmemCacheNodes, BorrowedObjectsDoNotFillTheArray) {
  SlabMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  KmemCacheBase* cache = m.slab->kmem_cache_create("borrowed", 256, 0, SlabFlags::kNone).value();
  std::vector<phys::Page*> taken;
  while (phys::Page* page = m.phys->alloc_pages(Gfp::kNoWait | Gfp::kNoWarn | Gfp::kThisNode, Order(0), Nid(0))) {
    taken.push_back(page);
  }
  m.scheduler.spawn("task",
                    [&] {
                      void* p = cache->alloc(Gfp::kNoWait);
                      ASSERT_NE(p, nullptr);
                      EXPECT_EQ(m.phys->virt_to_page(p).nid(), Nid(1));
                      EXPECT_EQ(m.slab->slabinfo(*cache).active_objs, 1u);
                      cache->free(p);
                    },
                    {.cpu = 0});
  ASSERT_TRUE(m.scheduler.run().done());
  m.slab->validate();
  for (phys::Page* page : taken) m.phys->free_page(*page);
}

// Objects of node 1 that a CPU of node 0 frees wait together, go home by the dozen, and are reaped when nothing more comes.
TEST(KmemCacheNodes, ObjectsOfAnotherNodeGoHomeByTheDozen) {
  SlabMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  KmemCacheBase* cache = m.slab->kmem_cache_create("aliens", 256, 0, SlabFlags::kNone).value();
  const auto& layout = static_cast<const ClassicSlab&>(cache->layout());
  std::vector<void*> objects;
  m.scheduler.spawn("task",
                    [&] {
                      for (int i = 0; i < 400; ++i) objects.push_back(cache->alloc_node(kGfp, Nid(1)));
                      for (void* p : objects) cache->free(p);
                    },
                    {.cpu = 0});
  ASSERT_TRUE(m.scheduler.run().done());
  m.slab->validate();
  EXPECT_EQ(cache->objects_in_use(), 0u);
  const AlienCache& alien = layout.alien_of(*cache, Nid(0), Nid(1));
  EXPECT_GT(alien.avail, 0u);
  EXPECT_LE(alien.avail, AlienCache::kLimit);
  EXPECT_EQ(layout.alien_of(*cache, Nid(1), Nid(0)).avail, 0u);
  for (int i = 0; i < 2; ++i) m.slab->cache_reap(SlabSystem::ReapMode::kPeriodic);
  EXPECT_EQ(alien.avail, 0u);
  m.slab->validate();
  m.slab->kmem_cache_shrink(*cache);
  EXPECT_EQ(cache->total_slabs(), 0u);
}

}  // namespace
}  // namespace quire::slab
