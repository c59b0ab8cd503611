// Caches under several tasks on several CPUs, in both layouts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "effort.h"
#include "quire/slab/classic_slab.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using phys::Gfp;

class KmemCacheTasks : public testing::TestWithParam<SlabLayoutKind> {};
INSTANTIATE_TEST_SUITE_P(Layouts, KmemCacheTasks, testing::Values(SlabLayoutKind::kSlab, SlabLayoutKind::kSlub),
                         [](const auto& layout) { return layout.param == SlabLayoutKind::kSlab ? "Slab" : "Slub"; });

// The list of caches changes while it is walked on another CPU.
TEST_P(KmemCacheTasks, CachesComeAndGoWhileTheyAreReaped) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SlabMachine m({.cpus = 3, .seed = seed, .preempt_permille = 300, .config = {.layout = GetParam()}});
    const auto caches = m.slab->slabinfo().size();
    int makers = 2;
    for (int t = 0; t < 2; ++t) {
      m.scheduler.spawn("maker" + std::to_string(t), [&m, &makers, t] {
        for (int i = 0; i < 40; ++i) {
          // One name for both tasks now and then: it is made by one and shared by the other, or made anew.
          const std::string name = i % 3 == 0 ? "shared" : "own" + std::to_string(t);
          KmemCacheBase* cache = m.slab->kmem_cache_create(name, 200, 0, SlabFlags::kNone).value();
          void* object = cache->alloc(kGfp);
          m.scheduler.charge(500);
          m.scheduler.sync_point();
          cache->free(object);
          const Status gone = m.slab->kmem_cache_destroy(*cache);
          ASSERT_TRUE(gone.has_value());
        }
        --makers;
      });
    }
    m.scheduler.spawn("reaper", [&] {
      while (makers != 0) {
        m.slab->cache_reap(SlabSystem::ReapMode::kAll);
        m.scheduler.charge(100);
        m.scheduler.sync_point();
      }
    });
    ASSERT_TRUE(m.scheduler.run().done());
    ASSERT_EQ(m.slab->slabinfo().size(), caches);
    m.slab->validate();
  }
}

// Every page allocation of the round fails in its turn, until the round is done before the next would fail: who asked is
// told, and nothing is lost. The pages of the percpu area stay with it.
TEST_P(KmemCacheTasks, EachPageAllocationOfARoundMayFail) {
  const Gfp gfp = Gfp::kKernel | Gfp::kNoWarn;
  sim::FaultInjection faults(1);
  std::uint64_t failed_rounds = 0;
  for (std::uint64_t nth = 1;; ++nth) {
    ASSERT_LT(nth, 1000u);
    SlabMachine m({.config = {.layout = GetParam()}});
    m.slab->cache_reap(SlabSystem::ReapMode::kAll);
    const std::uint64_t pages = m.free_pages() + m.slab->percpu_pages();
    m.phys->set_fault_injection(&faults);
    faults.set(sim::FaultPoint::kPageAlloc, {.nth = nth});
    const std::uint64_t before = faults.failures(sim::FaultPoint::kPageAlloc);
    bool missed = false;
    if (const auto made = m.slab->kmem_cache_create("round", 600, 0, SlabFlags::kNone)) {
      KmemCacheBase& cache = **made;
      void* one = cache.alloc(gfp);
      std::vector<void*> bulk(100);
      const bool all = cache.alloc_bulk(gfp, bulk);
      void* large = m.slab->kmalloc(20'000, gfp);
      void* small = m.slab->kmalloc(3000, gfp);
      missed = one == nullptr || !all || large == nullptr || small == nullptr;
      m.slab->validate();
      if (one != nullptr) cache.free(one);
      if (all) cache.free_bulk(bulk);
      m.slab->kfree(large);
      m.slab->kfree(small);
      EXPECT_EQ(cache.objects_in_use(), 0u);
      EXPECT_TRUE(m.slab->kmem_cache_destroy(cache).has_value());
    } else {
      EXPECT_EQ(made.error(), Errno::kNoMem);
      missed = true;
    }
    const bool fired = faults.failures(sim::FaultPoint::kPageAlloc) != before;
    m.phys->set_fault_injection(nullptr);
    EXPECT_EQ(m.slab->find_cache("round"), nullptr);
    m.slab->cache_reap(SlabSystem::ReapMode::kAll);
    m.slab->validate();
    EXPECT_EQ(m.free_pages() + m.slab->percpu_pages(), pages) << nth;
    if (!fired) {
      EXPECT_FALSE(missed);
      break;
    }
    failed_rounds += missed ? 1 : 0;
  }
  EXPECT_GT(failed_rounds, 0u);
}

// A machine is taken down wherever it stands, and then gives its caches back in boot context.
TEST_P(KmemCacheTasks, AReaperThatIsUnwoundLeavesTheListFree) {
  for (sim::Nanos stop = 1'000; stop < 30'000; stop += 500) {
    SlabMachine m({.cpus = 2, .seed = stop, .preempt_permille = 500, .config = {.layout = GetParam()}});
    KmemCache<std::uint64_t> cache(*m.slab, "boot's");
    for (int t = 0; t < 2; ++t) {
      m.scheduler.spawn("reaper", [&] {
        for (;;) {
          m.slab->cache_reap(SlabSystem::ReapMode::kAll);
          KmemCacheBase* passing = m.slab->kmem_cache_create("passing", 100, 0, SlabFlags::kNone).value();
          ASSERT_TRUE(m.slab->kmem_cache_destroy(*passing).has_value());
        }
      });
    }
    EXPECT_EQ(m.scheduler.run_until(stop).end(), sim::RunEnd::kTimeLimit);
    m.scheduler.unwind_tasks();
    EXPECT_TRUE(cache.destroy().has_value());
  }
}

// Objects are freed by other tasks than took them, on other CPUs, while a shrinker takes stock of the cache.
TEST_P(KmemCacheTasks, TasksOnSeveralCpusShareACache) {
  for (std::uint64_t seed = 0; seed < (kEveryCheckIsOn ? 10 : 30); ++seed) {
    const SlabFlags debug = seed % 5 == 4 ? kSlabDebugFlags : SlabFlags::kNone;
    SlabMachine m({.ram = 128 * kMiB,
                   .cpus = 4,
                   .nodes = 2,
                   .seed = seed,
                   .preempt_permille = 300,
                   .config = {.layout = GetParam(), .debug = debug}});
    using Object = std::array<std::uint64_t, 20>;
    KmemCache<Object> cache(*m.slab, "shared");
    std::vector<std::pair<Object*, std::uint64_t>> pool;
    int living = 6;
    for (std::uint64_t t = 0; t < 6; ++t) {
      m.scheduler.spawn("t" + std::to_string(t), [&, t] {
        Rng rng(t + seed * 10);
        for (int i = 0; i < 2000; ++i) {
          m.scheduler.charge(rng.below(300));
          const std::uint64_t growth = i / 500 % 2 == 0 ? 60 : 35;
          if (rng.below(100) < growth) {
            auto* p = rng.below(4) == 0 ? cache.alloc_node(kGfp, Nid(static_cast<int>(rng.below(2)))) : cache.alloc(kGfp);
            ASSERT_NE(p, nullptr);
            p->fill(t * 10000 + static_cast<std::uint64_t>(i));
            pool.emplace_back(p, t * 10000 + static_cast<std::uint64_t>(i));
          } else if (!pool.empty()) {
            std::swap(pool[rng.below(pool.size())], pool.back());
            const auto [p, value] = pool.back();
            pool.pop_back();
            for (const std::uint64_t word : *p) ASSERT_EQ(word, value);
            cache.free(p);
          }
          if (i % 100 == 0) cache.base().validate();
        }
        --living;
      });
    }
    m.scheduler.spawn("shrinker", [&] {
      while (living != 0) {
        m.scheduler.sleep_for(20'000);
        m.slab->kmem_cache_shrink(cache.base());
      }
    });
    ASSERT_TRUE(m.scheduler.run().done());
    m.slab->validate();
    EXPECT_EQ(cache.base().objects_in_use(), pool.size());
    for (auto& [p, value] : pool) cache.free(p);
    EXPECT_EQ(cache.base().objects_in_use(), 0u);
    m.slab->kmem_cache_shrink(cache.base());
    EXPECT_EQ(cache.base().total_slabs(), 0u);
  }
}

// Slabs with descriptors elsewhere take several steps to make and to take apart; whoever looks in between finds all accounted.
TEST_P(KmemCacheTasks, TheSystemIsWholeAtEveryMoment) {
  for (std::uint64_t seed = 0; seed < (kEveryCheckIsOn ? 1 : 5); ++seed) {
    SlabMachine m(
        {.ram = 128 * kMiB, .cpus = 4, .nodes = 2, .seed = seed, .preempt_permille = 500, .config = {.layout = GetParam()}});
    KmemCacheBase& cache = *m.slab->kmem_cache_create("apart", 600, 0, SlabFlags::kNone).value();
    int living = 4;
    for (std::uint64_t t = 0; t < 4; ++t) {
      m.scheduler.spawn("t" + std::to_string(t), [&, t] {
        Rng rng(t + seed * 10);
        for (int i = 0; i < 25; ++i) {
          std::vector<void*> objects(1 + rng.below(200));
          ASSERT_TRUE(cache.alloc_bulk(kGfp, objects));
          for (void* p : objects) std::memset(p, static_cast<int>(t), 600);
          m.scheduler.charge(rng.below(2000));
          m.scheduler.sync_point();
          for (void* p : objects) {
            const auto* bytes = static_cast<std::uint8_t*>(p);
            ASSERT_EQ(std::count(bytes, bytes + 600, t), 600);
          }
          cache.free_bulk(objects);
          if (i % 8 == 0) m.slab->kmem_cache_shrink(cache);
        }
        --living;
      });
    }
    m.scheduler.spawn("onlooker", [&] {
      while (living != 0) {
        m.slab->validate();
        m.scheduler.charge(kEveryCheckIsOn ? 10000 : 200);
        m.scheduler.sync_point();
      }
    });
    ASSERT_TRUE(m.scheduler.run().done());
    EXPECT_EQ(cache.objects_in_use(), 0u);
    EXPECT_TRUE(m.slab->kmem_cache_destroy(cache).has_value());
    m.slab->validate();
  }
}

}  // namespace
}  // namespace quire::slab
