// The containers of base against what a program would use instead.
//
//   xarray_load_dense   ≤ 10 ns (page-cache lookup); peers: std::unordered_map, std::map
//   rbtree, interval tree: peers std::set and a linear search
#include <benchmark/benchmark.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "quire/base/bitmap.h"
#include "quire/base/interval_tree.h"
#include "quire/base/rbtree.h"
#include "quire/base/rng.h"
#include "quire/base/xarray.h"

namespace {

using namespace quire;

constexpr std::size_t kPicks = 1 << 14;

// Node memory from a free list, as a slab cache gives it.
class NodePool final : public XaNodeSource {
 public:
  void* allocate_node() override {
    if (free_.empty()) {
      blocks_.push_back(std::make_unique<std::byte[]>(kXaNodeSize * 64));
      for (std::size_t i = 0; i < 64; ++i) free_.push_back(blocks_.back().get() + i * kXaNodeSize);
    }
    void* node = free_.back();
    free_.pop_back();
    return node;
  }
  void free_node(void* node) override { free_.push_back(node); }

 private:
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::vector<void*> free_;
};

std::vector<std::uint64_t> random_below(std::uint64_t n, std::size_t count = kPicks) {
  Rng rng(7);
  std::vector<std::uint64_t> out(count);
  for (std::uint64_t& x : out) x = rng.below(n);
  return out;
}

void xarray_load_dense(benchmark::State& state) {
  const auto n = static_cast<std::uint64_t>(state.range(0));
  NodePool pool;
  XArray array(pool);
  for (std::uint64_t i = 0; i < n; ++i) (void)array.store(i, XaValue(i));
  const auto indices = random_below(n);
  std::size_t i = 0;
  std::uint64_t sum = 0;
  for (auto _ : state) sum += array.load(indices[i++ % kPicks]).value().value();
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(xarray_load_dense)->Arg(1'000)->Arg(10'000)->Arg(100'000)->Arg(1'000'000);

template <class Map>
void peer_load_dense(benchmark::State& state) {
  const auto n = static_cast<std::uint64_t>(state.range(0));
  Map map;
  for (std::uint64_t i = 0; i < n; ++i) map[i] = i;
  const auto indices = random_below(n);
  std::size_t i = 0;
  std::uint64_t sum = 0;
  for (auto _ : state) sum += map.find(indices[i++ % kPicks])->second;
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(peer_load_dense<std::unordered_map<std::uint64_t, std::uint64_t>>)->Name("peer_unordered_map_load")->Arg(100'000);
BENCHMARK(peer_load_dense<std::map<std::uint64_t, std::uint64_t>>)->Name("peer_std_map_load")->Arg(100'000);

void xarray_store_erase(benchmark::State& state) {
  NodePool pool;
  XArray array(pool);
  for (std::uint64_t i = 0; i < 100'000; ++i) (void)array.store(i, XaValue(i));
  const auto indices = random_below(100'000);
  std::size_t i = 0;
  for (auto _ : state) {
    const std::uint64_t index = indices[i++ % kPicks];
    array.erase(index);
    (void)array.store(index, XaValue(index));
  }
}
BENCHMARK(xarray_store_erase);

void xarray_iterate(benchmark::State& state) {
  NodePool pool;
  XArray array(pool);
  for (std::uint64_t i = 0; i < 100'000; ++i) (void)array.store(i, XaValue(i));
  std::uint64_t sum = 0;
  for (auto _ : state) array.for_each([&](std::uint64_t, XaEntry entry) { sum += entry.value().value(); });
  benchmark::DoNotOptimize(sum);
  state.SetItemsProcessed(state.iterations() * 100'000);
}
BENCHMARK(xarray_iterate);

struct Item {
  std::uint64_t key = 0;
  RbNode rb;
};
struct ByKey {
  bool operator()(const Item& a, const Item& b) const { return a.key < b.key; }
};

void rbtree_find(benchmark::State& state) {
  const auto n = static_cast<std::uint64_t>(state.range(0));
  std::deque<Item> items(n);
  RbTree<Item, &Item::rb, ByKey> tree;
  for (std::uint64_t i = 0; i < n; ++i) {
    items[i].key = i * 10;
    tree.insert(items[i]);
  }
  const auto keys = random_below(n * 10 - 10);
  std::size_t i = 0;
  std::uint64_t sum = 0;
  for (auto _ : state) {
    const std::uint64_t key = keys[i++ % kPicks];
    sum += tree.partition_point([key](const Item& item) { return item.key < key; })->key;
  }
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(rbtree_find)->Arg(50)->Arg(1'000)->Arg(65'000);

void peer_std_set_find(benchmark::State& state) {
  const auto n = static_cast<std::uint64_t>(state.range(0));
  std::set<std::uint64_t> set;
  for (std::uint64_t i = 0; i < n; ++i) set.insert(i * 10);
  const auto keys = random_below(n * 10 - 10);
  std::size_t i = 0;
  std::uint64_t sum = 0;
  for (auto _ : state) sum += *set.lower_bound(keys[i++ % kPicks]);
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(peer_std_set_find)->Arg(50)->Arg(1'000)->Arg(65'000);

void rbtree_erase_insert(benchmark::State& state) {
  constexpr std::uint64_t kItems = 1'000;
  std::vector<Item> items(kItems);
  RbTree<Item, &Item::rb, ByKey> tree;
  for (std::uint64_t i = 0; i < kItems; ++i) {
    items[i].key = (i * 7919) % kItems;
    tree.insert(items[i]);
  }
  const auto picks = random_below(kItems);
  std::size_t i = 0;
  for (auto _ : state) {
    Item& item = items[picks[i++ % kPicks]];
    tree.erase(item);
    tree.insert(item);
  }
}
BENCHMARK(rbtree_erase_insert);

void interval_tree_stab(benchmark::State& state) {
  const auto n = static_cast<std::uint64_t>(state.range(0));
  std::vector<IntervalNode> nodes(n);
  IntervalTree tree;
  for (std::uint64_t i = 0; i < n; ++i) tree.insert(nodes[i], i * 10, i * 10 + 14);
  const auto points = random_below(n * 10);
  std::size_t i = 0;
  std::uint64_t found = 0;
  for (auto _ : state) {
    const std::uint64_t point = points[i++ % kPicks];
    tree.for_each(point, point, [&](const IntervalNode&) { ++found; });
  }
  benchmark::DoNotOptimize(found);
}
BENCHMARK(interval_tree_stab)->Arg(2)->Arg(100)->Arg(10'000);

void bitmap_find_next(benchmark::State& state) {
  std::vector<std::uint64_t> words(Bitmap::words_for(1 << 16), 0);
  Bitmap map(words, 1 << 16);
  for (std::size_t i = 0; i < map.size(); i += 100) map.set(i);
  std::size_t at = 0;
  for (auto _ : state) {
    at = map.find_next(at + 1);
    if (at == map.size()) at = 0;
  }
  benchmark::DoNotOptimize(at);
}
BENCHMARK(bitmap_find_next);

}  // namespace
