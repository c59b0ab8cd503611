#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "quire/slab/xa_node_cache.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

TEST(Kmalloc, EverySizeGoesToTheLeastClassThatFits) {
  SlabMachine m;
  const std::size_t classes[] = {8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192};
  for (std::size_t size = 1; size <= 8192; ++size) {
    const std::size_t expected = *std::ranges::lower_bound(classes, size);
    ASSERT_EQ(m.slab->kmalloc_slab(size)->object_size(), expected) << size;
  }
  EXPECT_EQ(m.slab->kmalloc_slab(8193), nullptr);
  EXPECT_EQ(m.slab->kmalloc_slab(1024)->name(), "kmalloc-1k");
}

TEST(Kmalloc, PowersOfTwoAreAlignedToThemselves) {
  SlabMachine m;
  for (std::size_t size = 8; size <= kMiB; size *= 2) {
    void* p = m.slab->kmalloc(size, kGfp);
    ASSERT_NE(p, nullptr);
    const std::uint64_t pa = m.phys->arena().to_phys(p).value();
    EXPECT_EQ(pa % size, 0u) << size;
    EXPECT_EQ(m.slab->ksize(p), size);
    std::memset(p, 0xab, size);
    m.slab->kfree(p);
  }
  m.slab->validate();
}

TEST(Kmalloc, LargeSizesArePagesAndComeBack) {
  SlabMachine m;
  const std::uint64_t before = m.free_pages();
  void* p = m.slab->kzalloc(100'000, kGfp);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(m.slab->ksize(p), 131072u);
  const auto* bytes = static_cast<unsigned char*>(p);
  EXPECT_EQ(std::count(bytes, bytes + 100'000, 0), 100'000);
  EXPECT_EQ(before - m.free_pages(), 32u);
  m.slab->validate();
  m.slab->kfree(p);
  EXPECT_EQ(m.free_pages(), before);
  m.slab->validate();
}

TEST(Kmalloc, KzallocClearsWhatWasThere) {
  SlabMachine m;
  for (const std::size_t size : {1u, 90u, 500u, 5000u}) {
    void* dirty = m.slab->kmalloc(size, kGfp);
    std::memset(dirty, 0xff, size);
    m.slab->kfree(dirty);
    auto* clean = static_cast<unsigned char*>(m.slab->kzalloc(size, kGfp));
    EXPECT_EQ(std::count(clean, clean + size, 0), static_cast<std::ptrdiff_t>(size));
    m.slab->kfree(clean);
  }
}

TEST(Kmalloc, EdgeSizes) {
  SlabMachine m;
  EXPECT_EQ(m.slab->kmalloc(0, kGfp), SlabSystem::zero_size_ptr());
  m.slab->kfree(SlabSystem::zero_size_ptr());
  m.slab->kfree(nullptr);
  EXPECT_EQ(m.slab->ksize(nullptr), 0u);
  EXPECT_EQ(m.slab->kmalloc(SlabSystem::kKmallocMaxSize + 1, kGfp), nullptr);
  EXPECT_EQ(m.slab->kmalloc(~std::size_t{0}, kGfp), nullptr);
}

// Each death test makes its machine in the child, since the arena is a shared mapping.
template <class Misuse>
void misuse(Misuse&& what) {
  SlabMachine m;
  what(*m.slab, static_cast<std::byte*>(m.slab->kmalloc(64, kGfp)), static_cast<std::byte*>(m.slab->kmalloc(20'000, kGfp)));
}

TEST(KmallocDeath, KfreeOfWhatIsNotItsOwn) {
  EXPECT_DEATH(misuse([](SlabSystem& slab, std::byte*, std::byte*) {
                 int on_the_stack = 0;
                 slab.kfree(&on_the_stack);
               }),
               "kmalloc never gave");
  EXPECT_DEATH(misuse([](SlabSystem& slab, std::byte* small, std::byte*) { slab.kfree(small + 4); }),
               "not the start of an object");
  EXPECT_DEATH(misuse([](SlabSystem& slab, std::byte*, std::byte* large) { slab.kfree(large + 4096); }), "kmalloc never gave");
}

TEST(KmallocDeath, KfreeTwice) {
  EXPECT_DEATH(misuse([](SlabSystem& slab, std::byte* small, std::byte*) {
                 slab.kfree(small);
                 slab.kfree(small);
               }),
               "freed twice");
  EXPECT_DEATH(misuse([](SlabSystem& slab, std::byte*, std::byte* large) {
                 slab.kfree(large);
                 slab.kfree(large);
               }),
               "kmalloc never gave");
}

TEST(Kmalloc, EverythingIsBackAtTheEnd) {
  TraceRegistry traces;
  sim::Scheduler scheduler({}, {}, traces);
  phys::PhysConfig config;
  config.ram_bytes = 64 * kMiB;
  auto phys = std::move(*phys::PhysMem::boot(config, scheduler, traces));
  phys->drain_all_pages();
  const std::uint64_t before = phys->meminfo().freeram;
  {
    SlabSystem slab(*phys, scheduler);
    void* p = slab.kmalloc(100, kGfp);
    slab.kfree(p);
  }
  phys->drain_all_pages();
  EXPECT_EQ(phys->meminfo().freeram, before);
  EXPECT_EQ(phys->global_node_page_state(phys::NodeStat::kNrSlabUnreclaimable), 0);
  phys->validate();
}

TEST(XaNodeCache, ArraysKeepTheirNodesInTheMachine) {
  SlabMachine m;
  XaNodeCache nodes(*m.slab);
  EXPECT_EQ(m.slab->find_cache("radix_tree_node"), &nodes.cache());
  {
    XArray array(nodes);
    for (std::uint64_t i = 0; i < 100'000; i += 7) ASSERT_TRUE(array.store(i, XaValue(i * 3)).has_value());
    EXPECT_EQ(nodes.cache().objects_in_use(), array.node_count());
    for (std::uint64_t i = 0; i < 100'000; ++i) {
      ASSERT_EQ(array.load(i), i % 7 == 0 ? XaEntry(XaValue(i * 3)) : XaEntry());
    }
    m.slab->validate();
  }
  EXPECT_EQ(nodes.cache().objects_in_use(), 0u);
}

}  // namespace
}  // namespace quire::slab
