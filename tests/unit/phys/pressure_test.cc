// The slow path against a MemoryPressure that gives pages back on demand.
#include <gmock/gmock.h>

#include "machine.h"

namespace quire::phys {
namespace {

// Holds pages the way an LRU would, and lets go of some when asked.
class Hoard : public MemoryPressure {
 public:
  Hoard(PhysMem& mem, sim::Scheduler& scheduler) : mem_(mem), scheduler_(scheduler) {}

  void fill() {
    while (Page* page = mem_.alloc_page(Gfp::kHighUserMovable & ~Gfp::kReclaim)) pages_.push_back(page);
  }
  void wakeup_kswapd(Zone&, Gfp, Order, ZoneType) override { ++kswapd_wakeups; }
  std::uint64_t try_to_free_pages(ZoneList&, Order, Gfp) override {
    ++reclaims;
    memalloc_seen = memalloc_seen || task_test(scheduler_, TaskFlag::kMemalloc);
    return release(reclaimable);
  }
  bool out_of_memory(Gfp, Order) override {
    ++kills;
    return kills <= kill_limit && release(frees_by_kill) != 0;
  }
  std::uint64_t zone_reclaimable_pages(const Zone&) const override { return still_reclaimable; }

  std::uint64_t release(std::uint64_t n) {
    std::uint64_t freed = 0;
    for (; freed < n && !pages_.empty(); ++freed) {
      mem_.free_page(*pages_.back());
      pages_.pop_back();
    }
    return freed;
  }

  int kswapd_wakeups = 0;
  int reclaims = 0;
  int kills = 0;
  int kill_limit = 100;
  std::uint64_t reclaimable = 32;
  std::uint64_t still_reclaimable = 0;
  std::uint64_t frees_by_kill = 1000;
  bool memalloc_seen = false;

 private:
  PhysMem& mem_;
  sim::Scheduler& scheduler_;
  std::vector<Page*> pages_;
};

class Pressure : public ::testing::Test {
 protected:
  Pressure() : machine_(small_machine()) {}
  void SetUp() override {
    ASSERT_TRUE(machine_.mem) << machine_.error;
    hoard_ = std::make_unique<Hoard>(mem(), machine_.scheduler);
    hoard_->fill();
    mem().set_memory_pressure(hoard_.get());
  }
  // Runs `body` as a task, since it may sleep.
  template <class F>
  void in_task(F body) {
    machine_.scheduler.spawn("test", body);
    ASSERT_TRUE(machine_.scheduler.run().done());
  }
  PhysMem& mem() { return *machine_.mem; }
  TestMachine machine_;
  std::unique_ptr<Hoard> hoard_;
};

TEST_F(Pressure, KernelRequestWakesKswapdAndReclaims) {
  hoard_->still_reclaimable = 10000;
  in_task([&] {
    for (int i = 0; i < 200; ++i) ASSERT_NE(mem().alloc_page(Gfp::kKernel), nullptr);
  });
  EXPECT_GT(hoard_->kswapd_wakeups, 0);
  EXPECT_GT(hoard_->reclaims, 0);
  EXPECT_TRUE(hoard_->memalloc_seen);
  EXPECT_EQ(hoard_->kills, 0);
}

TEST_F(Pressure, NoWaitOnlyWakesKswapd) {
  in_task([&] {
    while (mem().alloc_page(Gfp::kNoWait) != nullptr) {}
  });
  EXPECT_GT(hoard_->kswapd_wakeups, 0);
  EXPECT_EQ(hoard_->reclaims, 0);
}

TEST_F(Pressure, NoRetryGivesUpAfterOneRound) {
  hoard_->reclaimable = 0;
  in_task([&] {
    while (mem().alloc_page(Gfp::kNoWait) != nullptr) {}
    EXPECT_EQ(mem().alloc_page(Gfp::kKernel | Gfp::kNoRetry), nullptr);
  });
  EXPECT_EQ(hoard_->reclaims, 1);
  EXPECT_EQ(hoard_->kills, 0);
}

TEST_F(Pressure, LowMemoryKillsNobody) {
  hoard_->reclaimable = 0;
  in_task([&] {
    for (const Gfp zone : {Gfp::kNone, Gfp::kDma32, Gfp::kDma}) {
      while (mem().alloc_page(Gfp::kNoWait | Gfp::kNoWarn | zone) != nullptr) {}
    }
    EXPECT_EQ(mem().alloc_page(Gfp::kKernel | Gfp::kDma), nullptr);
    EXPECT_EQ(mem().alloc_page(Gfp::kKernel | Gfp::kDma32), nullptr);
    EXPECT_EQ(hoard_->kills, 0);
    EXPECT_NE(mem().alloc_page(Gfp::kKernel), nullptr);
    EXPECT_EQ(hoard_->kills, 1);
  });
}

TEST_F(Pressure, RetryMayFailNeverKills) {
  hoard_->reclaimable = 0;
  in_task([&] {
    while (mem().alloc_page(Gfp::kNoWait) != nullptr) {}
    EXPECT_EQ(mem().alloc_page(Gfp::kKernel | Gfp::kRetryMayFail), nullptr);
  });
  EXPECT_EQ(hoard_->kills, 0);
}

TEST_F(Pressure, WhenReclaimHasNothingLeftSomebodyIsKilled) {
  hoard_->reclaimable = 0;
  in_task([&] {
    while (mem().alloc_page(Gfp::kNoWait) != nullptr) {}
    EXPECT_NE(mem().alloc_page(Gfp::kKernel), nullptr);
  });
  EXPECT_EQ(hoard_->kills, 1);
}

TEST_F(Pressure, ReclaimIsTriedSixteenTimesWhileItMightStillHelp) {
  hoard_->reclaimable = 0;
  hoard_->still_reclaimable = 10000;
  in_task([&] {
    while (mem().alloc_page(Gfp::kNoWait) != nullptr) {}
    EXPECT_NE(mem().alloc_page(Gfp::kKernel), nullptr);
  });
  EXPECT_EQ(hoard_->reclaims, 17);
  EXPECT_EQ(hoard_->kills, 1);
}

TEST_F(Pressure, NothingToKillMeansFailureButNotForNoFail) {
  hoard_->reclaimable = 0;
  hoard_->kill_limit = 0;
  in_task([&] {
    while (mem().alloc_page(Gfp::kNoWait) != nullptr) {}
    EXPECT_EQ(mem().alloc_page(Gfp::kKernel), nullptr);
    EXPECT_NE(mem().alloc_page(Gfp::kKernel | Gfp::kNoFail), nullptr);
  });
}

TEST_F(Pressure, CostlyOrdersGiveUpWithoutKilling) {
  hoard_->reclaimable = 1;
  in_task([&] { EXPECT_EQ(mem().alloc_pages(Gfp::kKernel, Order(9)), nullptr); });
  EXPECT_EQ(hoard_->kills, 0);
}

TEST_F(Pressure, MemallocNeverReclaims) {
  in_task([&] {
    const MemallocScope scope(machine_.scheduler);
    while (mem().alloc_page(Gfp::kKernel) != nullptr) {}
  });
  EXPECT_EQ(hoard_->reclaims, 0);
  EXPECT_LT(mem().meminfo().freeram, 64u);
}

}  // namespace
}  // namespace quire::phys
