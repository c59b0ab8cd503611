// Each kind of misuse of an object under debugging, by both layouts: it is found, the report says what, where and who, and the
// machine goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "slab_machine.h"

namespace quire::slab {
namespace {

using testing::HasSubstr;

constexpr SlabFlags kAll = SlabFlags::kConsistencyChecks | SlabFlags::kRedZone | SlabFlags::kPoison | SlabFlags::kStoreUser;

// The culprits have names of their own, which reports must give. Kept out of line for that.
[[gnu::noinline]] std::byte* alloc_for_test(KmemCacheBase& cache) {
  void* p = cache.alloc(kGfp);
  asm volatile("" : : "r"(p) : "memory");
  return static_cast<std::byte*>(p);
}
[[gnu::noinline]] void free_by_test(KmemCacheBase& cache, void* p) {
  cache.free(p);
  asm volatile("" : : : "memory");
}
[[gnu::noinline]] void free_again_by_test(KmemCacheBase& cache, void* p) {
  cache.free(p);
  asm volatile("" : : : "memory");
}

class ObjectDebug : public testing::TestWithParam<SlabLayoutKind> {
 protected:
  KmemCacheBase& cache(std::size_t size, SlabFlags flags = kAll, SlabConstructor constructor = nullptr) {
    return *m.slab->kmem_cache_create("victim-" + std::to_string(caches_++), size, 0, flags, constructor).value();
  }
  ObjectReports& reports() { return m.slab->object_reports(); }
  // The one report that there is; none is left afterwards.
  ObjectReport only(ObjectProblem problem) {
    EXPECT_EQ(reports().count(), 1u);
    EXPECT_EQ(reports().count(problem), 1u);
    if (reports().kept().empty()) return {};
    ObjectReport report = reports().kept().front();
    reports().clear();
    EXPECT_EQ(report.problem, problem) << report.text;
    return report;
  }
  void expect_quiet() {
    m.slab->validate();
    EXPECT_EQ(reports().count(), 0u) << reports().kept().front().text;
  }

  static SlabConfig config() {
    SlabConfig config;
    config.layout = GetParam();
    return config;
  }
  SlabMachine m{{.config = config()}};

 private:
  int caches_ = 0;
};

TEST_P(ObjectDebug, OrdinaryUseIsNoProblem) {
  for (const std::size_t size : {1u, 8u, 24u, 64u, 100u, 192u, 700u, 2000u, 5000u}) {
    KmemCacheBase& c = cache(size);
    std::vector<std::byte*> objects;
    for (int i = 0; i < 200; ++i) {
      std::byte* p = alloc_for_test(c);
      ASSERT_NE(p, nullptr);
      std::memset(p, i, size);
      objects.push_back(p);
    }
    m.slab->validate();
    for (std::byte* p : objects) free_by_test(c, p);
    for (int i = 0; i < 200; ++i) free_by_test(c, alloc_for_test(c));
    expect_quiet();
    EXPECT_TRUE(m.slab->kmem_cache_destroy(c).has_value());
  }
}

TEST_P(ObjectDebug, AWriteBeyondTheEndIsFoundAtTheFree) {
  KmemCacheBase& c = cache(60);
  std::byte* p = alloc_for_test(c);
  std::memset(p, 0x41, 62);
  free_by_test(c, p);
  const ObjectReport r = only(ObjectProblem::kRightRedZone);
  EXPECT_EQ(r.cache, c.name());
  EXPECT_EQ(r.offset, 60);
  EXPECT_EQ(r.length, 2u);
  EXPECT_THAT(r.found_by, HasSubstr("free_by_test"));
  EXPECT_THAT(r.allocated_by, HasSubstr("alloc_for_test"));
  EXPECT_EQ(r.freed_by, "");
  EXPECT_THAT(r.text, HasSubstr("BUG in cache victim-0: written beyond the object's end"));
  EXPECT_THAT(r.text, HasSubstr("2 bytes at +60 from the object's start, should be 0xcc"));
  EXPECT_THAT(r.text, HasSubstr("41 41 41 41 41 41 41 41 41 41 41 41 41 41 cc cc  |AAAAAAAAAAAAAA..|  object, right red zone"));
  EXPECT_THAT(r.text, HasSubstr(".. .. .. .. .. .. .. .. .. .. .. .. cc cc .. ..  should have been"));
  EXPECT_THAT(r.text, HasSubstr("not freed"));
  // Its bytes are right again and it was not freed; so it can be, now.
  EXPECT_EQ(c.objects_in_use(), 1u);
  free_by_test(c, p);
  EXPECT_EQ(c.objects_in_use(), 0u);
  expect_quiet();
}

TEST_P(ObjectDebug, AWriteBeforeTheStartIsFoundByValidate) {
  KmemCacheBase& c = cache(64);
  std::byte* p = alloc_for_test(c);
  p[-1] = std::byte{0x42};
  m.slab->validate();
  const ObjectReport r = only(ObjectProblem::kLeftRedZone);
  EXPECT_EQ(r.offset, -1);
  EXPECT_EQ(r.length, 1u);
  EXPECT_EQ(r.found_by, "");
  EXPECT_THAT(r.text, HasSubstr("found at validate"));
  EXPECT_THAT(r.text, HasSubstr("left red zone"));
  free_by_test(c, p);
  expect_quiet();
}

TEST_P(ObjectDebug, AUseAfterFreeIsFoundAtTheNextAlloc) {
  KmemCacheBase& c = cache(128);
  std::byte* p = alloc_for_test(c);
  free_by_test(c, p);
  std::memcpy(p + 20, "late", 4);
  std::vector<std::byte*> got;
  for (std::uint32_t i = 0; i < 4 * c.geometry().num && reports().count() == 0; ++i) got.push_back(alloc_for_test(c));
  const ObjectReport r = only(ObjectProblem::kUseAfterFree);
  EXPECT_EQ(r.offset, 20);
  EXPECT_EQ(r.length, 4u);
  EXPECT_THAT(r.found_by, HasSubstr("alloc_for_test"));
  EXPECT_THAT(r.allocated_by, HasSubstr("alloc_for_test"));
  EXPECT_THAT(r.freed_by, HasSubstr("free_by_test"));
  EXPECT_THAT(r.text, HasSubstr("|kkkklate"));
  EXPECT_THAT(r.text, HasSubstr("6b 6b 6b 6b .."));
  // Nobody gets that object any more.
  for (const std::byte* q : got) EXPECT_NE(q, p);
  for (std::byte* q : got) free_by_test(c, q);
  expect_quiet();
}

TEST_P(ObjectDebug, AUseAfterFreeIsFoundByValidate) {
  KmemCacheBase& c = cache(128);
  std::byte* p = alloc_for_test(c);
  free_by_test(c, p);
  p[127] = std::byte{0};
  m.slab->validate();
  const ObjectReport r = only(ObjectProblem::kUseAfterFree);
  EXPECT_EQ(r.offset, 127);
  EXPECT_THAT(r.text, HasSubstr("should be 0xa5"));
  expect_quiet();
}

TEST_P(ObjectDebug, ASecondFreeIsRefused) {
  KmemCacheBase& c = cache(64);
  std::byte* p = alloc_for_test(c);
  free_by_test(c, p);
  free_again_by_test(c, p);
  const ObjectReport r = only(ObjectProblem::kDoubleFree);
  EXPECT_THAT(r.found_by, HasSubstr("free_again_by_test"));
  EXPECT_THAT(r.freed_by, HasSubstr("free_by_test"));
  EXPECT_THAT(r.allocated_by, HasSubstr("alloc_for_test"));
  EXPECT_THAT(r.text, HasSubstr("freed twice"));
  EXPECT_THAT(r.text, HasSubstr("cpu 0, boot, at 0."));
  EXPECT_EQ(c.objects_in_use(), 0u);
  expect_quiet();
}

TEST_P(ObjectDebug, AFreeInTheMiddleOfAnObjectIsRefused) {
  KmemCacheBase& c = cache(64);
  std::byte* p = alloc_for_test(c);
  free_by_test(c, p + 8);
  const ObjectReport r = only(ObjectProblem::kInvalidPointer);
  EXPECT_EQ(r.offset, 8);
  EXPECT_THAT(r.text, HasSubstr("+8 from the object's start"));
  EXPECT_EQ(c.objects_in_use(), 1u);
  free_by_test(c, p);
  expect_quiet();
}

TEST_P(ObjectDebug, AFreeOfWhatIsNoSlabIsRefused) {
  KmemCacheBase& c = cache(64);
  int on_the_stack = 0;
  free_by_test(c, &on_the_stack);
  ObjectReport r = only(ObjectProblem::kNoObject);
  EXPECT_EQ(r.address, 0u);
  EXPECT_THAT(r.text, HasSubstr("not in the machine's RAM"));
  phys::Page* page = m.phys->alloc_page(kGfp);
  free_by_test(c, m.phys->page_address(*page));
  r = only(ObjectProblem::kNoObject);
  EXPECT_THAT(r.text, HasSubstr("freed: 0xffff8880"));
  m.phys->free_page(*page);
  expect_quiet();
}

TEST_P(ObjectDebug, AFreeToTheWrongCacheGoesToTheRightOne) {
  KmemCacheBase& c = cache(64);
  KmemCacheBase& other = cache(64);
  KmemCacheBase& plain = cache(64, SlabFlags::kNone);
  std::byte* p = alloc_for_test(c);
  free_by_test(other, p);
  ObjectReport r = only(ObjectProblem::kWrongCache);
  EXPECT_EQ(r.cache, c.name());
  EXPECT_THAT(r.text, HasSubstr("to cache victim-1"));
  EXPECT_EQ(c.objects_in_use(), 0u);
  // An object without debugging as well.
  std::byte* q = alloc_for_test(plain);
  free_by_test(other, q);
  r = only(ObjectProblem::kWrongCache);
  EXPECT_EQ(r.cache, plain.name());
  EXPECT_EQ(plain.objects_in_use(), 0u);
  expect_quiet();
}

TEST_P(ObjectDebug, AWriteIntoThePaddingIsFound) {
  // 61 bytes: three up to the next word, which nobody guards but the poison.
  KmemCacheBase& c = cache(61, SlabFlags::kConsistencyChecks | SlabFlags::kPoison);
  std::byte* p = alloc_for_test(c);
  p[61] = std::byte{1};
  free_by_test(c, p);
  const ObjectReport r = only(ObjectProblem::kPadding);
  EXPECT_EQ(r.offset, 61);
  EXPECT_EQ(r.allocated_by, "");  // no owners without kStoreUser
  free_by_test(c, p);
  expect_quiet();
}

TEST_P(ObjectDebug, AWriteBehindTheLastObjectOfASlabIsFound) {
  KmemCacheBase& c = cache(700);
  std::byte* p = alloc_for_test(c);
  const phys::Page* head = m.slab->head_page(p);
  std::byte* last = m.phys->page_address(*head) + phys::compound_order(*head).bytes() - 1;
  ASSERT_EQ(*last, std::byte{0x5a}) << "room is left behind 700-byte objects in both layouts, and it is poisoned";
  *last = std::byte{7};
  m.slab->validate();
  const ObjectReport r = only(ObjectProblem::kSlabPadding);
  EXPECT_EQ(r.length, 1u);
  free_by_test(c, p);
  expect_quiet();
}

TEST_P(ObjectDebug, ConstructedObjectsKeepTheirStateAndTheirRedZones) {
  KmemCacheBase& c = cache(32, kAll, [](void* object) { std::memset(object, 0x33, 32); });
  std::byte* p = alloc_for_test(c);
  for (int i = 0; i < 32; ++i) ASSERT_EQ(p[i], std::byte{0x33});
  free_by_test(c, p);
  p = alloc_for_test(c);
  for (int i = 0; i < 32; ++i) ASSERT_EQ(p[i], std::byte{0x33});
  p[32] = std::byte{0};
  free_by_test(c, p);
  only(ObjectProblem::kRightRedZone);
  free_by_test(c, p);
  expect_quiet();
}

TEST_P(ObjectDebug, AFreshObjectHoldsPoisonSoThatReadingItShows) {
  KmemCacheBase& c = cache(64);
  std::byte* p = alloc_for_test(c);
  EXPECT_EQ(p[0], std::byte{0x6b});
  EXPECT_EQ(p[63], std::byte{0xa5});
  free_by_test(c, p);
  auto* zeroed = static_cast<std::byte*>(c.alloc(kGfp | phys::Gfp::kZero));
  EXPECT_EQ(zeroed[0], std::byte{0});
  EXPECT_EQ(zeroed[63], std::byte{0});
  free_by_test(c, zeroed);
  expect_quiet();
}

TEST_P(ObjectDebug, ReportsNameTasksAndTheirTime) {
  KmemCacheBase& c = cache(64);
  m.scheduler.spawn("culprit", [&] {
    m.scheduler.sleep_for(2'000'000'000);
    std::byte* p = alloc_for_test(c);
    p[64] = std::byte{0};
    free_by_test(c, p);
  });
  ASSERT_TRUE(m.scheduler.run().done());
  const ObjectReport r = only(ObjectProblem::kRightRedZone);
  EXPECT_THAT(r.text, testing::ContainsRegex("allocated by .*alloc_for_test.*, cpu 0, task 1 \\(culprit\\), at 2\\.0"));
}

TEST_P(ObjectDebug, TheHandlerIsToldAndAllAreCounted) {
  KmemCacheBase& c = cache(64);
  int told = 0;
  reports().set_handler([&](const ObjectReport& r) {
    ++told;
    EXPECT_EQ(r.problem, ObjectProblem::kDoubleFree);
  });
  std::byte* p = alloc_for_test(c);
  free_by_test(c, p);
  for (int i = 0; i < 100; ++i) free_again_by_test(c, p);
  EXPECT_EQ(told, 100);
  EXPECT_EQ(reports().count(), 100u);
  EXPECT_EQ(reports().kept().size(), ObjectReports::kKept);
  reports().set_handler(nullptr);
  free_again_by_test(c, p);
  EXPECT_EQ(told, 100);
  EXPECT_EQ(reports().count(ObjectProblem::kDoubleFree), 101u);
  EXPECT_EQ(reports().kept().size(), ObjectReports::kKept);
}

TEST_P(ObjectDebug, TraceTellsAllocationsAndFrees) {
  KmemCacheBase& c = cache(64, SlabFlags::kTrace);
  KmemCacheBase& silent = cache(64);
  std::vector<std::string> lines;
  reports().set_trace_sink([&](std::string_view line) { lines.emplace_back(line); });
  free_by_test(silent, alloc_for_test(silent));
  free_by_test(c, alloc_for_test(c));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_THAT(lines[0], HasSubstr("TRACE victim-0 alloc 0xffff8880"));
  EXPECT_THAT(lines[1], HasSubstr("TRACE victim-0 free 0xffff8880"));
}

TEST_P(ObjectDebug, KmallocNamesItsCallers) {
  SlabConfig debugged = config();
  debugged.debug = kAll;
  SlabMachine d({.config = debugged});
  auto* p = static_cast<char*>(d.slab->kstrdup("seven b", kGfp));
  p[8] = '!';
  d.slab->kfree(p);
  ASSERT_EQ(d.slab->object_reports().count(), 1u);
  const ObjectReport r = d.slab->object_reports().kept().front();
  EXPECT_EQ(r.cache, "kmalloc-8");
  EXPECT_EQ(r.problem, ObjectProblem::kRightRedZone);
  EXPECT_THAT(r.allocated_by, HasSubstr("KmallocNamesItsCallers"));
  EXPECT_THAT(r.found_by, HasSubstr("KmallocNamesItsCallers"));
  d.slab->kfree(p);
  EXPECT_EQ(d.slab->object_reports().count(), 1u);
}

// Everything that allocates, debugged, with memory running out: no false alarm, and nothing is lost.
TEST_P(ObjectDebug, NoFalseAlarmWhenMemoryRunsOut) {
  KmemCacheBase& c = cache(500);
  m.exhaust();
  const std::uint64_t free = m.free_pages();
  std::vector<std::byte*> got;
  while (void* p = c.alloc(phys::Gfp::kNoWait | phys::Gfp::kNoWarn)) got.push_back(static_cast<std::byte*>(p));
  m.slab->validate();
  for (std::byte* p : got) free_by_test(c, p);
  m.slab->kmem_cache_shrink(c);
  m.slab->cache_reap(SlabSystem::ReapMode::kAll);
  EXPECT_EQ(m.free_pages(), free);
  expect_quiet();
}

INSTANTIATE_TEST_SUITE_P(Layouts, ObjectDebug, testing::Values(SlabLayoutKind::kSlab, SlabLayoutKind::kSlub),
                         [](const auto& layout) { return layout.param == SlabLayoutKind::kSlab ? "Slab" : "Slub"; });

}  // namespace
}  // namespace quire::slab
