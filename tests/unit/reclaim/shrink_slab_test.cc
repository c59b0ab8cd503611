// Reclaim asks shrinkers, and the slabs that they empty go back to the buddy.
#include <deque>

#include "reclaim_machine.h"

namespace quire::reclaim {
namespace {

// A cache of objects that could be made again (as dentries are): the oldest go first.
class ObjectPool final : public slab::Shrinker {
 public:
  ObjectPool(ReclaimMachine& m, std::size_t size) : m_(m) {
    cache_ = m.slab.kmem_cache_create("pool", size, 0, slab::SlabFlags::kReclaimAccount).value();
    m.slab.shrinkers().register_shrinker(*this);
  }
  ~ObjectPool() override {
    m_.slab.shrinkers().unregister_shrinker(*this);
    while (!objects_.empty()) drop();
    EXPECT_TRUE(m_.slab.kmem_cache_destroy(*cache_).has_value());
  }
  void fill(std::uint64_t pages) {
    while (slab_pages() < pages) objects_.push_back(cache_->alloc(phys::Gfp::kKernel));
  }
  [[nodiscard]] std::uint64_t slab_pages() const { return cache_->total_slabs() * cache_->geometry().order.pages(); }
  [[nodiscard]] std::size_t size() const { return objects_.size(); }

  std::string_view name() const override { return "pool"; }
  std::uint64_t count_objects(const slab::ShrinkControl&) override { return objects_.size(); }
  std::uint64_t scan_objects(slab::ShrinkControl& control) override {
    by_kswapd_ += m_.scheduler.context().name().starts_with("kswapd") ? control.nr_to_scan : 0;
    std::uint64_t freed = 0;
    for (; freed < control.nr_to_scan && !objects_.empty(); ++freed) drop();
    scanned_ += control.nr_to_scan;
    return freed;
  }
  [[nodiscard]] std::uint64_t scanned() const { return scanned_; }
  [[nodiscard]] std::uint64_t by_kswapd() const { return by_kswapd_; }

 private:
  void drop() {
    cache_->free(objects_.front());
    objects_.pop_front();
  }

  ReclaimMachine& m_;
  slab::KmemCacheBase* cache_ = nullptr;
  std::deque<void*> objects_;
  std::uint64_t scanned_ = 0;
  std::uint64_t by_kswapd_ = 0;
};

void write_all(Space& space) {
  for (std::size_t i = 0; i < space.size(); ++i) ASSERT_NE(space.write(i, i + 1), Space::Touch::kNoMemory) << i;
}

TEST(ShrinkSlab, KswapdGivesTheSlabsOfACacheBack) {
  ReclaimMachine m;
  m.add_zram(64 * kMiB);
  ObjectPool pool(m, 512);
  m.run([&] {
    pool.fill(3000);
    const std::size_t objects = pool.size();
    const std::uint64_t pages = pool.slab_pages();
    Space space(m, 6000);
    write_all(space);
    EXPECT_LT(pool.size(), objects / 2);
    EXPECT_LT(pool.slab_pages(), pages / 2);
    EXPECT_GT(pool.by_kswapd(), 0u);
    EXPECT_EQ(m.event(VmEvent::kSlabsScanned), static_cast<std::int64_t>(pool.scanned()));
    // What is left of the cache is what its objects take, but for a few slabs.
    EXPECT_LE(pool.slab_pages(), pool.size() * 512 / kPageSize * 5 / 4 + 64);
    m.lru.lru_add_drain_all();
    space.clear();
  });
  m.scheduler.run_until(m.scheduler.now() + sim::kSecond);  // kswapd may be in the middle of a pass
  m.validate();
}

// A task that reclaims directly asks the shrinkers, too, and counts the pages that came of it as reclaimed.
TEST(ShrinkSlab, DirectReclaimDoesSoWithoutSwap) {
  ReclaimMachine m({.kswapd = MachineSpec::Kswapd::kNo});
  ObjectPool pool(m, 512);
  m.run([&] {
    pool.fill(4000);
    const std::size_t objects = pool.size();
    const auto room = static_cast<std::size_t>(m.free_pages()) + 1500;
    Space space(m, room);
    write_all(space);
    EXPECT_LT(pool.size(), objects);
    EXPECT_EQ(pool.by_kswapd(), 0u);
    EXPECT_EQ(m.event(VmEvent::kOomKill), 0);
    m.lru.lru_add_drain_all();
    space.clear();
  });
  m.scheduler.run_until(m.scheduler.now() + sim::kSecond);  // kswapd may be in the middle of a pass
  m.validate();
}

TEST(ShrinkSlab, DropSlabTakesEverything) {
  ReclaimMachine m;
  ObjectPool pool(m, 192);
  m.run([&] {
    pool.fill(500);
    m.reclaim->drop_slab();
    EXPECT_LE(pool.size(), 1u);
    EXPECT_LE(pool.slab_pages(), 1u);
    EXPECT_EQ(m.event(VmEvent::kSlabsScanned), static_cast<std::int64_t>(pool.scanned()));
  });
  m.validate();
}

}  // namespace
}  // namespace quire::reclaim
