// What each flow does, step by step, against a MemoryPressure that follows a script.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <map>

#include "machine.h"
#include "quire/phys/alloc/alloc_policy.h"

namespace quire::phys {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Answers as told and notes what it was asked.
class Script : public MemoryPressure {
 public:
  explicit Script(PhysMem& mem) : mem_(mem) {}

  void wakeup_kswapd(Zone&, Gfp, Order, ZoneType) override { asked.emplace_back("kswapd"); }
  std::uint64_t try_to_free_pages(ZoneList&, Order, Gfp) override {
    asked.emplace_back("reclaim");
    return give_back(per_reclaim);
  }
  bool out_of_memory(Gfp, Order) override {
    asked.emplace_back("oom");
    return give_back(per_kill) != 0;
  }
  CompactResult try_to_compact_pages(ZoneList&, Order, Gfp, AllocFlags, CompactPriority priority) override {
    constexpr std::array<std::string_view, 3> kNames = {"compact full", "compact light", "compact async"};
    asked.emplace_back(kNames[static_cast<unsigned>(priority)]);
    const auto of = compact_gives.find(priority);
    if (of != compact_gives.end()) give_back_block(of->second);
    return compact_result;
  }
  bool node_reclaim_enabled() const override { return node_reclaim_on; }
  NodeReclaimResult node_reclaim(Zone& zone, Gfp, Order) override {
    asked.push_back(fmt::format("node reclaim {}", zone.node().nid().value()));
    give_back(per_reclaim);
    return node_result;
  }
  void wakeup_bdflush() override { asked.emplace_back("bdflush"); }
  std::uint64_t nr_inactive_clean_pages(const Zone& zone) const override {
    return zone.type() == clean_zone ? clean.size() : 0;
  }
  std::uint64_t nr_inactive_dirty_pages() const override { return dirty.size(); }
  bool reclaim_page(Zone& zone) override {
    if (zone.type() != clean_zone || clean.empty()) return false;
    asked.emplace_back("reclaim_page");
    mem_.free_page(*clean.back());
    clean.pop_back();
    return true;
  }
  std::uint64_t page_launder(Gfp) override {
    asked.emplace_back("page_launder");
    const std::uint64_t n = dirty.size();
    clean.insert(clean.end(), dirty.begin(), dirty.end());
    dirty.clear();
    return n;
  }
  bool wait_for_kswapd(Node&) override {
    asked.emplace_back("wait");
    give_back(per_wait);
    return per_wait != 0;
  }
  std::uint64_t zone_reclaimable_pages(const Zone&) const override { return still_reclaimable; }

  // Takes everything that a request of these flags can get, as single pages.
  void fill(Gfp gfp = Gfp::kHighUserMovable & ~Gfp::kReclaim) {
    while (Page* page = mem_.alloc_page(gfp | Gfp::kNoWarn)) held.push_back(page);
  }
  std::uint64_t give_back(std::uint64_t n) {
    std::uint64_t freed = 0;
    for (; freed < n && !held.empty(); ++freed) {
      mem_.free_page(*held.back());
      held.pop_back();
    }
    mem_.drain_all_pages();
    return freed;
  }
  // Frees held pages that make up one aligned block of 2^order, all of them.
  void give_back_block(Order order) {
    std::map<std::uint64_t, std::vector<Page*>> blocks;
    for (Page* page : held) blocks[mem_.page_to_pfn(*page).value() >> order.value()].push_back(page);
    for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {  // from the top: low zones are protected
      const std::vector<Page*>& pages = it->second;
      if (pages.size() != order.pages()) continue;
      std::erase_if(held, [&](Page* p) { return std::ranges::find(pages, p) != pages.end(); });
      for (Page* page : pages) mem_.free_page(*page);
      mem_.drain_all_pages();
      return;
    }
  }

  std::vector<std::string> asked;
  std::vector<Page*> held;
  std::vector<Page*> clean;
  std::vector<Page*> dirty;
  ZoneType clean_zone = ZoneType::kDma32;
  std::uint64_t per_reclaim = 0;
  std::uint64_t per_kill = 0;
  std::uint64_t per_wait = 0;
  std::uint64_t still_reclaimable = 0;
  std::map<CompactPriority, Order> compact_gives;
  CompactResult compact_result = CompactResult::kComplete;
  NodeReclaimResult node_result = NodeReclaimResult::kNoScan;
  bool node_reclaim_on = false;

 private:
  PhysMem& mem_;
};

PhysConfig config_of(AllocPolicyKind policy, std::uint64_t mib = 64) {
  PhysConfig config = small_machine(mib);
  config.alloc_policy = policy;
  return config;
}

class Flow : public ::testing::Test {
 protected:
  void boot(const PhysConfig& config) {
    machine_ = std::make_unique<TestMachine>(config);
    ASSERT_TRUE(machine_->mem) << machine_->error;
    script_ = std::make_unique<Script>(mem());
  }
  void boot(AllocPolicyKind policy, std::uint64_t mib = 64) { boot(config_of(policy, mib)); }
  // Memory is full and the script takes over.
  void fill_and_listen(Gfp gfp = Gfp::kHighUserMovable & ~Gfp::kReclaim) {
    script_->fill(gfp);
    mem().set_memory_pressure(script_.get());
    for (TracepointBase* t : machine_->traces.all()) {
      t->listen([this](const EventView& e) {
        std::string line(e.name());
        e.fields([&](std::string_view name, FieldValue value) {
          if (const auto* text = std::get_if<std::string_view>(&value)) line += fmt::format(" {}={}", name, *text);
        });
        told_.push_back(line);
      });
    }
  }
  void TearDown() override {
    if (!machine_ || !machine_->mem) return;
    for (TracepointBase* t : machine_->traces.all()) t->silence();
    mem().set_memory_pressure(nullptr);
    mem().validate();
  }
  template <class F>
  void in_task(F body) {
    machine_->scheduler.spawn("test", body);
    const sim::RunOutcome outcome = machine_->scheduler.run();
    ASSERT_TRUE(outcome.done()) << outcome.report();
  }
  // One allocation in a task; what was asked on the way is in script().asked.
  Page* allocate(Gfp gfp, Order order) {
    Page* page = nullptr;
    script_->asked.clear();
    told_.clear();
    in_task([&] { page = mem().alloc_pages(gfp, order); });
    return page;
  }
  [[nodiscard]] bool asked(std::string_view what) const {
    return std::ranges::find(script_->asked, what) != script_->asked.end();
  }
  PhysMem& mem() { return *machine_->mem; }
  Zone& dma32(int nid = 0) { return mem().node(Nid(nid)).zone(ZoneType::kDma32); }

  std::unique_ptr<TestMachine> machine_;
  std::unique_ptr<Script> script_;
  std::vector<std::string> told_;
};

// --- what is the same for all -------------------------------------------------------------------------------------------------

class EveryFlow : public Flow, public ::testing::WithParamInterface<AllocPolicyKind> {};
INSTANTIATE_TEST_SUITE_P(Flows, EveryFlow,
                         ::testing::Values(AllocPolicyKind::kLinux24, AllocPolicyKind::kLinux40, AllocPolicyKind::kLinux6),
                         [](const auto& p) {
                           std::string name(alloc_policy_names()[static_cast<std::size_t>(p.param)]);
                           std::ranges::replace_if(name, [](char c) { return c == '-' || c == '.'; }, '_');
                           return name;
                         });

TEST_P(EveryFlow, GivesAndTakesBackBlocksOfEachOrder) {
  boot(GetParam());
  mem().drain_all_pages();
  const std::uint64_t before = mem().meminfo().freeram;
  for (unsigned order = 0; order <= kMaxOrder.value(); ++order) {
    Page* page = mem().alloc_pages(Gfp::kKernel | Gfp::kZero, Order(order));
    ASSERT_NE(page, nullptr) << order;
    EXPECT_EQ(page->refcount, 1);
    mem().free_pages(*page, Order(order));
    mem().validate();
  }
  mem().drain_all_pages();
  EXPECT_EQ(mem().meminfo().freeram, before);
}

TEST_P(EveryFlow, AFullMachineWithNobodyToHelpGivesNothing) {
  boot(GetParam());
  std::vector<Page*> pages;
  while (Page* page = mem().alloc_page(Gfp::kKernel)) pages.push_back(page);
  EXPECT_GT(pages.size(), 8000u);
  EXPECT_GT(mem().meminfo().freeram, 0u);  // reserves
  for (Page* page : pages) mem().free_page(*page);
}

TEST_P(EveryFlow, MemallocMayTakeTheLastPages) {
  boot(GetParam());
  fill_and_listen();
  in_task([&] {
    const MemallocScope scope(machine_->scheduler);
    while (Page* page = mem().alloc_page(Gfp::kKernel)) script_->held.push_back(page);
  });
  EXPECT_LT(mem().meminfo().freeram, 16u);
  EXPECT_FALSE(asked("reclaim"));
  EXPECT_FALSE(asked("wait"));
}

TEST_P(EveryFlow, TellsItsWay) {
  boot(GetParam());
  fill_and_listen();
  EXPECT_EQ(allocate(Gfp::kNoWait, Order(6)), nullptr);
  const std::string name(alloc_policy_names()[static_cast<std::size_t>(GetParam())]);
  EXPECT_THAT(told_, Contains(HasSubstr("alloc_begin policy=" + name)));
  EXPECT_THAT(told_, Contains(HasSubstr("alloc_zone zone=DMA32 mark_name=low verdict=")));
  EXPECT_THAT(told_, Contains("alloc_step step=wake kswapd result="));
  EXPECT_THAT(told_, Contains(HasSubstr("alloc_gave_up why=")));
  EXPECT_THAT(told_, Contains(HasSubstr("mm_page_alloc")));
}

TEST_P(EveryFlow, NoFailComesBackWithAPage) {
  boot(GetParam());
  fill_and_listen();
  script_->per_reclaim = script_->per_wait = script_->per_kill = 0;
  machine_->scheduler.spawn("helper", [&] {
    machine_->scheduler.sleep_for(5 * sim::kMillisecond);
    script_->give_back(2000);
  });
  Page* page = allocate(Gfp::kKernel | Gfp::kNoFail, Order(0));
  EXPECT_NE(page, nullptr);
}

// --- linux-4.0 ------------------------------------------------------------------------------------------------------------------

class Linux40 : public Flow {};

TEST_F(Linux40, ZonesOfANodeAreUsedInProportionToTheirSize) {
  boot(AllocPolicyKind::kLinux40, 256);
  for (int i = 0; i < 20000; ++i) ASSERT_NE(mem().alloc_page(Gfp::kHighUserMovable), nullptr);
  const auto of = [&](VmEvent e) { return static_cast<double>(mem().vmstat()[e]); };
  // The shares are high − low of each zone; protection stops the DMA zone at its mark.
  Zone& dma = mem().node(Nid(0)).zone(ZoneType::kDma);
  const auto share = [](const Zone& zone) {
    return static_cast<double>(zone.watermark(Watermark::kHigh) - zone.watermark(Watermark::kLow));
  };
  EXPECT_GT(of(VmEvent::kPgallocDma), 0);
  EXPECT_NEAR(of(VmEvent::kPgallocDma) / of(VmEvent::kPgallocDma32), share(dma) / share(dma32()), 0.02);
}

TEST_F(Linux40, ABlockIsRefusedWhenSmallerOnesMakeUpMostOfWhatIsFree) {
  // 4.0 counts each smaller order out; 6.1 only asks whether a block is there.
  std::array<bool, 2> served{};
  for (const auto policy : {AllocPolicyKind::kLinux40, AllocPolicyKind::kLinux6}) {
    boot(policy);
    script_->fill(Gfp::kMovable | Gfp::kMemAlloc);  // nothing left
    // One block of order 4 and thousands of single pages.
    script_->give_back_block(Order(4));
    for (std::size_t i = 0, freed = 0; i < script_->held.size() && freed < 3000; ++i) {
      if (mem().page_to_pfn(*script_->held[i]).value() % 2 != 0) continue;
      mem().free_page(*std::exchange(script_->held[i], nullptr));
      ++freed;
    }
    std::erase(script_->held, nullptr);
    mem().drain_all_pages();
    Page* page = mem().alloc_pages(Gfp::kNoWait | Gfp::kMovable | Gfp::kNoMemAlloc | Gfp::kNoWarn, Order(4));
    served[policy == AllocPolicyKind::kLinux6 ? 1 : 0] = page != nullptr;
    machine_.reset();
  }
  EXPECT_FALSE(served[0]);
  EXPECT_TRUE(served[1]);
}

TEST_F(Linux40, SlowPathAsksInTheOrderOfTheBook) {
  boot(AllocPolicyKind::kLinux40);
  fill_and_listen();
  script_->compact_gives[CompactPriority::kSyncLight] = Order(4);
  script_->compact_result = CompactResult::kComplete;
  script_->per_reclaim = 1;
  // Order 4 is costly: one round, then synchronous compaction, which makes the block.
  script_->give_back(600);
  mem().set_memory_pressure(nullptr);
  script_->fill();
  script_->give_back(0);
  mem().set_memory_pressure(script_.get());
  static_cast<void>(allocate(Gfp::kKernel, Order(5)));
  ASSERT_GE(script_->asked.size(), 4u);
  EXPECT_EQ(script_->asked.front(), "kswapd");
  std::erase(script_->asked, "kswapd");
  EXPECT_THAT(script_->asked, ElementsAre("compact async", "reclaim", "compact light"));
}

TEST_F(Linux40, SmallOrdersAreTriedAgainUntilSomebodyIsKilled) {
  boot(AllocPolicyKind::kLinux40);
  fill_and_listen();
  script_->per_kill = 2000;
  EXPECT_NE(allocate(Gfp::kKernel, Order(0)), nullptr);
  EXPECT_EQ(std::ranges::count(script_->asked, "oom"), 1);
}

TEST_F(Linux40, RepeatReclaimsAsMuchAsItAskedFor) {
  boot(AllocPolicyKind::kLinux40);
  fill_and_listen();
  script_->per_reclaim = 16;
  static_cast<void>(allocate(Gfp::kKernel | Gfp::kRetryMayFail, Order(6)));
  // 64 pages at 16 a time.
  EXPECT_EQ(std::ranges::count(script_->asked, "reclaim"), 4);
  EXPECT_FALSE(asked("oom"));
}

TEST_F(Linux40, AHugePageIsNotWorthMoreWhenCompactionIsDeferred) {
  boot(AllocPolicyKind::kLinux40);
  fill_and_listen();
  script_->compact_result = CompactResult::kDeferred;
  const Gfp thp = (Gfp::kTransHuge | Gfp::kNoRetry) & ~Gfp::kKswapdReclaim;
  EXPECT_EQ(allocate(thp, kPageblockOrder), nullptr);
  EXPECT_THAT(script_->asked, ElementsAre("compact async"));
  EXPECT_EQ(allocate(Gfp::kKernel, kPageblockOrder), nullptr);
  EXPECT_TRUE(asked("reclaim"));
}

PhysConfig two_nodes(AllocPolicyKind policy, unsigned distance) {
  PhysConfig config = config_of(policy, 256);
  config.nodes = {{.bytes = 128 * kMiB, .cpus = {}, .distances = {10, distance}},
                  {.bytes = 128 * kMiB, .cpus = {}, .distances = {distance, 10}}};
  return config;
}

class NodeReclaim : public Flow, public ::testing::WithParamInterface<AllocPolicyKind> {};
INSTANTIATE_TEST_SUITE_P(Flows, NodeReclaim, ::testing::Values(AllocPolicyKind::kLinux40, AllocPolicyKind::kLinux6),
                         [](const auto& p) { return p.param == AllocPolicyKind::kLinux40 ? "linux_4_0" : "linux_6"; });

TEST_P(NodeReclaim, ANearNodeIsReclaimedBeforeAnotherIsUsed) {
  boot(two_nodes(GetParam(), 20));
  fill_and_listen((Gfp::kHighUserMovable & ~Gfp::kReclaim) | Gfp::kThisNode);
  Page* elsewhere = allocate(Gfp::kHighUserMovable, Order(0));
  ASSERT_NE(elsewhere, nullptr);
  EXPECT_EQ(elsewhere->nid(), Nid(1));
  script_->node_reclaim_on = true;
  script_->node_result = NodeReclaimResult::kSuccess;
  script_->per_reclaim = 4000;
  Page* here = allocate(Gfp::kHighUserMovable, Order(0));
  ASSERT_NE(here, nullptr);
  EXPECT_EQ(here->nid(), Nid(0));
  EXPECT_TRUE(asked("node reclaim 0"));
}

TEST_P(NodeReclaim, AFarNodeIsNot) {
  boot(two_nodes(GetParam(), 40));
  fill_and_listen();  // both nodes full
  script_->node_reclaim_on = true;
  script_->node_result = NodeReclaimResult::kSome;
  static_cast<void>(allocate(Gfp::kNoWait | Gfp::kNoWarn, Order(0)));
  EXPECT_TRUE(asked("node reclaim 0"));
  EXPECT_FALSE(asked("node reclaim 1"));
}

// --- linux-2.4 ------------------------------------------------------------------------------------------------------------------

class Linux24 : public Flow {
 protected:
  // `n` held pages of DMA32 become inactive-clean or inactive-dirty ones.
  void hand_over(std::vector<Page*>& to, std::uint64_t n) {
    std::erase_if(script_->held, [&](Page* page) {
      if (to.size() == n || page->zone_type() != ZoneType::kDma32) return false;
      to.push_back(page);
      return true;
    });
  }
};

TEST_F(Linux24, WatermarksAreA128thOfTheZone) {
  boot(AllocPolicyKind::kLinux24, 64);
  const std::uint64_t min = std::clamp<std::uint64_t>(dma32().managed_pages() / 128, 20, 255);
  EXPECT_EQ(dma32().watermark(Watermark::kMin), min);
  EXPECT_EQ(dma32().watermark(Watermark::kLow), 2 * min);
  EXPECT_EQ(dma32().watermark(Watermark::kHigh), 3 * min);
  EXPECT_EQ(mem().node(Nid(0)).zone(ZoneType::kDma).lowmem_reserve(ZoneType::kNormal), 0);
}

TEST_F(Linux24, NoPageStaysOnAPerCpuList) {
  boot(AllocPolicyKind::kLinux24);
  Page* page = mem().alloc_page(Gfp::kKernel);
  EXPECT_EQ(dma32().pcp(0).count, 0);
  mem().free_page(*page);
  EXPECT_EQ(dma32().pcp(0).count, 0);
}

TEST_F(Linux24, InactiveCleanPagesStandInForFreeOnes) {
  boot(AllocPolicyKind::kLinux24);
  fill_and_listen();
  hand_over(script_->clean, 2000);
  const std::uint64_t free = mem().meminfo().freeram;
  EXPECT_NE(allocate(Gfp::kHighUserMovable, Order(0)), nullptr);
  EXPECT_TRUE(asked("reclaim_page"));
  EXPECT_FALSE(asked("wait"));
  EXPECT_EQ(mem().meminfo().freeram, free);
  // Who may not wait takes free pages only.
  EXPECT_NE(allocate(Gfp::kNoWait, Order(0)), nullptr);
  EXPECT_FALSE(asked("reclaim_page"));
}

TEST_F(Linux24, ALargeBlockIsAssembledFromLaunderedPages) {
  boot(AllocPolicyKind::kLinux24);
  fill_and_listen();
  hand_over(script_->dirty, 4000);
  EXPECT_NE(allocate(Gfp::kKernel, Order(4)), nullptr);
  EXPECT_TRUE(asked("page_launder"));
  EXPECT_TRUE(asked("reclaim_page"));
}

TEST_F(Linux24, ASinglePageWaitsForKswapdALargeBlockGivesUp) {
  boot(AllocPolicyKind::kLinux24);
  fill_and_listen();
  script_->fill(Gfp::kHigh);  // to the last quarter of min
  script_->per_wait = 100;
  EXPECT_NE(allocate(Gfp::kKernel, Order(0)), nullptr);
  EXPECT_TRUE(asked("wait"));
  EXPECT_EQ(allocate(Gfp::kKernel, Order(9)), nullptr);
  EXPECT_EQ(std::ranges::count(script_->asked, "wait"), 1);
}

TEST_F(Linux24, DirtyPagesWakeBdflushWhenTheyAreWhatIsMissing) {
  boot(AllocPolicyKind::kLinux24);
  fill_and_listen();
  hand_over(script_->dirty, 6000);
  static_cast<void>(allocate(Gfp::kNoWait, Order(0)));
  ASSERT_FALSE(script_->asked.empty());
  EXPECT_EQ(script_->asked.front(), "bdflush");
}

TEST_F(Linux24, WithoutHopeTheKillerIsCalled) {
  boot(AllocPolicyKind::kLinux24);
  fill_and_listen();
  script_->fill(Gfp::kHigh);
  script_->per_kill = 1000;
  EXPECT_NE(allocate(Gfp::kKernel, Order(0)), nullptr);
  EXPECT_TRUE(asked("oom"));
  script_->per_kill = 0;
  script_->fill(Gfp::kHigh);
  EXPECT_EQ(allocate(Gfp::kKernel, Order(0)), nullptr);
}

// --- linux-6 ----------------------------------------------------------------------------------------------------------------------

class Linux6 : public Flow {};

TEST_F(Linux6, CompactionThatLookedEverywhereIsTriedHarder) {
  boot(AllocPolicyKind::kLinux6);
  fill_and_listen();
  script_->per_reclaim = 1;
  script_->per_kill = 0;
  script_->compact_result = CompactResult::kComplete;
  static_cast<void>(allocate(Gfp::kKernel | Gfp::kRetryMayFail, Order(3)));
  std::erase(script_->asked, "kswapd");
  // An unmovable request compacts before it reclaims; then light, then full.
  EXPECT_EQ(script_->asked[0], "compact async");
  EXPECT_THAT(script_->asked, Contains("compact light"));
  EXPECT_THAT(script_->asked, Contains("compact full"));
  EXPECT_THAT(told_, Contains(HasSubstr("compact_retry result=failed")));
}

TEST_F(Linux6, SkippedCompactionIsRetriedWhileReclaimCanFeedIt) {
  boot(AllocPolicyKind::kLinux6);
  fill_and_listen();
  script_->per_reclaim = 1;
  script_->compact_result = CompactResult::kSkipped;
  script_->still_reclaimable = 0;
  static_cast<void>(allocate(Gfp::kKernel | Gfp::kRetryMayFail, Order(3)));
  const auto without = std::ranges::count(script_->asked, "reclaim");
  EXPECT_THAT(told_, Contains(HasSubstr("compact_retry result=needs reclaim")));
  EXPECT_LE(without, 2);
}

TEST_F(Linux6, CostlyNoRetryGivesUpWhereCompactionIsDeferred) {
  boot(AllocPolicyKind::kLinux6);
  fill_and_listen();
  script_->compact_result = CompactResult::kDeferred;
  EXPECT_EQ(allocate(Gfp::kKernel | Gfp::kNoRetry, Order(9)), nullptr);
  EXPECT_FALSE(asked("reclaim"));
  EXPECT_THAT(told_, Contains(HasSubstr("alloc_gave_up why=__GFP_NORETRY, and compaction was skipped or deferred")));
}

TEST_F(Linux6, TheShortCutTellsItsWayToo) {
  boot(AllocPolicyKind::kLinux6);
  Page* first = mem().alloc_page(Gfp::kKernel);
  mem().free_page(*first);
  mem().set_memory_pressure(script_.get());
  for (TracepointBase* t : machine_->traces.all()) {
    t->listen([this](const EventView& e) { told_.emplace_back(e.name()); });
  }
  Page* page = mem().alloc_page(Gfp::kKernel);
  EXPECT_THAT(told_, ElementsAre("alloc_begin", "alloc_pass", "alloc_zone", "alloc_taken", "mm_page_alloc"));
  mem().free_page(*page);
}

}  // namespace
}  // namespace quire::phys
