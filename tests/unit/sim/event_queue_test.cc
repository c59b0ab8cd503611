#include "quire/sim/event_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

namespace quire::sim {
namespace {

struct Events {
  explicit Events(std::uint64_t seed = 1) : rng(seed), queue(rng) {}
  EventId add(Nanos when, int tag) {
    return queue.add(when, [this, tag] { ran.push_back(tag); });
  }
  void run_all() {
    while (!queue.empty()) queue.pop()();
  }
  Rng rng;
  EventQueue queue;
  std::vector<int> ran;
};

TEST(EventQueue, RunsInOrderOfTime) {
  Events e;
  e.add(30, 3);
  e.add(10, 1);
  e.add(20, 2);
  EXPECT_EQ(e.queue.next_time(), 10u);
  e.run_all();
  EXPECT_EQ(e.ran, (std::vector{1, 2, 3}));
  EXPECT_EQ(e.queue.next_time(), kNever);
}

TEST(EventQueue, CancelledEventsDoNotRunAndIdsGoStale) {
  Events e;
  const EventId a = e.add(10, 1);
  const EventId b = e.add(20, 2);
  EXPECT_TRUE(e.queue.cancel(a));
  EXPECT_FALSE(e.queue.cancel(a));
  const EventId c = e.add(5, 3);  // reuses a's slot
  EXPECT_FALSE(e.queue.cancel(a));
  EXPECT_FALSE(e.queue.cancel(EventId()));
  e.run_all();
  EXPECT_EQ(e.ran, (std::vector{3, 2}));
  EXPECT_FALSE(e.queue.cancel(b));
  EXPECT_FALSE(e.queue.cancel(c));
}

TEST(EventQueue, EqualTimesAreOrderedByTheSeed) {
  std::vector<std::vector<int>> orders;
  for (const std::uint64_t seed : {1, 1, 2, 3, 4}) {
    Events e(seed);
    for (int i = 0; i < 8; ++i) e.add(100, i);
    e.run_all();
    orders.push_back(e.ran);
  }
  EXPECT_EQ(orders[0], orders[1]);
  EXPECT_FALSE(orders[0] == orders[2] && orders[0] == orders[3] && orders[0] == orders[4]);
  for (auto& order : orders) {
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, (std::vector{0, 1, 2, 3, 4, 5, 6, 7}));
  }
}

// Against a map from tag to time.
TEST(EventQueue, BehavesAsASortedListUnderRandomUse) {
  Rng rng(99);
  Events e(5);
  std::map<int, std::pair<Nanos, EventId>> live;
  Nanos last = 0;
  for (int step = 0; step < 20'000; ++step) {
    const std::uint64_t dice = rng.below(10);
    if (dice < 5) {
      const Nanos when = last + rng.below(1'000);
      live[step] = {when, e.add(when, step)};
    } else if (dice < 7 && !live.empty()) {
      const auto victim = std::next(live.begin(), static_cast<std::ptrdiff_t>(rng.below(live.size())));
      ASSERT_TRUE(e.queue.cancel(victim->second.second));
      live.erase(victim);
    } else if (!live.empty()) {
      const auto least = std::min_element(live.begin(), live.end(),
                                          [](const auto& a, const auto& b) { return a.second.first < b.second.first; });
      last = least->second.first;
      ASSERT_EQ(e.queue.next_time(), last);
      e.queue.pop()();
      ASSERT_TRUE(live.contains(e.ran.back()));
      ASSERT_EQ(live[e.ran.back()].first, last);
      live.erase(e.ran.back());
    }
    ASSERT_EQ(e.queue.size(), live.size());
    if (step % 64 == 0) e.queue.validate();
  }
}

}  // namespace
}  // namespace quire::sim
