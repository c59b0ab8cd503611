// Moving pages in use: the bytes, the mappings and the state arrive; what cannot move stays as it was.
#include "quire/vm/migrate.h"

#include "vm_machine.h"

namespace quire::vm {
namespace {

using phys::Folio;
using phys::MigrateMode;
using phys::NodeStat;

class MigrateTest : public ::testing::Test {
 protected:
  void in_task(std::function<void()> body) {
    m_.run([&] {
      body();
      m_.vm.validate();
      m_.vm.mmput(mm_);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_EQ(m_.phys->global_node_page_state(NodeStat::kNrIsolatedAnon), 0);
    EXPECT_EQ(m_.phys->global_node_page_state(NodeStat::kNrIsolatedFile), 0);
    EXPECT_EQ(m_.phys->global_node_page_state(NodeStat::kNrAnonPages), 0);
  }
  // Moves the folio; true when it went.
  bool migrate(Folio& folio, MigrateMode mode = MigrateMode::kSync) {
    m_.lru.lru_add_drain_all();
    phys::FolioList list;
    if (!migration_.isolate(folio, list)) return false;
    const auto get = [&](Folio&) { return m_.phys->folio_alloc(phys::Gfp::kHighUserMovable); };
    const auto put = [&](Folio& unused) { m_.phys->free_page(unused); };
    const MigrateOutcome outcome = migration_.migrate_pages(list, get, put, mode, phys::MigrateReason::kSyscall);
    EXPECT_EQ(outcome.succeeded + outcome.failed, 1u);
    migration_.putback_movable_pages(list);
    return outcome.succeeded == 1;
  }
  arch::SwapEntry entry_at(Mm& mm, VirtAddr at) { return arch::pte_to_swp_entry(*m_.vm.pgtable().pte_offset(mm, at)); }

  VmMachine m_{{.zram = 8 * kMiB}};
  Mm& mm_ = m_.mm_alloc();
  Migration& migration_ = m_.vm.migration();
};

TEST_F(MigrateTest, AnAnonymousPageKeepsItsBytesRightsAndState) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at + 7, 42);
    m_.lru.lru_add_drain_all();
    Folio& old = m_.folio_at(mm_, at);
    m_.lru.folio_activate(old);
    m_.lru.lru_add_drain_all();
    phys::folio_set_workingset(old);
    const Pfn was = m_.phys->page_to_pfn(old);
    ASSERT_TRUE(migrate(old));
    Folio& now = m_.folio_at(mm_, at);
    EXPECT_NE(m_.phys->page_to_pfn(now), was);
    EXPECT_EQ(m_.read(mm_, at + 7), 42);
    EXPECT_TRUE(m_.write(mm_, at + 8, 43).ok());
    EXPECT_EQ(&m_.folio_at(mm_, at), &now);  // written in place: still exclusive and writable
    EXPECT_TRUE(phys::folio_test_anon_exclusive(now) && phys::folio_test_workingset(now) && phys::folio_test_active(now));
    EXPECT_EQ(mm_.counter(Rss::kAnonPages), 1);
    EXPECT_EQ(m_.event(phys::VmEvent::kPgmigrateSuccess), 1);
    EXPECT_EQ(m_.phys->pfn_to_page(was).refcount, 0);
  });
}

TEST_F(MigrateTest, ASharedPageMovesUnderAllThatMapIt) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 7);
    Mm& child = **m_.vm.dup_mm(mm_);
    ASSERT_TRUE(migrate(m_.folio_at(mm_, at)));
    Folio& now = m_.folio_at(mm_, at);
    EXPECT_EQ(&m_.folio_at(child, at), &now);
    EXPECT_EQ(now.mapcount, 2);
    EXPECT_FALSE(phys::folio_test_anon_exclusive(now));
    m_.write(child, at, 8);  // copies
    EXPECT_EQ(m_.read(mm_, at), 7);
    EXPECT_EQ(m_.read(child, at), 8);
    m_.vm.validate();
    m_.vm.mmput(child);
  });
}

TEST_F(MigrateTest, AFilePageMovesInTheCacheAndInEveryMapping) {
  in_task([&] {
    file::File& file = m_.open("f", 2 * kPageSize, 3);
    const auto map = [&](MapFlags flags) {
      return m_.vm.mmap(mm_, VirtAddr(0), 2 * kPageSize, Prot::kRead | Prot::kWrite, flags, &file, 0).value();
    };
    const VirtAddr shared = map(MapFlags::kShared);
    const VirtAddr priv = map(MapFlags::kPrivate);
    const int before = m_.read(mm_, priv + 5);
    m_.write(mm_, shared, 99);
    Folio& old = m_.folio_at(mm_, shared);
    ASSERT_EQ(&m_.folio_at(mm_, priv), &old);
    ASSERT_TRUE(phys::folio_test_dirty(old));
    const auto cached = m_.phys->global_node_page_state(NodeStat::kNrFilePages);
    ASSERT_TRUE(migrate(old));
    Folio& now = m_.folio_at(mm_, shared);
    EXPECT_NE(&now, &old);
    EXPECT_EQ(&m_.folio_at(mm_, priv), &now);
    EXPECT_EQ(file::AddressSpace::of(now), &file.mapping());
    EXPECT_TRUE(phys::folio_test_dirty(now));
    EXPECT_EQ(m_.read(mm_, shared), 99);
    EXPECT_EQ(m_.read(mm_, priv + 5), before);
    EXPECT_EQ(m_.phys->global_node_page_state(NodeStat::kNrFilePages), cached);
    EXPECT_EQ(m_.phys->global_node_page_state(NodeStat::kNrDirty), 1);
    file.mapping().validate();
    ASSERT_TRUE(m_.vm.msync(mm_, shared, kPageSize, MsyncFlags::kSync));
    EXPECT_EQ(m_.phys->global_node_page_state(NodeStat::kNrDirty), 0);
    m_.vfs.fput(file);
  });
}

TEST_F(MigrateTest, ASwapCachePageKeepsItsSlot) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    Folio& old = m_.folio_at(mm_, at);
    phys::folio_lock(*m_.phys, old);
    ASSERT_TRUE(m_.swap.add_to_swap(old).has_value());
    const swap::SwapEntry entry = swap::SwapSystem::folio_swap_entry(old);
    phys::folio_unlock(*m_.phys, old);
    ASSERT_TRUE(migrate(old));
    Folio& now = m_.folio_at(mm_, at);
    EXPECT_TRUE(phys::folio_test_swapcache(now));
    EXPECT_EQ(swap::SwapSystem::folio_swap_entry(now), entry);
    EXPECT_EQ(m_.read(mm_, at), 5);
    ASSERT_TRUE(m_.swap_out(mm_, at));
    EXPECT_EQ(m_.read(mm_, at), 5);
  });
}

TEST_F(MigrateTest, APageReadAheadFromSwapMovesThoughNobodyMapsIt) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    ASSERT_TRUE(m_.swap_out(mm_, at));
    Folio* cached = m_.swap.read_swap_cache_async(entry_at(mm_, at), phys::Gfp::kHighUserMovable);
    ASSERT_NE(cached, nullptr);
    ASSERT_EQ(cached->mapping, 0u);
    m_.lru.folio_put(*cached);
    ASSERT_TRUE(migrate(*cached));
    EXPECT_EQ(m_.read(mm_, at), 5);
    EXPECT_NE(&m_.folio_at(mm_, at), cached);
  });
}

TEST_F(MigrateTest, MlockCountsAPageOnceThoughItMovesMeanwhile) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    Folio& folio = m_.folio_at(mm_, at);
    phys::folio_get(folio);
    phys::folio_lock(*m_.phys, folio);
    AnonVma* anon_vma = m_.vm.rmap().folio_get_anon_vma(folio);
    ASSERT_TRUE(m_.vm.rmap().try_to_migrate(folio));
    // mlock finds nothing present; the page comes back into a locked area and is counted then, and only then.
    ASSERT_TRUE(m_.vm.mlock(mm_, at, kPageSize, MlockFlags::kOnFault));
    m_.vm.rmap().remove_migration_ptes(folio, folio);
    m_.vm.rmap().put_anon_vma(*anon_vma);
    phys::folio_unlock(*m_.phys, folio);
    m_.lru.folio_put(folio);
    EXPECT_TRUE(phys::folio_test_mlocked(folio));
    ASSERT_TRUE(m_.vm.munlock(mm_, at, kPageSize));
    EXPECT_FALSE(phys::folio_test_mlocked(folio));
    EXPECT_EQ(m_.phys->global_zone_page_state(phys::ZoneStat::kNrMlock), 0);
  });
}

TEST_F(MigrateTest, APinnedPageStaysWhereItIs) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    Folio& folio = m_.folio_at(mm_, at);
    phys::folio_get(folio);
    EXPECT_FALSE(migrate(folio));
    EXPECT_EQ(&m_.folio_at(mm_, at), &folio);
    EXPECT_TRUE(m_.write(mm_, at, 6).ok());
    EXPECT_EQ(&m_.folio_at(mm_, at), &folio);  // exclusive as before: no copy
    EXPECT_EQ(m_.event(phys::VmEvent::kPgmigrateFail), 1);
    m_.lru.folio_put(folio);
    EXPECT_TRUE(migrate(folio));
  });
}

TEST_F(MigrateTest, OnlyASynchronousMoverWaitsForALock) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    m_.write(mm_, at, 5);
    Folio& folio = m_.folio_at(mm_, at);
    phys::folio_lock(*m_.phys, folio);
    EXPECT_FALSE(migrate(folio, MigrateMode::kAsync));
    m_.scheduler.spawn("unlocker", [&] {
      m_.scheduler.sleep_for(1'000'000);
      phys::folio_unlock(*m_.phys, folio);
    });
    EXPECT_TRUE(migrate(folio, MigrateMode::kSyncLight));
    EXPECT_EQ(m_.read(mm_, at), 5);
  });
}

TEST_F(MigrateTest, ALockedPageIsLockedAfterwards) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    ASSERT_TRUE(m_.vm.mlock(mm_, at, kPageSize));
    m_.write(mm_, at, 5);
    Folio& old = m_.folio_at(mm_, at);
    ASSERT_TRUE(phys::folio_test_mlocked(old));
    ASSERT_TRUE(migrate(old));
    m_.lru.lru_add_drain_all();
    const Folio& now = m_.folio_at(mm_, at);
    EXPECT_TRUE(phys::folio_test_mlocked(now) && phys::folio_test_unevictable(now));
    EXPECT_FALSE(phys::folio_test_mlocked(old));
    EXPECT_EQ(m_.phys->global_zone_page_state(phys::ZoneStat::kNrMlock), 1);
    ASSERT_TRUE(m_.vm.munlock(mm_, at, kPageSize));
    EXPECT_EQ(m_.phys->global_zone_page_state(phys::ZoneStat::kNrMlock), 0);
  });
}

// While a page is away, behind a migration entry, the address space goes on living.
class MigrationEntry : public MigrateTest {
 protected:
  // Pages 0 … 3, the second behind a migration entry while `meanwhile` runs.
  void while_away(std::function<void(VirtAddr at)> meanwhile) {
    in_task([&] {
      base_ = m_.anon(mm_, 4);
      for (unsigned i = 0; i < 4; ++i) m_.write(mm_, base_ + i * kPageSize, static_cast<std::uint8_t>(10 + i));
      const VirtAddr at = base_ + kPageSize;
      Folio& folio = m_.folio_at(mm_, at);
      phys::folio_get(folio);
      phys::folio_lock(*m_.phys, folio);
      AnonVma* anon_vma = m_.vm.rmap().folio_get_anon_vma(folio);
      ASSERT_TRUE(m_.vm.rmap().try_to_migrate(folio));
      EXPECT_TRUE(arch::is_writable_migration_entry(entry_at(mm_, at)));
      EXPECT_EQ(mm_.counter(Rss::kAnonPages), 4);
      meanwhile(at);
      m_.vm.rmap().remove_migration_ptes(folio, folio);
      m_.vm.rmap().put_anon_vma(*anon_vma);
      phys::folio_unlock(*m_.phys, folio);
      m_.lru.folio_put(folio);
      after_(at);
    });
  }
  VirtAddr base_{};
  std::function<void(VirtAddr)> after_ = [](VirtAddr) {};
};

TEST_F(MigrationEntry, AnAccessWaitsUntilThePageIsBack) {
  bool done = false;
  after_ = [&](VirtAddr) {
    while (!done) m_.scheduler.sleep_for(1000);
  };
  while_away([&](VirtAddr at) {
    m_.scheduler.spawn("reader", [&, at] {
      EXPECT_EQ(m_.read(mm_, at), 11);
      done = true;
    });
    m_.scheduler.sleep_for(1'000'000);
    EXPECT_FALSE(done);
  });
  EXPECT_TRUE(done);
}

TEST_F(MigrationEntry, ForkSharesThePageThatIsAway) {
  Mm* child = nullptr;
  after_ = [&](VirtAddr at) {
    EXPECT_EQ(m_.folio_at(mm_, at).mapcount, 2);
    m_.write(mm_, at, 77);
    EXPECT_EQ(m_.read(*child, at), 11);
    m_.vm.validate();
    m_.vm.mmput(*child);
  };
  while_away([&](VirtAddr at) {
    child = *m_.vm.dup_mm(mm_);
    EXPECT_TRUE(arch::is_readable_migration_entry(entry_at(mm_, at)));
    EXPECT_TRUE(arch::is_readable_migration_entry(entry_at(*child, at)));
    EXPECT_EQ(child->counter(Rss::kAnonPages), 4);
  });
}

TEST_F(MigrationEntry, UnmappingDropsTheEntry) {
  after_ = [&](VirtAddr) { EXPECT_EQ(mm_.counter(Rss::kAnonPages), 3); };
  while_away([&](VirtAddr at) { ASSERT_TRUE(m_.vm.munmap(mm_, at, kPageSize)); });
}

TEST_F(MigrationEntry, TheWholeAddressSpaceMayGo) {
  Mm* child = nullptr;
  while_away([&](VirtAddr) {
    child = *m_.vm.dup_mm(mm_);
    m_.vm.mmput(*child);
  });
}

TEST_F(MigrationEntry, ProtectionHoldsForThePageThatComesBack) {
  after_ = [&](VirtAddr at) {
    EXPECT_EQ(m_.vm.access(mm_, at, arch::Access::kWrite).si_code, SiCode::kSegvAccErr);
    EXPECT_EQ(m_.read(mm_, at), 11);
    EXPECT_TRUE(phys::folio_test_anon_exclusive(m_.folio_at(mm_, at)));
  };
  while_away([&](VirtAddr at) {
    ASSERT_TRUE(m_.vm.mprotect(mm_, at, kPageSize, Prot::kRead));
    EXPECT_TRUE(arch::is_readable_exclusive_migration_entry(entry_at(mm_, at)));
  });
}

TEST_F(MigrationEntry, AdviceLeavesItAloneAndMincoreCallsItResident) {
  after_ = [&](VirtAddr at) { EXPECT_EQ(m_.read(mm_, at), 11); };
  while_away([&](VirtAddr at) {
    for (const Advice advice : {Advice::kWillNeed, Advice::kFree, Advice::kCold}) {
      EXPECT_TRUE(m_.vm.madvise(mm_, at, kPageSize, advice));
    }
    std::uint8_t vec = 0;
    ASSERT_TRUE(m_.vm.mincore(mm_, at, kPageSize, std::span(&vec, 1)));
    EXPECT_EQ(vec, 1);
  });
}

TEST_F(MigrationEntry, MremapTakesItAlong) {
  VirtAddr moved{};
  after_ = [&](VirtAddr) { EXPECT_EQ(m_.read(mm_, moved + kPageSize), 11); };
  while_away([&](VirtAddr) {
    const VirtAddr target = m_.anon(mm_, 8);
    moved = m_.vm.mremap(mm_, base_, 4 * kPageSize, 4 * kPageSize, MremapFlags::kMayMove | MremapFlags::kFixed, target).value();
  });
}

}  // namespace
}  // namespace quire::vm
