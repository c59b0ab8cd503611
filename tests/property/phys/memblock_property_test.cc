// Memblock against a naive map with one entry a page: random add, remove, reserve, free, marks and allocations, with arrays
// that grow inside the memory they describe. QUIRE_OPS=1000000 does more, QUIRE_SEED=17 starts there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "effort.h"
#include "quire/base/rng.h"
#include "quire/phys/memblock.h"

namespace quire::phys {
namespace {

constexpr std::uint64_t kPages = 4096;

struct Frame {
  bool memory = false;
  bool reserved = false;
  int nid = 0;
  MemblockFlag flags = MemblockFlag::kNone;
};

// What a region array took of memory is not the model's doing: it is read from the real thing after each step.
class Model {
 public:
  explicit Model(std::uint64_t seed) : rng_(seed), backing_(kPages * kPageSize) {
    memblock_.allow_resize(backing_.data());
    add({0, kPages}, 0);
  }

  void step() {
    const Range<std::uint64_t> pages = random_range();
    const Range<PhysAddr> range = bytes(pages);
    before_ = memblock_.reserved_capacity() + memblock_.memory_capacity();
    switch (rng_.below(12)) {
      case 0: return add(pages, static_cast<int>(rng_.below(3)));
      case 1:
        if (clear_of_arrays(pages)) {
          expect(memblock_.remove(range));
          each(pages, [](Frame& f) { f.memory = false; });
        }
        break;
      case 2:
      case 3:
      case 4:
        expect(memblock_.reserve(range));
        each(pages, [](Frame& f) { f.reserved = true; });
        break;
      case 5:
      case 6:
        if (clear_of_arrays(pages)) {
          expect(memblock_.free(range));
          each(pages, [](Frame& f) { f.reserved = false; });
        }
        break;
      case 7: return mark(pages);
      case 8:
        expect(memblock_.set_node(range, Nid(2)));
        each(pages, [](Frame& f) { f.nid = f.memory ? 2 : f.nid; });
        break;
      default: return alloc();
    }
    adopt_arrays();
  }

  void compare() {
    memblock_.validate();
    ASSERT_TRUE(memblock_.complete());
    std::vector<bool> free(kPages, false);
    memblock_.for_each_free_range([&](Range<PhysAddr> r, Nid nid) {
      for (std::uint64_t p = r.begin.value() / kPageSize; p < r.end.value() / kPageSize; ++p) {
        free[p] = true;
        ASSERT_EQ(nid.value(), frames_[p].nid) << "page " << p;
      }
    });
    for (std::uint64_t p = 0; p < kPages; ++p) {
      const Frame& f = frames_[p];
      const PhysAddr pa(p * kPageSize);
      ASSERT_EQ(memblock_.is_memory(pa), f.memory) << "page " << p;
      ASSERT_EQ(memblock_.is_reserved(pa), f.reserved) << "page " << p;
      ASSERT_EQ(free[p], usable(f)) << "page " << p;
    }
    // Neighbours that agree are one region.
    for (const auto regions : {memblock_.memory(), memblock_.reserved()}) {
      for (std::size_t i = 1; i < regions.size(); ++i) {
        const MemblockRegion& a = regions[i - 1];
        const MemblockRegion& b = regions[i];
        ASSERT_FALSE(a.range.end == b.range.begin && a.nid == b.nid && a.flags == b.flags);
      }
    }
  }
  [[nodiscard]] std::size_t capacity() const { return memblock_.reserved_capacity(); }

 private:
  static Range<PhysAddr> bytes(Range<std::uint64_t> pages) {
    return {PhysAddr(pages.begin * kPageSize), PhysAddr(pages.end * kPageSize)};
  }
  [[nodiscard]] bool usable(const Frame& f) const {
    return f.memory && !f.reserved && !any(f.flags, MemblockFlag::kNoMap) && !any(f.flags, MemblockFlag::kDriverManaged) &&
           !(movable_node_ && any(f.flags, MemblockFlag::kHotplug));
  }
  Range<std::uint64_t> random_range() {
    const std::uint64_t most = rng_.chance(1, 50) ? 500 : 6;
    const std::uint64_t at = rng_.below(kPages);
    return {at, std::min(kPages, at + 1 + rng_.below(most))};
  }
  template <class F>
  void each(Range<std::uint64_t> pages, F&& f) {
    for (std::uint64_t p = pages.begin; p < pages.end; ++p) f(frames_[p]);
  }
  static void expect(const Status& status) { ASSERT_TRUE(status.has_value()); }

  void add(Range<std::uint64_t> pages, int nid) {
    expect(memblock_.add(bytes(pages), Nid(nid)));
    each(pages, [&](Frame& f) {
      if (f.memory) return;  // what is there already keeps what it is
      f = {.memory = true, .reserved = f.reserved, .nid = nid};
    });
    adopt_arrays();
  }
  void mark(Range<std::uint64_t> pages) {
    constexpr MemblockFlag kFlags[] = {MemblockFlag::kHotplug, MemblockFlag::kNoMap, MemblockFlag::kDriverManaged};
    const MemblockFlag flag = kFlags[rng_.below(3)];
    const bool on = rng_.chance(1, 2);
    expect(on ? memblock_.mark(bytes(pages), flag) : memblock_.clear(bytes(pages), flag));
    each(pages, [&](Frame& f) {
      if (f.memory) f.flags = on ? f.flags | flag : f.flags & ~flag;
    });
    adopt_arrays();
  }

  // The first or last fit that the map has, and what memblock finds.
  void alloc() {
    MemblockAllocSpec spec{.size = (1 + rng_.below(8)) * kPageSize,
                           .align = kPageSize << rng_.below(4),
                           .min = PhysAddr(rng_.below(2) * rng_.below(kPages) * kPageSize),
                           .max = PhysAddr(rng_.below(2) * (1 + rng_.below(kPages)) * kPageSize),
                           .nid = rng_.chance(1, 2) ? kNoNode : Nid(static_cast<int>(rng_.below(3))),
                           .node_rule = rng_.chance(1, 2) ? MemblockAllocSpec::Node::kExact : MemblockAllocSpec::Node::kPrefer};
    const bool bottom_up = rng_.chance(1, 3);
    movable_node_ = rng_.chance(1, 4);
    memblock_.set_movable_node(movable_node_);
    memblock_.set_direction(bottom_up ? MemblockDirection::kBottomUp : MemblockDirection::kTopDown);
    std::optional<std::uint64_t> expected = naive_find(spec, bottom_up);
    if (!expected && spec.nid != kNoNode && spec.node_rule == MemblockAllocSpec::Node::kPrefer) {
      MemblockAllocSpec anywhere = spec;
      anywhere.nid = kNoNode;
      expected = naive_find(anywhere, bottom_up);
    }
    const auto at = memblock_.phys_alloc_range(spec);
    ASSERT_EQ(at.has_value(), expected.has_value());
    if (at) {
      ASSERT_EQ(at->value() / kPageSize, *expected);
      each({*expected, *expected + spec.size / kPageSize}, [](Frame& f) { f.reserved = true; });
    }
    memblock_.set_direction(MemblockDirection::kTopDown);
    memblock_.set_movable_node(false);
    movable_node_ = false;
    adopt_arrays();
  }

  std::optional<std::uint64_t> naive_find(const MemblockAllocSpec& spec, bool bottom_up) {
    const std::uint64_t pages = spec.size / kPageSize;
    const std::uint64_t align = spec.align / kPageSize;
    const std::uint64_t min = std::max<std::uint64_t>(spec.min.value() / kPageSize, 1);
    const std::uint64_t max = spec.max.value() == 0 ? kPages : spec.max.value() / kPageSize;
    std::optional<std::uint64_t> found;
    for (std::uint64_t at = (min + align - 1) / align * align; at + pages <= max; at += align) {
      bool fits = true;
      for (std::uint64_t p = at; p < at + pages && fits; ++p) {
        const Frame& f = frames_[p];
        fits = usable(f) && (spec.nid == kNoNode || f.nid == spec.nid.value()) && f.nid == frames_[at].nid &&
               f.flags == frames_[at].flags;  // a block lies within one region
      }
      if (!fits) continue;
      found = at;
      if (bottom_up) break;
    }
    return found;
  }

  // An array that grew has reserved its new place and freed the old one.
  void adopt_arrays() {
    if (memblock_.reserved_capacity() + memblock_.memory_capacity() == before_) return;
    for (std::uint64_t p = 0; p < kPages; ++p) frames_[p].reserved = memblock_.is_reserved(PhysAddr(p * kPageSize));
  }
  // The map may not take an array's memory away; the machine's boot never does.
  bool clear_of_arrays(Range<std::uint64_t> pages) {
    for (const Range<PhysAddr> place : memblock_.places()) {
      if (place.overlaps(bytes(pages))) return false;
    }
    return true;
  }

  Rng rng_;
  std::vector<std::byte> backing_;
  Memblock memblock_;
  std::vector<Frame> frames_ = std::vector<Frame>(kPages);
  std::size_t before_ = 0;
  bool movable_node_ = false;
};

TEST(MemblockProperty, AgreesWithAMapOfPages) {
  const std::uint64_t ops = from_environment("QUIRE_OPS", 40'000, 15'000);
  std::uint64_t seed = from_environment("QUIRE_SEED", 0);
  std::size_t most = 0;
  for (std::uint64_t done = 0; done < ops; ++seed) {
    SCOPED_TRACE(testing::Message() << "QUIRE_SEED=" << seed);
    Model model(seed);
    for (int i = 0; i < 2000; ++i, ++done) {
      model.step();
      if (i % 20 == 0) model.compare();
      if (testing::Test::HasFatalFailure()) return;
    }
    model.compare();
    most = std::max(most, model.capacity());
  }
  EXPECT_GT(most, MemblockRegions::kInitial);  // arrays did grow
}

}  // namespace
}  // namespace quire::phys
