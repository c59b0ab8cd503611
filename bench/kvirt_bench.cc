// The kernel's address space: vmalloc beside the host's own mmap and munmap of as many touched pages, and kmap pairs.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>

#include "quire/kvirt/kernel_space.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"

namespace {

using namespace quire;

struct Machine {
  explicit Machine(phys::Arch arch = phys::Arch::kX86_64) : scheduler({.cpus = 1, .seed = 0}, {}, traces) {
    phys::PhysConfig config;
    config.ram_bytes = kGiB;
    config.arch = arch;
    phys = std::move(*phys::PhysMem::boot(config, scheduler, traces));
    slab = std::make_unique<slab::SlabSystem>(*phys, scheduler);
    space = std::move(*kvirt::KernelSpace::create(*phys, *slab));
  }
  ~Machine() {
    space.reset();
    slab.reset();
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<phys::PhysMem> phys;
  std::unique_ptr<slab::SlabSystem> slab;
  std::unique_ptr<kvirt::KernelSpace> space;
};

void touch(void* p, std::uint64_t pages) {
  for (std::uint64_t i = 0; i < pages; ++i) static_cast<volatile char*>(p)[pages_to_bytes(i)] = 1;
}

void vmalloc_pair(benchmark::State& state) {
  Machine m;
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    void* p = m.space->vmalloc().vmalloc(pages_to_bytes(pages));
    touch(p, pages);
    m.space->vmalloc().vfree(p);
  }
  const auto mappings = static_cast<double>(m.space->vmalloc().window().mappings());
  state.counters["host_mappings"] = benchmark::Counter(mappings / static_cast<double>(state.iterations()));
}
BENCHMARK(vmalloc_pair)->Arg(1)->Arg(16)->Arg(512);

void host_mmap_pair(benchmark::State& state) {
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    void* p = ::mmap(nullptr, pages_to_bytes(pages), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    touch(p, pages);
    ::munmap(p, pages_to_bytes(pages));
  }
}
BENCHMARK(host_mmap_pair)->Arg(1)->Arg(16)->Arg(512);

void kmap_pair(benchmark::State& state) {
  Machine m(static_cast<phys::Arch>(state.range(0)));
  phys::Page* page = m.phys->alloc_page(phys::Gfp::kHighUser);
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.space->kmap().kmap(*page));
    m.space->kmap().kunmap(*page);
  }
}
void kmap_local_pair(benchmark::State& state) {
  Machine m(static_cast<phys::Arch>(state.range(0)));
  phys::Page* page = m.phys->alloc_page(phys::Gfp::kHighUser);
  for (auto _ : state) {
    const kvirt::KmapAddress at = m.space->kmap().kmap_local_page(*page);
    benchmark::DoNotOptimize(at.native);
    m.space->kmap().kunmap_local(at);
  }
}
// 0: x86-64, 1: i386 with HighMem.
BENCHMARK(kmap_pair)->Arg(0)->Arg(1);
BENCHMARK(kmap_local_pair)->Arg(0)->Arg(1);

}  // namespace
