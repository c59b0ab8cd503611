// TLB and page walk: what a replayed access costs below vm.
//
//   tlb_hit_*          lookup + rights + address, ≤ 2 ns (budget of a whole replayed access: 5 ns)
//   peer_direct_map    the least any TLB could do: one direct-mapped table, no sets, no replacement
//   walk*              four or five levels in cache, ≤ 15 ns
//   flush_asid         an address space of one entry; more cost nothing more
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "quire/arch/mmu.h"
#include "quire/base/rng.h"

namespace {

using namespace quire;
using namespace quire::arch;

constexpr Asid kAsid = 5;
constexpr std::size_t kTrace = 1 << 14;

// Page tables for `pages` pages from address 0, each on a frame of its own number.
class Tables {
 public:
  explicit Tables(std::uint64_t pages, const Geometry& geometry = Geometry::x86_64_4level())
      : words_((9 + pages / 512 + 1) * 512), tables_(reinterpret_cast<std::byte*>(words_.data()), geometry) {
    root_ = new_table();
    for (std::uint64_t n = 0; n < pages; ++n) {
      const VirtAddr va(n << kPageShift);
      PhysAddr table = root_;
      for (unsigned level = geometry.levels; level > 1; --level) {
        Pte* at = tables_.table<Pte>(table) + tables_.geometry().index(va, level);
        if (at->none()) entry_populate(at, new_table());
        table = at->phys();
      }
      tables_.table<Pte>(table)[pte_index(va)] = mk_pte(Pfn(n), kPageShared);
    }
  }
  [[nodiscard]] const PageTables& tables() const { return tables_; }
  [[nodiscard]] PhysAddr root() const { return root_; }

 private:
  PhysAddr new_table() { return PhysAddr(next_++ << kPageShift); }

  std::vector<std::uint64_t> words_;
  PageTables tables_;
  std::uint64_t next_ = 0;
  PhysAddr root_{};
};

std::vector<VirtAddr> addresses(std::uint64_t pages, std::size_t count = kTrace) {
  Rng rng(1);
  std::vector<VirtAddr> out;
  for (std::size_t i = 0; i < count; ++i) out.emplace_back((rng.below(pages) << kPageShift) + rng.below(kPageSize));
  return out;
}

void translate(benchmark::State& state, Access access) {
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  Tables tables(pages);
  Mmu mmu(tables.tables());
  const std::vector<VirtAddr> trace = addresses(pages);
  for (const VirtAddr va : trace) (void)mmu.translate(kAsid, tables.root(), va, Access::kWrite, Privilege::kUser);
  std::uint64_t sum = 0;
  std::size_t i = 0;
  for (auto _ : state) {
    const VirtAddr va = trace[i++ % kTrace];
    if (TlbEntry* entry = mmu.lookup(kAsid, va, access, Privilege::kUser)) {
      sum += entry->translate(va).value();
    } else {
      sum += mmu.refill(kAsid, tables.root(), va, access, Privilege::kUser).pa.value();
    }
  }
  benchmark::DoNotOptimize(sum);
  const TlbStats& stats = mmu.tlb().stats();
  const auto all = static_cast<double>(stats.l1_hits + stats.l2_hits + stats.misses);
  state.counters["l1"] = static_cast<double>(stats.l1_hits) / all;
  state.counters["l2"] = static_cast<double>(stats.l2_hits) / all;
}
void tlb_hit_read(benchmark::State& state) { translate(state, Access::kRead); }
void tlb_hit_write(benchmark::State& state) { translate(state, Access::kWrite); }
BENCHMARK(tlb_hit_read)->Arg(1)->Arg(16)->Arg(64);
BENCHMARK(tlb_hit_write)->Arg(64);
// Served by L2 (512 pages), and beyond its reach (100,000 pages).
BENCHMARK(tlb_hit_read)->Name("tlb_l2_hit_read")->Arg(512);
BENCHMARK(tlb_hit_read)->Name("tlb_miss_walk_refill")->Arg(4096)->Arg(100'000);

void peer_direct_map(benchmark::State& state) {
  struct Entry {
    std::uint64_t key = ~std::uint64_t{0};
    std::uint64_t frame = 0;
  };
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  std::vector<Entry> table(1024);
  for (std::uint64_t n = 0; n < pages; ++n) table[n % 1024] = {n, n << kPageShift};
  const std::vector<VirtAddr> trace = addresses(pages);
  std::uint64_t sum = 0;
  std::size_t i = 0;
  for (auto _ : state) {
    const VirtAddr va = trace[i++ % kTrace];
    const std::uint64_t vpn = va.value() >> kPageShift;
    const Entry& entry = table[vpn % 1024];
    if (entry.key == vpn) sum += entry.frame + page_offset(va);
  }
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(peer_direct_map)->Arg(64);

void walk_tables(benchmark::State& state, const Geometry& geometry) {
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  Tables tables(pages, geometry);
  const std::vector<VirtAddr> trace = addresses(pages);
  std::uint64_t sum = 0;
  std::size_t i = 0;
  for (auto _ : state) {
    sum += tables.tables().walk(tables.root(), trace[i++ % kTrace], Access::kRead, Privilege::kUser).pa.value();
  }
  benchmark::DoNotOptimize(sum);
}
void walk(benchmark::State& state) { walk_tables(state, Geometry::x86_64_4level()); }
void walk_five_levels(benchmark::State& state) { walk_tables(state, Geometry::x86_64_5level()); }
BENCHMARK(walk)->Arg(512)->Arg(100'000);
BENCHMARK(walk_five_levels)->Arg(512)->Arg(100'000);

void flush_page(benchmark::State& state) {
  Tables tables(512);
  Mmu mmu(tables.tables());
  std::uint64_t n = 0;
  for (auto _ : state) mmu.tlb().flush_page(kAsid, VirtAddr((n++ % 512) << kPageShift));
}
BENCHMARK(flush_page);

// With an entry to forget each time, whose insertion is part of the figure.
void flush_asid(benchmark::State& state) {
  Tables tables(512);
  Mmu mmu(tables.tables());
  for (auto _ : state) {
    (void)mmu.refill(kAsid, tables.root(), VirtAddr(0), Access::kRead, Privilege::kUser);
    mmu.tlb().flush_asid(kAsid);
  }
}
BENCHMARK(flush_asid);

}  // namespace
