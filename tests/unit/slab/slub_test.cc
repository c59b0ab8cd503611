// Slub: orders and sizes as Linux chooses them, and the life of its slabs.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "quire/slab/slub.h"
#include "quire/slab/slub_order.h"
#include "slab_machine.h"

namespace quire::slab {
namespace {

using phys::Gfp;

MachineSpec slub_spec(unsigned cpus = 1, unsigned nodes = 1) {
  return {.ram = 64 * kMiB * nodes, .cpus = cpus, .nodes = nodes, .config = {.layout = SlabLayoutKind::kSlub}};
}

// --- sizes ------------------------------------------------------------------------------------------------------------

struct Row {
  std::string name;
  std::size_t size = 0;
  std::uint64_t objects = 0;
  std::uint64_t pages = 0;
};

std::vector<Row> recorded(const std::string& file) {
  std::ifstream in(std::string(QUIRE_SLABINFO) + "/" + file);
  std::vector<Row> rows;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#") || line.starts_with("slabinfo")) continue;
    std::istringstream words(line);
    Row row;
    std::uint64_t ignored = 0;
    words >> row.name >> ignored >> ignored >> row.size >> row.objects >> row.pages;
    rows.push_back(row);
  }
  return rows;
}

class SlubOrder : public testing::TestWithParam<std::pair<const char*, unsigned>> {};

// Every row of /proc/slabinfo of booted Linux 6.1 guests.
TEST_P(SlubOrder, IsTheKernels) {
  const auto [file, cpus] = GetParam();
  const auto rows = recorded(file);
  ASSERT_GT(rows.size(), 100u);
  for (const Row& row : rows) {
    const auto order = slub_calculate_order(row.size, cpus, {});
    ASSERT_TRUE(order.has_value()) << row.name;
    EXPECT_EQ(order->pages(), row.pages) << row.name;
    EXPECT_EQ(order->bytes() / row.size, row.objects) << row.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Guests, SlubOrder,
                         testing::Values(std::pair("slabinfo-1cpu.txt", 1u), std::pair("slabinfo-2cpus.txt", 2u),
                                         std::pair("slabinfo-4cpus.txt", 4u), std::pair("slabinfo-16cpus.txt", 16u)),
                         [](const auto& guest) { return "Cpus" + std::to_string(guest.param.second); });

TEST(SlubOrder, ParametersMoveIt) {
  EXPECT_EQ(*slub_calculate_order(256, 1, {.min_order = 2}), Order(2));
  EXPECT_EQ(*slub_calculate_order(256, 1, {.min_objects = 64}), Order(2));
  EXPECT_EQ(*slub_calculate_order(8192, 1, {.max_order = 1}), Order(1));
  EXPECT_EQ(*slub_calculate_order(64 * kKiB, 1, {}), Order(4));  // beyond slub_max_order only when it must be
  EXPECT_EQ(slub_calculate_order(8 * kMiB, 1, {}).error(), Errno::kInval);
}

TEST(SlubGeometry, TheFreePointerStaysClearOfWhatMustSurvive) {
  const auto plain = slub_calculate_geometry({.object_size = 200}, 1, {});
  EXPECT_EQ(plain->size, 200u);
  EXPECT_EQ(plain->free_pointer, 96u);  // the middle
  const auto constructed = slub_calculate_geometry({.object_size = 200, .constructor = HasConstructor::kYes}, 1, {});
  EXPECT_EQ(constructed->size, 208u);
  EXPECT_EQ(constructed->free_pointer, 200u);
  const auto rcu = slub_calculate_geometry({.object_size = 200, .flags = SlabFlags::kTypesafeByRcu}, 1, {});
  EXPECT_EQ(rcu->free_pointer, 200u);
}

// As slabinfo-4cpus-debug.txt has them: dentry, vm_area_struct, radix_tree_node, filp (which asks for cache lines).
TEST(SlubGeometry, SlotsUnderDebuggingAreTheKernels) {
  const SlabFlags debug = SlabFlags::kConsistencyChecks | SlabFlags::kRedZone | SlabFlags::kPoison | SlabFlags::kStoreUser;
  EXPECT_EQ(slub_calculate_geometry({.object_size = 192, .flags = debug}, 4, {})->size, 288u);
  EXPECT_EQ(slub_calculate_geometry({.object_size = 152, .flags = debug}, 4, {})->size, 248u);
  EXPECT_EQ(slub_calculate_geometry({.object_size = 576, .flags = debug, .constructor = HasConstructor::kYes}, 4, {})->size,
            672u);
  EXPECT_EQ(slub_calculate_geometry({.object_size = 232, .flags = debug | SlabFlags::kHwCacheAlign}, 4, {})->size, 384u);
}

TEST(SlubGeometry, StocksShrinkAsObjectsGrow) {
  const auto partial_slabs = [](std::size_t size) {
    return slub_cpu_partial_slabs(*slub_calculate_geometry({.object_size = size}, 1, {}));
  };
  EXPECT_EQ(partial_slabs(64), 4u);    // 120 objects, 64 a slab, half of each free
  EXPECT_EQ(partial_slabs(256), 7u);   // 52, 16 a slab
  EXPECT_EQ(partial_slabs(1024), 6u);  // 24, 8 a slab
  EXPECT_EQ(partial_slabs(4096), 2u);  // 6, 8 a slab
  EXPECT_EQ(slub_min_partial(8), 5u);
  EXPECT_EQ(slub_min_partial(4096), 6u);
  EXPECT_EQ(slub_min_partial(1 << 22), 10u);
}

// --- life -------------------------------------------------------------------------------------------------------------

TEST(Slub, SlabsOfOneCpuAreUsedFromTheirStartAndTheLastFreedComesFirst) {
  SlabMachine m(slub_spec());
  KmemCacheBase* cache = m.slab->kmem_cache_create("fifo", 256, 0, SlabFlags::kNone).value();
  auto* a = static_cast<std::byte*>(cache->alloc(kGfp));
  auto* b = static_cast<std::byte*>(cache->alloc(kGfp));
  EXPECT_EQ(b - a, 256);
  cache->free(a);
  EXPECT_EQ(cache->alloc(kGfp), a);
  cache->free(a);
  cache->free(b);
  m.slab->validate();
  EXPECT_EQ(cache->objects_in_use(), 0u);
}

TEST(Slub, EmptySlabsBeyondMinPartialGoBackByThemselves) {
  SlabMachine m(slub_spec());
  KmemCacheBase* cache = m.slab->kmem_cache_create("empties", 256, 0, SlabFlags::kNone).value();
  const std::uint64_t before = m.free_pages();
  std::vector<void*> objects(16 * 100);
  ASSERT_TRUE(cache->alloc_bulk(kGfp, objects));
  EXPECT_EQ(cache->total_slabs(), 100u);
  for (void* p : objects) cache->free(p);
  m.slab->validate();
  // The node's five, the CPU's own and its partial ones.
  EXPECT_LE(cache->total_slabs(), slub_min_partial(256) + 1 + slub_cpu_partial_slabs(cache->geometry()));
  m.slab->kmem_cache_shrink(*cache);
  EXPECT_EQ(cache->total_slabs(), 0u);
  EXPECT_EQ(m.free_pages(), before);
}

TEST(Slub, ShrinkPutsTheFullestSlabsFirst) {
  SlabMachine m(slub_spec());
  KmemCacheBase* cache = m.slab->kmem_cache_create("sorted", 256, 0, SlabFlags::kNone).value();
  const std::uint32_t num = cache->geometry().num;
  std::vector<void*> objects(std::size_t{num} * 10);
  ASSERT_TRUE(cache->alloc_bulk(kGfp, objects));
  // Slab i keeps i + 1 objects.
  std::vector<void*> kept;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (i % num <= i / num) {
      kept.push_back(objects[i]);
    } else {
      cache->free(objects[i]);
    }
  }
  m.slab->kmem_cache_shrink(*cache);
  m.slab->validate();
  // What comes next comes from the fullest, which is the last.
  const std::byte* last = static_cast<std::byte*>(objects.back()) - (num - 1) * std::size_t{256};
  for (std::uint32_t i = 0; i < num - 10; ++i) {
    kept.push_back(cache->alloc(kGfp));
    const auto offset = static_cast<std::byte*>(kept.back()) - last;
    EXPECT_TRUE(offset >= 0 && offset < 4096) << i;
  }
  cache->free_bulk(kept);
  EXPECT_EQ(cache->objects_in_use(), 0u);
}

TEST(Slub, FallsBackToTheLeastOrderWhenMemoryIsInPieces) {
  SlabMachine m(slub_spec());
  KmemCacheBase* cache = m.slab->kmem_cache_create("pieces", 1024, 0, SlabFlags::kNone).value();
  ASSERT_GT(cache->geometry().order, cache->geometry().min_order);
  // Every other page is free: no block of two.
  std::vector<phys::Page*> taken;
  while (phys::Page* page = m.phys->alloc_page(Gfp::kNoWait | Gfp::kNoWarn | Gfp::kMemAlloc)) taken.push_back(page);
  std::ranges::sort(taken);
  for (std::size_t i = 0; i < taken.size(); i += 2) m.phys->free_page(*std::exchange(taken[i], nullptr));
  m.phys->drain_all_pages();
  void* p = cache->alloc(Gfp::kNoWait);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(phys::compound_order(phys::compound_head(m.phys->virt_to_page(p))), cache->geometry().min_order);
  m.slab->validate();
  const SlabInfo row = m.slab->slabinfo(*cache);
  EXPECT_EQ(row.num_objs, cache->geometry().min_num);
  cache->free(p);
  // What is given back is counted in pages of this slab's order.
  EXPECT_EQ(m.slab->cache_reap(SlabSystem::ReapMode::kAll), cache->geometry().min_order.pages());
  for (phys::Page* page : taken) {
    if (page != nullptr) m.phys->free_page(*page);
  }
}

TEST(Slub, OneObjectFreedIntoAFullSlabMakesItTheFreeingCpus) {
  SlabMachine m(slub_spec(2));
  KmemCacheBase* cache = m.slab->kmem_cache_create("remote", 256, 0, SlabFlags::kNone).value();
  const std::uint32_t num = cache->geometry().num;
  std::vector<void*> objects(num);
  m.scheduler.spawn("taker", [&] { ASSERT_TRUE(cache->alloc_bulk(kGfp, objects)); }, {.cpu = 0});
  ASSERT_TRUE(m.scheduler.run().done());
  void* again = nullptr;
  m.scheduler.spawn("giver",
                    [&] {
                      cache->free(objects[0]);
                      m.slab->validate();
                      again = cache->alloc(kGfp);
                    },
                    {.cpu = 1});
  ASSERT_TRUE(m.scheduler.run().done());
  EXPECT_TRUE(again == objects[0] || cache->total_slabs() == 2u);
  cache->free(again);
  for (std::size_t i = 1; i < num; ++i) cache->free(objects[i]);
  m.slab->validate();
  EXPECT_EQ(cache->objects_in_use(), 0u);
}

TEST(Slub, ConstructedStateSurvivesBeingFree) {
  struct Stateful {
    std::uint64_t words[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  };
  SlabMachine m(slub_spec());
  KmemCache<Stateful, ObjectLife::kPerSlab> cache(*m.slab, "stateful");
  std::vector<Stateful*> objects;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 200; ++i) {
      objects.push_back(cache.alloc(kGfp));
      for (std::uint64_t w = 0; w < 8; ++w) ASSERT_EQ(objects.back()->words[w], w + 1);
    }
    for (Stateful* p : objects) cache.free(p);
    objects.clear();
  }
}

// --- misuse -----------------------------------------------------------------------------------------------------------

template <class Misuse>
void misuse(Misuse&& what) {
  SlabMachine m(slub_spec());
  KmemCacheBase& one = *m.slab->kmem_cache_create("one", 64, 0, SlabFlags::kNone).value();
  KmemCacheBase& two = *m.slab->kmem_cache_create("two", 64, 0, SlabFlags::kNone).value();
  void* p = one.alloc(kGfp);
  void* q = one.alloc(kGfp);
  what(one, two, p, q);
}

TEST(SlubDeath, DoubleFreeAtOnce) {
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void* p, void*) {
                 one.free(p);
                 one.free(p);
               }),
               "cache one is freed twice");
}

TEST(SlubDeath, DoubleFreeLaterIsFoundByValidate) {
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void* p, void* q) {
                 one.free(p);
                 one.free(q);
                 one.free(p);
                 one.validate();
               }),
               "");
}

TEST(SlubDeath, FreeToTheWrongCache) {
  EXPECT_DEATH(misuse([](KmemCacheBase&, KmemCacheBase& two, void* p, void*) { two.free(p); }),
               "freed to cache two, but belongs to cache one");
}

TEST(SlubDeath, FreeOfForeignMemory) {
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void*, void*) {
                 int on_the_stack = 0;
                 one.free(&on_the_stack);
               }),
               "is no slab object");
}

// Into the CPU's own slab, into another one, and in the middle of a bulk.
TEST(SlubDeath, FreeOfTheMiddleOfAnObject) {
  constexpr const char* kSaid = "not the start of an object";
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void* p, void*) { one.free(static_cast<std::byte*>(p) + 8); }),
               kSaid);
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void* p, void*) {
                 one.system().kmem_cache_shrink(one);  // the CPU lets go of the slab
                 one.free(static_cast<std::byte*>(p) + 8);
               }),
               kSaid);
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void* p, void* q) {
                 void* const objects[] = {q, static_cast<std::byte*>(p) + 8};
                 one.free_bulk(objects);
               }),
               kSaid);
}

// Five objects of 700 bytes, 704 apart, and room behind them in which no sixth fits.
TEST(SlubDeath, FreeOfWhatWouldBeOneObjectMore) {
  for (const bool own : {true, false}) {
    EXPECT_DEATH(
        {
          SlabMachine m(slub_spec());
          KmemCacheBase& cache = *m.slab->kmem_cache_create("odd", 700, 0, SlabFlags::kNone).value();
          auto* first = static_cast<std::byte*>(cache.alloc(kGfp));
          if (!own) m.slab->kmem_cache_shrink(cache);
          cache.free(first + std::size_t{cache.geometry().num} * cache.geometry().size);
        },
        "not the start of an object");
  }
}

TEST(SlubDeath, AnOverwrittenFreePointerIsFoundByValidate) {
  EXPECT_DEATH(misuse([](KmemCacheBase& one, KmemCacheBase&, void* p, void*) {
                 one.free(p);
                 std::memset(p, 0x41, 64);
                 one.validate();
               }),
               "");
}

}  // namespace
}  // namespace quire::slab
