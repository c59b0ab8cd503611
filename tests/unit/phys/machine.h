// A physical memory on its own, for tests: scheduler, tracepoints and one PhysMem.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire::phys {

struct TestMachine {
  explicit TestMachine(const PhysConfig& config, std::uint64_t seed = 1)
      : scheduler({.cpus = config.cpus, .seed = seed}, sim::CostModel{}, traces) {
    auto booted = PhysMem::boot(config, scheduler, traces);
    if (booted) {
      mem = std::move(*booted);
    } else {
      error = booted.error().message;
    }
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<PhysMem> mem;
  std::string error;
};

inline PhysConfig small_machine(std::uint64_t mib = 64) {
  PhysConfig config;
  config.ram_bytes = mib * kMiB;
  config.kernel_reserved = 16 * kMiB;
  return config;
}

}  // namespace quire::phys
