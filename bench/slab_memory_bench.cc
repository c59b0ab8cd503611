// What memory the allocators of slab_peers.h take, each in a process of its own that was forked for it.
//
//   slab/memory/object …   200,000 objects of one size: bytes held for each, beyond the bytes asked for
//   slab/memory/year …     a year of use, then: internal (asked for against given) and external (given against held) waste in
//                          percent, before and after the allocator was asked to give back what is free
//
// A year is 365 days of 8,000 operations: days of growth, of shrinking and of much coming and going; most objects die young,
// some live on, and what is asked for changes with the season, so that old objects hold slabs of sizes that are no longer wanted.
#include <benchmark/benchmark.h>
#include <sys/wait.h>

#include <array>
#include <bit>
#include <vector>

#include "quire/base/rng.h"
#include "slab_peers.h"

namespace quire::bench {
namespace {

struct Held {
  std::uint64_t asked = 0;
  std::uint64_t given = 0;
  std::uint64_t held = 0;
  std::uint64_t held_after_giving_back = 0;
};

// Runs `measure` in a child and hands its result back.
template <class Measure>
Held in_child(Measure&& measure) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("no fork");
  if (child == 0) {
    const Held held = measure();
    const bool told = ::write(ends[1], &held, sizeof(held)) == sizeof(held);
    ::_exit(told ? 0 : 1);
  }
  ::close(ends[1]);
  Held held;
  const bool got = ::read(ends[0], &held, sizeof(held)) == sizeof(held);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!got || status != 0) throw std::runtime_error("the child that measured did not end well");
  return held;
}

// Objects alive, in room that is touched before anything is measured.
struct Object {
  void* p = nullptr;
  std::size_t size = 0;
};

template <class Allocator>
Held weigh(Allocator& a, const std::vector<Object>& alive) {
  Held held;
  for (const Object& o : alive) {
    held.asked += o.size;
    held.given += a.usable(o.p);
  }
  held.held = a.resident();
  a.give_back();
  held.held_after_giving_back = a.resident();
  return held;
}

template <class Allocator>
Object take(Allocator& a, std::size_t size) {
  auto* p = static_cast<char*>(a.alloc(size));
  if (p == nullptr) throw std::runtime_error("no memory");
  for (std::size_t i = 0; i < size; i += 64) p[i] = 1;  // a page that is not touched is not resident with the peers
  return {.p = p, .size = size};
}

template <class Allocator>
void memory_per_object(benchmark::State& state) {
  constexpr std::size_t kObjects = 200'000;
  const auto size = static_cast<std::size_t>(state.range(0));
  Held held;
  for (auto _ : state) {
    held = in_child([&] {
      std::vector<Object> alive(kObjects, Object{.p = &alive, .size = 1});
      Allocator a(size);
      for (Object& o : alive) o = take(a, size);
      return weigh(a, alive);
    });
  }
  state.counters["overhead_bytes"] = static_cast<double>(held.held) / kObjects - static_cast<double>(size);
}

// Sizes of a season: many small ones, with a favourite; now and then a large one.
std::size_t draw_size(Rng& rng, std::uint64_t day) {
  const std::size_t favourite = std::size_t{24} + day / 30 * 40;
  if (rng.chance(1, 3)) return favourite;
  if (rng.chance(1, 200)) return 8192 + rng.below(56 * 1024);
  return 1 + rng.below(std::size_t{1} << (4 + rng.below(9)));
}

template <class Allocator>
Held live_a_year(Allocator& a, std::vector<Object>& alive) {
  constexpr std::uint64_t kDays = 365;
  constexpr std::uint64_t kOperations = 8000;
  Rng rng(20240101);
  for (std::uint64_t day = 0; day < kDays; ++day) {
    // Growth in percent: two weeks up, one level, one down.
    static constexpr std::array<std::uint64_t, 4> kGrowth = {58, 54, 50, 39};
    const std::uint64_t growth = kGrowth[day / 7 % kGrowth.size()];
    for (std::uint64_t i = 0; i < kOperations; ++i) {
      if (alive.empty() || (alive.size() < alive.capacity() && rng.below(100) < growth)) {
        alive.push_back(take(a, draw_size(rng, day)));
        continue;
      }
      // The young die first: nine of ten from the last thousand, the others anywhere.
      const std::size_t young = std::min<std::size_t>(alive.size(), 1000);
      const std::size_t victim = rng.chance(9, 10) ? alive.size() - 1 - rng.below(young) : rng.below(alive.size());
      a.free(alive[victim].p);
      alive[victim] = alive.back();
      alive.pop_back();
    }
  }
  return weigh(a, alive);
}

template <class Allocator>
void year(benchmark::State& state) {
  Held held;
  for (auto _ : state) {
    held = in_child([] {
      std::vector<Object> alive(500'000, Object{.size = 1});
      alive.clear();
      Allocator a(64);
      return live_a_year(a, alive);
    });
  }
  const auto percent = [](std::uint64_t part, std::uint64_t whole) {
    return 100.0 * (static_cast<double>(whole) - static_cast<double>(part)) / static_cast<double>(whole);
  };
  state.counters["live_MiB"] = static_cast<double>(held.asked) / static_cast<double>(kMiB);
  state.counters["held_MiB"] = static_cast<double>(held.held) / static_cast<double>(kMiB);
  state.counters["internal_%"] = percent(held.asked, held.given);
  state.counters["external_%"] = percent(held.given, held.held);
  state.counters["external_after_giving_back_%"] = percent(held.given, held.held_after_giving_back);
}

template <class Allocator>
void add(const std::string& name) {
  auto* object = benchmark::RegisterBenchmark(("slab/memory/object/" + name).c_str(), memory_per_object<Allocator>);
  for (const int size : {8, 24, 64, 100, 192, 256, 600, 1024, 4096}) object->Arg(size);
  object->Iterations(1)->Unit(benchmark::kMillisecond);
}
template <class Allocator>
void add_year(const std::string& name) {
  benchmark::RegisterBenchmark(("slab/memory/year/" + name).c_str(), year<Allocator>)
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
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
  add_year<Kmalloc<slab::SlabLayoutKind::kSlab>>("kmalloc");
  add_year<Kmalloc<slab::SlabLayoutKind::kSlub>>("kmalloc_slub");
  add_year<Glibc>("glibc");
  add_year<Jemalloc>("jemalloc");
  add_year<Mimalloc>("mimalloc");
  add_year<Tcmalloc>("tcmalloc");
  return true;
}();

}  // namespace
}  // namespace quire::bench
