#include "quire/sim/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "sim_fixture.h"

namespace quire::sim {
namespace {

TEST(Scheduler, BootContextHasATimeOfItsOwn) {
  Sim sim({.cpus = 4});
  EXPECT_EQ(sim.scheduler.current(), nullptr);
  EXPECT_EQ(sim.scheduler.cpus(), 4u);
  EXPECT_EQ(sim.scheduler.cpu(), 0u);
  sim.scheduler.charge(123);
  sim.scheduler.sync_point();
  EXPECT_EQ(sim.scheduler.now(), 123u);
  EXPECT_TRUE(sim.scheduler.run().done());  // nothing to run
  EXPECT_EQ(sim.scheduler.now(), 123u);
}

TEST(Scheduler, ATaskStartsAtTheTimeOfItsSpawnAndChargesItsCpu) {
  Sim sim;
  sim.scheduler.charge(1'000);
  Nanos began = 0;
  Task& task = sim.scheduler.spawn("worker", [&] {
    EXPECT_EQ(sim.scheduler.current()->name(), "worker");
    began = sim.scheduler.now();
    sim.scheduler.charge(500);
  });
  EXPECT_FALSE(task.finished());
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_TRUE(task.finished());
  EXPECT_EQ(began, 1'000u);
  EXPECT_EQ(sim.scheduler.now(), 1'500u);
  EXPECT_EQ(task.stats().run_time, 500u);
  EXPECT_EQ(sim.scheduler.cpu_stats(0).busy, 500u);
  EXPECT_EQ(sim.scheduler.cpu_stats(0).idle, 1'000u);
}

TEST(Scheduler, SwitchesTellHowATaskLeftItsCpu) {
  Sim sim;
  std::string left;
  sim.scheduler.sched_switch.listen([&left](const EventView& event) {
    event.fields([&left](std::string_view name, FieldValue value) {
      if (name == "prev_state") left += std::get<std::string_view>(value);
    });
  });
  WaitQueue idle(sim.scheduler, "idle", Sleep::kIdle);
  sim.scheduler.spawn("task", [&] {
    sim.scheduler.sleep_for(100);
    sim.scheduler.sleep_for(100, Sleep::kInterruptible);
    EXPECT_EQ(idle.wait_timeout(100), WaitOutcome::kTimeout);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(left, "RDRSRIRX");  // R: the CPU was idle
}

TEST(Scheduler, TasksOnTwoCpusRunInParallelVirtualTime) {
  Sim sim({.cpus = 2});
  for (int i = 0; i < 2; ++i) {
    sim.scheduler.spawn("worker", [&] {
      for (int n = 0; n < 100; ++n) {
        sim.scheduler.charge(10'000);
        sim.scheduler.sync_point();
      }
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(sim.scheduler.now(), 1'000'000u);
  EXPECT_EQ(sim.scheduler.cpu_stats(0).busy, 1'000'000u);
  EXPECT_EQ(sim.scheduler.cpu_stats(1).busy, 1'000'000u);
}

// The causality rule: shared state is touched in order of virtual time, however unequal the steps.
TEST(Scheduler, SyncPointsOrderSharedStateByVirtualTime) {
  Sim sim({.cpus = 3, .seed = 5});
  std::vector<Nanos> touched;
  for (const Nanos step : {70, 110, 1'300}) {
    sim.scheduler.spawn("worker", [&, step] {
      for (Nanos spent = 0; spent < 100'000; spent += step) {
        sim.scheduler.charge(step);
        sim.scheduler.sync_point();
        touched.push_back(sim.scheduler.now());
      }
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_GT(touched.size(), 2'000u);
  EXPECT_TRUE(std::is_sorted(touched.begin(), touched.end()));
}

TEST(Scheduler, TimeSlicesShareOneCpu) {
  Sim sim({.cpus = 1, .time_slice = 1'000'000});
  std::vector<Task*> tasks;
  for (int i = 0; i < 3; ++i) {
    tasks.push_back(&sim.scheduler.spawn("hog", [&] {
      for (int n = 0; n < 1'000; ++n) {
        sim.scheduler.charge(10'000);
        sim.scheduler.sync_point();
      }
    }));
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(sim.scheduler.now(), 30'000'000u);
  for (const Task* task : tasks) {
    EXPECT_EQ(task->stats().run_time, 10'000'000u);
    EXPECT_GE(task->stats().involuntary_switches, 9u);
    EXPECT_GE(task->stats().run_delay, 15'000'000u);
  }
}

TEST(Scheduler, ContextSwitchesAreCharged) {
  CostModel costs = free_of_charge();
  costs.context_switch = 1'000;
  Sim sim({}, costs);
  sim.scheduler.spawn("sleeper", [&] {
    EXPECT_EQ(sim.scheduler.now(), 1'000u);
    sim.scheduler.sleep_for(500);
    EXPECT_EQ(sim.scheduler.now(), 2'500u);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(sim.scheduler.stats().context_switches, 2u);
}

TEST(Scheduler, SleepersWakeInOrderOfTime) {
  Sim sim({.cpus = 2});
  std::vector<int> woke;
  for (const int delay : {50, 10, 30, 20, 40}) {
    sim.scheduler.spawn("sleeper", [&, delay] {
      sim.scheduler.sleep_for(static_cast<Nanos>(delay) * 1'000);
      EXPECT_EQ(sim.scheduler.now(), static_cast<Nanos>(delay) * 1'000);
      woke.push_back(delay);
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(woke, (std::vector{10, 20, 30, 40, 50}));
}

TEST(Scheduler, AWokenTaskGetsTheCpuFromAHogWithinTheGranularity) {
  Sim sim({.cpus = 1, .time_slice = 100'000'000, .wakeup_granularity = 1'000'000});
  Nanos woke = 0;
  sim.scheduler.spawn("sleeper", [&] {
    sim.scheduler.sleep_until(5'000'000);
    woke = sim.scheduler.now();
  });
  sim.scheduler.spawn("hog", [&] {
    for (int n = 0; n < 10'000; ++n) {
      sim.scheduler.charge(1'000);
      sim.scheduler.sync_point();
    }
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_GE(woke, 5'000'000u);
  EXPECT_LE(woke, 6'100'000u);
}

TEST(Scheduler, EventsRunAsInterruptsAtTheirTime) {
  Sim sim;
  std::vector<Nanos> at;
  const auto note = [&] {
    EXPECT_EQ(sim.scheduler.current(), nullptr);
    EXPECT_TRUE(sim.scheduler.in_interrupt());
    at.push_back(sim.scheduler.now());
  };
  sim.scheduler.at(300, note);
  sim.scheduler.at(100, note);
  const EventId cancelled = sim.scheduler.at(200, note);
  EXPECT_TRUE(sim.scheduler.cancel(cancelled));
  sim.scheduler.spawn("worker", [&] {
    for (int i = 0; i < 10; ++i) {
      sim.scheduler.charge(60);
      sim.scheduler.sync_point();
      EXPECT_FALSE(sim.scheduler.in_interrupt());
    }
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(at, (std::vector<Nanos>{100, 300}));
}

TEST(Scheduler, PinnedTasksStayAndOthersSpread) {
  Sim sim({.cpus = 4});
  std::set<unsigned> used;
  Task& pinned = sim.scheduler.spawn("kswapd0",
                                     [&] {
                                       for (int i = 0; i < 20; ++i) {
                                         sim.scheduler.sleep_for(1'000);
                                         EXPECT_EQ(sim.scheduler.cpu(), 3u);
                                       }
                                     },
                                     {.cpu = 3});
  for (int i = 0; i < 3; ++i) {
    sim.scheduler.spawn("worker", [&] {
      used.insert(sim.scheduler.cpu());
      sim.scheduler.charge(1'000'000);
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(used, (std::set<unsigned>{0, 1, 2}));
  EXPECT_EQ(pinned.stats().migrations, 0u);
}

TEST(Scheduler, AnIdleCpuPullsAWaitingTask) {
  Sim sim({.cpus = 2});
  Task& pinned = sim.scheduler.spawn("pinned", [&] { sim.scheduler.charge(1'000'000); }, {.cpu = 0});
  sim.scheduler.spawn("short", [&] { sim.scheduler.charge(100'000); });
  Task& third = sim.scheduler.spawn("third", [&] { sim.scheduler.charge(1'000'000); });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_TRUE(pinned.finished());
  EXPECT_EQ(third.cpu(), 1u);
  EXPECT_EQ(sim.scheduler.now(), 1'100'000u);
}

TEST(Scheduler, RunEndsWithTheLastUserTaskAndMayBeRepeated) {
  Sim sim({.cpus = 2});
  int rounds = 0;
  Task& daemon = sim.scheduler.spawn("daemon",
                                     [&] {
                                       for (;;) {
                                         ++rounds;
                                         sim.scheduler.sleep_for(1'000);
                                       }
                                     },
                                     {.kind = TaskKind::kDaemon});
  sim.scheduler.spawn("first", [&] { sim.scheduler.sleep_for(10'500); });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(rounds, 11);
  EXPECT_FALSE(daemon.finished());
  EXPECT_EQ(sim.scheduler.now(), 10'500u);
  sim.scheduler.spawn("second", [&] { sim.scheduler.sleep_for(10'000); });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(rounds, 21);
  sim.scheduler.validate();
}

TEST(Scheduler, RunUntilStopsAtTheTimeAndGoesOnLater) {
  Sim sim;
  int rounds = 0;
  sim.scheduler.spawn("ticker", [&] {
    for (int i = 0; i < 10; ++i) {
      sim.scheduler.sleep_for(1'000);
      ++rounds;
    }
  });
  EXPECT_EQ(sim.scheduler.run_until(4'500).end(), RunEnd::kTimeLimit);
  EXPECT_EQ(rounds, 4);
  EXPECT_EQ(sim.scheduler.now(), 4'500u);
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(rounds, 10);
  EXPECT_EQ(sim.scheduler.run_until(50'000).end(), RunEnd::kDone);
  EXPECT_EQ(sim.scheduler.now(), 50'000u);
}

TEST(Scheduler, TasksSpawnJoinAndReuseStacks) {
  Sim sim({.cpus = 2});
  int done = 0;
  sim.scheduler.spawn("parent", [&] {
    for (int i = 0; i < 200; ++i) {
      Task& child = sim.scheduler.spawn("child", [&] {
        sim.scheduler.sleep_for(100);
        ++done;
      });
      sim.scheduler.join(child);
      EXPECT_EQ(done, i + 1);
    }
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(done, 200);
  EXPECT_EQ(sim.scheduler.tasks().size(), 201u);
}

TEST(Scheduler, AnEventMaySpawnATask) {
  Sim sim;
  bool ran = false;
  sim.scheduler.at(1'000, [&] { sim.scheduler.spawn("late", [&] { ran = true; }); });
  sim.scheduler.spawn("short", [&] { sim.scheduler.sleep_for(5'000); });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_TRUE(ran);
}

TEST(Scheduler, YieldRotatesEqualTasks) {
  Sim sim;
  std::string order;
  for (const char name : {'a', 'b'}) {
    sim.scheduler.spawn(std::string(1, name), [&, name] {
      for (int i = 0; i < 4; ++i) {
        order += name;
        sim.scheduler.yield();
      }
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_TRUE(order == "abababab" || order == "babababa") << order;
}

TEST(Scheduler, WakeEndsASleepEarly) {
  Sim sim({.cpus = 2});
  Task& sleeper = sim.scheduler.spawn("sleeper", [&] {
    sim.scheduler.sleep_for(kSecond);
    EXPECT_EQ(sim.scheduler.now(), 1'000u);
  });
  sim.scheduler.spawn("waker", [&] {
    sim.scheduler.sleep_for(1'000);
    EXPECT_TRUE(sim.scheduler.wake(sleeper));
    EXPECT_FALSE(sim.scheduler.wake(sleeper));
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(sim.scheduler.now(), 1'000u);
}

TEST(Scheduler, WakeupJitterDelaysWithinItsBound) {
  Sim sim({.seed = 3, .wakeup_jitter = 500});
  std::set<Nanos> delays;
  sim.scheduler.spawn("sleeper", [&] {
    for (int i = 0; i < 50; ++i) {
      const Nanos due = sim.scheduler.now() + 1'000;
      sim.scheduler.sleep_until(due);
      EXPECT_LE(sim.scheduler.now(), due + 500);
      delays.insert(sim.scheduler.now() - due);
    }
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_GT(delays.size(), 20u);
}

TEST(Scheduler, DeadlockIsReportedWithEveryWaiter) {
  Sim sim({.cpus = 2});
  WaitQueue never(sim.scheduler, "never_woken");
  Mutex mutex(sim.scheduler, sim.lock_class("mmap_lock"));
  sim.scheduler.spawn("owner", [&] {
    MutexGuard guard(mutex);
    never.wait();
  });
  sim.scheduler.spawn("victim", [&] {
    sim.scheduler.sleep_for(10);
    MutexGuard guard(mutex);
  });
  const RunOutcome outcome = sim.scheduler.run();
  EXPECT_EQ(outcome.end(), RunEnd::kDeadlock);
  ASSERT_EQ(outcome.blocked().size(), 2u);
  EXPECT_EQ(outcome.blocked()[0].task, "owner");
  EXPECT_EQ(outcome.blocked()[0].waits_on, "wait queue 'never_woken'");
  EXPECT_EQ(outcome.blocked()[1].waits_on, "mutex 'mmap_lock' held by task 1 'owner'");
  EXPECT_NE(outcome.report().find("'victim' waits on mutex 'mmap_lock'"), std::string::npos);
  sim.scheduler.unwind_tasks();
}

TEST(Scheduler, AHangUnderAPeriodicDaemonIsADeadlockToo) {
  Sim sim({.hung_task_timeout = 10 * kSecond});
  sim.scheduler.spawn("flusher",
                      [&] {
                        for (;;) sim.scheduler.sleep_for(kSecond);
                      },
                      {.kind = TaskKind::kDaemon});
  WaitQueue never(sim.scheduler, "never_woken");
  sim.scheduler.spawn("long sleeper", [&] {
    sim.scheduler.sleep_for(100 * kSecond);  // alone, that is no hang
    never.wait();
  });
  EXPECT_EQ(sim.scheduler.run().end(), RunEnd::kDeadlock);
  EXPECT_GE(sim.scheduler.now(), 110 * kSecond);
  EXPECT_LT(sim.scheduler.now(), 112 * kSecond);
  sim.scheduler.unwind_tasks();
}

TEST(SchedulerDeathTest, ADeadlockNobodyLooksAtAborts) {
  EXPECT_DEATH(
      {
        Sim sim;
        WaitQueue never(sim.scheduler, "never_woken");
        sim.scheduler.spawn("waiter", [&] { never.wait(); });
        sim.scheduler.run();
      },
      "task 1 'waiter' waits on wait queue 'never_woken'");
}

TEST(SchedulerDeathTest, SleepingUnderASpinlockOrInAnInterruptAborts) {
  EXPECT_DEATH(
      {
        Sim sim;
        SpinLock lock(sim.scheduler, sim.lock_class("lru_lock"));
        sim.scheduler.spawn("sleeper", [&] {
          SpinGuard guard(lock);
          sim.scheduler.sleep_for(1);
        });
        sim.scheduler.run();
      },
      "would sleep while it holds a spinlock");
  EXPECT_DEATH(
      {
        Sim sim;
        WaitQueue queue(sim.scheduler, "irq");
        sim.scheduler.at(10, [&] { queue.wait(); });
        sim.scheduler.spawn("task", [&] { sim.scheduler.sleep_for(100); });
        sim.scheduler.run();
      },
      "an interrupt would sleep");
}

// Who waits for a lock when the machine is taken down may have been given it already.
TEST(Scheduler, UnwoundTasksKeepNoLockTheyWereGivenWhileTheyWaited) {
  for (Nanos stop = 0; stop < 4'000; stop += 50) {
    CostModel costs = free_of_charge();
    costs.lock_handover = 100;
    costs.wakeup = 100;
    Sim sim({.cpus = 3, .seed = stop}, costs);
    Mutex mutex(sim.scheduler, sim.lock_class("mutex"));
    RwSemaphore sem(sim.scheduler, sim.lock_class("sem"));
    for (int i = 0; i < 5; ++i) {
      sim.scheduler.spawn("task", [&, i] {
        for (;;) {
          sim.scheduler.charge(100);
          {
            MutexGuard guard(mutex);
            sim.scheduler.charge(130);
            if (i % 2 == 0) sim.scheduler.sleep_for(70);
          }
          if (i == 0) {
            WriteGuard guard(sem);
            sim.scheduler.sleep_for(130);
          } else {
            ReadGuard guard(sem);
            sim.scheduler.charge(90);
          }
        }
      });
    }
    EXPECT_EQ(sim.scheduler.run_until(stop).end(), RunEnd::kTimeLimit);
    sim.scheduler.unwind_tasks();
    ASSERT_FALSE(mutex.is_locked() || sem.is_locked()) << "stopped at " << stop;
  }
}

// Boot may find a lock taken by a daemon that the end of the run caught inside a section: the daemon gets to leave it.
TEST(Scheduler, BootContextIsGivenLocksThatDaemonsHold) {
  int waits = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Sim sim({.cpus = 2, .seed = seed});
    Mutex mutex(sim.scheduler, sim.lock_class("mutex"));
    RwSemaphore sem(sim.scheduler, sim.lock_class("sem"));
    RwSemaphore shared(sim.scheduler, sim.lock_class("shared"));
    bool boot_inside = false;
    const auto daemon = [&] {
      for (;;) {
        {
          WriteGuard write(sem);
          ReadGuard read(shared);
          MutexGuard guard(mutex);
          EXPECT_FALSE(boot_inside);
          sim.scheduler.sleep_for(700);
          EXPECT_FALSE(boot_inside);
        }
        sim.scheduler.sleep_for(100);
      }
    };
    sim.scheduler.spawn("kflushd", daemon, {.kind = TaskKind::kDaemon});
    sim.scheduler.spawn("kwrited", daemon, {.kind = TaskKind::kDaemon});
    sim.scheduler.spawn("user", [&] { sim.scheduler.sleep_for(333 * seed); });
    ASSERT_TRUE(sim.scheduler.run().done());
    const Nanos before = sim.scheduler.now();
    const auto stay = [&] {
      boot_inside = true;
      sim.scheduler.spawn("user", [&] { sim.scheduler.sleep_for(1'000); });
      EXPECT_TRUE(sim.scheduler.run().done());
      boot_inside = false;
    };
    {
      MutexGuard guard(mutex);
      waits += sim.scheduler.now() > before ? 1 : 0;
      stay();
    }
    { ReadGuard guard(sem); }
    {
      WriteGuard guard(shared);
      stay();
    }
    sim.scheduler.validate();
    sim.scheduler.unwind_tasks();  // the daemons are at locks that go before the scheduler does
  }
  EXPECT_GT(waits, 10);
}

TEST(SchedulerDeathTest, BootContextCannotWait) {
  Sim sim;
  Task& task = sim.scheduler.spawn("worker", [] {});
  sim.scheduler.yield();
  sim.scheduler.sleep_until(0);
  EXPECT_DEATH(sim.scheduler.sleep_for(10), "boot context would wait on time");
  EXPECT_DEATH(sim.scheduler.join(task), "boot context would wait on the exit of task worker");
  EXPECT_TRUE(sim.scheduler.run().done());
  sim.scheduler.join(task);
}

TEST(Scheduler, UnwindingRunsTheDestructorsOfUnfinishedTasks) {
  auto alive = std::make_shared<int>(0);
  TraceRegistry trace;
  Scheduler scheduler({.cpus = 2}, free_of_charge(), trace);
  WaitQueue never(scheduler, "never_woken");
  Mutex mutex(scheduler, scheduler.locks().lock_class("m"));
  for (int i = 0; i < 3; ++i) {
    scheduler.spawn("waiter", [&] {
      const std::vector<std::shared_ptr<int>> held(10, alive);
      MutexGuard guard(mutex);
      never.wait();
    });
  }
  EXPECT_EQ(scheduler.run().end(), RunEnd::kDeadlock);
  scheduler.spawn("unborn", [alive] {});
  EXPECT_EQ(alive.use_count(), 32);
  scheduler.unwind_tasks();
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(Scheduler, ExceptionsWorkInsideTasks) {
  Sim sim({.cpus = 2});
  int caught = 0;
  for (int i = 0; i < 4; ++i) {
    sim.scheduler.spawn("thrower", [&] {
      for (int n = 0; n < 10; ++n) {
        try {
          sim.scheduler.sleep_for(10);
          throw std::runtime_error("x");
        } catch (const std::runtime_error&) {
          ++caught;
        }
        sim.scheduler.sync_point();
      }
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(caught, 40);
}

// A program with a bit of everything; returns the hash of its trace.
std::uint64_t mixed_program(const SchedulerConfig& config) {
  Sim sim(config, CostModel());
  TraceHash hash(sim);
  Mutex mutex(sim.scheduler, sim.lock_class("mutex"));
  SpinLock spin(sim.scheduler, sim.lock_class("spin"));
  RwSemaphore sem(sim.scheduler, sim.lock_class("sem"));
  std::uint64_t shared = 0;
  for (int i = 0; i < 12; ++i) {
    sim.scheduler.spawn("task " + std::to_string(i), [&, i] {
      for (int n = 0; n < 50; ++n) {
        sim.scheduler.charge(static_cast<Nanos>(1'000 + 37 * i));
        if ((n + i) % 5 == 0) {
          MutexGuard guard(mutex);
          sim.scheduler.charge(700);
          sim.scheduler.sync_point();
          ++shared;
        } else if ((n + i) % 5 == 1) {
          WriteGuard guard(sem);
          sim.scheduler.charge(300);
        } else if ((n + i) % 7 == 2) {
          sim.scheduler.sleep_for(2'000);
        } else {
          ReadGuard read(sem);
          SpinGuard guard(spin);
          sim.scheduler.charge(200);
          sim.scheduler.sync_point();
        }
      }
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(shared, 120u);
  EXPECT_GT(hash.events(), 1'000u);
  sim.scheduler.validate();
  return hash.value();
}

TEST(Scheduler, SameSeedSameTraceOtherSeedOtherTrace) {
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const SchedulerConfig config{.cpus = 3, .seed = seed, .wakeup_jitter = 100};
    const std::uint64_t hash = mixed_program(config);
    EXPECT_EQ(hash, mixed_program(config));
    hashes.insert(hash);
  }
  EXPECT_EQ(hashes.size(), 20u);
  const SchedulerConfig hunting{.cpus = 3, .seed = 1, .preempt_permille = 50};
  EXPECT_EQ(mixed_program(hunting), mixed_program(hunting));
}

TEST(Scheduler, MachinesDoNotDisturbEachOther) {
  const std::uint64_t alone = mixed_program({.cpus = 2, .seed = 9});
  Sim other({.cpus = 2, .seed = 1});
  std::uint64_t inside = 0;
  other.scheduler.spawn("machine in a machine", [&] { inside = mixed_program({.cpus = 2, .seed = 9}); });
  EXPECT_TRUE(other.scheduler.run().done());
  EXPECT_EQ(inside, alone);
}

}  // namespace
}  // namespace quire::sim
