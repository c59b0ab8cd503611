// Random vmalloc, vmap, kvmalloc, ioremap and kmap calls against a naive model: a list of what is alive, with the bytes it must
// hold. After each step areas, gaps and page tables must agree (validate), and no two of the model's may overlap.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "effort.h"
#include "kvirt_machine.h"
#include "quire/base/rng.h"

namespace quire::kvirt {
namespace {

using phys::Gfp;
using phys::Page;

enum class Kind : std::uint8_t { kVmalloc, kVmap, kKv, kIo, kKmap, kLocal };
constexpr std::size_t kKinds = 6;

struct Living {
  Kind kind = Kind::kVmalloc;
  std::byte* bytes = nullptr;
  std::uint64_t size = 0;
  std::uint64_t pattern = 0;
  std::vector<Page*> pages = {};
  IoMem io = {};
  KmapAddress kmapped = {};
};

class Model {
 public:
  Model(KvirtMachine& m, std::uint64_t seed) : m_(m), rng_(seed) {}

  void step() {
    if (rng_.below(100) < grow_percent_ && alive_.size() < 60) return create();
    if (rng_.below(20) == 0) static_cast<void>(m_.vmalloc().areas().purge_vmap_area_lazy());
    if (rng_.below(30) == 0) m_.space->kmap().kmap_flush_unused();
    if (!alive_.empty()) end(rng_.below(alive_.size()));
  }
  // Phases of growth and of shrinkage.
  void turn() { grow_percent_ = 100 - grow_percent_; }

  void finish() {
    while (!locals_.empty()) end_local();
    while (!alive_.empty()) end(alive_.size() - 1);
    static_cast<void>(m_.vmalloc().areas().purge_vmap_area_lazy());
    m_.space->kmap().kmap_flush_unused();
  }

  // Ranges in use, with a page between them in the vmalloc area.
  void check_apart() {
    std::vector<Range<VirtAddr>> ranges;
    for (const Living& l : alive_) {
      if (l.kind == Kind::kIo) ranges.push_back({l.io.va(), l.io.va() + l.size});
      if (l.bytes != nullptr && m_.vmalloc().is_vmalloc_addr(l.bytes)) {
        ranges.push_back({m_.space->kva(l.bytes), m_.space->kva(l.bytes) + l.size});
      }
    }
    std::ranges::sort(ranges, {}, &Range<VirtAddr>::begin);
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      ASSERT_GE(ranges[i].begin, align_up(ranges[i - 1].end, kPageSize) + kPageSize);
    }
  }
  [[nodiscard]] std::uint64_t failures() const { return failures_; }
  [[nodiscard]] std::uint64_t made(Kind kind) const { return made_[static_cast<std::size_t>(kind)]; }

 private:
  std::uint64_t size() { return 1 + rng_.below(rng_.below(8) == 0 ? 6 * kMiB : 20 * kPageSize); }

  void create() {
    Living l;
    l.kind = static_cast<Kind>(rng_.below(kKinds));
    l.pattern = rng_();
    if (l.kind == Kind::kLocal && locals_.size() == kKmMaxIdx) return;
    if (!make(l)) {
      ++failures_;
      return;
    }
    ++made_[static_cast<std::size_t>(l.kind)];
    fill(l);
    (l.kind == Kind::kLocal ? locals_ : alive_).push_back(std::move(l));
  }
  bool make(Living& l) {
    switch (l.kind) {
      case Kind::kVmalloc: return make_vmalloc(l);
      case Kind::kVmap: return make_vmap(l);
      case Kind::kKv: return make_kv(l);
      case Kind::kIo: return make_io(l);
      case Kind::kKmap:
      case Kind::kLocal: break;
    }
    return make_kmap(l);
  }
  bool make_vmalloc(Living& l) {
    l.size = size();
    void* p = nullptr;
    switch (rng_.below(4)) {
      case 0: p = m_.vmalloc().vzalloc(l.size); break;
      case 1: p = m_.vmalloc().vmalloc_huge(l.size); break;
      case 2: p = m_.vmalloc().vmalloc_user(l.size); break;
      default: p = m_.vmalloc().vmalloc(l.size);
    }
    l.bytes = static_cast<std::byte*>(p);
    return p != nullptr;
  }
  bool make_kv(Living& l) {
    l.size = size();
    l.bytes = static_cast<std::byte*>(m_.space->kv().kvmalloc(l.size, Gfp::kKernel));
    return l.bytes != nullptr;
  }
  bool make_vmap(Living& l) {
    const std::uint64_t count = 1 + rng_.below(40);
    while (l.pages.size() < count) {
      Page* page = m_.phys->alloc_page(Gfp::kHighUser);
      if (page == nullptr) break;
      l.pages.push_back(page);
    }
    l.size = pages_to_bytes(l.pages.size());
    if (l.pages.size() == count) l.bytes = static_cast<std::byte*>(m_.vmalloc().vmap(l.pages));
    if (l.bytes == nullptr) m_.free(l.pages);
    return l.bytes != nullptr;
  }
  // Above all RAM; one type, so that no range contradicts another.
  bool make_io(Living& l) {
    l.size = size();
    l.io = m_.space->io().ioremap_wc(PhysAddr(3 * kGiB + rng_.below(1000) * kPageSize), l.size);
    return static_cast<bool>(l.io);
  }
  bool make_kmap(Living& l) {
    Page* page = m_.phys->alloc_page(Gfp::kHighUser);
    if (page == nullptr) return false;
    l.pages = {page};
    Kmap& kmap = m_.space->kmap();
    l.kmapped = l.kind == Kind::kKmap ? kmap.kmap(*page) : kmap.kmap_local_page(*page);
    l.bytes = l.kmapped.native;
    l.size = kPageSize;
    EXPECT_EQ(kmap.kmap_to_page(l.kmapped.kva), page);
    return true;
  }

  // The pattern stands at the start of each page and at the very end.
  template <class F>
  static void for_each_word(const Living& l, F&& f) {
    constexpr std::uint64_t kWord = sizeof(std::uint64_t);
    std::uint64_t at = 0;
    for (; at + 2 * kWord <= l.size; at += kPageSize) f(at);
    if (l.size >= kPageSize + 2 * kWord && l.size - kWord >= at - kPageSize + kWord) f(l.size - kWord);
  }
  static void fill(const Living& l) {
    if (l.bytes == nullptr) return;
    for_each_word(l, [&](std::uint64_t at) {
      const std::uint64_t value = l.pattern + at;
      std::memcpy(l.bytes + at, &value, sizeof(value));
    });
  }
  void check(const Living& l) {
    if (l.bytes == nullptr) return;
    for_each_word(l, [&](std::uint64_t at) {
      std::uint64_t value = 0;
      std::memcpy(&value, l.bytes + at, sizeof(value));
      ASSERT_EQ(value, l.pattern + at);
      if (!m_.vmalloc().is_vmalloc_addr(l.bytes)) return;
      // And the page tables lead to the same bytes.
      const auto leaf = m_.space->init_mm().translate(m_.space->kva(l.bytes) + at);
      ASSERT_TRUE(leaf.has_value());
      ASSERT_EQ(*m_.phys->phys_to_virt(leaf->pa), l.bytes[at]);
    });
  }
  void end_local() {
    const Living l = std::move(locals_.back());
    locals_.pop_back();
    check(l);
    m_.space->kmap().kunmap_local(l.kmapped);
    m_.free(l.pages);
  }
  void end(std::size_t which) {
    if (rng_.below(6) == 0 && !locals_.empty()) end_local();
    std::swap(alive_[which], alive_.back());
    const Living l = std::move(alive_.back());
    alive_.pop_back();
    check(l);
    switch (l.kind) {
      case Kind::kVmalloc: m_.vmalloc().vfree(l.bytes); break;
      case Kind::kKv: m_.space->kv().kvfree(l.bytes); break;
      case Kind::kIo: m_.space->io().iounmap(l.io); break;
      case Kind::kVmap: m_.vmalloc().vunmap(l.bytes); break;
      case Kind::kKmap:
      case Kind::kLocal: m_.space->kmap().kunmap(*l.pages.front());
    }
    m_.free(l.pages);
  }

  KvirtMachine& m_;
  Rng rng_;
  std::vector<Living> alive_;
  std::vector<Living> locals_;  // innermost last
  unsigned grow_percent_ = 65;
  std::uint64_t failures_ = 0;
  std::array<std::uint64_t, kKinds> made_{};
};

struct Config {
  const char* name;
  MachineSpec spec;
};
class KvirtProperty : public ::testing::TestWithParam<Config> {};
INSTANTIATE_TEST_SUITE_P(Machines, KvirtProperty,
                         ::testing::Values(Config{"x86_64", {.ram = 96 * kMiB}},
                                           Config{"x86_64_5levels_2nodes",
                                                  {.ram = 128 * kMiB, .cpus = 2, .nodes = 2, .levels = 5}},
                                           Config{"i386", {.ram = kGiB, .cpus = 2, .arch = phys::Arch::kI386}},
                                           Config{"i386_pae", {.ram = kGiB, .arch = phys::Arch::kI386Pae}}),
                         [](const auto& p) { return p.param.name; });

TEST_P(KvirtProperty, AnyOrderOfCallsKeepsBytesAndTablesTrue) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 3, 1);
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    MachineSpec spec = GetParam().spec;
    spec.seed = seed;
    KvirtMachine m(spec);
    Model model(m, seed);
    for (unsigned i = 0; i < 1500; ++i) {
      if (i % 100 == 99) model.turn();
      model.step();
      m.space->validate();
      if (i % 100 == 0) {
        model.check_apart();
        m.validate();
      }
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " step " << i;
    }
    for (const Kind kind : {Kind::kVmalloc, Kind::kVmap, Kind::kKv, Kind::kIo, Kind::kKmap}) EXPECT_GT(model.made(kind), 50u);
    EXPECT_GT(model.made(Kind::kLocal), 10u);
    model.finish();
    m.validate();
    EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
    EXPECT_EQ(m.space->vmallocinfo(), "");
    EXPECT_EQ(m.space->init_mm().mapped_pages(), 0u);
  }
}

TEST_P(KvirtProperty, AllocationsThatFailNowAndThenLeaveNoTrace) {
  KvirtMachine m(GetParam().spec);
  Model model(m, 77);
  m.phys->set_fault_injection(&m.faults);
  m.slab->set_fault_injection(&m.faults);
  m.faults.set(sim::FaultPoint::kPageAlloc, {.probability = 1});
  m.faults.set(sim::FaultPoint::kSlabAlloc, {.probability = 5});
  const unsigned ops = kEveryCheckIsOn ? 700 : 2000;
  for (unsigned i = 0; i < ops; ++i) {
    if (i % 100 == 99) model.turn();
    model.step();
    m.space->validate();
    ASSERT_FALSE(HasFatalFailure()) << "step " << i;
  }
  EXPECT_GT(model.failures(), ops / 40);
  m.faults.set(sim::FaultPoint::kPageAlloc, {});
  m.faults.set(sim::FaultPoint::kSlabAlloc, {});
  model.finish();
  m.validate();
  EXPECT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
  EXPECT_EQ(m.space->init_mm().mapped_pages(), 0u);
}

}  // namespace
}  // namespace quire::kvirt
