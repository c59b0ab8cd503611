// What the tests of the kernel's address space stand on: physical memory, slab, and a KernelSpace on them.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "quire/kvirt/kernel_space.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/fault_injection.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"

namespace quire::kvirt {

struct MachineSpec {
  std::uint64_t ram = 64 * kMiB;
  unsigned cpus = 1;
  unsigned nodes = 1;
  std::uint64_t seed = 0;
  phys::Arch arch = phys::Arch::kX86_64;
  phys::DataMode data_mode = phys::DataMode::kData;
  unsigned levels = 4;
  std::string cmdline = {};
  std::uint64_t kernel_reserved = 8 * kMiB;
  unsigned preempt_permille = 0;
};

class KvirtMachine {
 public:
  explicit KvirtMachine(const MachineSpec& spec = {})
      : scheduler({.cpus = spec.cpus, .seed = spec.seed, .preempt_permille = spec.preempt_permille}, {}, traces),
        faults(spec.seed),
        phys(boot(spec)),
        slab(std::make_unique<slab::SlabSystem>(*phys, scheduler)) {
    phys->set_log_sink([this](std::string_view line) { log.emplace_back(line); });
    auto made =
        KernelSpace::create(*phys, *slab, spec.levels == 5 ? arch::Geometry::x86_64_5level() : arch::Geometry::x86_64_4level());
    EXPECT_TRUE(made.has_value());
    space = std::move(*made);
  }
  ~KvirtMachine() {
    space.reset();
    slab.reset();
  }

  Vmalloc& vmalloc() { return space->vmalloc(); }
  std::uint64_t free_pages() {
    phys->drain_all_pages();
    return phys->meminfo().freeram;
  }
  // What a call that failed, or was undone, leaves as it was: every page that is free, a slab's or a table's, and the objects in
  // use of each cache. Ranges of addresses melt together and one is kept in store, so their descriptions are not counted.
  struct Footprint {
    std::uint64_t pages = 0;
    std::uint64_t objects = 0;
    bool operator==(const Footprint&) const = default;
  };
  Footprint footprint() {
    static_cast<void>(vmalloc().areas().purge_vmap_area_lazy());
    Footprint now{.pages = free_pages() + space->init_mm().buddy_tables()};
    for (const slab::SlabInfo& cache : slab->slabinfo()) {
      now.pages += cache.num_slabs * cache.pagesperslab;
      if (cache.name != "vmap_area") now.objects += cache.objects_in_use;
    }
    return now;
  }
  void validate() {
    space->validate();
    slab->validate();
    phys->validate();
  }
  // Pages of its own, each with a mark.
  std::vector<phys::Page*> pages(unsigned count, phys::Gfp gfp = phys::Gfp::kKernel) {
    std::vector<phys::Page*> out;
    for (unsigned i = 0; i < count; ++i) out.push_back(phys->alloc_page(gfp));
    return out;
  }
  void free(const std::vector<phys::Page*>& list) {
    for (phys::Page* page : list) phys->free_page(*page);
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  sim::FaultInjection faults;
  std::unique_ptr<phys::PhysMem> phys;
  std::unique_ptr<slab::SlabSystem> slab;
  std::unique_ptr<KernelSpace> space;
  std::vector<std::string> log;

 private:
  std::unique_ptr<phys::PhysMem> boot(const MachineSpec& spec) {
    phys::PhysConfig config;
    config.ram_bytes = spec.ram;
    config.cpus = spec.cpus;
    config.kernel_reserved = spec.kernel_reserved;
    config.arch = spec.arch;
    config.data_mode = spec.data_mode;
    config.cmdline = spec.cmdline;
    if (spec.nodes > 1) {
      config.nodes.resize(spec.nodes);
      for (phys::NodeConfig& node : config.nodes) node.bytes = spec.ram / spec.nodes;
    }
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) ADD_FAILURE() << booted.error().message;
    return std::move(*booted);
  }
};

}  // namespace quire::kvirt
