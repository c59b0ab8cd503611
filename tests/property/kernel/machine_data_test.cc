// Random programs on small machines in data mode: processes that fork, map, unmap, protect and forget memory while reclaim
// swaps it out under them and pages are moved about; every byte read back is right. QUIRE_SEEDS=5000 runs more; QUIRE_SEED=17 starts there.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "effort.h"
#include "program.h"
#include "quire/kernel/machine.h"

namespace quire::kernel::test {
namespace {

MachineConfig small_machine(std::uint64_t seed) {
  Rng rng(seed);
  MachineConfig config;
  config.data_mode = phys::DataMode::kData;
  config.seed = seed;
  constexpr std::array kPolicies = {"linux-6", "linux-4.0", "linux-2.4"};
  config.alloc_policy = kPolicies[seed % kPolicies.size()];
  config.ram = (9 + rng.below(3)) * kMiB;
  config.kernel_reserved = 1 * kMiB;
  config.cpus = 1 + static_cast<unsigned>(rng.below(4));
  config.preempt_permille = rng.below(3) * 100;
  config.slab = seed % 2 == 0 ? "slab" : "slub";
  if (seed % 5 == 0) config.slab_debug = "FZPU";
  config.swap.push_back(*parse_swap_spec(rng.chance(1, 2) ? "zram:32M" : "disk:32M"));
  if (rng.chance(1, 4)) config.swap.push_back(*parse_swap_spec("disk:16M"));
  return config;
}

// Moves pages while the programs use them: whole ranges of frames, the machine's compaction, and requests for large blocks that
// make it compact on their behalf. Where a range was plugged in, it goes offline and comes online again.
class Mover {
 public:
  Mover(Machine& machine, std::uint64_t seed, Range<PhysAddr> plugged = {}) : machine_(machine), rng_(seed), plugged_(plugged) {
    machine.scheduler().spawn("mover", [this] { run(); }, {.kind = sim::TaskKind::kDaemon});
  }
  // Lets it finish what it has in hand.
  void pause() {
    paused_ = true;
    while (busy_) static_cast<void>(machine_.scheduler().run_until(machine_.scheduler().now() + sim::kMillisecond));
  }
  void go_on() { paused_ = false; }

 private:
  void run() {
    for (;;) {
      machine_.scheduler().sleep_for(10'000 + rng_.below(400'000));
      if (paused_) continue;
      busy_ = true;
      switch (rng_.below(plugged_.empty() ? 8 : 10)) {
        case 0: machine_.compaction().compact_nodes(); break;
        case 1:
        case 2: take_a_block(); break;
        case 8:
        case 9: offline_or_online(); break;
        default: move_a_range(); break;
      }
      busy_ = false;
    }
  }
  void move_a_range() {
    const std::uint64_t frames = machine_.phys().max_pfn().value();
    const Pfn first(rng_.below(frames));
    const Pfn end(std::min(frames, first.value() + 1 + rng_.below(512)));
    const auto mode = static_cast<phys::MigrateMode>(rng_.below(3));
    static_cast<void>(machine_.compaction().migrate_range({first, end}, mode, phys::MigrateReason::kSyscall));
  }
  void take_a_block() {
    const Order order(1 + static_cast<unsigned>(rng_.below(6)));
    phys::Page* block = machine_.phys().alloc_pages(phys::Gfp::kHighUserMovable | phys::Gfp::kNoRetry, order);
    if (block == nullptr) return;
    machine_.scheduler().sleep_for(rng_.below(1'000'000));
    machine_.phys().free_pages(*block, order);
  }

  void offline_or_online() {
    phys::MemoryHotplug& hotplug = machine_.phys().hotplug();
    const std::uint64_t blocks = plugged_.size() / hotplug.memory_block_size();
    const PhysAddr start = plugged_.begin + rng_.below(blocks) * hotplug.memory_block_size();
    const auto type = rng_.chance(1, 4) ? phys::OnlineType::kKernel : phys::OnlineType::kMovable;
    const bool is_online = hotplug.blocks().at(start.value() / hotplug.memory_block_size()).state == phys::MemoryState::kOnline;
    if (is_online) {
      offlined += hotplug.offline(start, hotplug.memory_block_size()) ? 1 : 0;
    } else {
      ASSERT_TRUE(hotplug.online(start, hotplug.memory_block_size(), type));
    }
  }

 public:
  std::uint64_t offlined = 0;

 private:
  Machine& machine_;
  Rng rng_;
  Range<PhysAddr> plugged_;
  bool paused_ = false;
  bool busy_ = false;
};

struct Totals {
  Findings findings;
  std::int64_t moved = 0;
  std::int64_t swapped_out = 0;
};

// Three programs at once, to their end; the machine is sound afterwards and keeps nothing of theirs but caches.
void run_programs(Machine& machine, Mover& mover, std::uint64_t seed, Totals& totals) {
  Findings findings;
  const ProgramOptions options{.steps = 200, .most_pages = 1000, .most_processes = 5};
  for (std::uint64_t i = 0; i < 3; ++i) {
    auto program = std::make_shared<Program>(machine, options, findings, seed * 1000 + i);
    const auto made = machine.processes().create("program", [program](Thread& t) { program->run(t); });
    ASSERT_TRUE(made.has_value());
  }
  const sim::RunOutcome outcome = machine.run();
  ASSERT_TRUE(outcome.done()) << outcome.report();
  ASSERT_EQ(findings.first_mismatch, "");
  mover.pause();
  machine.settle();
  machine.validate();
  mover.go_on();
  for (const auto& process : machine.processes().all()) ASSERT_EQ(process->mm, nullptr);
  const auto state = [&machine](phys::NodeStat s) { return machine.phys().global_node_page_state(s); };
  ASSERT_EQ(state(phys::NodeStat::kNrAnonPages), 0);
  // The kernel keeps its own tables, and those of PMDs count.
  ASSERT_LE(static_cast<std::uint64_t>(state(phys::NodeStat::kNrPageTablePages)),
            machine.kernel_space().init_mm().buddy_tables());
  ASSERT_EQ(state(phys::NodeStat::kNrKernelStack), 0);
  const swap::SwapInfo swap = machine.swap().si_swapinfo();
  ASSERT_EQ(swap.free + swap.cached, swap.total);
  machine.slab().cache_reap(slab::SlabSystem::ReapMode::kAll);
  machine.phys().drain_all_pages();
  totals.findings.reads += findings.reads;
  totals.findings.writes += findings.writes;
  totals.findings.forks += findings.forks;
  totals.findings.killed += findings.killed;
  totals.swapped_out += machine.phys().vmstat()[phys::VmEvent::kPswpout];
}

void run_seed(std::uint64_t seed, Totals& totals) {
  SCOPED_TRACE(fmt::format("QUIRE_SEED={} QUIRE_SEEDS=1 repeats this", seed));
  auto machine = Machine::boot(small_machine(seed));
  ASSERT_TRUE(machine.has_value()) << machine.error().sentence;
  const auto free_pages = [&machine] { return static_cast<double>((*machine)->phys().meminfo().freeram); };
  Mover mover(**machine, seed);
  // How much stays in caches (slabs half used, magazines) varies from round to round by some tens of pages; what leaks adds up.
  std::array<double, 8> free_after{};
  for (std::uint64_t round = 0; round < free_after.size(); ++round) {
    run_programs(**machine, mover, seed * 10 + round, totals);
    if (testing::Test::HasFatalFailure()) return;
    free_after[round] = free_pages();
  }
  totals.moved += (*machine)->phys().vmstat()[phys::VmEvent::kPgmigrateSuccess];
  ASSERT_EQ((*machine)->slab().object_reports().count(), 0u) << (*machine)->slab().object_reports().kept().front().text;
  const double early = *std::max_element(free_after.begin(), free_after.begin() + 4);
  const double late = *std::max_element(free_after.begin() + 4, free_after.end());
  EXPECT_GE(late, early - 64) << testing::PrintToString(free_after);
}

TEST(MachineData, EveryByteReadBackIsRight) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 20, 3);
  Totals totals;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    run_seed(seed, totals);
    if (HasFatalFailure()) return;
  }
  // The machines must have been small enough for the test to mean something.
  EXPECT_GT(totals.findings.writes, seeds * 100);
  if (seeds >= 20) {
    EXPECT_GT(totals.swapped_out, static_cast<std::int64_t>(seeds) * 100);
    EXPECT_GT(totals.findings.forks, 0u);
    EXPECT_GT(totals.moved, static_cast<std::int64_t>(seeds) * 1000);
  }
  RecordProperty("reads", std::to_string(totals.findings.reads));
  RecordProperty("swapped_out", std::to_string(totals.swapped_out));
  fmt::print("{} seeds: {} reads, {} writes, {} forks, {} pages swapped out, {} moved, {} processes killed\n", seeds,
             totals.findings.reads, totals.findings.writes, totals.findings.forks, totals.swapped_out, totals.moved,
             totals.findings.killed);
}

// 48 MiB that stay, and two memory blocks that come and go.
void run_with_plugged_memory(std::uint64_t seed, Totals& totals, std::uint64_t& offlined) {
  SCOPED_TRACE(fmt::format("seed {}", seed));
  MachineConfig config = small_machine(seed);
  config.ram = 48 * kMiB;
  config.plug.push_back({.bytes = 256 * kMiB, .region = std::nullopt, .at = 4 * kGiB, .node = 0, .online = std::nullopt});
  auto booted = Machine::boot(config);
  ASSERT_TRUE(booted.has_value()) << booted.error().sentence;
  Machine& machine = **booted;
  const Range<PhysAddr> plugged{PhysAddr(4 * kGiB), PhysAddr(4 * kGiB + 256 * kMiB)};
  Mover mover(machine, seed, plugged);
  for (std::uint64_t round = 0; round < 3; ++round) {
    run_programs(machine, mover, seed * 10 + round, totals);
    if (testing::Test::HasFatalFailure()) return;
  }
  offlined += mover.offlined;
}

TEST(MachineData, MemoryComesAndGoesUnderThePrograms) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 6, 2);
  Totals totals;
  std::uint64_t offlined = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    run_with_plugged_memory(seed, totals, offlined);
    if (HasFatalFailure()) return;
  }
  if (seeds >= 6) {
    EXPECT_GT(offlined, seeds);
  }
  fmt::print("{} seeds: {} reads, {} writes, {} times a memory block went offline\n", seeds, totals.findings.reads,
             totals.findings.writes, offlined);
}

}  // namespace
}  // namespace quire::kernel::test
