// Address spaces: an access that hits the TLB, a walk, the faults, the mmap family. Peer of the faults and calls is the host
// kernel, measured in the same run.
#ifdef QUIRE_ABSL
#include <absl/container/btree_map.h>
#endif
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <map>
#include <vector>

#include "vm_bench_machine.h"

namespace {

using namespace quire;  // NOLINT: a benchmark's own file
using bench::Machine;

constexpr std::uint64_t kFaultBytes = 64 * kMiB;

void BM_TlbHit(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  const VirtAddr at = m.map(mm, 16 * kPageSize);
  for (int i = 0; i < 16; ++i) benchmark::DoNotOptimize(m.vm.access(mm, at + i * kPageSize, arch::Access::kWrite));
  std::uint64_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.vm.access(mm, at + (i++ & 15) * kPageSize, arch::Access::kWrite));
  }
  m.vm.mmput(mm);
}
BENCHMARK(BM_TlbHit);

// A TLB miss whose tables are in the host's cache.
void BM_PageWalk(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  constexpr std::uint64_t kPages = 4096;
  const VirtAddr at = m.map(mm, kPages * kPageSize);
  for (std::uint64_t i = 0; i < kPages; ++i)
    benchmark::DoNotOptimize(m.vm.access(mm, at + i * kPageSize, arch::Access::kWrite));
  std::uint64_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.vm.access(mm, at + (i++ & (kPages - 1)) * kPageSize, arch::Access::kWrite));
  }
  m.vm.mmput(mm);
}
BENCHMARK(BM_PageWalk);

void anon_fault(benchmark::State& state, phys::DataMode mode) {
  Machine m(mode);
  vm::Mm& mm = **m.vm.mm_alloc();
  const VirtAddr at = m.map(mm, kFaultBytes);
  const auto touch = [&] {
    for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize) {
      benchmark::DoNotOptimize(m.vm.access(mm, at + done, arch::Access::kWrite));
    }
  };
  const auto give_back = [&] { static_cast<void>(m.vm.madvise(mm, at, kFaultBytes, vm::Advice::kDontNeed)); };
  // Until the host has backed all of the machine's RAM: its own faults are not what is measured.
  for (std::uint64_t touched = 0; touched < 2 * bench::kRam; touched += kFaultBytes) touch(), give_back();
  for (auto _ : state) {
    touch();
    state.PauseTiming();
    give_back();
    state.ResumeTiming();
  }
  const auto faults = static_cast<double>(state.iterations() * (kFaultBytes / kPageSize));
  state.counters["ns_per_fault"] = benchmark::Counter(faults * 1e-9, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  m.vm.mmput(mm);
}
void BM_AnonFaultDataless(benchmark::State& state) { anon_fault(state, phys::DataMode::kDataless); }
BENCHMARK(BM_AnonFaultDataless)->Unit(benchmark::kMillisecond);
void BM_AnonFaultData(benchmark::State& state) { anon_fault(state, phys::DataMode::kData); }
BENCHMARK(BM_AnonFaultData)->Unit(benchmark::kMillisecond);

void BM_AnonFaultHost(benchmark::State& state) {
  auto* at =
      static_cast<volatile char*>(::mmap(nullptr, kFaultBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ::madvise(const_cast<char*>(at), kFaultBytes, MADV_NOHUGEPAGE);
  for (auto _ : state) {
    for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize) at[done] = 1;
    state.PauseTiming();
    ::madvise(const_cast<char*>(at), kFaultBytes, MADV_DONTNEED);
    state.ResumeTiming();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * (kFaultBytes / kPageSize)));
  ::munmap(const_cast<char*>(at), kFaultBytes);
}
BENCHMARK(BM_AnonFaultHost)->Unit(benchmark::kMillisecond);

void BM_MmapMunmap(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  static_cast<void>(
      m.vm.mmap(mm, VirtAddr(0), kPageSize, vm::Prot::kRead, vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0));
  for (auto _ : state) {
    const VirtAddr at = m.map(mm, 16 * kPageSize);
    benchmark::DoNotOptimize(m.vm.munmap(mm, at, 16 * kPageSize));
  }
  m.vm.mmput(mm);
}
BENCHMARK(BM_MmapMunmap);

void BM_MmapMunmapHost(benchmark::State& state) {
  for (auto _ : state) {
    void* at = ::mmap(nullptr, 16 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ::munmap(at, 16 * kPageSize);
  }
}
BENCHMARK(BM_MmapMunmapHost);

// Addresses to look up, drawn beforehand so that only the search is measured.
constexpr std::size_t kProbes = 1 << 16;
std::vector<VirtAddr> probes(std::uint64_t areas) {
  Rng rng(1);
  std::vector<VirtAddr> drawn(kProbes);
  for (VirtAddr& address : drawn) address = VirtAddr(0x10000000 + rng.below(areas) * 2 * kPageSize);
  return drawn;
}

// find_vma among areas, and ordered maps over the same keys.
void BM_FindVma(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  const auto areas = static_cast<std::uint64_t>(state.range(0));
  m.vm.tunables().max_map_count = 1 << 20;
  for (std::uint64_t i = 0; i < areas; ++i) {
    static_cast<void>(m.vm.mmap(mm, VirtAddr(0x10000000 + i * 2 * kPageSize), kPageSize, vm::Prot::kRead,
                                vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous | vm::MapFlags::kFixed, nullptr, 0));
  }
  const std::vector<VirtAddr> drawn = probes(areas);
  std::size_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(mm.mm_vmas.find(drawn[i++ % kProbes]));
  m.vm.mmput(mm);
}
BENCHMARK(BM_FindVma)->Arg(50)->Arg(1000)->Arg(65000);

void BM_FindVmaStdMap(benchmark::State& state) {
  const auto areas = static_cast<std::uint64_t>(state.range(0));
  std::map<std::uint64_t, int> map;
  for (std::uint64_t i = 0; i < areas; ++i) map[0x10000000 + (i * 2 + 1) * kPageSize] = 0;
  const std::vector<VirtAddr> drawn = probes(areas);
  std::size_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(map.upper_bound(drawn[i++ % kProbes].value()));
}
BENCHMARK(BM_FindVmaStdMap)->Arg(50)->Arg(1000)->Arg(65000);

#ifdef QUIRE_ABSL
void BM_FindVmaAbslBtree(benchmark::State& state) {
  const auto areas = static_cast<std::uint64_t>(state.range(0));
  absl::btree_map<std::uint64_t, void*> map;
  for (std::uint64_t i = 0; i < areas; ++i) map[0x10000000 + (i * 2 + 1) * kPageSize] = nullptr;
  const std::vector<VirtAddr> drawn = probes(areas);
  std::size_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(map.upper_bound(drawn[i++ % kProbes].value()));
}
BENCHMARK(BM_FindVmaAbslBtree)->Arg(50)->Arg(1000)->Arg(65000);
#endif

}  // namespace

BENCHMARK_MAIN();
