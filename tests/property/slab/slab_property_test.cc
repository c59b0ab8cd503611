// Random operations on all caches of a machine against a naive model: a map of what is alive with the bytes it must hold.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "effort.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using phys::Gfp;

// What the constructor of some caches leaves, and what users leave alone: the first word.
constexpr std::uint64_t kConstructed = 0xc0457c7edb1e55ed;
void construct(void* object) { std::memcpy(object, &kConstructed, sizeof kConstructed); }

struct Living {
  std::size_t size = 0;
  std::uint64_t pattern = 0;
  KmemCacheBase* cache = nullptr;  // nullptr: from kmalloc
};

class Model {
 public:
  Model(SlabMachine& m, std::uint64_t seed) : m_(m), rng_(seed) {}

  void step() {
    switch (rng_.below(20)) {
      case 0: return create_or_destroy();
      case 1: return reap();
      case 2: return squeeze();
      case 3: return allocate_bulk();
      case 4: return release_bulk();
      default: return rng_.below(1000) < grow_bias_ ? allocate() : release();
    }
  }
  // Phases of growth and of shrinkage, so that slabs fill up and run empty.
  void turn() { grow_bias_ = 300 + rng_.below(500); }

  void check() {
    m_.slab->validate();
    std::uint64_t in_use = 0;
    for (const auto& cache : caches_) in_use += cache->objects_in_use();
    std::uint64_t expected = 0;
    for (const auto& [address, object] : alive_) {
      expected += object.cache != nullptr ? 1 : 0;
      check_bytes(address, object);
    }
    ASSERT_EQ(in_use, expected);
  }

  void finish() {
    m_.release();
    while (!alive_.empty()) release();
    for (KmemCacheBase* cache : caches_) ASSERT_TRUE(m_.slab->kmem_cache_destroy(*cache).has_value());
    m_.slab->validate();
  }

  std::uint64_t failures() const { return failures_; }

 private:
  void create_or_destroy() {
    if (caches_.size() < 12 && rng_.below(3) != 0) {
      static constexpr std::size_t kAligns[] = {0, 8, 16, 64, 128, 1024};
      const SlabConstructor constructor = rng_.below(3) == 0 ? construct : nullptr;
      const std::size_t size = 8 + rng_.below(std::size_t{1} << (3 + rng_.below(12)));
      const auto flags = rng_.below(2) != 0 ? SlabFlags::kReclaimAccount : SlabFlags::kHwCacheAlign;
      const auto made = m_.slab->kmem_cache_create("model-" + std::to_string(names_++), size,
                                                   kAligns[rng_.below(std::size(kAligns))], flags, constructor);
      if (made) caches_.push_back(*made);
      return;
    }
    if (caches_.empty()) return;
    std::swap(caches_[rng_.below(caches_.size())], caches_.back());
    const bool busy = caches_.back()->objects_in_use() != 0;
    ASSERT_EQ(m_.slab->kmem_cache_destroy(*caches_.back()).has_value(), !busy);
    if (!busy) caches_.pop_back();
  }

  void reap() {
    if (rng_.below(10) == 0) {
      m_.slab->cache_reap(SlabSystem::ReapMode::kAll);
    } else if (!caches_.empty() && rng_.below(2) == 0) {
      m_.slab->kmem_cache_shrink(*caches_[rng_.below(caches_.size())]);
    } else {
      m_.slab->cache_reap(SlabSystem::ReapMode::kPeriodic);
    }
  }

  // Now and then hardly a page is free, so that allocations fail half-way.
  void squeeze() {
    if (rng_.below(20) == 0) m_.exhaust(rng_.below(8));
    if (rng_.below(4) == 0) m_.release();
  }

  void allocate() {
    Gfp gfp = Gfp::kNoWait | Gfp::kNoWarn | (rng_.below(4) == 0 ? Gfp::kZero : Gfp::kNone);
    const Nid nid = rng_.below(2) == 0 ? kNoNode : Nid(static_cast<int>(rng_.below(m_.phys->nodes().size())));
    Living object{.pattern = rng_()};
    void* p = nullptr;
    if (!caches_.empty() && rng_.below(2) == 0) {
      object.cache = caches_[rng_.below(caches_.size())];
      object.size = object.cache->object_size();
      if (object.cache->ctor() != nullptr) gfp = gfp & ~Gfp::kZero;
      p = object.cache->alloc_node(gfp, nid);
    } else {
      object.size = 1 + rng_.below(std::size_t{1} << rng_.below(16));
      p = m_.slab->kmalloc_node(object.size, gfp, nid);
    }
    if (p == nullptr) {
      ++failures_;
      return;
    }
    take_in(static_cast<std::byte*>(p), object, gfp);
  }

  void allocate_bulk() {
    if (caches_.empty()) return;
    Living object{.pattern = rng_(), .cache = caches_[rng_.below(caches_.size())]};
    object.size = object.cache->object_size();
    std::vector<void*> objects(1 + rng_.below(100));
    if (!object.cache->alloc_bulk(Gfp::kNoWait | Gfp::kNoWarn, objects)) {
      ++failures_;
      ASSERT_EQ(std::ranges::count(objects, nullptr), static_cast<long>(objects.size()));
      return;
    }
    for (void* p : objects) take_in(static_cast<std::byte*>(p), object, Gfp::kNone);
  }

  void release_bulk() {
    if (caches_.empty()) return;
    KmemCacheBase* cache = caches_[rng_.below(caches_.size())];
    std::vector<void*> objects;
    const std::size_t most = rng_.below(100);
    for (std::size_t i = order_.size(); i-- > 0 && objects.size() < most;) {
      const Living& object = alive_.at(order_[i]);
      if (object.cache != cache) continue;
      check_bytes(order_[i], object);
      alive_.erase(order_[i]);
      objects.push_back(order_[i]);
      std::swap(order_[i], order_.back());
      order_.pop_back();
    }
    cache->free_bulk(objects);
  }

  void take_in(std::byte* bytes, const Living& object, Gfp gfp) {
    check_new(bytes, object, gfp);
    for (std::size_t i = first_own_byte(object); i < object.size; ++i) bytes[i] = static_cast<std::byte>(object.pattern + i);
    alive_.emplace(bytes, object);
    order_.push_back(bytes);
  }

  static bool constructed(const Living& object) { return object.cache != nullptr && object.cache->ctor() != nullptr; }
  static std::size_t first_own_byte(const Living& object) { return constructed(object) ? sizeof kConstructed : 0; }

  void check_new(const std::byte* p, const Living& object, Gfp gfp) {
    ASSERT_TRUE(m_.phys->arena().contains(p));
    if (object.cache != nullptr) {
      ASSERT_EQ(m_.slab->virt_to_cache(p), object.cache);
      const std::uint64_t pa = m_.phys->arena().to_phys(p).value();
      ASSERT_EQ(pa % object.cache->geometry().align, 0u);
    } else {
      ASSERT_GE(m_.slab->ksize(p), object.size);
    }
    const auto after = alive_.lower_bound(p);
    if (after != alive_.end()) {
      ASSERT_LE(p + object.size, after->first);
    }
    if (after != alive_.begin()) {
      ASSERT_LE(std::prev(after)->first + std::prev(after)->second.size, p);
    }
    if (constructed(object)) {
      ASSERT_EQ(std::memcmp(p, &kConstructed, sizeof kConstructed), 0);
    }
    if (any(gfp, Gfp::kZero)) {
      ASSERT_EQ(std::count(p, p + object.size, std::byte{0}), static_cast<long>(object.size));
    }
  }

  void check_bytes(const std::byte* p, const Living& object) {
    if (constructed(object)) {
      ASSERT_EQ(std::memcmp(p, &kConstructed, sizeof kConstructed), 0);
    }
    for (std::size_t i = first_own_byte(object); i < object.size; ++i) {
      ASSERT_EQ(p[i], static_cast<std::byte>(object.pattern + i));
    }
  }

  void release() {
    if (order_.empty()) return;
    std::swap(order_[rng_.below(order_.size())], order_.back());
    std::byte* p = order_.back();
    order_.pop_back();
    const Living object = alive_.at(p);
    check_bytes(p, object);
    alive_.erase(p);
    if (object.cache != nullptr) {
      object.cache->free(p);
    } else {
      m_.slab->kfree(p);
    }
  }

  SlabMachine& m_;
  Rng rng_;
  std::uint64_t grow_bias_ = 700;
  std::uint64_t failures_ = 0;
  unsigned names_ = 0;
  std::map<const std::byte*, Living> alive_;
  std::vector<std::byte*> order_;
  std::vector<KmemCacheBase*> caches_;
};

// Twice: the first round frees descriptors of slabs into a cache it has been through already.
void give_all_back(SlabSystem& slab) {
  slab.cache_reap(SlabSystem::ReapMode::kAll);
  slab.cache_reap(SlabSystem::ReapMode::kAll);
}

void run(const MachineSpec& spec, int steps) {
  SlabMachine m(spec);
  give_all_back(*m.slab);
  const std::int64_t slab_pages = m.slab_pages();
  const std::uint64_t before = m.free_pages() + m.slab->percpu_pages();
  const auto caches = m.slab->slabinfo().size();
  Model model(m, spec.seed);
  for (int i = 0; i < steps && !testing::Test::HasFatalFailure(); ++i) {
    model.step();
    if (i % 400 == 0) model.turn();
    if (i % 200 == 0) model.check();
  }
  model.check();
  model.finish();
  EXPECT_EQ(m.slab->object_reports().count(), 0u) << m.slab->object_reports().kept().front().text;
  EXPECT_EQ(m.slab->slabinfo().size(), caches);
  give_all_back(*m.slab);
  EXPECT_EQ(m.slab_pages(), slab_pages);
  EXPECT_EQ(m.free_pages() + m.slab->percpu_pages(), before);
}

class SlabProperty : public testing::TestWithParam<SlabLayoutKind> {
 protected:
  SlabConfig config(SlabFlags debug = SlabFlags::kNone) const { return {.layout = GetParam(), .debug = debug}; }
};

INSTANTIATE_TEST_SUITE_P(Layouts, SlabProperty, testing::Values(SlabLayoutKind::kSlab, SlabLayoutKind::kSlub),
                         [](const auto& layout) { return layout.param == SlabLayoutKind::kSlab ? "Slab" : "Slub"; });

constexpr std::uint64_t kSeeds = kEveryCheckIsOn ? 4 : 10;

TEST_P(SlabProperty, RandomOperationsOneNode) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) run({.ram = 32 * kMiB, .seed = seed, .config = config()}, 3000);
}

TEST_P(SlabProperty, RandomOperationsThreeNodes) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    run({.ram = 96 * kMiB, .cpus = 3, .nodes = 3, .seed = seed, .config = config()}, 3000);
  }
}

// No array in front of the slabs, and room around each object.
TEST_P(SlabProperty, RandomOperationsUnderDebugging) {
  for (std::uint64_t seed = 1; seed <= kSeeds / 2; ++seed) {
    run({.ram = 96 * kMiB, .cpus = 2, .nodes = 2, .seed = seed, .config = config(kSlabDebugFlags)}, 3000);
  }
}

// Every page allocation of a fixed series of operations fails in its turn; the caller sees it and nothing is lost.
TEST_P(SlabProperty, EachPageAllocationMayFail) {
  for (std::uint64_t keep = 0; keep < 40; keep += kEveryCheckIsOn ? 13 : 1) {
    SlabMachine m({.ram = 32 * kMiB, .config = config()});
    KmemCacheBase* big = m.slab->kmem_cache_create("big", 2000, 0, SlabFlags::kNone).value();
    m.exhaust(keep);
    std::vector<std::pair<KmemCacheBase*, void*>> got;
    int failed = 0;
    for (int i = 0; i < 120; ++i) {
      KmemCacheBase* cache = i % 3 == 0 ? big : m.slab->kmalloc_slab(i % 3 == 1 ? 700 : 96);
      void* p = cache->alloc(Gfp::kNoWait | Gfp::kNoWarn);
      if (p == nullptr) {
        ++failed;
      } else {
        std::memset(p, i, cache->object_size());
        got.emplace_back(cache, p);
      }
      m.slab->validate();
    }
    if (keep < 5) {
      EXPECT_GT(failed, 0);
    }
    for (auto& [cache, p] : got) cache->free(p);
    m.slab->validate();
    EXPECT_TRUE(m.slab->kmem_cache_destroy(*big).has_value());
  }
}

}  // namespace
}  // namespace quire::slab
