// The page allocator at work, beside two peers of the same run: a plain list of free pages, and jemalloc giving out blocks of the
// same sizes. Built with jemalloc as the program's malloc; without it that peer is missing.
//
//   page/pair …         a page and back
//   page/random …       32,768 pages, given back in random order
//   page/mix …          blocks of 2^0 … 2^10 pages, half of them single, up to 90 % of the memory, then down to half of it
//   page/fragmented …   every other page of a full machine is free: how many of 64 requests of order 9 are served, with and
//                       without compaction
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "quire/base/rng.h"
#include "quire/kernel/machine.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire {
namespace {

constexpr std::uint64_t kRam = 512 * kMiB;
constexpr std::uint64_t kBatch = 32'768;

class Buddy {
 public:
  using Block = phys::Page*;
  Buddy() : scheduler_({}, sim::CostModel{}, traces_) {
    phys::PhysConfig config;
    config.ram_bytes = kRam;
    config.data_mode = phys::DataMode::kDataless;
    auto booted = phys::PhysMem::boot(config, scheduler_, traces_);
    if (!booted) throw std::runtime_error(booted.error().message);
    mem_ = std::move(*booted);
  }
  Block alloc(Order order) { return mem_->alloc_pages(phys::Gfp::kHighUserMovable, order); }
  void free(Block block, Order order) { mem_->free_pages(*block, order); }

 private:
  TraceRegistry traces_;
  sim::Scheduler scheduler_;
  std::unique_ptr<phys::PhysMem> mem_;
};

// Single pages only, linked through their first word: the least that any allocator of pages does.
class FreeList {
 public:
  using Block = void*;
  FreeList() : memory_(static_cast<std::byte*>(std::aligned_alloc(kPageSize, kBatch * 2 * kPageSize))) {
    for (std::uint64_t i = 0; i < kBatch * 2; ++i) free(memory_.get() + i * kPageSize, Order(0));
  }
  Block alloc(Order) {
    void* page = head_;
    head_ = *static_cast<void**>(page);
    return page;
  }
  void free(Block page, Order) {
    *static_cast<void**>(page) = head_;
    head_ = page;
  }

 private:
  struct Release {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Release> memory_;
  void* head_ = nullptr;
};

#ifdef QUIRE_JEMALLOC
class Jemalloc {
 public:
  using Block = void*;
  static Block alloc(Order order) { return std::malloc(order.bytes()); }
  static void free(Block block, Order) { std::free(block); }
};
#endif

template <class Allocator>
void pair(benchmark::State& state) {
  Allocator allocator;
  const Order order(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    auto block = allocator.alloc(order);
    benchmark::DoNotOptimize(block);
    allocator.free(block, order);
  }
}

template <class Allocator>
void random_order(benchmark::State& state) {
  Allocator allocator;
  std::vector<typename Allocator::Block> pages(kBatch);
  std::vector<std::uint32_t> turn(kBatch);
  std::iota(turn.begin(), turn.end(), 0u);
  Rng rng(1);
  for (std::uint64_t i = kBatch; i > 1; --i) std::swap(turn[i - 1], turn[rng.below(i)]);
  for (auto _ : state) {
    for (auto& page : pages) page = allocator.alloc(Order(0));
    for (const std::uint32_t i : turn) allocator.free(pages[i], Order(0));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kBatch));
}

template <class Allocator>
void mix(benchmark::State& state) {
  struct Held {
    typename Allocator::Block block;
    Order order;
  };
  Allocator allocator;
  std::vector<Held> held;
  held.reserve(kBatch * 8);
  Rng rng(2);
  const std::uint64_t full = kRam / kPageSize * 9 / 10;
  const std::uint64_t half = kRam / kPageSize / 2;
  std::uint64_t pages = 0;
  std::int64_t blocks = 0;
  std::int64_t refused = 0;
  for (auto _ : state) {
    while (pages < full) {
      const Order order(rng.chance(1, 2) ? 0 : static_cast<unsigned>(rng.below(11)));
      auto block = allocator.alloc(order);
      ++blocks;
      if (block == nullptr) {  // no block of that order is left: fill up with what there is
        ++refused;
        if (order.value() == 0) break;
        continue;
      }
      held.push_back({block, order});
      pages += order.pages();
    }
    while (pages > half) {
      const std::size_t i = rng.below(held.size());
      allocator.free(held[i].block, held[i].order);
      pages -= held[i].order.pages();
      held[i] = held.back();
      held.pop_back();
    }
  }
  state.SetItemsProcessed(blocks);
  state.counters["refused_percent"] =
      100.0 * static_cast<double>(refused) / static_cast<double>(std::max<std::int64_t>(blocks, 1));
  for (const Held& h : held) allocator.free(h.block, h.order);
}

// A machine whose one process holds every other page; then 64 requests for huge pages, whose time is what is measured.
void fragmented(benchmark::State& state) {
  constexpr std::uint64_t kPages = 57'000;
  constexpr int kRequests = 64;
  const bool compaction = state.range(0) != 0;
  int served = 0;
  std::int64_t moved = 0;
  for (auto _ : state) {
    kernel::MachineConfig config;
    config.ram = 256 * kMiB;
    auto machine = kernel::Machine::boot(config);
    if (!machine) throw std::runtime_error(machine.error().sentence);
    kernel::Machine& m = **machine;
    if (!compaction) m.reclaim().set_compaction(nullptr);
    served = 0;
    const auto made = m.processes().create("holder", [&](kernel::Thread& thread) {
      vm::Mm& mm = *thread.process->mm;
      const VirtAddr base = m.vm()
                                .mmap(mm, VirtAddr(0), kPages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                      vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0)
                                .value();
      for (std::uint64_t i = 0; i < kPages; ++i) {
        static_cast<void>(m.vm().access(mm, base + i * kPageSize, arch::Access::kWrite));
      }
      for (std::uint64_t i = 0; i < kPages; i += 2) {
        static_cast<void>(m.vm().madvise(mm, base + i * kPageSize, kPageSize, vm::Advice::kDontNeed));
      }
      std::vector<phys::Page*> blocks;
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < kRequests; ++i) {
        phys::Page* block = m.phys().alloc_pages(phys::Gfp::kHighUserMovable | phys::Gfp::kNoRetry, Order(9));
        if (block != nullptr) blocks.push_back(block);
      }
      state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      served = static_cast<int>(blocks.size());
      for (phys::Page* block : blocks) m.phys().free_pages(*block, Order(9));
      m.processes().exit_thread(thread, {});
    });
    if (!made || !m.run().done()) throw std::runtime_error("the holder of the pages did not come to its end");
    moved = m.phys().vmstat()[phys::VmEvent::kPgmigrateSuccess];
  }
  state.counters["served_percent"] = 100.0 * served / kRequests;
  state.counters["pages_moved"] = static_cast<double>(moved);
}

BENCHMARK(pair<Buddy>)->Name("page/pair/quire")->Arg(0)->Arg(9);
BENCHMARK(pair<FreeList>)->Name("page/pair/free_list")->Arg(0);
BENCHMARK(random_order<Buddy>)->Name("page/random/quire")->Unit(benchmark::kMillisecond);
BENCHMARK(random_order<FreeList>)->Name("page/random/free_list")->Unit(benchmark::kMillisecond);
BENCHMARK(mix<Buddy>)->Name("page/mix/quire")->Unit(benchmark::kMillisecond);
#ifdef QUIRE_JEMALLOC
BENCHMARK(pair<Jemalloc>)->Name("page/pair/jemalloc")->Arg(0)->Arg(9);
BENCHMARK(random_order<Jemalloc>)->Name("page/random/jemalloc")->Unit(benchmark::kMillisecond);
BENCHMARK(mix<Jemalloc>)->Name("page/mix/jemalloc")->Unit(benchmark::kMillisecond);
#endif
BENCHMARK(fragmented)
    ->Name("page/fragmented/compaction")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1)
    ->UseManualTime();

}  // namespace
}  // namespace quire
