// Replay through the whole machine: what one access costs when the TLB has it, and what 10 million zipf-distributed ones
// come to when a tenth of the pages fit, beside a CLOCK simulator that only counts hits.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "clock_cache.h"
#include "quire/base/rng.h"
#include "quire/engine/replay.h"
#include "quire/kernel/machine.h"
#include "trace_builder.h"

namespace quire::bench {
namespace {

// A trace of one task with one anonymous area of `pages` pages and these accesses.
void build(test::TraceBuilder& trace, std::uint64_t pages, const std::vector<std::uint32_t>& sequence) {
  trace.area(pages);
  for (const std::uint32_t page : sequence) page % 2 == 0 ? trace.write(page) : trace.read(page);
  trace.exit().finish();
}

std::unique_ptr<kernel::Machine> boot(std::uint64_t ram, const std::string& swap) {
  kernel::MachineConfig config;
  config.ram = ram;
  config.kernel_reserved = kMiB;
  if (!swap.empty()) config.swap.push_back(*kernel::parse_swap_spec(swap));
  auto machine = kernel::Machine::boot(config);
  if (!machine) std::abort();
  return std::move(*machine);
}

// Zipf with exponent 1 over `pages`, the ranks scattered over the pages.
std::vector<std::uint32_t> zipf(std::uint32_t pages, std::size_t count) {
  std::vector<double> sums(pages);
  double sum = 0;
  for (std::uint32_t i = 0; i < pages; ++i) sums[i] = sum += 1.0 / (i + 1.0);
  std::vector<std::uint32_t> place(pages);
  for (std::uint32_t i = 0; i < pages; ++i) place[i] = i;
  Rng rng(1);
  for (std::uint32_t i = pages - 1; i > 0; --i) std::swap(place[i], place[rng.below(i + 1)]);
  std::vector<std::uint32_t> sequence(count);
  for (auto& page : sequence) {
    const double x = static_cast<double>(rng() >> 11) * 0x1p-53 * sum;
    page = place[static_cast<std::size_t>(std::ranges::upper_bound(sums, x) - sums.begin())];
  }
  return sequence;
}

void replay_tlb_hit(benchmark::State& state) {
  constexpr std::size_t kCount = 20'000'000;
  std::vector<std::uint32_t> sequence(kCount);
  Rng rng(7);
  for (auto& page : sequence) page = static_cast<std::uint32_t>(rng.below(48));
  test::TraceBuilder trace;
  build(trace, 48, sequence);
  for (auto _ : state) {
    state.PauseTiming();
    auto machine = boot(64 * kMiB, "");
    engine::Replay replay(*machine);
    if (!replay.add(trace.open())) std::abort();
    state.ResumeTiming();
    if (!replay.run()) std::abort();
  }
  state.counters["ns_per_access"] = benchmark::Counter(static_cast<double>(state.iterations()) * kCount * 1e-9,
                                                       benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(replay_tlb_hit)->Unit(benchmark::kMillisecond);

constexpr std::uint32_t kZipfPages = 1'000'000;
constexpr std::size_t kZipfAccesses = 10'000'000;
constexpr std::size_t kZipfResident = 100'000;

const std::vector<std::uint32_t>& zipf_sequence() {
  static const std::vector<std::uint32_t> sequence = zipf(kZipfPages, kZipfAccesses);
  return sequence;
}

void zipf_machine(benchmark::State& state) {
  test::TraceBuilder trace;
  build(trace, kZipfPages, zipf_sequence());
  double major = 0;
  for (auto _ : state) {
    state.PauseTiming();
    // Page tables of a million pages take 8 MiB, the memmap 6.4, the swap map 1: the rest is for kZipfResident pages.
    auto machine = boot(kZipfResident * kPageSize + 20 * kMiB, "disk:8G");
    engine::Replay replay(*machine);
    if (!replay.add(trace.open())) std::abort();
    state.ResumeTiming();
    if (!replay.run()) std::abort();
    major = static_cast<double>(machine->phys().vmstat()[phys::VmEvent::kPgmajfault]);
  }
  state.counters["accesses"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kZipfAccesses, benchmark::Counter::kIsRate);
  state.counters["majflt"] = major;
}
BENCHMARK(zipf_machine)->Unit(benchmark::kMillisecond);

void zipf_machine_peer_clock(benchmark::State& state) {
  const std::vector<std::uint32_t>& sequence = zipf_sequence();
  double misses = 0;
  for (auto _ : state) {
    ClockCache cache(kZipfResident);
    misses = 0;
    for (const std::uint32_t page : sequence) misses += cache.access(page) ? 0 : 1;
  }
  state.counters["accesses"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * kZipfAccesses, benchmark::Counter::kIsRate);
  state.counters["misses"] = misses;
}
BENCHMARK(zipf_machine_peer_clock)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quire::bench

BENCHMARK_MAIN();
