// Alloc and free of kmem_cache and kmalloc, beside the allocators of slab_peers.h in the same run.
//
//   slab/pair …         an object and back, while a hundred others live
//   slab/batch64 …      64 objects, then all of them back
//   slab/bulk_alloc …   a million objects
//   slab/bulk_free …    the million back, in an order that has nothing to do with their places
//   slab/shrink …       what giving 10,000 slabs back costs, a slab: `shrinker` frees their objects too, `reap` finds them empty
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "quire/base/rng.h"
#include "slab_peers.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;
using phys::Gfp;

// Others of its size are alive meanwhile, as they are in a program: an empty slab (page, run, span) is no ordinary case.
template <class Allocator>
void pair(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  Allocator a(size);
  std::array<void*, 100> others;
  for (void*& p : others) p = a.alloc(size);
  for (auto _ : state) {
    void* p = a.alloc(size);
    benchmark::DoNotOptimize(p);
    benchmark::ClobberMemory();
    a.free(p);
  }
  for (void* p : others) a.free(p);
}

template <class Allocator>
void batch64(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  Allocator a(size);
  std::array<void*, 64> objects;
  for (auto _ : state) {
    for (void*& p : objects) p = a.alloc(size);
    benchmark::ClobberMemory();
    for (void* p : objects) a.free(p);
  }
  state.SetItemsProcessed(state.iterations() * 64);
}

constexpr std::size_t kBulk = 1'000'000;

enum class Timed { kAlloc, kFree };

// One round goes before, unmeasured, so that everybody has had the memory from its host once.
template <class Allocator, Timed kTimed>
void bulk(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  Allocator a(size);
  std::vector<void*> objects(kBulk);
  Rng rng(1);
  const auto round = [&] {
    const auto start = Clock::now();
    for (void*& p : objects) p = a.alloc(size);
    const auto allocated = Clock::now();
    for (std::size_t i = objects.size(); i > 1; --i) std::swap(objects[i - 1], objects[rng.below(i)]);
    const auto shuffled = Clock::now();
    for (void* p : objects) a.free(p);
    const auto freed = Clock::now();
    return std::chrono::duration<double>(kTimed == Timed::kAlloc ? allocated - start : freed - shuffled).count();
  };
  round();
  for (auto _ : state) state.SetIterationTime(round());
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kBulk));
}

// --- giving slabs back ------------------------------------------------------------------------------------------------

constexpr std::uint64_t kSlabs = 10'000;

// A cache's users as a shrinker: the oldest object goes first.
class Objects final : public slab::Shrinker {
 public:
  explicit Objects(slab::KmemCacheBase& cache) : cache_(cache) {}
  void fill(std::uint64_t n) {
    objects_.resize(n);
    for (void*& p : objects_) p = cache_.alloc(Gfp::kKernel);
    next_ = 0;
  }
  [[nodiscard]] std::string_view name() const override { return "bench"; }
  std::uint64_t count_objects(const slab::ShrinkControl&) override { return objects_.size() - next_; }
  std::uint64_t scan_objects(slab::ShrinkControl& control) override {
    const std::uint64_t n = std::min<std::uint64_t>(control.nr_to_scan, objects_.size() - next_);
    for (std::uint64_t i = 0; i < n; ++i) cache_.free(objects_[next_++]);
    return n;
  }

 private:
  slab::KmemCacheBase& cache_;
  std::vector<void*> objects_;
  std::size_t next_ = 0;
};

void report_slabs(benchmark::State& state, double seconds, std::uint64_t slabs) {
  state.SetIterationTime(seconds);
  state.counters["ns_per_slab"] = seconds * 1e9 / static_cast<double>(slabs);
  state.counters["slabs"] = static_cast<double>(slabs);
}

void shrink_by_shrinker(benchmark::State& state) {
  SlabMachine machine;
  slab::KmemCacheBase& cache = *machine.slab->kmem_cache_create("bench", 256, 0, slab::SlabFlags::kReclaimAccount).value();
  Objects objects(cache);
  machine.slab->shrinkers().register_shrinker(objects);
  for (auto _ : state) {
    objects.fill(kSlabs * cache.geometry().num);
    const std::uint64_t before = cache.total_slabs();
    const auto start = Clock::now();
    while (machine.slab->shrinkers().shrink_slab(Gfp::kKernel, Nid(0), 0).freed != 0) {}
    machine.slab->kmem_cache_shrink(cache);
    const std::chrono::duration<double> took = Clock::now() - start;
    report_slabs(state, took.count(), before - cache.total_slabs());
  }
  machine.slab->shrinkers().unregister_shrinker(objects);
}

// A node keeps few empty slabs of one cache, so they lie in many caches, as they do on a machine.
void shrink_by_reap(benchmark::State& state) {
  SlabMachine machine;
  std::vector<slab::KmemCacheBase*> caches;
  std::vector<void*> objects;
  const auto make_empty_slabs = [&](slab::KmemCacheBase& cache) {
    for (void*& p : objects) p = cache.alloc(Gfp::kKernel);
    for (void* p : objects) cache.free(p);
  };
  for (auto _ : state) {
    std::uint64_t slabs = 0;
    for (std::size_t i = 0; slabs < kSlabs; ++i) {
      if (i == caches.size()) {
        const auto made =
            machine.slab->kmem_cache_create("bench-" + std::to_string(i), 1024, 0, slab::SlabFlags::kReclaimAccount);
        caches.push_back(made.value());
        objects.resize(std::size_t{32} * caches.back()->geometry().num);
      }
      make_empty_slabs(*caches[i]);
      slabs += caches[i]->total_slabs();
    }
    const auto start = Clock::now();
    machine.slab->cache_reap(slab::SlabSystem::ReapMode::kAll);
    const std::chrono::duration<double> took = Clock::now() - start;
    for (const slab::KmemCacheBase* cache : caches) slabs -= cache->total_slabs();
    report_slabs(state, took.count(), slabs);
  }
}

// --- which allocators -------------------------------------------------------------------------------------------------

template <class Allocator>
void add(const std::string& name) {
  const auto with_sizes = [](auto* b) { b->Arg(64)->Arg(192)->Arg(256); };
  with_sizes(benchmark::RegisterBenchmark(("slab/pair/" + name).c_str(), pair<Allocator>));
  with_sizes(benchmark::RegisterBenchmark(("slab/batch64/" + name).c_str(), batch64<Allocator>));
  with_sizes(benchmark::RegisterBenchmark(("slab/bulk_alloc/" + name).c_str(), bulk<Allocator, Timed::kAlloc>)
                 ->Unit(benchmark::kMillisecond)
                 ->UseManualTime());
  with_sizes(benchmark::RegisterBenchmark(("slab/bulk_free/" + name).c_str(), bulk<Allocator, Timed::kFree>)
                 ->Unit(benchmark::kMillisecond)
                 ->UseManualTime());
}

const bool added = [] {
  add<KmemCacheOf<slab::SlabLayoutKind::kSlab>>("kmem_cache");
  add<KmemCacheOf<slab::SlabLayoutKind::kSlub>>("kmem_cache_slub");
  add<Kmalloc<slab::SlabLayoutKind::kSlab>>("kmalloc");
  add<Kmalloc<slab::SlabLayoutKind::kSlub>>("kmalloc_slub");
  add<Glibc>("glibc");
  add<Jemalloc>("jemalloc");
  add<Mimalloc>("mimalloc");
  add<Tcmalloc>("tcmalloc");
  benchmark::RegisterBenchmark("slab/shrink/shrinker", shrink_by_shrinker)->UseManualTime()->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("slab/shrink/reap", shrink_by_reap)->UseManualTime()->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace quire::bench
