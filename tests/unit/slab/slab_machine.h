// What the slab tests stand on: a scheduler, physical memory and a SlabSystem on it.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/kmem_cache.h"
#include "quire/slab/slab_system.h"

namespace quire::slab {

struct MachineSpec {
  std::uint64_t ram = 64 * kMiB;
  unsigned cpus = 1;
  unsigned nodes = 1;
  std::uint64_t seed = 0;
  unsigned preempt_permille = 0;
  SlabConfig config = {};
};

class SlabMachine {
 public:
  explicit SlabMachine(const MachineSpec& spec = {})
      : scheduler({.cpus = spec.cpus, .seed = spec.seed, .preempt_permille = spec.preempt_permille}, {}, traces),
        phys(boot(spec)),
        slab(std::make_unique<SlabSystem>(*phys, scheduler, spec.config)) {}

  // Takes pages until none is left but `keep`; gives them back at the end of the machine or by release().
  void exhaust(std::uint64_t keep = 0) {
    while (phys::Page* page = phys->alloc_page(phys::Gfp::kNoWait | phys::Gfp::kNoWarn)) taken_.push_back(page);
    for (; keep > 0 && !taken_.empty(); --keep) release_one();
  }
  void release_one() {
    phys->free_page(*taken_.back());
    taken_.pop_back();
  }
  void release() {
    while (!taken_.empty()) release_one();
  }
  ~SlabMachine() {
    release();
    slab.reset();
  }

  std::uint64_t free_pages() {
    phys->drain_all_pages();
    return phys->meminfo().freeram;
  }
  std::int64_t slab_pages() const {
    return phys->global_node_page_state(phys::NodeStat::kNrSlabUnreclaimable) +
           phys->global_node_page_state(phys::NodeStat::kNrSlabReclaimable);
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<phys::PhysMem> phys;
  std::unique_ptr<SlabSystem> slab;

 private:
  std::unique_ptr<phys::PhysMem> boot(const MachineSpec& spec) {
    phys::PhysConfig config;
    config.ram_bytes = spec.ram;
    config.cpus = spec.cpus;
    config.kernel_reserved = 4 * kMiB;
    if (spec.nodes > 1) {
      config.nodes.resize(spec.nodes);
      for (phys::NodeConfig& node : config.nodes) node.bytes = spec.ram / spec.nodes;
    }
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) ADD_FAILURE() << booted.error().message;
    return std::move(*booted);
  }

  std::vector<phys::Page*> taken_;
};

inline constexpr phys::Gfp kGfp = phys::Gfp::kKernel;

}  // namespace quire::slab
