#include <gtest/gtest.h>

#include <vector>

#include "quire/slab/shrinker.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

class FakeCache final : public Shrinker {
 public:
  explicit FakeCache(std::uint64_t objects, unsigned seeks = kDefaultSeeks) : objects_(objects), seeks_(seeks) {}
  std::string_view name() const override { return "fake"; }
  std::uint64_t count_objects(const ShrinkControl&) override { return objects_; }
  std::uint64_t scan_objects(ShrinkControl& control) override {
    if (stop) return kShrinkStop;
    scans.push_back(control.nr_to_scan);
    const std::uint64_t freed = std::min(control.nr_to_scan, objects_);
    objects_ -= freed;
    return freed;
  }
  unsigned seeks() const override { return seeks_; }

  std::vector<std::uint64_t> scans;
  bool stop = false;

 private:
  std::uint64_t objects_;
  unsigned seeks_;
};

TEST(Shrinker, ScansInProportionToPriorityInBatches) {
  ShrinkerRegistry registry(1);
  FakeCache cache(100'000);
  registry.register_shrinker(cache);
  // 100000 >> 8 = 390, times 4 / 2 seeks = 780: six batches of 128 and the rest deferred.
  const ShrinkerRegistry::Shrunk shrunk = registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 8);
  EXPECT_EQ(shrunk.freed, 6 * 128u);
  EXPECT_EQ(shrunk.scanned, 6 * 128u);
  EXPECT_EQ(cache.scans, std::vector<std::uint64_t>(6, 128));
}

// Gives real objects back, with sync points on the way.
class ObjectCache final : public Shrinker {
 public:
  ObjectCache(SlabMachine& m, KmemCacheBase& cache, std::size_t n) : m_(m), cache_(cache) {
    for (std::size_t i = 0; i < n; ++i) objects_.push_back(cache_.alloc(kGfp));
  }
  std::string_view name() const override { return "objects"; }
  std::uint64_t count_objects(const ShrinkControl&) override { return objects_.size(); }
  std::uint64_t scan_objects(ShrinkControl& control) override {
    std::uint64_t freed = 0;
    for (; freed < control.nr_to_scan && !objects_.empty(); ++freed) {
      void* object = objects_.back();
      objects_.pop_back();
      cache_.free(object);
      m_.scheduler.charge(50);
      m_.scheduler.sync_point();
    }
    return freed;
  }

 private:
  SlabMachine& m_;
  KmemCacheBase& cache_;
  std::vector<void*> objects_;
};

// What one of several reclaimers did is his alone: the parts add up to the whole.
TEST(Shrinker, ConcurrentReclaimersCountTheirOwnWork) {
  SlabMachine m({.cpus = 3, .preempt_permille = 300});
  KmemCacheBase* cache = m.slab->kmem_cache_create("objects", 1000, 0, SlabFlags::kReclaimAccount).value();
  ObjectCache objects(m, *cache, 4000);
  m.slab->shrinkers().register_shrinker(objects);
  const std::int64_t before = m.slab_pages();
  ShrinkerRegistry::Shrunk total;
  std::uint64_t pages = 0;
  for (int t = 0; t < 3; ++t) {
    m.scheduler.spawn("reclaimer", [&] {
      for (int priority = 6; priority >= 0; --priority) {
        const ShrinkerRegistry::Shrunk shrunk = m.slab->shrinkers().shrink_slab(kGfp, Nid(0), priority);
        total.freed += shrunk.freed;
        total.scanned += shrunk.scanned;
      }
      EXPECT_GT(m.scheduler.current()->reclaimed_slab, 0u);
      pages += m.scheduler.current()->reclaimed_slab;
    });
  }
  ASSERT_TRUE(m.scheduler.run().done());
  EXPECT_EQ(total.freed, 4000u);
  EXPECT_GE(total.scanned, total.freed);
  EXPECT_EQ(static_cast<std::int64_t>(pages), before - m.slab_pages());
  m.slab->shrinkers().unregister_shrinker(objects);
  EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
}

TEST(Shrinker, SmallPortionsAddUp) {
  ShrinkerRegistry registry(1);
  FakeCache cache(4096 * 10);
  registry.register_shrinker(cache);
  // 10 objects times 2 at priority 12: nothing for six calls but a debt that grows, shifted down again by the priority.
  for (int i = 0; i < 6; ++i) EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 12).freed, 0u);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 0).freed, 4096u * 10);
}

TEST(Shrinker, FewObjectsAreScannedWhole) {
  ShrinkerRegistry registry(1);
  FakeCache cache(20);
  registry.register_shrinker(cache);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 0).freed, 20u);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 0).freed, 0u);
}

TEST(Shrinker, StopEndsTheRoundAndTheDebtRemains) {
  ShrinkerRegistry registry(2);
  FakeCache cache(10'000);
  registry.register_shrinker(cache);
  cache.stop = true;
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(1), 2).freed, 0u);
  cache.stop = false;
  EXPECT_GT(registry.shrink_slab(phys::Gfp::kKernel, Nid(1), 2).freed, 0u);
  registry.unregister_shrinker(cache);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(1), 0).freed, 0u);
}

}  // namespace
}  // namespace quire::slab
