#include "quire/sim/lock_order.h"

#include <gtest/gtest.h>

#include "sim_fixture.h"

namespace quire::sim {
namespace {

struct CheckedSim : Sim {
  CheckedSim() : Sim({.cpus = 2}) { scheduler.set_lock_checks(true); }
  template <class Body>
  void in_task(Body&& body) {
    scheduler.spawn("task", body);
    EXPECT_TRUE(scheduler.run().done());
  }
  Mutex a{scheduler, lock_class("a")};
  Mutex a2{scheduler, lock_class("a")};
  SpinLock b{scheduler, lock_class("b")};
  RwSemaphore c{scheduler, lock_class("c")};
};

TEST(LockOrder, LearnsEdgesFromNesting) {
  CheckedSim sim;
  sim.in_task([&] {
    ReadGuard c(sim.c);
    MutexGuard a(sim.a);
    SpinGuard b(sim.b);
    EXPECT_TRUE(LockOrder::holds(*sim.scheduler.current(), &sim.a));
  });
  EXPECT_EQ(sim.scheduler.lock_order().edges(), (std::vector<std::string>{"c -> a", "a -> b"}));
}

TEST(LockOrder, SameOrderAgainIsFineAndLocksMayBeGivenBackInAnyOrder) {
  CheckedSim sim;
  for (int i = 0; i < 2; ++i) {
    sim.in_task([&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
      sim.a.lock();
      sim.b.lock();
      EXPECT_FALSE(LockOrder::holds(*sim.scheduler.current(), &sim.c));
      sim.b.unlock();
      sim.c.down_write();
      sim.a.unlock();
      EXPECT_FALSE(LockOrder::holds(*sim.scheduler.current(), &sim.a));
      sim.c.up_write();
    });
  }
  EXPECT_EQ(sim.scheduler.lock_order().edges(), (std::vector<std::string>{"a -> b", "a -> c"}));
}

TEST(LockOrder, TrylockMakesNoEdgeTowardsItself) {
  CheckedSim sim;
  sim.in_task([&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    sim.a.lock();
    ASSERT_TRUE(sim.c.down_read_trylock());
    sim.c.up_read();
    sim.a.unlock();
    sim.c.down_read();
    sim.a.lock();  // the other order, legal
    sim.a.unlock();
    sim.c.up_read();
  });
  EXPECT_EQ(sim.scheduler.lock_order().edges(), (std::vector<std::string>{"c -> a"}));
}

TEST(LockOrder, NestedLocksOfOneClassNeedASubclass) {
  CheckedSim sim;
  sim.in_task([&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    sim.a.lock();
    sim.a2.lock_nested(kSingleDepthNesting);
    sim.a2.unlock();
    sim.a.unlock();
  });
  EXPECT_EQ(sim.scheduler.lock_order().edges(), (std::vector<std::string>{"a -> a/1"}));
}

TEST(LockOrderDeathTest, BothOrdersNameBothChains) {
  EXPECT_DEATH(
      {
        CheckedSim sim;
        sim.in_task([&] {
          MutexGuard a(sim.a);
          ReadGuard c(sim.c);
        });
        sim.in_task([&] {
          ReadGuard c(sim.c);
          SpinGuard b(sim.b);
        });
        sim.in_task([&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
          (void)sim.b.try_lock();
          sim.b.unlock();
          sim.c.down_write();
          sim.a.lock();
        });
      },
      "takes 'a' holding 'c'\n  before:\n    task 'task' took 'c' holding 'a'");
}

TEST(LockOrderDeathTest, ALongRingIsFound) {
  EXPECT_DEATH(
      {
        CheckedSim sim;
        Mutex d(sim.scheduler, sim.lock_class("d"));
        sim.in_task([&] {
          MutexGuard a(sim.a);
          ReadGuard c(sim.c);
        });
        sim.in_task([&] {
          ReadGuard c(sim.c);
          MutexGuard guard(d);
        });
        sim.in_task([&] {
          MutexGuard guard(d);
          MutexGuard a(sim.a);
        });
      },
      "takes 'a' holding 'd'\n  before:\n.*took 'c' holding 'a'.*\n.*took 'd' holding 'c'");
}

TEST(LockOrderDeathTest, RecursionInAClassIsReported) {
  EXPECT_DEATH(
      {
        CheckedSim sim;
        sim.in_task([&] {
          MutexGuard a(sim.a);
          MutexGuard a2(sim.a2);
        });
      },
      "possible recursive locking");
}

TEST(LockOrderDeathTest, AMutexUnderASpinlockIsReportedEvenIfFree) {
  EXPECT_DEATH(
      {
        CheckedSim sim;
        sim.in_task([&] {
          SpinGuard b(sim.b);
          MutexGuard a(sim.a);
        });
      },
      "would sleep while it holds a spinlock: a");
}

TEST(LockOrder, SwitchedOffNothingIsLearnt) {
  CheckedSim sim;
  sim.scheduler.set_lock_checks(false);
  sim.in_task([&] {
    MutexGuard a(sim.a);
    ReadGuard c(sim.c);
  });
  sim.in_task([&] {
    ReadGuard c(sim.c);
    MutexGuard a(sim.a);
  });
  EXPECT_TRUE(sim.scheduler.lock_order().edges().empty());
}

}  // namespace
}  // namespace quire::sim
