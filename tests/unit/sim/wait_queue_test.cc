#include "quire/sim/wait_queue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sim_fixture.h"

namespace quire::sim {
namespace {

TEST(WaitQueue, WakesInOrderOfArrival) {
  Sim sim;
  WaitQueue queue(sim.scheduler, "queue");
  std::vector<int> woken;
  for (int i = 0; i < 4; ++i) {
    sim.scheduler.spawn("waiter", [&, i] {
      sim.scheduler.sleep_for(static_cast<Nanos>(100 + i));
      queue.wait();
      woken.push_back(i);
    });
  }
  sim.scheduler.spawn("waker", [&] {
    EXPECT_FALSE(queue.wake_one());
    sim.scheduler.sleep_for(1'000);
    EXPECT_TRUE(queue.wake_one());
    sim.scheduler.sleep_for(1'000);
    EXPECT_EQ(woken, std::vector{0});
    EXPECT_TRUE(queue.wake_one());
    sim.scheduler.sleep_for(1'000);
    EXPECT_EQ(woken, (std::vector{0, 1}));
    EXPECT_EQ(queue.wake_all(), 2u);
    EXPECT_TRUE(queue.empty());
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(woken.size(), 4u);
}

TEST(WaitQueue, WaitUntilAsksAgainAfterEachWakeup) {
  Sim sim({.cpus = 2});
  WaitQueue queue(sim.scheduler, "queue");
  int value = 0;
  int asked = 0;
  sim.scheduler.spawn("waiter", [&] {
    queue.wait_until([&] {
      ++asked;
      return value == 3;
    });
    EXPECT_EQ(value, 3);
  });
  sim.scheduler.spawn("waker", [&] {
    for (int i = 0; i < 3; ++i) {
      sim.scheduler.sleep_for(1'000);
      ++value;
      queue.wake_all();
    }
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(asked, 4);
}

TEST(WaitQueue, TimeoutsFireAndAreCancelledByAWakeup) {
  Sim sim({.cpus = 2});
  WaitQueue queue(sim.scheduler, "queue");
  sim.scheduler.spawn("waiter", [&] {
    EXPECT_EQ(queue.wait_timeout(500), WaitOutcome::kTimeout);
    EXPECT_EQ(sim.scheduler.now(), 500u);
    EXPECT_TRUE(queue.empty());
    EXPECT_EQ(queue.wait_timeout(5'000), WaitOutcome::kWoken);
    EXPECT_EQ(sim.scheduler.now(), 1'000u);
    EXPECT_EQ(queue.wait_until_timeout(2'000, [] { return false; }), WaitOutcome::kTimeout);
    EXPECT_EQ(sim.scheduler.now(), 3'000u);
  });
  sim.scheduler.spawn("waker", [&] {
    sim.scheduler.sleep_until(1'000);
    queue.wake_all();
    sim.scheduler.sleep_until(2'000);
    queue.wake_all();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(sim.scheduler.now(), 3'000u);
}

TEST(WaitQueue, AnInterruptWakes) {
  Sim sim;
  WaitQueue queue(sim.scheduler, "queue");
  bool ready = false;
  sim.scheduler.spawn("waiter", [&] {
    queue.wait_until([&] { return ready; });
    EXPECT_EQ(sim.scheduler.now(), 777u);
  });
  sim.scheduler.at(777, [&] {
    ready = true;
    queue.wake_all();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
}

TEST(WaitQueue, WakeOfATaskTakesItOffItsQueue) {
  Sim sim({.cpus = 2});
  WaitQueue queue(sim.scheduler, "queue");
  Task& waiter = sim.scheduler.spawn("waiter", [&] { queue.wait(); });
  sim.scheduler.spawn("killer", [&] {
    sim.scheduler.sleep_for(100);
    EXPECT_TRUE(sim.scheduler.wake(waiter));
    EXPECT_TRUE(queue.empty());
  });
  EXPECT_TRUE(sim.scheduler.run().done());
}

TEST(WaitQueue, WakeupCostIsPaidByTheWaker) {
  CostModel costs = free_of_charge();
  costs.wakeup = 500;
  Sim sim({.cpus = 2}, costs);
  WaitQueue queue(sim.scheduler, "queue");
  Task& waiter = sim.scheduler.spawn("waiter", [&] {
    queue.wait();
    EXPECT_EQ(sim.scheduler.now(), 1'500u);
  });
  sim.scheduler.spawn("waker", [&] {
    sim.scheduler.charge(1'000);
    sim.scheduler.sync_point();
    queue.wake_all();
    EXPECT_EQ(sim.scheduler.now(), 1'500u);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(waiter.stats().wait_time, 1'500u);
}

// "For ever" is a timeout too, also when the clock has moved on.
TEST(WaitQueue, TheLongestTimeoutsDoNotWrap) {
  Sim sim;
  WaitQueue queue(sim.scheduler, "queue");
  bool ready = false;
  sim.scheduler.spawn("waiter", [&] {
    sim.scheduler.charge(1'000);
    EXPECT_EQ(queue.wait_timeout(kNever), WaitOutcome::kWoken);
    EXPECT_EQ(sim.scheduler.now(), 5'000u);
    EXPECT_EQ(queue.wait_until_timeout(kNever - 10, [&] { return ready; }), WaitOutcome::kWoken);
    EXPECT_EQ(sim.scheduler.now(), 6'000u);
    sim.scheduler.sleep_for(kNever - 10);
    EXPECT_EQ(sim.scheduler.now(), 7'000u);
  });
  Task& waiter = *sim.scheduler.tasks().front();
  sim.scheduler.at(5'000, [&] { queue.wake_all(); });
  sim.scheduler.at(6'000, [&] {
    ready = true;
    queue.wake_all();
  });
  sim.scheduler.at(7'000, [&] { sim.scheduler.wake(waiter); });
  EXPECT_TRUE(sim.scheduler.run().done());
}

TEST(WaitTable, OnlyWaitersOfTheKeyWake) {
  Sim sim({.cpus = 2});
  WaitTable table(sim.scheduler, "page bits");
  constexpr std::size_t kPages = 1'000;  // many share a bucket
  std::vector<int> locked(kPages, 1);
  std::size_t woken = 0;
  for (std::size_t i = 0; i < kPages; ++i) {
    sim.scheduler.spawn("waiter", [&, i] {
      table.wait(&locked[i], [&] { return locked[i] == 0; });
      ++woken;
    });
  }
  sim.scheduler.spawn("unlocker", [&] {
    sim.scheduler.sleep_for(1'000'000);
    for (std::size_t i = 0; i < kPages; ++i) {
      EXPECT_TRUE(table.waited_for(&locked[i]));
      locked[i] = 0;
      EXPECT_EQ(table.wake_all(&locked[i]), 1u);
      EXPECT_FALSE(table.waited_for(&locked[i]));
      sim.scheduler.sleep_for(1'000);
      EXPECT_EQ(woken, i + 1);
    }
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(woken, kPages);
}

TEST(WaitTable, WakeOneTakesTheLongestWaiter) {
  Sim sim;
  WaitTable table(sim.scheduler, "page bits");
  const int key = 0;
  std::string woken;
  for (const char name : {'a', 'b', 'c'}) {
    sim.scheduler.spawn(std::string(1, name), [&, name] {
      sim.scheduler.sleep_for(static_cast<Nanos>(name));
      table.wait_once(&key);
      woken += name;
    });
  }
  sim.scheduler.spawn("waker", [&] {
    for (int i = 0; i < 3; ++i) {
      sim.scheduler.sleep_for(1'000);
      EXPECT_TRUE(table.wake_one(&key));
    }
    EXPECT_FALSE(table.wake_one(&key));
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(woken, "abc");
}

}  // namespace
}  // namespace quire::sim
