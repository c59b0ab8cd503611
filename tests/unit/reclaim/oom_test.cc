#include "reclaim_machine.h"

namespace quire::reclaim {
namespace {

using State = OomCandidate::State;

class Processes final : public OomVictims {
 public:
  void for_each_candidate(FunctionRef<OomVisit(const OomCandidate&)> visit) override {
    for (const OomCandidate& c : all) {
      if (visit(c) == OomVisit::kStop) return;
    }
  }
  void oom_kill_process(std::uint64_t pid, std::uint64_t points) override {
    killed = pid;
    killed_points = points;
    if (on_kill) on_kill();
  }
  [[nodiscard]] std::uint64_t current_pid() const override { return current; }
  [[nodiscard]] bool fatal_signal_pending() const override { return current_is_dying; }

  std::vector<OomCandidate> all;
  std::uint64_t current = 0;
  std::uint64_t killed = 0;
  std::uint64_t killed_points = 0;
  bool current_is_dying = false;
  std::function<void()> on_kill;
};

TEST(Oom, BadnessIsWhatAProcessHoldsAndItsAdjustment) {
  EXPECT_EQ(oom_badness({.pid = 1, .comm = "a", .rss = 100, .swapents = 20, .pgtables = 3}, 10000), 123);
  EXPECT_EQ(oom_badness({.pid = 1, .comm = "a", .oom_score_adj = 500, .rss = 100}, 10000), 5100);
  EXPECT_EQ(oom_badness({.pid = 1, .comm = "a", .oom_score_adj = -500, .rss = 100}, 10000), -4900);
  EXPECT_EQ(oom_badness({.pid = 1, .comm = "a", .oom_score_adj = -1000, .rss = 100}, 10000), std::nullopt);
  EXPECT_EQ(oom_badness({.pid = 1, .comm = "a", .state = State::kSkip, .rss = 100}, 10000), std::nullopt);
}

TEST(Oom, TheWorstGoesTheLastOfEquals) {
  Processes p;
  p.all = {{.pid = 10, .comm = "a", .rss = 5}, {.pid = 11, .comm = "b", .rss = 50}, {.pid = 12, .comm = "c", .rss = 50}};
  const OomChoice choice = select_bad_process(p, 1000);
  EXPECT_EQ(choice.kind, OomChoice::Kind::kChosen);
  EXPECT_EQ(choice.pid, 12u);
  EXPECT_EQ(choice.points, 50);
}

TEST(Oom, NobodyElseWhileAVictimDies) {
  Processes p;
  p.all = {{.pid = 10, .comm = "a", .rss = 500}, {.pid = 11, .comm = "b", .state = State::kVictim, .rss = 50}};
  EXPECT_EQ(select_bad_process(p, 1000).kind, OomChoice::Kind::kAlreadyDying);
  p.all[1].state = State::kSkip;
  EXPECT_EQ(select_bad_process(p, 1000).pid, 10u);
  p.all.clear();
  EXPECT_EQ(select_bad_process(p, 1000).kind, OomChoice::Kind::kNobody);
}

TEST(Oom, KillsOnlyWhenReclaimHasGivenUp) {
  ReclaimMachine m;
  Processes p;
  m.reclaim->set_oom_victims(&p);
  m.run([&] {
    Space space(m, 9000);
    p.all = {{.pid = 1, .comm = "init", .oom_score_adj = -1000, .rss = 1}, {.pid = 42, .comm = "hog", .rss = 6000}};
    p.on_kill = [&] {
      p.all[1].state = State::kSkip;
      space.clear();
    };
    std::size_t i = 0;
    // No swap: anonymous pages cannot go anywhere.
    while (p.killed == 0 && i < space.size()) ASSERT_NE(space.write(i++, 1), Space::Touch::kNoMemory);
    EXPECT_EQ(p.killed, 42u);
    EXPECT_EQ(p.killed_points, 6000u);
    EXPECT_GT(i, 5000u);
    space.clear();
  });
  EXPECT_EQ(m.event(VmEvent::kOomKill), 1);
  EXPECT_EQ(m.reclaim->nr_oom_kills(), 1u);
  m.validate();
}

TEST(Oom, TheAllocatingTaskOnDemand) {
  ReclaimMachine m;
  Processes p;
  p.all = {{.pid = 41, .comm = "asks", .rss = 10}, {.pid = 42, .comm = "hog", .rss = 6000}};
  p.current = 41;
  m.reclaim->set_oom_victims(&p);
  m.reclaim->tunables().oom_kill_allocating_task = true;
  EXPECT_TRUE(m.reclaim->out_of_memory(phys::Gfp::kKernel, Order(0)));
  EXPECT_EQ(p.killed, 41u);
  p.all[0].oom_score_adj = kOomScoreAdjMin;
  EXPECT_TRUE(m.reclaim->out_of_memory(phys::Gfp::kKernel, Order(0)));
  EXPECT_EQ(p.killed, 42u);
}

TEST(Oom, NotForWhoMayNotEnterTheFileSystem) {
  ReclaimMachine m;
  Processes p;
  p.all = {{.pid = 42, .comm = "hog", .rss = 6000}};
  m.reclaim->set_oom_victims(&p);
  EXPECT_TRUE(m.reclaim->out_of_memory(phys::Gfp::kNoFs, Order(0)));
  EXPECT_EQ(p.killed, 0u);
  EXPECT_TRUE(m.reclaim->out_of_memory(phys::Gfp::kKernel, Order(0)));
  EXPECT_EQ(p.killed, 42u);
  p.current_is_dying = true;
  p.killed = 0;
  EXPECT_TRUE(m.reclaim->out_of_memory(phys::Gfp::kKernel, Order(0)));
  EXPECT_EQ(p.killed, 0u);
}

}  // namespace
}  // namespace quire::reclaim
