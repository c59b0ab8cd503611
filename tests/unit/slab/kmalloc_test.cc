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

constexpr phys::Gfp kTypeGfps[] = {phys::Gfp::kKernel, phys::Gfp::kKernelAccount, phys::Gfp::kKernel | phys::Gfp::kReclaimable,
                                   phys::Gfp::kKernel | phys::Gfp::kDma};
constexpr std::string_view kTypePrefixes[] = {"kmalloc-", "kmalloc-cg-", "kmalloc-rcl-", "dma-kmalloc-"};
constexpr std::size_t kClassSizes[] = {8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192};
constexpr std::string_view kClassNames[] = {"8", "16", "32", "64", "96", "128", "192", "256", "512", "1k", "2k", "4k", "8k"};

class KmallocByLayout : public testing::TestWithParam<SlabLayoutKind> {
 protected:
  static SlabConfig config() {
    SlabConfig config;
    config.layout = GetParam();
    return config;
  }
  SlabMachine m{{.config = config()}};
};

TEST_P(KmallocByLayout, EveryClassOfEveryTypeHasItsCache) {
  for (std::size_t type = 0; type < std::size(kTypeGfps); ++type) {
    for (std::size_t i = 0; i < std::size(kClassSizes); ++i) {
      const std::string name = std::string(kTypePrefixes[type]) + std::string(kClassNames[i]);
      void* p = m.slab->kmalloc(kClassSizes[i], kTypeGfps[type]);
      ASSERT_NE(p, nullptr) << name;
      EXPECT_EQ(m.slab->virt_to_cache(p)->name(), name);
      EXPECT_EQ(m.slab->ksize(p), kClassSizes[i]) << name;
      EXPECT_EQ(m.slab->kmalloc_slab(kClassSizes[i], kTypeGfps[type]), m.slab->virt_to_cache(p));
      std::memset(p, 0x11, kClassSizes[i]);
      m.slab->kfree(p);
      EXPECT_EQ(m.slab->find_cache(name)->objects_in_use(), 0u) << name;
    }
  }
  m.slab->validate();
}

TEST_P(KmallocByLayout, TypesAreWhatTheirPagesAre) {
  const auto reclaimable = [&] { return m.phys->global_node_page_state(phys::NodeStat::kNrSlabReclaimable); };
  const std::int64_t before = reclaimable();
  void* rcl = m.slab->kmalloc(4096, kGfp | phys::Gfp::kReclaimable);
  EXPECT_GT(reclaimable(), before);
  void* dma = m.slab->kmalloc(4096, kGfp | phys::Gfp::kDma);
  EXPECT_LT(m.phys->arena().to_phys(dma).value(), 16 * kMiB);
  m.slab->kfree(rcl);
  m.slab->kfree(dma);
  // Of several types asked for, DMA comes first, then reclaimable.
  EXPECT_EQ(kmalloc_type(phys::Gfp::kDma | phys::Gfp::kReclaimable | phys::Gfp::kAccount), KmallocType::kDma);
  EXPECT_EQ(kmalloc_type(phys::Gfp::kReclaimable | phys::Gfp::kAccount), KmallocType::kReclaim);
}

// Not even a cache of the very same objects, on a machine that merges.
TEST_P(KmallocByLayout, NobodyElsesCacheIsMergedIntoAClass) {
  SlabConfig merging = config();
  merging.merge = SlabMerge::kYes;
  SlabMachine merged({.config = merging});
  KmemCacheBase* own = merged.slab->kmem_cache_create("own", 256, 256, SlabFlags::kNone).value();
  EXPECT_EQ(own->name(), "own");
  EXPECT_NE(own, merged.slab->kmalloc_slab(256));
  EXPECT_EQ(merged.slab->kmem_cache_create("like", 256, 256, SlabFlags::kNone).value(), own);
}

// Everything that kmalloc offers, under page allocations that fail one after the other: nullptr, and nothing is lost.
TEST_P(KmallocByLayout, EveryAllocationMayFail) {
  const phys::Gfp gfp = phys::Gfp::kNoWait | phys::Gfp::kNoWarn;
  m.exhaust();
  for (const std::size_t size : {1u, 96u, 1000u, 8192u, 10'000u, 100'000u}) {
    for (const phys::Gfp type : {phys::Gfp::kNone, phys::Gfp::kAccount, phys::Gfp::kReclaimable, phys::Gfp::kDma}) {
      const std::uint64_t free = m.free_pages();
      std::vector<void*> got;
      for (int i = 0; i < 10'000; ++i) {
        void* p = i % 2 == 0 ? m.slab->kmalloc(size, gfp | type) : m.slab->kcalloc(1, size, gfp | type);
        if (p == nullptr) break;
        got.push_back(p);
      }
      EXPECT_LT(got.size(), 10'000u) << size;
      for (void* p : got) m.slab->kfree(p);
      m.slab->validate();
      m.slab->cache_reap(SlabSystem::ReapMode::kAll);
      m.slab->cache_reap(SlabSystem::ReapMode::kAll);
      EXPECT_EQ(m.free_pages(), free) << size;
    }
  }
}

TEST_P(KmallocByLayout, KreallocLeavesTheOldOneWhenThereIsNoMemory) {
  const phys::Gfp gfp = phys::Gfp::kNoWait | phys::Gfp::kNoWarn;
  auto* p = static_cast<char*>(m.slab->kstrdup("still here", gfp));
  ASSERT_NE(p, nullptr);
  m.exhaust();
  std::vector<void*> got;
  while (void* q = m.slab->kmalloc(4096, gfp)) got.push_back(q);
  EXPECT_EQ(m.slab->krealloc(p, 4096, gfp), nullptr);
  EXPECT_EQ(m.slab->krealloc(p, 1 << 20, gfp), nullptr);
  EXPECT_STREQ(p, "still here");
  const std::string source(5000, 'x');
  EXPECT_EQ(m.slab->kmemdup(source.data(), source.size(), gfp), nullptr);
  for (void* q : got) m.slab->kfree(q);
  m.slab->kfree(p);
  m.slab->validate();
}

INSTANTIATE_TEST_SUITE_P(Layouts, KmallocByLayout, testing::Values(SlabLayoutKind::kSlab, SlabLayoutKind::kSlub),
                         [](const auto& layout) { return layout.param == SlabLayoutKind::kSlab ? "Slab" : "Slub"; });

TEST(Kmalloc, KreallocKeepsTheBytes) {
  SlabMachine m;
  void* p = m.slab->krealloc(nullptr, 10, kGfp);
  std::memcpy(p, "0123456789", 10);
  EXPECT_EQ(m.slab->krealloc(p, 16, kGfp), p);  // it has that room
  EXPECT_EQ(m.slab->krealloc(p, 3, kGfp), p);
  for (const std::size_t size : {17u, 5000u, 9000u, 300'000u}) {
    p = m.slab->krealloc(p, size, kGfp);
    ASSERT_EQ(std::memcmp(p, "0123456789", 10), 0) << size;
    EXPECT_GE(m.slab->ksize(p), size);
  }
  p = m.slab->krealloc(p, 400'000, kGfp | phys::Gfp::kZero);  // in place: 512 KiB are there
  EXPECT_EQ(m.slab->krealloc(p, 0, kGfp), SlabSystem::zero_size_ptr());
  p = m.slab->krealloc(SlabSystem::zero_size_ptr(), 8, kGfp);
  EXPECT_EQ(m.slab->ksize(p), 8u);
  m.slab->kfree(p);
  std::uint64_t in_use = 0;
  m.slab->for_each_cache([&](KmemCacheBase& cache) {
    if (cache.name().starts_with("kmalloc")) in_use += cache.objects_in_use();
  });
  EXPECT_EQ(in_use, 0u);
  m.slab->validate();
}

TEST(Kmalloc, ArraysAreCheckedForOverflow) {
  SlabMachine m;
  const std::size_t huge = ~std::size_t{0};
  EXPECT_EQ(m.slab->kmalloc_array(huge, 2, kGfp), nullptr);
  EXPECT_EQ(m.slab->kcalloc(std::size_t{1} << 33, std::size_t{1} << 31, kGfp), nullptr);
  EXPECT_EQ(m.slab->kmalloc_array(0, 8, kGfp), SlabSystem::zero_size_ptr());
  auto* p = static_cast<unsigned char*>(m.slab->kcalloc(25, 4, kGfp));
  EXPECT_EQ(m.slab->ksize(p), 128u);
  EXPECT_EQ(std::count(p, p + 128, 0), 128);
  m.slab->kfree(p);
}

TEST(Kmalloc, RoundupIsWhatKsizeWillSay) {
  SlabMachine m;
  for (std::size_t size = 1; size <= 20'000; size += size < 300 ? 1 : 97) {
    void* p = m.slab->kmalloc(size, kGfp);
    ASSERT_EQ(SlabSystem::kmalloc_size_roundup(size), m.slab->ksize(p)) << size;
    m.slab->kfree(p);
  }
  EXPECT_EQ(SlabSystem::kmalloc_size_roundup(0), 0u);
  EXPECT_EQ(SlabSystem::kmalloc_size_roundup(SlabSystem::kKmallocMaxSize), SlabSystem::kKmallocMaxSize);
  EXPECT_EQ(SlabSystem::kmalloc_size_roundup(SlabSystem::kKmallocMaxSize + 1), SlabSystem::kKmallocMaxSize + 1);
}

TEST(Kmalloc, SensitiveBytesAreGone) {
  SlabMachine m;
  for (const std::size_t size : {64u, 20'000u}) {
    auto* p = static_cast<unsigned char*>(m.slab->kmalloc(size, kGfp));
    std::memset(p, 0x5e, size);
    m.slab->kfree_sensitive(p);
    EXPECT_EQ(std::count(p, p + size, 0x5e), 0) << size;  // the frame is still there to look at
  }
  m.slab->kfree_sensitive(nullptr);
}

TEST(Kmalloc, CopiesAreCopies) {
  SlabMachine m;
  char* s = m.slab->kstrdup("quire", kGfp);
  EXPECT_STREQ(s, "quire");
  void* d = m.slab->kmemdup(s, 6, kGfp);
  EXPECT_NE(d, s);
  EXPECT_EQ(std::memcmp(d, "quire", 6), 0);
  m.slab->kfree(s);
  m.slab->kfree(d);
}

TEST(Kmalloc, NodesAreRespected) {
  SlabMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  for (const std::size_t size : {64u, 8192u, 20'000u}) {
    for (int nid = 0; nid < 2; ++nid) {
      void* p = m.slab->kmalloc_node(size, kGfp | phys::Gfp::kThisNode, Nid(nid));
      ASSERT_NE(p, nullptr);
      EXPECT_EQ(m.phys->virt_to_page(p).nid(), Nid(nid));
      m.slab->kfree(p);
    }
  }
}

TEST(Kmalloc, TheFirstRequestBeyondTheMaximumIsWarnedOf) {
  SlabMachine m;
  std::vector<std::string> log;
  m.phys->set_log_sink([&log](std::string_view line) { log.emplace_back(line); });
  EXPECT_EQ(m.slab->kmalloc(SlabSystem::kKmallocMaxSize + 1, kGfp | phys::Gfp::kNoWarn), nullptr);
  EXPECT_TRUE(log.empty());
  EXPECT_EQ(m.slab->kmalloc(SlabSystem::kKmallocMaxSize + 1, kGfp), nullptr);
  EXPECT_EQ(m.slab->kmalloc(~std::size_t{0}, kGfp), nullptr);
  ASSERT_EQ(log.size(), 1u);
  EXPECT_NE(log.front().find("WARNING"), std::string::npos);
  void* p = m.slab->kmalloc(SlabSystem::kKmallocMaxSize, kGfp);  // the largest works
  EXPECT_NE(p, nullptr);
  m.slab->kfree(p);
}

// --- misuse -----------------------------------------------------------------------------------------------------------

// Each death test makes its machine in the child, since the arena is a shared mapping.
template <class Misuse>
void misuse(SlabLayoutKind layout, Misuse&& what) {
  SlabMachine m({.config = {.layout = layout}});
  what(*m.slab, static_cast<std::byte*>(m.slab->kmalloc(64, kGfp)), static_cast<std::byte*>(m.slab->kmalloc(20'000, kGfp)));
}

class KmallocDeath : public testing::TestWithParam<SlabLayoutKind> {};
INSTANTIATE_TEST_SUITE_P(Layouts, KmallocDeath, testing::Values(SlabLayoutKind::kSlab, SlabLayoutKind::kSlub),
                         [](const auto& layout) { return layout.param == SlabLayoutKind::kSlab ? "Slab" : "Slub"; });

TEST_P(KmallocDeath, KfreeOfWhatIsNotItsOwn) {
  EXPECT_DEATH(misuse(GetParam(),
                      [](SlabSystem& slab, std::byte*, std::byte*) {
                        int on_the_stack = 0;
                        slab.kfree(&on_the_stack);
                      }),
               "kmalloc never gave");
  EXPECT_DEATH(misuse(GetParam(), [](SlabSystem& slab, std::byte*, std::byte* large) { slab.kfree(large + 4096); }),
               "kmalloc never gave");
}

// At once, or at the latest when the object goes back to its slab.
TEST_P(KmallocDeath, KfreeOfTheMiddleOfAnObject) {
  EXPECT_DEATH(misuse(GetParam(),
                      [](SlabSystem& slab, std::byte* small, std::byte*) {
                        slab.kfree(small + 4);
                        slab.kmem_cache_shrink(*slab.kmalloc_slab(64));
                      }),
               "not the start of an object");
}

TEST_P(KmallocDeath, KfreeTwice) {
  EXPECT_DEATH(misuse(GetParam(),
                      [](SlabSystem& slab, std::byte* small, std::byte*) {
                        slab.kfree(small);
                        slab.kfree(small);
                      }),
               "freed twice");
  EXPECT_DEATH(misuse(GetParam(),
                      [](SlabSystem& slab, std::byte*, std::byte* large) {
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
