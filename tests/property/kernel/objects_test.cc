// Random programs leave no kernel object behind: while they run there are believable numbers of them, and when the last
// process has ended, every cache holds what it held before. QUIRE_SEEDS=500 runs more; QUIRE_SEED=17 starts there.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>

#include "effort.h"
#include "program.h"
#include "quire/file/xa_preload.h"
#include "quire/kernel/machine.h"

namespace quire::kernel::test {
namespace {

using Objects = std::map<std::string, std::uint64_t>;

// Objects in use, without the arrays between CPUs; the allocator's own descriptors of slabs come and go with its slabs.
Objects objects(Machine& machine) {
  Objects in_use;
  machine.slab().cache_reap(slab::SlabSystem::ReapMode::kAll);
  for (const slab::SlabInfo& row : machine.slab().slabinfo()) {
    if (row.objects_in_use != 0 && row.name != "slab_mgmt") in_use[std::string(row.name)] = row.objects_in_use;
  }
  return in_use;
}

MachineConfig machine_of(std::uint64_t seed) {
  Rng rng(seed);
  MachineConfig config;
  config.data_mode = phys::DataMode::kData;
  config.seed = seed;
  config.nodes = 1 + seed % 2;
  config.ram = config.nodes * (9 + rng.below(3)) * kMiB;
  config.kernel_reserved = 1 * kMiB;
  config.cpus = 1 + static_cast<unsigned>(rng.below(4));
  config.preempt_permille = rng.below(3) * 100;
  config.slab = seed / 2 % 2 == 0 ? "slab" : "slub";
  if (seed / 4 % 2 == 1) {  // which takes room
    config.slab_debug = "FZPU";
    config.ram += config.nodes * 2 * kMiB;
  }
  config.swap.push_back(*parse_swap_spec(rng.chance(1, 2) ? "zram:64M" : "disk:64M"));
  return config;
}

// What must hold between the numbers at any moment.
void expect_believable(Machine& machine) {
  Objects now = objects(machine);
  std::uint64_t living = 0, not_reaped = 0;
  for (const auto& process : machine.processes().all()) {
    living += process->files != nullptr ? 1u : 0u;
    not_reaped += process->signal != nullptr ? 1u : 0u;
  }
  // A fork on its way has some of its objects already.
  EXPECT_GE(now["task_struct"], not_reaped);
  EXPECT_GE(now["signal_cache"], not_reaped);
  EXPECT_GE(now["sighand_cache"], not_reaped);
  EXPECT_GE(now["files_cache"], living);
  EXPECT_GE(now["anon_vma_chain"], now["anon_vma"] == 0 ? 0 : 1);
  EXPECT_GE(now["vm_area_struct"] * 64, now["anon_vma_chain"]);  // a fork adds a link a generation
  EXPECT_LE(now["shmem_inode_cache"], now["dentry"] + living);   // one on its way a process
}

struct Seen {
  std::uint64_t rounds = 0, looks = 0, most_vmas = 0, forks = 0, swapped = 0;
};

void run_round(Machine& machine, std::uint64_t seed, Seen& seen) {
  Findings findings;
  const ProgramOptions options{.steps = 150, .most_pages = 1200, .most_processes = 6};
  for (std::uint64_t i = 0; i < 3; ++i) {
    auto program = std::make_shared<Program>(machine, options, findings, seed * 1000 + i);
    ASSERT_TRUE(machine.processes().create("program", [program](Thread& t) { program->run(t); }));
  }
  const auto living = [&machine] {
    return std::ranges::any_of(machine.processes().all(), [](const auto& p) { return p->state == ProcessState::kRunning; });
  };
  for (const std::uint64_t end = seen.looks + 1000; living() && seen.looks < end; ++seen.looks) {
    static_cast<void>(machine.scheduler().run_until(machine.scheduler().now() + 200 * sim::kMicrosecond));
    expect_believable(machine);
    seen.most_vmas = std::max(seen.most_vmas, objects(machine)["vm_area_struct"]);
  }
  const sim::RunOutcome outcome = machine.run();
  ASSERT_TRUE(outcome.done()) << outcome.report();
  ASSERT_EQ(findings.first_mismatch, "");
  machine.settle();
  machine.validate();
  seen.forks += findings.forks;
  ++seen.rounds;
}

void run_seed(std::uint64_t seed, Seen& seen) {
  SCOPED_TRACE(fmt::format("QUIRE_SEED={} QUIRE_SEEDS=1 repeats this", seed));
  auto booted = Machine::boot(machine_of(seed));
  ASSERT_TRUE(booted) << booted.error().sentence;
  Machine& machine = **booted;
  static_cast<void>(machine.kernel_space().vmalloc().areas().purge_vmap_area_lazy());
  const Objects before = objects(machine);
  for (std::uint64_t round = 0; round < 3; ++round) {
    run_round(machine, seed * 10 + round, seen);
    if (testing::Test::HasFatalFailure()) return;
    // Stacks that CPUs keep, and addresses that wait for a flush of TLBs.
    machine.processes().free_vm_stack_cache();
    static_cast<void>(machine.kernel_space().vmalloc().areas().purge_vmap_area_lazy());
    Objects after = objects(machine);
    // Nodes that the page cache keeps at hand; and clean pages that readahead left in the swap cache stay until reclaim wants
    // them, in nodes of its tree: three levels hold a stretch.
    const std::uint64_t cached = machine.swap().cache().total_swapcache_pages();
    ASSERT_EQ(machine.swap().cache().total_shadows(), 0u);
    const std::uint64_t nodes = after["radix_tree_node"];
    ASSERT_LE(nodes, cached * 3 + file::XaPreload::kMaxNodes) << "after round " << round;
    after.erase("radix_tree_node");
    ASSERT_EQ(after, before) << "after round " << round;
  }
  ASSERT_EQ(machine.slab().object_reports().count(), 0u) << machine.slab().object_reports().kept().front().text;
  // And the slabs can all be given back: what is left holds the objects of boot.
  machine.slab().for_each_cache([&](slab::KmemCacheBase& cache) {
    machine.slab().kmem_cache_shrink(cache);
    if (cache.name() != "slab_mgmt" && cache.objects_in_use() == 0) {
      EXPECT_EQ(cache.total_slabs(), 0u) << cache.name();
    }
  });
  machine.validate();
  seen.swapped += static_cast<std::uint64_t>(machine.phys().vmstat()[phys::VmEvent::kPswpout]);
}

TEST(KernelObjects, AreBackWhereTheyWereWhenTheLastProcessHasEnded) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 16, 5);
  Seen seen;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    run_seed(seed, seen);
    if (HasFatalFailure()) return;
  }
  if (seeds >= 16) {
    EXPECT_GT(seen.looks, seeds * 20);
    EXPECT_GT(seen.most_vmas, 50u);
    EXPECT_GT(seen.forks, seeds);
    EXPECT_GT(seen.swapped, seeds * 10);
  }
  fmt::print("{} seeds: {} rounds, {} looks, {} areas at most, {} forks, {} pages swapped out\n", seeds, seen.rounds,
             seen.looks, seen.most_vmas, seen.forks, seen.swapped);
}

}  // namespace
}  // namespace quire::kernel::test
