// What the tests of tasks that act at the same moment share: the shape of their machine, the loop that runs it until all have
// acted, and the loop over seeds.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>

#include "effort.h"
#include "quire/base/rng.h"
#include "quire/kernel/machine.h"

namespace quire::kernel::test {

struct RaceMachine {
  std::uint64_t ram = 9 * kMiB;
  std::uint64_t kernel_reserved = 1 * kMiB;
  unsigned least_cpus = 2, most_cpus = 4;
  enum class Swap : std::uint8_t { kNo, kYes } swap = Swap::kYes;
  void (*more)(MachineConfig& config, Rng& rng) = nullptr;  // what else the seed draws
};

// The seed draws how many CPUs there are, how often tasks are preempted and where pages are swapped to.
inline MachineConfig race_machine(std::uint64_t seed, const RaceMachine& shape) {
  Rng rng(seed);
  MachineConfig config;
  config.data_mode = phys::DataMode::kData;
  config.seed = seed;
  config.ram = shape.ram;
  config.kernel_reserved = shape.kernel_reserved;
  config.cpus = shape.least_cpus + static_cast<unsigned>(rng.below(shape.most_cpus - shape.least_cpus + 1));
  config.preempt_permille = 100 + 100 * rng.below(5);
  config.slab = seed % 2 == 0 ? "slab" : "slub";
  if (shape.swap == RaceMachine::Swap::kYes)
    config.swap.push_back(*parse_swap_spec(rng.chance(1, 2) ? "zram:16M" : "disk:16M"));
  if (shape.more != nullptr) shape.more(config, rng);
  return config;
}

// The machine runs until `done`, which tasks that end, or wait for the test to go on, make true. False: it never will, and the
// test has failed. Then the tasks have been ended while what they refer to still stands, and the machine is good for nothing more.
[[nodiscard]] inline bool run_until(Machine& machine, const std::function<bool()>& done) {
  constexpr sim::Nanos kLongest = 100 * sim::kSecond;  // far beyond what any round takes
  sim::Scheduler& scheduler = machine.scheduler();
  const sim::Nanos begin = scheduler.now();
  while (!done()) {
    const sim::RunOutcome outcome = scheduler.run_until(scheduler.now() + sim::kMillisecond);
    const bool runs = outcome.end() == sim::RunEnd::kTimeLimit && scheduler.now() - begin < kLongest;
    if (runs || done()) continue;
    ADD_FAILURE() << "what is waited for does not happen\n" << scheduler.report();
    scheduler.unwind_tasks();
    return false;
  }
  return true;
}

// `race(machine, seed)` on a machine of its own for each seed, until one fails; how many seeds.
inline std::uint64_t for_race_seeds(const RaceMachine& shape, std::uint64_t seeds, std::uint64_t seeds_with_checks,
                                    const std::function<void(Machine&, std::uint64_t)>& race) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t count = from_environment("QUIRE_SEEDS", seeds, seeds_with_checks);
  for (std::uint64_t seed = first; seed < first + count && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("QUIRE_SEED={} QUIRE_SEEDS=1 repeats this", seed));
    auto machine = Machine::boot(race_machine(seed, shape));
    if (!machine.has_value()) {
      ADD_FAILURE() << machine.error().sentence;
      return 0;
    }
    race(**machine, seed);
  }
  return count;
}

}  // namespace quire::kernel::test
