#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "quire/slab/shrinker.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

class FakeCache : public Shrinker {
 public:
  explicit FakeCache(std::uint64_t objects, unsigned seeks = kDefaultSeeks) : objects_(objects), seeks_(seeks) {}
  std::string_view name() const override { return "fake"; }
  std::uint64_t count_objects(const ShrinkControl& control) override {
    asked.push_back(control.nid);
    return empty ? kShrinkEmpty : objects_;
  }
  std::uint64_t scan_objects(ShrinkControl& control) override {
    if (stop) return kShrinkStop;
    scans.push_back(control.nr_to_scan);
    const std::uint64_t freed = std::min(control.nr_to_scan, objects_);
    objects_ -= freed;
    return freed;
  }
  unsigned seeks() const override { return seeks_; }
  std::uint64_t batch() const override { return batch_size; }
  ShrinkerFlags flags() const override { return numa; }

  std::vector<std::uint64_t> scans;
  std::vector<Nid> asked;
  bool stop = false;
  bool empty = false;
  std::uint64_t batch_size = 0;
  ShrinkerFlags numa = ShrinkerFlags::kNone;

 private:
  std::uint64_t objects_;
  unsigned seeks_;
};

// A registry with one shrinker, for as long as a test lasts.
struct Registered {
  explicit Registered(Shrinker& s, unsigned nodes = 1)
      : m({.ram = nodes * 64 * kMiB, .nodes = nodes}), registry(m.slab->shrinkers()), shrinker(s) {
    registry.register_shrinker(shrinker);
  }
  ~Registered() { registry.unregister_shrinker(shrinker); }
  ShrinkerRegistry::Shrunk shrink(int nid, int priority) {
    return registry.shrink_slab(phys::Gfp::kKernel, Nid(nid), priority);
  }
  std::int64_t slabs_scanned() const { return m.phys->vmstat()[phys::VmEvent::kSlabsScanned]; }

  SlabMachine m;
  ShrinkerRegistry& registry;
  Shrinker& shrinker;
};

TEST(Shrinker, ScansInProportionToPriorityInBatches) {
  FakeCache cache(100'000);
  Registered r(cache);
  // 100000 >> 8 = 390, times 4 / 2 seeks = 780: six batches of 128 and the rest deferred.
  const ShrinkerRegistry::Shrunk shrunk = r.shrink(0, 8);
  EXPECT_EQ(shrunk.freed, 6 * 128u);
  EXPECT_EQ(shrunk.scanned, 6 * 128u);
  EXPECT_EQ(r.slabs_scanned(), 6 * 128);
  EXPECT_EQ(cache.scans, std::vector<std::uint64_t>(6, 128));
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(0)), 780u - 6 * 128);
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
  const auto slab_pages = [&m] { return m.phys->global_node_page_state(phys::NodeStat::kNrSlabReclaimable); };
  const std::int64_t before = slab_pages();
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
  EXPECT_EQ(static_cast<std::int64_t>(pages), before - slab_pages());
  m.slab->shrinkers().unregister_shrinker(objects);
  EXPECT_TRUE(m.slab->kmem_cache_destroy(*cache).has_value());
}

TEST(Shrinker, SmallPortionsAddUp) {
  FakeCache cache(4096 * 10);
  Registered r(cache);
  // 10 objects times 2 at priority 12: nothing for six calls but a debt that grows, shifted down again by the priority.
  for (int i = 0; i < 6; ++i) EXPECT_EQ(r.shrink(0, 12).freed, 0u);
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(0)), 6 * 20u);
  EXPECT_EQ(r.shrink(0, 0).freed, 4096u * 10);
}

TEST(Shrinker, FewObjectsAreScannedWhole) {
  FakeCache cache(20);
  Registered r(cache);
  EXPECT_EQ(r.shrink(0, 0).freed, 20u);
  EXPECT_EQ(r.shrink(0, 0).freed, 0u);
}

TEST(Shrinker, StopEndsTheRoundAndTheDebtRemains) {
  FakeCache cache(10'000);
  cache.numa = ShrinkerFlags::kNumaAware;
  Registered r(cache, 2);
  cache.stop = true;
  EXPECT_EQ(r.shrink(1, 2).freed, 0u);
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(1)), 5000u);
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(0)), 0u);
  cache.stop = false;
  EXPECT_GT(r.shrink(1, 2).freed, 0u);
}

TEST(Shrinker, SeeksWeighHowManyAreScanned) {
  FakeCache dear(1 << 16, 8);
  EXPECT_EQ(Registered(dear).shrink(0, 4).scanned, 2048u);  // 4096 * 4 / 8
  FakeCache cheap(1 << 16, 1);
  EXPECT_EQ(Registered(cheap).shrink(0, 4).scanned, 16384u);
  // What costs nothing to make again is given up by halves, whatever the priority.
  FakeCache for_nothing(1 << 16, 0);
  EXPECT_EQ(Registered(for_nothing).shrink(0, 12).scanned, 1u << 15);
}

TEST(Shrinker, NeverScansMoreThanTwiceWhatIsThere) {
  FakeCache cache(1000);
  Registered r(cache);
  cache.stop = true;
  for (int i = 0; i < 10; ++i) r.shrink(0, 0);
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(0)), 2000u);
}

TEST(Shrinker, BatchIsTheShrinkers) {
  FakeCache cache(5000);
  cache.batch_size = 1024;
  Registered r(cache);
  r.shrink(0, 0);
  ASSERT_FALSE(cache.scans.empty());
  EXPECT_EQ(cache.scans.front(), 1024u);
}

TEST(Shrinker, EmptyIsNothingToDo) {
  FakeCache cache(100);
  cache.empty = true;
  Registered r(cache);
  EXPECT_EQ(r.shrink(0, 0).scanned, 0u);
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(0)), 0u);
}

// A shrinker that knows no nodes is asked for each, and has one debt.
TEST(Shrinker, DebtIsPerNodeOnlyWhereTheShrinkerKnowsNodes) {
  FakeCache cache(4096 * 10);
  Registered r(cache, 2);
  r.shrink(0, 12);
  r.shrink(1, 12);
  EXPECT_EQ(cache.asked, (std::vector<Nid>{Nid(0), Nid(1)}));
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(0)), 40u);
  EXPECT_EQ(r.registry.nr_deferred(cache, Nid(1)), 40u);

  FakeCache aware(4096 * 10);
  aware.numa = ShrinkerFlags::kNumaAware;
  Registered n(aware, 2);
  n.shrink(0, 12);
  n.shrink(1, 12);
  n.shrink(1, 12);
  EXPECT_EQ(n.registry.nr_deferred(aware, Nid(0)), 20u);
  EXPECT_EQ(n.registry.nr_deferred(aware, Nid(1)), 40u);
}

TEST(Shrinker, TellsWhatItAskedAndGot) {
  FakeCache cache(100'000);
  Registered r(cache);
  r.registry.trace_to(r.m.traces);
  std::vector<std::string> told;
  for (TracepointBase* t : r.m.traces.all()) {
    if (!t->name().starts_with("mm_shrink_slab")) continue;
    t->listen([&told](const EventView& event) {
      std::string line(event.name());
      event.fields([&line](std::string_view name, FieldValue value) {
        line += " " + std::string(name) + "=";
        std::visit(
            [&line](auto v) {
              if constexpr (std::is_same_v<decltype(v), std::string_view>) {
                line += v;
              } else {
                line += std::to_string(v);
              }
            },
            value);
      });
      told.push_back(line);
    });
  }
  r.shrink(0, 8);
  EXPECT_EQ(told, (std::vector<std::string>{
                      "mm_shrink_slab_start shrink=fake nid=0 nr_objects_to_shrink=0 gfp_flags=GFP_KERNEL cache_items=100000 "
                      "delta=780 total_scan=780 priority=8",
                      "mm_shrink_slab_end shrink=fake nid=0 unused_scan=0 new_scan=12 retval=768 total_scan=12"}));
}

// Sleeps in its scan, so that others come in between.
class SlowCache final : public FakeCache {
 public:
  SlowCache(sim::Scheduler& scheduler, std::uint64_t objects) : FakeCache(objects), scheduler_(scheduler) {}
  std::uint64_t scan_objects(ShrinkControl& control) override {
    scheduler_.sleep_for(1'000'000);
    return FakeCache::scan_objects(control);
  }

 private:
  sim::Scheduler& scheduler_;
};

TEST(Shrinker, UnregisteringWaitsForTheRoundThatIsUnderWay) {
  SlabMachine m({.cpus = 2});
  SlowCache slow(m.scheduler, 1000);
  FakeCache other(1000);
  ShrinkerRegistry& registry = m.slab->shrinkers();
  registry.register_shrinker(slow);
  registry.register_shrinker(other);
  ShrinkerRegistry::Shrunk first;
  ShrinkerRegistry::Shrunk second;
  m.scheduler.spawn("reclaimer", [&] { first = registry.shrink_slab(kGfp, Nid(0), 0); });
  m.scheduler.spawn("owner", [&] {
    m.scheduler.sleep_for(100'000);
    registry.unregister_shrinker(slow);
    EXPECT_EQ(first.freed, 1000u);  // the round went on to the end of its shrinker
    second = registry.shrink_slab(kGfp, Nid(0), 0);
  });
  ASSERT_TRUE(m.scheduler.run().done());
  // It stopped there, since somebody waited; the second round reached the other.
  EXPECT_EQ(first.freed, 1000u);
  EXPECT_EQ(second.freed, 1000u);
  EXPECT_EQ(other.asked.size(), 1u);
  registry.unregister_shrinker(other);
}

TEST(Shrinker, NamesInOrderOfRegistration) {
  FakeCache a(1);
  SlabMachine m;
  SlowCache b(m.scheduler, 1);
  m.slab->shrinkers().register_shrinker(a);
  m.slab->shrinkers().register_shrinker(b);
  std::vector<const Shrinker*> seen;
  m.slab->shrinkers().for_each([&](const Shrinker& s) { seen.push_back(&s); });
  EXPECT_EQ(seen, (std::vector<const Shrinker*>{&a, &b}));
  m.slab->shrinkers().unregister_shrinker(a);
  m.slab->shrinkers().unregister_shrinker(b);
}

TEST(ShrinkerDeath, UnregisteringWhatIsNotRegistered) {
  EXPECT_DEATH(
      {
        SlabMachine m;
        FakeCache a(1);
        m.slab->shrinkers().unregister_shrinker(a);
      },
      "entries_.end");
}

}  // namespace
}  // namespace quire::slab
