// What the swap tests stand on: scheduler, physical memory, slab, LRU and a SwapSystem on them.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <utility>

#include "quire/lru/lru.h"
#include "quire/phys/page_wait.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/disk.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/xa_node_cache.h"
#include "quire/swap/disk_swap.h"
#include "quire/swap/swap_system.h"
#include "quire/swap/zram.h"

namespace quire::swap {

struct MachineSpec {
  std::uint64_t ram = 64 * kMiB;
  unsigned cpus = 1;
  std::uint64_t seed = 0;
  unsigned preempt_permille = 0;
  phys::DataMode data_mode = phys::DataMode::kData;
};

class SwapMachine {
 public:
  explicit SwapMachine(const MachineSpec& spec = {})
      : scheduler({.cpus = spec.cpus, .seed = spec.seed, .preempt_permille = spec.preempt_permille}, {}, traces),
        faults(spec.seed),
        phys(boot(spec)),
        slab(*phys, scheduler),
        nodes(slab),
        lru(*phys, scheduler, traces),
        disk(scheduler, sim::DiskConfig::from_costs(scheduler.costs()), &faults),
        swap(std::make_unique<SwapSystem>(*phys, nodes, lru, scheduler)) {
    swap->set_fault_injection(&faults);
  }
  ~SwapMachine() { scheduler.unwind_tasks(); }

  Zram& add_zram(std::uint64_t size, std::optional<int> priority = std::nullopt, ZramConfig config = {}) {
    config.disksize = size;
    auto device = Zram::create(config, *phys, slab, scheduler);
    if (!device) throw std::runtime_error("no zram");
    Zram& zram = **device;
    if (!swap->swapon(std::move(*device), priority)) throw std::runtime_error("no swapon");
    return zram;
  }
  DiskSwap& add_disk(std::uint64_t size, std::optional<int> priority = std::nullopt,
                     SwapDeviceFlags flags = SwapDeviceFlags::kSolidState) {
    auto device = DiskSwap::create({.size = size, .flags = flags}, disk, *phys, scheduler);
    if (!device) throw std::runtime_error("no disk");
    DiskSwap& swap_disk = **device;
    if (!swap->swapon(std::move(*device), priority)) throw std::runtime_error("no swapon");
    return swap_disk;
  }

  // Runs `body` as a task until it has ended.
  void run(std::function<void()> body) {
    scheduler.spawn("test", std::move(body));
    scheduler.run();
  }

  // An uptodate anonymous folio off the LRU with one reference, its bytes a pattern of `value`.
  phys::Folio& anon_folio(std::uint64_t value) {
    phys::Folio* folio = phys->folio_alloc(phys::Gfp::kHighUserMovable);
    if (folio == nullptr) throw std::runtime_error("no memory");
    folio->mapping = phys::kMappingAnon;
    phys::folio_set_swapbacked(*folio);
    phys::folio_set_uptodate(*folio);
    fill(*folio, value);
    return *folio;
  }
  void put(phys::Folio& folio) {
    if (phys::folio_ref_count(folio) == 1) folio.mapping = 0;
    lru.folio_put(folio);
  }
  // A page that compresses to about a quarter and differs for each value.
  void fill(phys::Folio& folio, std::uint64_t value) {
    std::byte* bytes = phys->page_address(folio);
    Rng rng(value);
    for (std::size_t i = 0; i < kPageSize; i += 8) {
      const std::uint64_t word = i % 32 == 0 ? rng() : value;
      std::memcpy(bytes + i, &word, sizeof(word));
    }
  }
  [[nodiscard]] bool holds(phys::Folio& folio, std::uint64_t value) {
    std::array<std::byte, kPageSize> wanted;
    Rng rng(value);
    for (std::size_t i = 0; i < kPageSize; i += 8) {
      const std::uint64_t word = i % 32 == 0 ? rng() : value;
      std::memcpy(wanted.data() + i, &word, sizeof(word));
    }
    return std::memcmp(wanted.data(), phys->page_address(folio), kPageSize) == 0;
  }

  // Swaps a folio out as reclaim does: a slot named by one "PTE", written, out of the cache, freed.
  SwapEntry swap_out(phys::Folio& folio) {
    EXPECT_TRUE(phys::folio_trylock(folio));
    EXPECT_TRUE(swap->add_to_swap(folio));
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    EXPECT_TRUE(swap->swap_duplicate(entry));
    phys::folio_clear_dirty(folio);
    EXPECT_TRUE(swap->swap_writepage(folio));
    phys::folio_wait_writeback(*phys, folio);
    phys::folio_lock(*phys, folio);
    swap->delete_from_swap_cache(folio);
    phys::folio_unlock(*phys, folio);
    put(folio);
    return entry;
  }
  // Reads it back through the swap cache and drops the slot; the folio is outside the cache with one reference.
  phys::Folio& swap_in(SwapEntry entry) {
    phys::Folio* folio = swap->swapin_readahead(entry, phys::Gfp::kHighUserMovable);
    if (folio == nullptr) throw std::runtime_error("no folio");
    phys::folio_lock(*phys, *folio);
    swap->swap_free(entry);
    EXPECT_TRUE(swap->folio_free_swap(*folio));
    phys::folio_unlock(*phys, *folio);
    lru.lru_add_drain();
    folio->mapping = phys::kMappingAnon;
    return *folio;
  }

  std::int64_t event(phys::VmEvent e) const { return phys->vmstat()[e]; }
  std::int64_t node_stat(phys::NodeStat s) const { return phys->global_node_page_state(s); }
  std::uint64_t free_pages() {
    lru.lru_add_drain_all();
    slab.cache_reap(slab::SlabSystem::ReapMode::kAll);
    phys->drain_all_pages();
    return phys->meminfo().freeram;
  }
  void validate() const {
    swap->validate();
    lru.validate();
    slab.validate();
    phys->validate();
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  sim::FaultInjection faults;
  std::unique_ptr<phys::PhysMem> phys;
  slab::SlabSystem slab;
  slab::XaNodeCache nodes;
  lru::Lru lru;
  sim::Disk disk;
  std::unique_ptr<SwapSystem> swap;

 private:
  std::unique_ptr<phys::PhysMem> boot(const MachineSpec& spec) {
    phys::PhysConfig config;
    config.ram_bytes = spec.ram;
    config.cpus = spec.cpus;
    config.kernel_reserved = 4 * kMiB;
    config.data_mode = spec.data_mode;
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) ADD_FAILURE() << booted.error().message;
    return std::move(*booted);
  }
};

}  // namespace quire::swap
