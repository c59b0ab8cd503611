// The decisions of linux-6, each against what the formulas of 6.1 give.
#include "quire/reclaim/policies/linux_6.h"

#include "quire/sim/lock_guards.h"
#include "reclaim_machine.h"

namespace quire::reclaim {
namespace {

using lru::AnonOrFile;
using lru::LruList;
using phys::ZoneType;

// An Lruvec whose sizes are what the test says; its lists stay empty.
class Sizes {
 public:
  Sizes() : lruvec(m.scheduler, m.scheduler.locks().lock_class("test lru_lock"), m.phys->node(Nid(0))) {}
  void set(LruList list, std::uint64_t pages) {
    const sim::SpinGuard guard(lruvec.lru_lock);
    m.lru.update_lru_size(lruvec, list, ZoneType::kNormal,
                          static_cast<std::int64_t>(pages) - static_cast<std::int64_t>(lruvec.size(list)));
  }
  ReclaimMachine m;
  lru::Lruvec lruvec;
  Linux6Policy policy;
};

ReclaimView with_swap(unsigned swappiness = 60) { return {1000, 1000, swappiness}; }

// The lists tell linux-6 all it wants to know: folios move without a call for each.
TEST(Linux6, AsksForNoHooks) {
  ReclaimMachine m;
  EXPECT_EQ(Linux6Policy().lru_hooks(), nullptr);
  EXPECT_EQ(m.lru.hooks(), nullptr);
}

TEST(Linux6, ScansAPartByPriority) {
  Sizes s;
  s.set(LruList::kInactiveFile, 40960);
  s.set(LruList::kActiveFile, 8192);
  ScanControl sc;
  const ReclaimView no_swap{};
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, no_swap), (ScanCounts{0, 0, 10, 2}));
  sc.priority = 4;
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, no_swap), (ScanCounts{0, 0, 2560, 512}));
}

TEST(Linux6, BalancesBySwappinessAndCost) {
  Sizes s;
  s.set(LruList::kInactiveAnon, 100000);
  s.set(LruList::kInactiveFile, 100000);
  ScanControl sc{.priority = 1};
  // Without any cost: 60 : 140.
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap()), (ScanCounts{15000, 0, 35000, 0}));
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap(200)), (ScanCounts{50000, 0, 0, 0}));
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap(0)), (ScanCounts{0, 0, 50000, 0}));
  // File refaults cost a lot: at even swappiness anon gets two thirds, never all.
  sc.file_cost = 10000;
  const ScanCounts counts = s.policy.get_scan_count(s.lruvec, sc, with_swap(100));
  EXPECT_NEAR(static_cast<double>(counts[0]), 50000.0 * 2 / 3, 300);
  EXPECT_NEAR(static_cast<double>(counts[2]), 50000.0 / 3, 300);
}

TEST(Linux6, SpecialCasesComeInOrder) {
  Sizes s;
  s.set(LruList::kInactiveAnon, 1000);
  s.set(LruList::kInactiveFile, 1000);
  ScanControl sc{.priority = 0};
  sc.file_is_tiny = true;
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap()), (ScanCounts{1000, 0, 1000, 0})) << "close to OOM: both";
  sc.priority = 1;
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap()), (ScanCounts{500, 0, 0, 0})) << "hardly any file pages";
  sc.file_is_tiny = false;
  sc.cache_trim_mode = true;
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap()), (ScanCounts{0, 0, 500, 0})) << "plenty of cache";
  sc.cache_trim_mode = false;
  sc.may = sc.may & ~May::kSwap;
  EXPECT_EQ(s.policy.get_scan_count(s.lruvec, sc, with_swap()), (ScanCounts{0, 0, 500, 0})) << "may not swap";
}

TEST(Linux6, InactiveIsLowByTheSquareRootOfMemory) {
  Sizes s;
  const auto low = [&](std::uint64_t inactive, std::uint64_t active) {
    s.set(LruList::kInactiveAnon, inactive);
    s.set(LruList::kActiveAnon, active);
    return s.policy.inactive_is_low(s.lruvec, LruList::kInactiveAnon);
  };
  EXPECT_FALSE(low(0, 0));
  EXPECT_FALSE(low(1000, 1000));  // under 1 GiB: 1 : 1
  EXPECT_TRUE(low(999, 1000));
  const std::uint64_t gib = kGiB / kPageSize;
  EXPECT_FALSE(low(gib / 4, gib * 3 / 4));  // 1 GiB: 1 : 3
  EXPECT_TRUE(low(gib / 4 - 1, gib * 3 / 4 + 1));
  EXPECT_FALSE(low(10 * gib / 11 + 1, 100 * gib / 11));  // 10 GiB: 1 : 10
  EXPECT_TRUE(low(10 * gib / 11 - 100, 100 * gib / 11 + 100));
  s.set(LruList::kInactiveAnon, 0);
  s.set(LruList::kActiveAnon, 0);
}

TEST(Linux6, ReferencesOfInactiveFolios) {
  Sizes s;
  struct Case {
    int referenced;
    bool was_referenced;
    bool file;
    vm::VmFlags flags;
    FolioReferences wanted;
    bool referenced_after;
  };
  using F = FolioReferences;
  const Case cases[] = {
      {0, false, false, vm::VmFlags::kNone, F::kReclaim, false},    {0, true, false, vm::VmFlags::kNone, F::kReclaim, false},
      {0, true, true, vm::VmFlags::kNone, F::kReclaimClean, false}, {1, false, false, vm::VmFlags::kNone, F::kKeep, true},
      {1, true, false, vm::VmFlags::kNone, F::kActivate, true},     {2, false, false, vm::VmFlags::kNone, F::kActivate, true},
      {1, false, true, vm::VmFlags::kExec, F::kActivate, true},     {1, false, false, vm::VmFlags::kExec, F::kKeep, true},
      {0, false, false, vm::VmFlags::kLocked, F::kActivate, false},
  };
  for (const Case& c : cases) {
    Folio folio;
    if (c.was_referenced) phys::folio_set_referenced(folio);
    if (!c.file) phys::folio_set_swapbacked(folio);
    EXPECT_EQ(s.policy.folio_check_references(folio, {.referenced = c.referenced, .vm_flags = c.flags}), c.wanted);
    EXPECT_EQ(phys::folio_test_referenced(folio), c.referenced_after);
  }
  Folio folio;
  EXPECT_EQ(s.policy.folio_check_references(folio, {.contended = true}), F::kKeep);
}

TEST(Linux6, OnlyUsedProgramTextStaysActive) {
  Sizes s;
  Folio text;
  Folio anon;
  phys::folio_set_swapbacked(anon);
  EXPECT_EQ(s.policy.judge_active(text, {.referenced = 1, .vm_flags = vm::VmFlags::kExec}), ActiveFate::kRotate);
  EXPECT_EQ(s.policy.judge_active(text, {.referenced = 0}), ActiveFate::kDeactivate);
  EXPECT_EQ(s.policy.judge_active(text, {.referenced = 1}), ActiveFate::kDeactivate);
  EXPECT_EQ(s.policy.judge_active(anon, {.referenced = 1, .vm_flags = vm::VmFlags::kExec}), ActiveFate::kDeactivate);
}

TEST(Linux6, IsWhatTheFactoryMakes) {
  EXPECT_EQ(make_reclaim_policy("linux-6")->name(), "linux-6");
  EXPECT_EQ(make_reclaim_policy("linux-7"), nullptr);
}

}  // namespace
}  // namespace quire::reclaim
