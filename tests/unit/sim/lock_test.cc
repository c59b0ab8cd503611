#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sim_fixture.h"

namespace quire::sim {
namespace {

TEST(SpinLock, ASectionThatRanUndisturbedStillContendsInVirtualTime) {
  CostModel costs = free_of_charge();
  costs.lock_handover = 50;
  Sim sim({.cpus = 2}, costs);
  SpinLock lock(sim.scheduler, sim.lock_class("zone_lock"));
  sim.scheduler.spawn("holder", [&] {
    sim.scheduler.charge(100);
    SpinGuard guard(lock);
    sim.scheduler.charge(600);
  });
  sim.scheduler.spawn("contender", [&] {
    sim.scheduler.charge(200);
    SpinGuard guard(lock);
    EXPECT_EQ(sim.scheduler.now(), 750u);
    EXPECT_TRUE(lock.held_by_current());
    sim.scheduler.charge(10);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  const LockStats& stats = sim.lock_class("zone_lock").stats();
  EXPECT_EQ(stats.acquisitions, 2u);
  EXPECT_EQ(stats.contended, 1u);
  EXPECT_EQ(stats.wait_total, 550u);
  EXPECT_EQ(stats.wait_max, 550u);
  EXPECT_EQ(stats.hold_total, 610u);
  EXPECT_EQ(stats.hold_max, 600u);
}

TEST(SpinLock, AContenderSpinsWhileTheHolderIsInterruptedAtASyncPoint) {
  Sim sim({.cpus = 3});
  SpinLock lock(sim.scheduler, sim.lock_class("lru_lock"));
  std::string order;
  sim.scheduler.spawn("holder", [&] {
    SpinGuard guard(lock);
    for (int i = 0; i < 10; ++i) {
      sim.scheduler.charge(100);
      sim.scheduler.sync_point();
    }
    order += 'h';
  });
  for (const char name : {'a', 'b'}) {
    sim.scheduler.spawn(std::string(1, name), [&, name] {
      sim.scheduler.charge(name == 'a' ? 150u : 250u);
      SpinGuard guard(lock);
      order += name;
      EXPECT_EQ(sim.scheduler.now(), name == 'a' ? 1'000u : 1'030u);
      sim.scheduler.charge(30);
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(order, "hab");
  EXPECT_EQ(sim.lock_class("lru_lock").stats().wait_total, 850u + 780u);
}

TEST(SpinLock, TheHolderKeepsItsCpuAndInterruptsWait) {
  Sim sim({.cpus = 1, .time_slice = 1'000, .wakeup_granularity = 100});
  SpinLock lock(sim.scheduler, sim.lock_class("lock"));
  int inside = 0;
  Nanos interrupted = 0;
  for (int i = 0; i < 3; ++i) {
    sim.scheduler.spawn("task", [&] {
      for (int n = 0; n < 20; ++n) {
        SpinGuard guard(lock);
        EXPECT_EQ(++inside, 1);
        for (int step = 0; step < 30; ++step) {
          sim.scheduler.charge(100);
          sim.scheduler.sync_point();
        }
        --inside;
      }
    });
  }
  sim.scheduler.at(50, [&] {
    EXPECT_EQ(inside, 0);
    SpinGuard guard(lock);
    interrupted = sim.scheduler.now();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(interrupted, 3'000u);  // when the first section ended
  EXPECT_EQ(sim.lock_class("lock").stats().acquisitions, 61u);
}

TEST(SpinLock, TryLockFailsWhileHeldInVirtualTime) {
  Sim sim({.cpus = 2});
  SpinLock lock(sim.scheduler, sim.lock_class("lock"));
  sim.scheduler.spawn("holder", [&] {
    SpinGuard guard(lock);
    sim.scheduler.charge(1'000);
  });
  sim.scheduler.spawn("trier", [&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    sim.scheduler.charge(10);
    EXPECT_FALSE(lock.try_lock());
    sim.scheduler.charge(1'000);
    ASSERT_TRUE(lock.try_lock());
    lock.unlock();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
}

// Each holds one and spins for the other: a deadlock is reported, and the machine can be taken down all the same.
TEST(SpinLock, TasksThatSpinForEachOtherCanBeUnwound) {
  Sim sim({.cpus = 2});
  sim.scheduler.set_lock_checks(false);
  SpinLock a(sim.scheduler, sim.lock_class("a"));
  SpinLock b(sim.scheduler, sim.lock_class("b"));
  const auto take = [&](SpinLock& first, SpinLock& second) {
    sim.scheduler.spawn("task", [&] {
      SpinGuard outer(first);
      sim.scheduler.charge(100);
      SpinGuard inner(second);
    });
  };
  take(a, b);
  take(b, a);
  EXPECT_EQ(sim.scheduler.run().end(), RunEnd::kDeadlock);
  sim.scheduler.unwind_tasks();
  EXPECT_FALSE(a.is_locked());
  EXPECT_FALSE(b.is_locked());
}

TEST(SpinLockDeathTest, TakingItTwiceAborts) {
  EXPECT_DEATH(
      {
        Sim sim;
        SpinLock lock(sim.scheduler, sim.lock_class("lock"));
        sim.scheduler.spawn("task", [&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
          lock.lock();
          lock.lock();
        });
        sim.scheduler.run();
      },
      "twice");
}

TEST(SpinLockDeathTest, TwoSpinnersThatWaitForEachOtherAreADeadlock) {
  EXPECT_DEATH(
      {
        Sim sim({.cpus = 2});
        sim.scheduler.set_lock_checks(false);
        SpinLock a(sim.scheduler, sim.lock_class("a"));
        SpinLock b(sim.scheduler, sim.lock_class("b"));
        sim.scheduler.spawn("ab", [&] {
          SpinGuard first(a);
          sim.scheduler.charge(100);
          SpinGuard second(b);
        });
        sim.scheduler.spawn("ba", [&] {
          SpinGuard first(b);
          sim.scheduler.charge(100);
          SpinGuard second(a);
        });
        sim.scheduler.run();
      },
      "task 1 'ab' waits on spinlock 'b' held by task 2 'ba'");
}

TEST(Mutex, WaitersSleepAndGetItInOrder) {
  Sim sim({.cpus = 2});
  Mutex mutex(sim.scheduler, sim.lock_class("m"));
  std::string order;
  sim.scheduler.spawn("owner", [&] {
    MutexGuard guard(mutex);
    sim.scheduler.sleep_until(10'000);
  });
  for (const char name : {'c', 'a', 'b'}) {
    sim.scheduler.spawn(std::string(1, name), [&, name] {
      sim.scheduler.sleep_until(static_cast<Nanos>(1'000 * (name - 'a' + 1)));
      MutexGuard guard(mutex);
      order += name;
      sim.scheduler.sleep_for(100);
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(order, "abc");
  EXPECT_EQ(sim.scheduler.now(), 10'300u);
  const LockStats& stats = sim.lock_class("m").stats();
  EXPECT_EQ(stats.acquisitions, 4u);
  EXPECT_EQ(stats.contended, 3u);
  EXPECT_EQ(stats.wait_total, 9'000u + 8'100u + 7'200u);
  EXPECT_EQ(stats.hold_total, 10'300u);
}

TEST(Mutex, TryLockAndVirtualContention) {
  Sim sim({.cpus = 2});
  Mutex mutex(sim.scheduler, sim.lock_class("m"));
  sim.scheduler.spawn("owner", [&] {
    MutexGuard guard(mutex);
    sim.scheduler.charge(1'000);
  });
  sim.scheduler.spawn("other", [&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    sim.scheduler.charge(10);
    EXPECT_FALSE(mutex.try_lock());
    mutex.lock();
    EXPECT_EQ(sim.scheduler.now(), 1'000u);
    mutex.unlock();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
}

TEST(Mutex, BootContextTakesFreeLocksOnly) {
  Sim sim;
  Mutex mutex(sim.scheduler, sim.lock_class("m"));
  {
    MutexGuard guard(mutex);
    EXPECT_TRUE(mutex.held_by_current());
  }
  EXPECT_FALSE(mutex.is_locked());
  WaitQueue never(sim.scheduler, "never");
  sim.scheduler.spawn("owner", [&] {
    MutexGuard guard(mutex);
    never.wait();
  });
  EXPECT_EQ(sim.scheduler.run().end(), RunEnd::kDeadlock);
  EXPECT_DEATH({ MutexGuard guard(mutex); }, "boot context waits for ever on mutex 'm' held by task 1");
  sim.scheduler.unwind_tasks();
}

TEST(RwSemaphore, ReadersShareWritersExclude) {
  Sim sim({.cpus = 4});
  RwSemaphore sem(sim.scheduler, sim.lock_class("mmap_lock"));
  unsigned most_readers = 0;
  for (int i = 0; i < 3; ++i) {
    sim.scheduler.spawn("reader", [&] {
      ReadGuard guard(sem);
      sim.scheduler.sleep_until(1'000);
      most_readers = std::max(most_readers, sem.readers());
    });
  }
  sim.scheduler.spawn("writer", [&] {
    sim.scheduler.sleep_until(500);
    WriteGuard guard(sem);
    EXPECT_EQ(sim.scheduler.now(), 1'000u);
    EXPECT_EQ(sem.readers(), 0u);
    EXPECT_TRUE(sem.is_write_locked());
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(most_readers, 3u);
  EXPECT_EQ(sim.lock_class("mmap_lock").stats().wait_total, 500u);
}

TEST(RwSemaphore, AReadersSpinningIsWaitingNotHolding) {
  CostModel costs = free_of_charge();
  costs.lock_handover = 50;
  Sim sim({.cpus = 2}, costs);
  RwSemaphore sem(sim.scheduler, sim.lock_class("mmap_lock"));
  sim.scheduler.spawn("writer", [&] {
    sim.scheduler.charge(100);
    WriteGuard guard(sem);
    sim.scheduler.charge(600);
  });
  sim.scheduler.spawn("reader", [&] {
    sim.scheduler.charge(200);
    ReadGuard guard(sem);
    EXPECT_EQ(sim.scheduler.now(), 750u);
    sim.scheduler.charge(10);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  const LockStats& stats = sim.lock_class("mmap_lock").stats();
  EXPECT_EQ(stats.wait_total, 550u);
  EXPECT_EQ(stats.hold_total, 610u);
}

TEST(RwSemaphore, AReaderDoesNotOvertakeAWaitingWriter) {
  Sim sim({.cpus = 4});
  RwSemaphore sem(sim.scheduler, sim.lock_class("mmap_lock"));
  std::string order;
  const auto reader = [&](Nanos from, Nanos hold, char name) {
    sim.scheduler.spawn("reader", [&, from, hold, name] {
      sim.scheduler.sleep_until(from);
      ReadGuard guard(sem);
      order += name;
      sim.scheduler.sleep_for(hold);
    });
  };
  reader(10, 1'000, '1');
  reader(30, 1'000, '2');  // behind the writer
  reader(40, 1'000, '3');
  sim.scheduler.spawn("writer", [&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    sim.scheduler.sleep_until(20);
    sem.down_write();
    order += 'w';
    EXPECT_EQ(sim.scheduler.now(), 1'010u);
    EXPECT_FALSE(sem.down_read_trylock());
    sim.scheduler.sleep_for(100);
    sem.up_write();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(order.substr(0, 2), "1w");
  EXPECT_EQ(sim.scheduler.now(), 2'110u);  // both late readers together
}

TEST(RwSemaphore, DowngradeLetsReadersIn) {
  Sim sim({.cpus = 3});
  RwSemaphore sem(sim.scheduler, sim.lock_class("mmap_lock"));
  sim.scheduler.spawn("writer", [&]() QUIRE_NO_THREAD_SAFETY_ANALYSIS {
    sem.down_write();
    sim.scheduler.sleep_until(1'000);
    sem.downgrade_write();
    EXPECT_EQ(sem.readers(), 2u);
    sim.scheduler.sleep_until(2'000);
    EXPECT_FALSE(sem.down_write_trylock());
    sem.up_read();
  });
  sim.scheduler.spawn("reader", [&] {
    sim.scheduler.sleep_until(100);
    ReadGuard guard(sem);
    EXPECT_EQ(sim.scheduler.now(), 1'000u);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_FALSE(sem.is_locked());
}

TEST(RwSemaphore, UndisturbedSectionsContendInVirtualTime) {
  Sim sim({.cpus = 3});
  RwSemaphore sem(sim.scheduler, sim.lock_class("sem"));
  sim.scheduler.spawn("writer", [&] {
    WriteGuard guard(sem);
    sim.scheduler.charge(1'000);
  });
  for (int i = 0; i < 2; ++i) {
    sim.scheduler.spawn("reader", [&] {
      sim.scheduler.charge(100);
      ReadGuard guard(sem);
      EXPECT_EQ(sim.scheduler.now(), 1'000u);
      sim.scheduler.charge(500);
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(sim.scheduler.now(), 1'500u);
  EXPECT_EQ(sim.lock_class("sem").stats().contended, 2u);
}

TEST(SeqCount, ReadersNeverSeeATornPair) {
  Sim sim({.cpus = 4, .seed = 11, .preempt_permille = 100});
  LockClass& lock_class = sim.lock_class("seq");
  SpinLock writers(sim.scheduler, lock_class);
  SeqCount count(sim.scheduler, sim.lock_class("seqcount"));
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  unsigned retries = 0;
  for (int i = 0; i < 2; ++i) {
    sim.scheduler.spawn("writer", [&] {
      for (int n = 0; n < 200; ++n) {
        SpinGuard guard(writers);
        count.write_begin();
        ++a;
        sim.scheduler.charge(100);
        sim.scheduler.sync_point();
        ++b;
        count.write_end();
        sim.scheduler.charge(50);
      }
    });
    sim.scheduler.spawn("reader", [&] {
      for (int n = 0; n < 300; ++n) {
        for (;;) {
          const unsigned seq = count.read_begin();
          const std::uint64_t first = a;
          sim.scheduler.charge(70);
          sim.scheduler.sync_point();
          const std::uint64_t second = b;
          if (count.read_retry(seq)) {
            ++retries;
            continue;
          }
          EXPECT_EQ(first, second);
          break;
        }
        sim.scheduler.charge(30);
      }
    });
  }
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(a, 400u);
  EXPECT_EQ(b, 400u);
  EXPECT_GT(retries, 0u);
}

// The events of these names as lines, as they come.
void listen(Sim& sim, std::initializer_list<const char*> names, std::vector<std::string>& lines) {
  for (const char* name : names) {
    sim.trace.find(name)->listen([&](const EventView& event) {
      std::string line(event.name());
      event.fields([&](std::string_view field, FieldValue value) {
        line += " " + std::string(field) + "=";
        if (const auto* text = std::get_if<std::string_view>(&value)) line += *text;
        if (const auto* number = std::get_if<std::uint64_t>(&value)) line += std::to_string(*number);
        if (const auto* number = std::get_if<std::int64_t>(&value)) line += std::to_string(*number);
      });
      lines.push_back(line + " @" + std::to_string(sim.scheduler.now()));
    });
  }
}

TEST(Locks, ContentionIsTraced) {
  Sim sim({.cpus = 2});
  std::vector<std::string> lines;
  listen(sim, {"contention_begin", "contention_end"}, lines);
  RwSemaphore sem(sim.scheduler, sim.lock_class("mmap_lock"));
  sim.scheduler.spawn("reader", [&] {
    ReadGuard guard(sem);
    sim.scheduler.sleep_until(900);
  });
  sim.scheduler.spawn("writer", [&] {
    sim.scheduler.sleep_until(300);
    WriteGuard guard(sem);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(lines, (std::vector<std::string>{"contention_begin lock=mmap_lock flags=4 @300",
                                             "contention_end lock=mmap_lock ret=0 @900"}));
}

TEST(Locks, TakingAndGivingBackIsTracedWhileChecksAreOn) {
  Sim sim({.cpus = 1});
  std::vector<std::string> lines;
  listen(sim, {"lock_acquire", "lock_release"}, lines);
  SpinLock spin(sim.scheduler, sim.lock_class("zone_lock"));
  RwSemaphore sem(sim.scheduler, sim.lock_class("mmap_lock"));
  Mutex mutex(sim.scheduler, sim.lock_class("i_rwsem"));
  const auto take_all = [&] {
    { ReadGuard guard(sem); }
    { WriteGuard guard(sem); }
    if (mutex.try_lock()) mutex.unlock();
    { SpinGuard guard(spin); }
  };
  sim.scheduler.spawn("task", [&] {
    sim.scheduler.set_lock_checks(false);
    take_all();
    EXPECT_EQ(lines.size(), 0u);
    sim.scheduler.set_lock_checks(true);
    take_all();
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  std::vector<std::string> without_times;
  for (const std::string& line : lines) without_times.push_back(line.substr(0, line.find(" @")));
  EXPECT_EQ(without_times, (std::vector<std::string>{"lock_acquire flags=2 name=mmap_lock", "lock_release name=mmap_lock",
                                                     "lock_acquire flags=0 name=mmap_lock", "lock_release name=mmap_lock",
                                                     "lock_acquire flags=1 name=i_rwsem", "lock_release name=i_rwsem",
                                                     "lock_acquire flags=0 name=zone_lock", "lock_release name=zone_lock"}));
}

// Data that the static analysis follows: this must compile with -Werror=thread-safety.
class Counter {
 public:
  explicit Counter(Sim& sim) : lock_(sim.scheduler, sim.lock_class("counter")), sem_(sim.scheduler, sim.lock_class("sem")) {}
  void add() {
    SpinGuard guard(lock_);
    add_locked();
  }
  [[nodiscard]] bool try_add() {
    if (!lock_.try_lock()) return false;
    ++value_;
    lock_.unlock();
    return true;
  }
  void set_limit(int limit) {
    WriteGuard guard(sem_);
    limit_ = limit;
  }
  [[nodiscard]] int limit() {
    ReadGuard guard(sem_);
    return limit_;
  }
  [[nodiscard]] int value() {
    SpinGuard guard(lock_);
    return value_;
  }

 private:
  void add_locked() QUIRE_REQUIRES(lock_) {
    lock_.assert_held();
    ++value_;
  }
  SpinLock lock_;
  RwSemaphore sem_;
  int value_ QUIRE_GUARDED_BY(lock_) = 0;
  int limit_ QUIRE_GUARDED_BY(sem_) = 0;
};

TEST(Locks, AnnotatedUse) {
  Sim sim;
  Counter counter(sim);
  counter.add();
  EXPECT_TRUE(counter.try_add());
  counter.set_limit(7);
  EXPECT_EQ(counter.value(), 2);
  EXPECT_EQ(counter.limit(), 7);
}

}  // namespace
}  // namespace quire::sim
