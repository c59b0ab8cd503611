// A small booted machine, and processes whose threads run what a test says.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "quire/kernel/machine.h"

namespace quire::kernel {

// `preempt_permille`, `seed`: how often, and where, tasks are preempted at sync points, to hunt for races.
inline std::unique_ptr<Machine> boot_small(std::uint64_t ram = 32 * kMiB, unsigned cpus = 1, unsigned preempt_permille = 0,
                                           std::uint64_t seed = 0) {
  MachineConfig config;
  config.preempt_permille = preempt_permille;
  config.seed = seed;
  config.ram = ram;
  config.cpus = cpus;
  config.kernel_reserved = 4 * kMiB;
  auto machine = Machine::boot(config);
  if (!machine) throw std::runtime_error(machine.error().sentence);
  return std::move(*machine);
}

// One that keeps what programs and files contain.
inline std::unique_ptr<Machine> boot_with_data(std::uint64_t ram = 32 * kMiB, std::uint64_t seed = 0) {
  MachineConfig config;
  config.seed = seed;
  config.ram = ram;
  config.kernel_reserved = 4 * kMiB;
  config.data_mode = phys::DataMode::kData;
  auto machine = Machine::boot(config);
  if (!machine) throw std::runtime_error(machine.error().sentence);
  return std::move(*machine);
}

// Objects in use of every cache that has any, with no kernel stack kept for the next thread and no array between CPUs. Not those that describe slabs and
// free addresses: they come and go with how these lie.
using Objects = std::map<std::string, std::uint64_t>;
inline Objects objects(Machine& machine) {
  Objects in_use;
  machine.processes().free_vm_stack_cache();
  static_cast<void>(machine.kernel_space().vmalloc().areas().purge_vmap_area_lazy());
  machine.slab().cache_reap(slab::SlabSystem::ReapMode::kAll);
  for (const slab::SlabInfo& row : machine.slab().slabinfo()) {
    if (row.objects_in_use != 0 && row.name != "slab_mgmt" && row.name != "vmap_area")
      in_use[std::string(row.name)] = row.objects_in_use;
  }
  return in_use;
}

// A process of one thread that runs `body` and ends.
inline Process& start(Machine& machine, std::string comm, std::function<void(Process&)> body) {
  ProcessTable& table = machine.processes();
  const auto process = table.create(std::move(comm), [&table, body = std::move(body)](Thread& thread) {
    body(*thread.process);
    table.exit_thread(thread, {});
  });
  if (!process) throw std::runtime_error("no memory for a process");
  return **process;
}

}  // namespace quire::kernel
