// Slab alloc and free, beside glibc's malloc on the same sizes.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"

namespace {

using quire::phys::Gfp;

struct Machine {
  Machine() : scheduler({}, {}, traces) {
    quire::phys::PhysConfig config;
    config.ram_bytes = 1 * quire::kGiB;
    phys = std::move(*quire::phys::PhysMem::boot(config, scheduler, traces));
    slab = std::make_unique<quire::slab::SlabSystem>(*phys, scheduler);
  }
  quire::TraceRegistry traces;
  quire::sim::Scheduler scheduler;
  std::unique_ptr<quire::phys::PhysMem> phys;
  std::unique_ptr<quire::slab::SlabSystem> slab;
};

struct Kmem {
  explicit Kmem(std::size_t size)
      : cache(machine.slab->kmem_cache_create("bench", size, 0, quire::slab::SlabFlags::kHwCacheAlign).value()) {}
  void* alloc() { return cache->alloc(Gfp::kKernel); }
  void free(void* p) { cache->free(p); }
  Machine machine;
  quire::slab::KmemCacheBase* cache;
};

struct Kmalloc {
  explicit Kmalloc(std::size_t n) : size(n) {}
  void* alloc() { return machine.slab->kmalloc(size, Gfp::kKernel); }
  void free(void* p) { machine.slab->kfree(p); }
  Machine machine;
  std::size_t size;
};

struct Glibc {
  explicit Glibc(std::size_t n) : size(n) {}
  void* alloc() { return std::malloc(size); }
  void free(void* p) { std::free(p); }
  std::size_t size;
};

template <class Allocator>
void pair(benchmark::State& state) {
  Allocator a(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    void* p = a.alloc();
    benchmark::DoNotOptimize(p);
    benchmark::ClobberMemory();
    a.free(p);
  }
}

template <class Allocator>
void batch64(benchmark::State& state) {
  Allocator a(static_cast<std::size_t>(state.range(0)));
  std::array<void*, 64> objects;
  for (auto _ : state) {
    for (void*& p : objects) p = a.alloc();
    benchmark::ClobberMemory();
    for (void* p : objects) a.free(p);
  }
  state.SetItemsProcessed(state.iterations() * 64);
}

// A million objects, freed in an order that has nothing to do with their places.
template <class Allocator>
void bulk(benchmark::State& state) {
  Allocator a(static_cast<std::size_t>(state.range(0)));
  std::vector<void*> objects(1'000'000);
  quire::Rng rng(1);
  for (auto _ : state) {
    for (void*& p : objects) p = a.alloc();
    state.PauseTiming();
    for (std::size_t i = objects.size(); i > 1; --i) std::swap(objects[i - 1], objects[rng.below(i)]);
    state.ResumeTiming();
    for (void* p : objects) a.free(p);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(objects.size()));
}

#define SIZES Arg(64)->Arg(192)->Arg(256)
BENCHMARK(pair<Kmem>)->Name("slab/pair/kmem_cache")->SIZES;
BENCHMARK(pair<Kmalloc>)->Name("slab/pair/kmalloc")->SIZES;
BENCHMARK(pair<Glibc>)->Name("slab/pair/glibc")->SIZES;
BENCHMARK(batch64<Kmem>)->Name("slab/batch64/kmem_cache")->SIZES;
BENCHMARK(batch64<Kmalloc>)->Name("slab/batch64/kmalloc")->SIZES;
BENCHMARK(batch64<Glibc>)->Name("slab/batch64/glibc")->SIZES;
BENCHMARK(bulk<Kmem>)->Name("slab/bulk1M/kmem_cache")->SIZES->Unit(benchmark::kMillisecond);
BENCHMARK(bulk<Glibc>)->Name("slab/bulk1M/glibc")->SIZES->Unit(benchmark::kMillisecond);

}  // namespace
