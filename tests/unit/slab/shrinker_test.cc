#include <gtest/gtest.h>

#include <vector>

#include "quire/slab/shrinker.h"

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
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 8), 6 * 128u);
  EXPECT_EQ(cache.scans, std::vector<std::uint64_t>(6, 128));
  EXPECT_EQ(registry.slabs_scanned(), 6 * 128u);
}

TEST(Shrinker, SmallPortionsAddUp) {
  ShrinkerRegistry registry(1);
  FakeCache cache(4096 * 10);
  registry.register_shrinker(cache);
  // 10 objects times 2 at priority 12: nothing for six calls but a debt that grows, shifted down again by the priority.
  for (int i = 0; i < 6; ++i) EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 12), 0u);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 0), 4096u * 10);
}

TEST(Shrinker, FewObjectsAreScannedWhole) {
  ShrinkerRegistry registry(1);
  FakeCache cache(20);
  registry.register_shrinker(cache);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 0), 20u);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(0), 0), 0u);
}

TEST(Shrinker, StopEndsTheRoundAndTheDebtRemains) {
  ShrinkerRegistry registry(2);
  FakeCache cache(10'000);
  registry.register_shrinker(cache);
  cache.stop = true;
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(1), 2), 0u);
  cache.stop = false;
  EXPECT_GT(registry.shrink_slab(phys::Gfp::kKernel, Nid(1), 2), 0u);
  registry.unregister_shrinker(cache);
  EXPECT_EQ(registry.shrink_slab(phys::Gfp::kKernel, Nid(1), 0), 0u);
}

}  // namespace
}  // namespace quire::slab
