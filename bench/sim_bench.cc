// What the simulation itself costs on the host: a sync point that nothing interrupts, an uncontended lock, a switch
// between two tasks, an event. The peer of the lock pair is the host's own std::mutex, of the switch a bare
// boost::context::fiber.
#include <benchmark/benchmark.h>

#include <boost/context/fiber.hpp>
#include <mutex>

#include "quire/base/tracepoint.h"
#include "quire/sim/lock_guards.h"
#include "quire/sim/scheduler.h"
#include "quire/sim/wait_queue.h"

namespace quire::sim {
namespace {

// Runs the benchmark's loop inside a task of a machine with `cpus` CPUs.
template <class Body>
void in_task(benchmark::State& state, unsigned cpus, Body&& body) {
  TraceRegistry trace;
  Scheduler scheduler({.cpus = cpus}, CostModel(), trace);
  scheduler.set_lock_checks(false);
  scheduler.spawn("bench", [&] { body(scheduler, state); });
  scheduler.run();
  scheduler.unwind_tasks();
}

void sync_point(benchmark::State& state) {
  in_task(state, 2, [](Scheduler& s, benchmark::State& loop) {
    for (auto _ : loop) {
      s.charge(1);
      s.sync_point();
      benchmark::ClobberMemory();
    }
  });
}
BENCHMARK(sync_point);

void spin_lock_pair(benchmark::State& state) {
  in_task(state, 2, [](Scheduler& s, benchmark::State& loop) {
    SpinLock lock(s, s.locks().lock_class("bench"));
    for (auto _ : loop) {
      SpinGuard guard(lock);
      benchmark::ClobberMemory();
    }
  });
}
BENCHMARK(spin_lock_pair);

void mutex_pair(benchmark::State& state) {
  in_task(state, 2, [](Scheduler& s, benchmark::State& loop) {
    Mutex lock(s, s.locks().lock_class("bench"));
    for (auto _ : loop) {
      MutexGuard guard(lock);
      benchmark::ClobberMemory();
    }
  });
}
BENCHMARK(mutex_pair);

void rw_semaphore_read_pair(benchmark::State& state) {
  in_task(state, 2, [](Scheduler& s, benchmark::State& loop) {
    RwSemaphore lock(s, s.locks().lock_class("bench"));
    for (auto _ : loop) {
      ReadGuard guard(lock);
      benchmark::ClobberMemory();
    }
  });
}
BENCHMARK(rw_semaphore_read_pair);

void peer_std_mutex_pair(benchmark::State& state) {
  std::mutex mutex;
  for (auto _ : state) {
    const std::lock_guard guard(mutex);
    benchmark::ClobberMemory();
  }
}
BENCHMARK(peer_std_mutex_pair);

// Two tasks on one CPU hand it to each other; one iteration is there and back.
void yield_there_and_back(benchmark::State& state) {
  in_task(state, 1, [](Scheduler& s, benchmark::State& loop) {
    bool stop = false;
    Task& other = s.spawn("other", [&] {
      while (!stop) s.yield();
    });
    for (auto _ : loop) s.yield();
    stop = true;
    s.join(other);
  });
}
BENCHMARK(yield_there_and_back);

// Two CPUs whose clocks take turns: the host switches fibers, the simulated CPUs switch nothing.
void cpu_interleaving_there_and_back(benchmark::State& state) {
  in_task(state, 2, [](Scheduler& s, benchmark::State& loop) {
    bool stop = false;
    Task& other = s.spawn("other", [&] {
      while (!stop) {
        s.charge(100);
        s.sync_point();
      }
    });
    for (auto _ : loop) {
      s.charge(100);
      s.sync_point();
    }
    stop = true;
    s.join(other);
  });
}
BENCHMARK(cpu_interleaving_there_and_back);

void peer_bare_fiber_there_and_back(benchmark::State& state) {
  bool stop = false;
  boost::context::fiber fiber([&](boost::context::fiber&& back) {
    while (!stop) back = std::move(back).resume();
    return std::move(back);
  });
  for (auto _ : state) fiber = std::move(fiber).resume();
  stop = true;
  fiber = std::move(fiber).resume();
}
BENCHMARK(peer_bare_fiber_there_and_back);

// A wait and its wake-up by another task, both ways.
void wait_and_wake_there_and_back(benchmark::State& state) {
  in_task(state, 2, [](Scheduler& s, benchmark::State& loop) {
    WaitQueue ping(s, "ping");
    WaitQueue pong(s, "pong");
    bool turn = false;
    bool stop = false;
    Task& other = s.spawn("other", [&] {
      while (!stop) {
        ping.wait_until([&] { return turn || stop; });
        turn = false;
        pong.wake_all();
      }
    });
    for (auto _ : loop) {
      turn = true;
      ping.wake_all();
      pong.wait_until([&] { return !turn; });
    }
    stop = true;
    ping.wake_all();
    s.join(other);
  });
}
BENCHMARK(wait_and_wake_there_and_back);

// Schedule one event and run the earliest, with so many waiting.
void event_add_and_pop(benchmark::State& state) {
  Rng rng(1);
  EventQueue queue(rng);
  Nanos now = 0;
  std::uint64_t ran = 0;
  for (std::int64_t i = 0; i < state.range(0); ++i) queue.add(rng.below(1'000'000), [&ran] { ++ran; });
  for (auto _ : state) {
    now = queue.next_time();
    queue.pop()();
    queue.add(now + rng.below(1'000'000), [&ran] { ++ran; });
  }
  benchmark::DoNotOptimize(ran);
}
BENCHMARK(event_add_and_pop)->Arg(16)->Arg(1024);

void spawn_and_join(benchmark::State& state) {
  in_task(state, 1, [](Scheduler& s, benchmark::State& loop) {
    for (auto _ : loop) s.join(s.spawn("child", [] {}));
  });
}
BENCHMARK(spawn_and_join)->Iterations(100'000);

}  // namespace
}  // namespace quire::sim
