// One cache: its objects, its slabs, what it refuses, and what happens without memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

#include "effort.h"
#include "quire/slab/classic_slab.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using phys::Gfp;
using testing::HasSubstr;

struct Counted {
  explicit Counted(int v, int* living) : value(v), alive(living) { ++*alive; }
  ~Counted() { --*alive; }
  int value;
  int* alive;
  char pad[80] = {};
};

TEST(KmemCache, ConstructsAndDestroysTypedObjects) {
  SlabMachine m;
  int alive = 0;
  KmemCache<Counted> cache(*m.slab, "counted");
  Counted* a = cache.alloc(kGfp, 41, &alive);
  Counted* b = cache.alloc(kGfp, 42, &alive);
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(alive, 2);
  EXPECT_EQ(a->value, 41);
  EXPECT_EQ(b->value, 42);
  EXPECT_TRUE(m.phys->arena().contains(a));
  EXPECT_EQ(cache.base().objects_in_use(), 2u);
  cache.free(a);
  EXPECT_EQ(alive, 1);
  EXPECT_EQ(b->value, 42);
  cache.free(b);
  EXPECT_EQ(cache.base().objects_in_use(), 0u);
  m.slab->validate();
}

TEST(KmemCache, TheHottestObjectComesBackFirst) {
  SlabMachine m;
  KmemCache<std::uint64_t> cache(*m.slab, "words");
  std::uint64_t* a = cache.alloc(kGfp, 1u);
  std::uint64_t* b = cache.alloc(kGfp, 2u);
  EXPECT_LT(a, b);  // a new slab is used from its start
  cache.free(a);
  EXPECT_EQ(cache.alloc(kGfp, 3u), a);
  cache.free(a);
  cache.free(b);
}

TEST(KmemCache, ObjectsDoNotOverlapAndKeepTheirBytes) {
  SlabMachine m;
  for (const std::size_t size : {24u, 96u, 200u, 576u, 1400u, 3000u, 9000u}) {
    KmemCacheBase* cache = m.slab->kmem_cache_create("test-size", size, 0, SlabFlags::kHwCacheAlign).value();
    std::vector<std::byte*> objects;
    for (int i = 0; i < 300; ++i) {
      auto* p = static_cast<std::byte*>(cache->alloc(kGfp));
      ASSERT_NE(p, nullptr);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % cache->geometry().align, 0u);
      std::memset(p, i, size);
      objects.push_back(p);
    }
    cache->validate();
    for (int i = 0; i < 300; ++i) {
      const auto expected = static_cast<std::byte>(i);
      EXPECT_EQ(std::count(objects[static_cast<std::size_t>(i)], objects[static_cast<std::size_t>(i)] + size, expected),
                static_cast<std::ptrdiff_t>(size));
    }
    for (std::byte* p : objects) cache->free(p);
    m.slab->validate();
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
  }
}

TEST(KmemCache, SlabConstructorRunsOncePerObjectAndStateSurvives) {
  struct Stateful {
    std::uint64_t magic = 0x5afe;
    std::uint64_t uses = 0;
  };
  SlabMachine m;
  KmemCache<Stateful, ObjectLife::kPerSlab> cache(*m.slab, "stateful");
  Stateful* a = cache.alloc(kGfp);
  EXPECT_EQ(a->magic, 0x5afeu);
  a->uses = 7;
  cache.free(a);
  Stateful* again = cache.alloc(kGfp);
  EXPECT_EQ(again, a);
  EXPECT_EQ(again->uses, 7u);
  cache.free(again);
}

TEST(KmemCache, PagesKnowTheirSlabAndCache) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("links", 1400, 0, SlabFlags::kNone).value();
  ASSERT_EQ(cache->geometry().order, Order(1));
  std::vector<void*> objects;
  for (std::uint32_t i = 0; i < cache->geometry().num; ++i) objects.push_back(cache->alloc(kGfp));
  for (void* p : objects) {
    EXPECT_EQ(m.slab->virt_to_cache(p), cache);
    EXPECT_TRUE(cache->owns(p));
    EXPECT_FALSE(cache->owns(static_cast<std::byte*>(p) + 8));
    const phys::Page& head = phys::compound_head(m.phys->virt_to_page(p));
    EXPECT_TRUE(head.test(phys::PageFlag::kSlab));
    EXPECT_EQ(SlabLayout::page_cache(head), cache);
  }
  for (void* p : objects) cache->free(p);
  void* first = objects[0];
  m.slab->kmem_cache_shrink(*cache);
  EXPECT_EQ(m.slab->virt_to_cache(first), nullptr);
  EXPECT_FALSE(cache->owns(first));
}

TEST(KmemCache, SuccessiveSlabsHaveDifferentColours) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("coloured", 350, 0, SlabFlags::kNone).value();
  ASSERT_GT(cache->geometry().colours, 1u);
  std::set<std::uint64_t> offsets;
  const auto& g = cache->geometry();
  std::vector<void*> objects;
  for (std::uint32_t i = 0; i < g.num * g.colours; ++i) {
    objects.push_back(cache->alloc(kGfp));
    const auto& head = phys::compound_head(m.phys->virt_to_page(objects.back()));
    offsets.insert(static_cast<std::uint64_t>(head.mapcount));  // where object 0 is
  }
  EXPECT_EQ(offsets.size(), g.colours);
  cache->free_bulk(objects);
}

TEST(KmemCache, ShrinkGivesAllPagesBack) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("shrink", 256, 0, SlabFlags::kReclaimAccount).value();
  const std::uint64_t before = m.free_pages();
  std::vector<void*> objects(5000);
  ASSERT_TRUE(cache->alloc_bulk(kGfp, objects));
  EXPECT_EQ(cache->objects_in_use(), 5000u);
  EXPECT_LT(m.free_pages(), before - 5000 * 256 / 4096);
  EXPECT_EQ(m.phys->global_node_page_state(phys::NodeStat::kNrSlabReclaimable),
            static_cast<std::int64_t>(cache->total_slabs()));
  cache->free_bulk(objects);
  cache->validate();
  EXPECT_EQ(cache->objects_in_use(), 0u);
  // What exceeded the limit of free objects went back by itself.
  EXPECT_LE(cache->total_slabs() * cache->geometry().num, 120u + 120 + 2 * 60 + 2 * cache->geometry().num);
  m.slab->kmem_cache_shrink(*cache);
  EXPECT_EQ(cache->total_slabs(), 0u);
  EXPECT_EQ(m.free_pages(), before);
  EXPECT_EQ(m.phys->global_node_page_state(phys::NodeStat::kNrSlabReclaimable), 0);
}

TEST(KmemCache, DestroyWithLiveObjectsIsRefusedAndReported) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("leaky", 64, 0, SlabFlags::kNone).value();
  void* alive = cache->alloc(kGfp);
  EXPECT_EQ(m.slab->kmem_cache_destroy(*cache).error(), Errno::kBusy);
  const auto leaks = m.slab->leaks();
  ASSERT_EQ(leaks.size(), 1u);
  EXPECT_EQ(leaks[0].name, "leaky");
  EXPECT_EQ(leaks[0].objects_in_use, 1u);
  EXPECT_THAT(m.slab->leak_report(), HasSubstr("slab cache leaky was destroyed with 1 object in use: 0x"));
  cache->free(alive);
  EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
  EXPECT_TRUE(m.slab->leaks().empty());
  EXPECT_EQ(m.slab->leak_report(), "");
  EXPECT_EQ(m.slab->find_cache("leaky"), nullptr);
}

TEST(KmemCache, NobodySharesACacheWhoseDestructionFailed) {
  for (const SlabLayoutKind layout : {SlabLayoutKind::kSlab, SlabLayoutKind::kSlub}) {
    SlabMachine m({.config = {.layout = layout, .merge = SlabMerge::kYes}});
    KmemCacheBase* cache = m.slab->kmem_cache_create("leaky", 840, 0, SlabFlags::kNone).value();
    void* alive = cache->alloc(kGfp);
    EXPECT_EQ(m.slab->kmem_cache_destroy(*cache).error(), Errno::kBusy);
    EXPECT_EQ(m.slab->kmem_cache_create("leaky", 840, 0, SlabFlags::kNone).error(), Errno::kExist);
    KmemCacheBase* like = m.slab->kmem_cache_create("like", 840, 0, SlabFlags::kNone).value();
    EXPECT_NE(like, cache);
    EXPECT_EQ(m.slab->kmem_cache_destroy(*cache).error(), Errno::kBusy);
    ASSERT_EQ(m.slab->leaks().size(), 1u);
    cache->free(alive);
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
    EXPECT_TRUE(m.slab->leaks().empty());
    EXPECT_TRUE(m.slab->kmem_cache_create("leaky", 96, 0, SlabFlags::kNone).has_value());
    m.slab->validate();
  }
}

TEST(KmemCache, BadArgumentsOfCreate) {
  SlabMachine m;
  EXPECT_EQ(m.slab->kmem_cache_create("", 8, 0, SlabFlags::kNone).error(), Errno::kInval);
  EXPECT_EQ(m.slab->kmem_cache_create(std::string(32, 'x'), 8, 0, SlabFlags::kNone).error(), Errno::kInval);
  EXPECT_EQ(m.slab->kmem_cache_create("zero", 0, 0, SlabFlags::kNone).error(), Errno::kInval);
  EXPECT_EQ(m.slab->kmem_cache_create("huge", kMaxObjectSize + 1, 0, SlabFlags::kNone).error(), Errno::kInval);
  EXPECT_EQ(m.slab->kmem_cache_create("kmalloc-64", 65, 0, SlabFlags::kNone).error(), Errno::kExist);
  m.slab->validate();
}

TEST(KmemCache, SlabinfoRows) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("rows", 64, 64, SlabFlags::kNone).value();
  std::vector<void*> objects(200);
  ASSERT_TRUE(cache->alloc_bulk(kGfp, objects));
  const SlabInfo row = m.slab->slabinfo(*cache);
  EXPECT_EQ(row.name, "rows");
  EXPECT_EQ(row.objsize, 64u);
  EXPECT_EQ(row.objperslab, cache->geometry().num);
  EXPECT_EQ(row.pagesperslab, 1u);
  EXPECT_EQ(row.limit, 120u);
  EXPECT_EQ(row.batchcount, 60u);
  EXPECT_EQ(row.num_objs, row.num_slabs * row.objperslab);
  EXPECT_EQ(row.objects_in_use, 200u);
  EXPECT_GE(row.active_objs, 200u);  // and what waits in the CPU's array
  EXPECT_LE(row.active_objs, 200u + row.limit);
  EXPECT_EQ(row.active_slabs, (row.active_objs + row.objperslab - 1) / row.objperslab);
  cache->free_bulk(objects);
  const auto rows = m.slab->slabinfo();
  EXPECT_EQ(rows[0].name, "kmem_cache");
  EXPECT_EQ(rows[0].objects_in_use, rows.size() - 2);  // it holds all caches but the two made by hand
}

TEST(KmemCache, ZeroedOnRequest) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("zeroed", 100, 0, SlabFlags::kNone).value();
  auto* p = static_cast<unsigned char*>(cache->alloc(kGfp));
  std::memset(p, 0xee, 100);
  cache->free(p);
  auto* q = static_cast<unsigned char*>(cache->alloc(kGfp | Gfp::kZero));
  EXPECT_EQ(p, q);
  EXPECT_EQ(std::count(q, q + 100, 0), 100);
  cache->free(q);
}

TEST(KmemCache, ReapTakesIdleArraysAndFreeSlabsBitByBit) {
  SlabMachine m;
  KmemCacheBase* cache = m.slab->kmem_cache_create("reaped", 256, 0, SlabFlags::kNone).value();
  std::vector<void*> objects(1000);
  ASSERT_TRUE(cache->alloc_bulk(kGfp, objects));
  cache->free_bulk(objects);
  ASSERT_GT(cache->total_slabs(), 0u);
  int rounds = 0;
  while (cache->total_slabs() > 0 && rounds < 100) {
    m.slab->cache_reap(SlabSystem::ReapMode::kPeriodic);
    m.slab->validate();
    ++rounds;
  }
  EXPECT_GT(rounds, 3);
  EXPECT_LT(rounds, 30);
}

TEST(KmemCacheAlias, OneNameAndKindIsSharedUntilTheLastUserGoes) {
  SlabMachine m;
  KmemCacheBase* first = m.slab->kmem_cache_create("pool", 48, 0, SlabFlags::kNone).value();
  const auto caches = m.slab->slabinfo().size();
  EXPECT_EQ(m.slab->kmem_cache_create("pool", 48, 0, SlabFlags::kNone).value(), first);
  EXPECT_EQ(m.slab->slabinfo().size(), caches);
  EXPECT_EQ(m.slab->kmem_cache_create("pool", 49, 0, SlabFlags::kNone).error(), Errno::kExist);
  EXPECT_EQ(m.slab->kmem_cache_create("pool", 48, 64, SlabFlags::kNone).error(), Errno::kExist);
  EXPECT_EQ(m.slab->kmem_cache_create("pool", 48, 0, SlabFlags::kReclaimAccount).error(), Errno::kExist);
  EXPECT_EQ(m.slab->kmem_cache_create("pool", 48, 0, SlabFlags::kNone, [](void*) {}).error(), Errno::kExist);
  void* object = first->alloc(kGfp);
  EXPECT_TRUE(m.slab->kmem_cache_destroy(*first).has_value());  // the other user's objects do not matter to this one
  EXPECT_EQ(m.slab->kmem_cache_destroy(*first).error(), Errno::kBusy);
  first->free(object);
  EXPECT_TRUE(m.slab->kmem_cache_destroy(*first).has_value());
  EXPECT_EQ(m.slab->find_cache("pool"), nullptr);
}

TEST(KmemCacheAlias, LikeCachesAreOneWhereTheMachineMerges) {
  for (const SlabLayoutKind layout : {SlabLayoutKind::kSlab, SlabLayoutKind::kSlub}) {
    SlabMachine m({.config = {.layout = layout, .merge = SlabMerge::kYes}});
    const auto create = [&](const char* name, std::size_t size, std::size_t align, SlabFlags flags,
                            SlabConstructor constructor = nullptr) {
      return m.slab->kmem_cache_create(name, size, align, flags, constructor).value();
    };
    KmemCacheBase* first = create("first", 840, 0, SlabFlags::kNone);
    const auto caches = m.slab->slabinfo().size();
    EXPECT_EQ(create("second", 836, 0, SlabFlags::kNone), first);
    EXPECT_EQ(create("third", 834, 8, SlabFlags::kPanic), first);
    EXPECT_EQ(m.slab->slabinfo().size(), caches);
    EXPECT_EQ(first->name(), "first");
    // Other pages, other alignment, more than a word of waste, or something of their own.
    EXPECT_NE(create("reclaimable", 840, 0, SlabFlags::kReclaimAccount), first);
    EXPECT_NE(create("accounted", 840, 0, SlabFlags::kAccount), first);
    EXPECT_NE(create("aligned", 840, 64, SlabFlags::kNone), first);
    EXPECT_NE(create("smaller", 832, 0, SlabFlags::kNone), first);
    EXPECT_NE(create("larger", 841, 0, SlabFlags::kNone), first);
    EXPECT_NE(create("lonely", 840, 0, SlabFlags::kNoMerge), first);
    EXPECT_NE(create("rcu", 840, 0, SlabFlags::kTypesafeByRcu), first);
    EXPECT_NE(create("constructed", 840, 0, SlabFlags::kNone, [](void*) {}), first);
    // The last user's destruction is the cache's.
    void* object = first->alloc(kGfp);
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*first).has_value());
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*first).has_value());
    EXPECT_EQ(m.slab->kmem_cache_destroy(*first).error(), Errno::kBusy);
    first->free(object);
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*first).has_value());
    EXPECT_EQ(m.slab->find_cache("first"), nullptr);
  }
}

TEST(KmemCacheAlias, NothingIsMergedUnlessAskedFor) {
  SlabMachine m({.config = {.layout = SlabLayoutKind::kSlub}});
  EXPECT_NE(m.slab->kmem_cache_create("one", 840, 0, SlabFlags::kNone).value(),
            m.slab->kmem_cache_create("other", 840, 0, SlabFlags::kNone).value());
}

TEST(KmemCacheBulk, TakesAndGivesAcrossArrayAndSlabsOrNothing) {
  for (const SlabLayoutKind layout : {SlabLayoutKind::kSlab, SlabLayoutKind::kSlub}) {
    SlabMachine m({.config = {.layout = layout}});
    KmemCacheBase* cache = m.slab->kmem_cache_create("bulk", 200, 0, SlabFlags::kNone).value();
    for (const std::size_t n : {1u, 7u, 64u, 500u, 3000u, 20u}) {
      std::vector<void*> objects(n);
      ASSERT_TRUE(cache->alloc_bulk(kGfp | Gfp::kZero, objects));
      EXPECT_EQ(cache->objects_in_use(), n);
      EXPECT_EQ(std::set<void*>(objects.begin(), objects.end()).size(), n);
      for (void* p : objects) {
        const auto* bytes = static_cast<unsigned char*>(p);
        EXPECT_EQ(std::count(bytes, bytes + 200, 0), 200);
        std::memset(p, 0xff, 200);
      }
      m.slab->validate();
      cache->free_bulk(objects);
      m.slab->validate();
      EXPECT_EQ(cache->objects_in_use(), 0u);
    }
    // More than there is: all that was taken goes back.
    std::vector<void*> too_many(1'000'000);
    EXPECT_FALSE(cache->alloc_bulk(Gfp::kNoWait | Gfp::kNoWarn, too_many));
    EXPECT_EQ(cache->objects_in_use(), 0u);
    m.slab->validate();
  }
}

// --- misuse -----------------------------------------------------------------------------------------------------------
// A death test's child shares the arena (a shared mapping) with its parent, so each makes a machine of its own.

// Misuses a cache "one" of 64-byte objects, two of them in use, beside a cache "two".
template <class Misuse>
void misuse(Misuse&& what) {
  SlabMachine m;
  KmemCacheBase& one = *m.slab->kmem_cache_create("one", 64, 0, SlabFlags::kNone).value();
  KmemCacheBase& two = *m.slab->kmem_cache_create("two", 64, 0, SlabFlags::kNone).value();
  void* p = one.alloc(kGfp);
  void* q = one.alloc(kGfp);
  what(m, one, two, p, q);
}

TEST(KmemCacheDeath, ACreationThatMustNotFail) {
  EXPECT_DEATH(
      {
        SlabMachine m;
        static_cast<void>(m.slab->kmem_cache_create("much", kMaxObjectSize + 1, 0, SlabFlags::kPanic));
      },
      "slab cache much of objects of 4194305 bytes could not be created: EINVAL");
}

TEST(KmemCacheDeath, DoubleFreeAtOnce) {
  EXPECT_DEATH(misuse([](SlabMachine&, KmemCacheBase& one, KmemCacheBase&, void* p, void*) {
                 one.free(p);
                 one.free(p);
               }),
               "cache one is freed twice");
}

TEST(KmemCacheDeath, DoubleFreeLaterIsFoundByValidate) {
  EXPECT_DEATH(misuse([](SlabMachine&, KmemCacheBase& one, KmemCacheBase&, void* p, void* q) {
                 one.free(p);
                 one.free(q);
                 one.free(p);
                 one.validate();
               }),
               "cache one is freed twice");
}

TEST(KmemCacheDeath, DoubleFreeLaterIsFoundByTheFlush) {
  EXPECT_DEATH(misuse([](SlabMachine& m, KmemCacheBase& one, KmemCacheBase&, void* p, void* q) {
                 one.free(p);
                 one.free(q);
                 one.free(p);
                 m.slab->kmem_cache_shrink(one);
               }),
               "cache one is freed twice");
}

TEST(KmemCacheDeath, FreeToTheWrongCache) {
  EXPECT_DEATH(misuse([](SlabMachine& m, KmemCacheBase&, KmemCacheBase& two, void* p, void*) {
                 two.free(p);
                 m.slab->kmem_cache_shrink(two);
               }),
               "freed to cache two, but belongs to cache one");
}

TEST(KmemCacheDeath, FreeOfTheMiddleOfAnObject) {
  EXPECT_DEATH(misuse([](SlabMachine& m, KmemCacheBase& one, KmemCacheBase&, void* p, void*) {
                 one.free(static_cast<std::byte*>(p) + 8);
                 m.slab->kmem_cache_shrink(one);
               }),
               "not the start of an object");
}

TEST(KmemCacheDeath, FreeOfForeignMemory) {
  EXPECT_DEATH(misuse([](SlabMachine& m, KmemCacheBase& one, KmemCacheBase&, void*, void*) {
                 int on_the_stack = 0;
                 one.free(&on_the_stack);
                 m.slab->kmem_cache_shrink(one);
               }),
               "is no slab object");
}

// --- memory runs out --------------------------------------------------------------------------------------------------

TEST(KmemCacheNoMemory, GivesNullAndLosesNothing) {
  SlabMachine m;
  for (const std::size_t size : {64u, 576u, 3000u}) {
    KmemCacheBase* cache = m.slab->kmem_cache_create("starved", size, 0, SlabFlags::kNone).value();
    const std::uint64_t before = m.free_pages();
    for (std::uint64_t keep = 0; keep < 12; ++keep) {
      m.exhaust(keep);
      std::vector<void*> objects;
      while (void* p = cache->alloc(Gfp::kNoWait)) objects.push_back(p);
      std::vector<void*> bulk(10000, nullptr);
      EXPECT_FALSE(cache->alloc_bulk(Gfp::kNoWait, bulk));
      EXPECT_EQ(cache->objects_in_use(), objects.size());
      m.slab->validate();
      cache->free_bulk(objects);
      m.slab->cache_reap(SlabSystem::ReapMode::kAll);
      m.release();
      EXPECT_EQ(cache->total_slabs(), 0u);
      EXPECT_EQ(m.free_pages(), before);
    }
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
  }
}

TEST(KmemCacheNoMemory, CreateFailsCleanly) {
  SlabMachine m;
  const auto caches = m.slab->slabinfo().size();
  m.exhaust();
  std::size_t made = 0;
  for (;; ++made) {  // until neither kmem_cache nor the percpu area has room
    const std::string name = "more-" + std::to_string(made);
    const auto cache = m.slab->kmem_cache_create(name, 64, 0, SlabFlags::kNone);
    if (cache) continue;
    EXPECT_EQ(cache.error(), Errno::kNoMem);
    EXPECT_EQ(m.slab->find_cache(name), nullptr);
    break;
  }
  m.slab->validate();
  EXPECT_EQ(m.slab->slabinfo().size(), caches + made);
  const std::uint64_t descriptors = m.slab->find_cache("kmem_cache")->objects_in_use();
  EXPECT_EQ(m.slab->kmem_cache_create("one more", 64, 0, SlabFlags::kNone).error(), Errno::kNoMem);
  EXPECT_EQ(m.slab->find_cache("kmem_cache")->objects_in_use(), descriptors);
  for (std::size_t i = 0; i < made; ++i) {
    ASSERT_TRUE(m.slab->kmem_cache_destroy(*m.slab->find_cache("more-" + std::to_string(i))).has_value());
  }
  EXPECT_EQ(m.slab->slabinfo().size(), caches);
}

TEST(KmemCacheFaults, FailslabFailsTheNthAllocation) {
  SlabMachine m;
  sim::FaultInjection faults(1);
  KmemCache<std::uint64_t> cache(*m.slab, "faulty");
  m.slab->set_fault_injection(&faults);
  faults.set(sim::FaultPoint::kSlabAlloc, {.nth = 3});
  std::uint64_t* a = cache.alloc(kGfp, 1u);
  std::uint64_t* b = cache.alloc(kGfp, 2u);
  EXPECT_EQ(cache.alloc(kGfp, 3u), nullptr);
  std::uint64_t* d = cache.alloc(kGfp, 4u);
  ASSERT_NE(d, nullptr);
  EXPECT_EQ(*a + *b + *d, 7u);
  m.slab->set_fault_injection(nullptr);
  for (auto* p : {a, b, d}) cache.free(p);
}

}  // namespace
}  // namespace quire::slab
