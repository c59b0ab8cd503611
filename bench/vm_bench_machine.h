// The floors up to vm, for the benchmarks of address spaces.
#pragma once

#include <memory>

#include "quire/file/vfs.h"
#include "quire/sim/fault_injection.h"
#include "quire/slab/xa_node_cache.h"
#include "quire/vm/vm.h"

namespace quire::bench {

inline constexpr std::uint64_t kRam = 512 * kMiB;

struct Machine {
  explicit Machine(phys::DataMode mode, std::uint64_t ram = kRam)
      : scheduler({}, {}, traces),
        faults(0),
        phys(boot(mode, ram)),
        slab(*phys, scheduler),
        lru(*phys, scheduler, traces),
        nodes(slab),
        swap(*phys, nodes, lru, scheduler),
        vfs({*phys, slab, nodes, lru, swap, scheduler, faults, traces}),
        vm({*phys, scheduler, slab, lru, swap, vfs, traces}) {
    scheduler.set_lock_checks(false);
  }
  std::unique_ptr<phys::PhysMem> boot(phys::DataMode mode, std::uint64_t ram) {
    phys::PhysConfig config;
    config.ram_bytes = ram;
    config.data_mode = mode;
    return std::move(*phys::PhysMem::boot(config, scheduler, traces));
  }
  VirtAddr map(vm::Mm& mm, std::uint64_t bytes, file::File* file = nullptr) {
    const vm::MapFlags what = file == nullptr ? vm::MapFlags::kAnonymous : vm::MapFlags::kNone;
    return *vm.mmap(mm, VirtAddr(0), bytes, vm::Prot::kRead | vm::Prot::kWrite, vm::MapFlags::kPrivate | what, file, 0);
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  sim::FaultInjection faults;
  std::unique_ptr<phys::PhysMem> phys;
  slab::SlabSystem slab;
  lru::Lru lru;
  slab::XaNodeCache nodes;
  swap::SwapSystem swap;
  file::Vfs vfs;
  vm::Vm vm;
};

}  // namespace quire::bench
