// The page allocator on its own: the per-CPU pair, the order-9 pair, and booting small and large machines.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire::phys {
namespace {

struct Machine {
  explicit Machine(const PhysConfig& config) : scheduler({.cpus = config.cpus}, sim::CostModel{}, traces) {
    auto booted = PhysMem::boot(config, scheduler, traces);
    if (booted) mem = std::move(*booted);
  }
  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<PhysMem> mem;
};

PhysConfig machine_of(std::uint64_t ram_bytes, DataMode mode) {
  PhysConfig config;
  config.ram_bytes = ram_bytes;
  config.data_mode = mode;
  return config;
}

void page_pair(benchmark::State& state) {
  Machine machine(machine_of(kGiB, DataMode::kDataless));
  const Order order(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    Page* page = machine.mem->alloc_pages(Gfp::kHighUserMovable, order);
    benchmark::DoNotOptimize(page);
    machine.mem->free_pages(*page, order);
  }
}
BENCHMARK(page_pair)->Name("phys/alloc_pages+free_pages/order")->Arg(0)->Arg(3)->Arg(9)->Arg(10);

// A batch at a time, so that lists are refilled and drained.
void page_batch(benchmark::State& state) {
  Machine machine(machine_of(kGiB, DataMode::kDataless));
  std::vector<Page*> pages(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    for (Page*& page : pages) page = machine.mem->alloc_page(Gfp::kHighUserMovable);
    for (Page* page : pages) machine.mem->free_page(*page);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(page_batch)->Name("phys/alloc_page_batch")->Arg(64)->Arg(4096);

void boot(benchmark::State& state, std::uint64_t ram_bytes, DataMode mode) {
  for (auto _ : state) {
    Machine machine(machine_of(ram_bytes, mode));
    benchmark::DoNotOptimize(machine.mem->meminfo());
  }
}
BENCHMARK_CAPTURE(boot, 64MiB, 64 * kMiB, DataMode::kData)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(boot, 4GiB, 4 * kGiB, DataMode::kData)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(boot, dataless_1TiB, kTiB, DataMode::kDataless)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quire::phys
BENCHMARK_MAIN();
