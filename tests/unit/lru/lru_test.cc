#include <gtest/gtest.h>

#include "lru_machine.h"

namespace quire::lru {
namespace {

using phys::Folio;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneStat;
using Folios = std::vector<const Folio*>;

TEST(Lru, AFolioWaitsInItsBatchUntilTheBatchIsFull) {
  LruMachine m;
  std::vector<Folio*> folios;
  for (int i = 0; i < 14; ++i) {
    folios.push_back(&m.folio(AnonOrFile::kAnon));
    m.lru.folio_add_lru(*folios.back());
    EXPECT_FALSE(phys::folio_test_lru(*folios.back()));
    EXPECT_EQ(phys::folio_ref_count(*folios.back()), 2);
  }
  EXPECT_EQ(m.lru.batched(), 14u);
  EXPECT_EQ(m.size(LruList::kInactiveAnon), 0u);
  m.lru.validate();

  folios.push_back(&m.folio(AnonOrFile::kAnon));
  m.lru.folio_add_lru(*folios.back());
  EXPECT_EQ(m.lru.batched(), 0u);
  EXPECT_EQ(m.size(LruList::kInactiveAnon), 15u);
  EXPECT_EQ(m.node_stat(NodeStat::kNrInactiveAnon), 15);
  EXPECT_EQ(m.zone_stat(ZoneStat::kNrZoneInactiveAnon), 15);
  for (Folio* f : folios) EXPECT_EQ(phys::folio_ref_count(*f), 1);
  EXPECT_EQ(m.list(LruList::kInactiveAnon), Folios(folios.rbegin(), folios.rend()));  // newest first
  m.lru.validate();
}

TEST(Lru, FlagsChooseTheList) {
  LruMachine m;
  Folio& anon = m.folio(AnonOrFile::kAnon);
  Folio& file = m.folio(AnonOrFile::kFile);
  Folio& hot = m.folio(AnonOrFile::kFile);
  phys::folio_set_active(hot);
  for (Folio* f : {&anon, &file, &hot}) m.lru.folio_add_lru(*f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kInactiveAnon), Folios{&anon});
  EXPECT_EQ(m.list(LruList::kInactiveFile), Folios{&file});
  EXPECT_EQ(m.list(LruList::kActiveFile), Folios{&hot});
  EXPECT_EQ(m.node_stat(NodeStat::kNrActiveFile), 1);
  m.lru.validate();
}

TEST(Lru, LargeFoliosCountTheirPagesAndDoNotWait) {
  LruMachine m;
  Folio& f = m.folio(AnonOrFile::kAnon, Order(3));
  m.lru.folio_add_lru(f);
  EXPECT_TRUE(phys::folio_test_lru(f));
  EXPECT_EQ(m.size(LruList::kInactiveAnon), 8u);
  m.lru.validate();
  m.put(f);
  EXPECT_EQ(m.size(LruList::kInactiveAnon), 0u);
  m.lru.validate();
}

TEST(Lru, SecondAccessActivates) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kFile);
  m.lru.mark_folio_accessed(f);
  EXPECT_TRUE(phys::folio_test_referenced(f));
  EXPECT_EQ(m.size(LruList::kActiveFile), 0u);
  const auto age = m.lru.lruvec(Nid(0)).nonresident_age;
  m.lru.mark_folio_accessed(f);
  EXPECT_FALSE(phys::folio_test_referenced(f));
  EXPECT_EQ(m.lru.lruvec(Nid(0)).nonresident_age, age + 1);
  m.lru.lru_add_drain();
  EXPECT_TRUE(phys::folio_test_active(f));
  EXPECT_EQ(m.list(LruList::kActiveFile), Folios{&f});
  EXPECT_EQ(m.event(VmEvent::kPgactivate), 1);
  m.lru.mark_folio_accessed(f);  // active, unreferenced → referenced
  EXPECT_TRUE(phys::folio_test_referenced(f));
  m.lru.validate();
}

TEST(Lru, AccessedWhileStillInTheAddBatch) {
  LruMachine m;
  Folio& f = m.folio(AnonOrFile::kFile);
  m.lru.folio_add_lru(f);
  m.lru.mark_folio_accessed(f);
  m.lru.mark_folio_accessed(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kActiveFile), Folios{&f});
  EXPECT_EQ(m.event(VmEvent::kPgactivate), 0);  // it was never moved
  m.lru.validate();
}

TEST(Lru, DeactivateAndItsCounters) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kAnon);
  m.lru.folio_activate(f);
  m.lru.lru_add_drain();
  phys::folio_set_referenced(f);
  m.lru.deactivate_folio(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kInactiveAnon), Folios{&f});
  EXPECT_FALSE(phys::folio_test_referenced(f));
  EXPECT_EQ(m.event(VmEvent::kPgdeactivate), 1);
  m.lru.validate();
}

TEST(Lru, DeactivateFileGoesToTheBackWhenCleanAndToTheFrontWhenDirty) {
  LruMachine m;
  Folio& first = m.added(AnonOrFile::kFile);
  Folio& clean = m.added(AnonOrFile::kFile);
  Folio& dirty = m.added(AnonOrFile::kFile);
  Folio& mapped = m.added(AnonOrFile::kFile);
  Folio& last = m.added(AnonOrFile::kFile);
  phys::folio_set_dirty(dirty);
  mapped.mapcount = 1;
  for (Folio* f : {&clean, &dirty, &mapped}) m.lru.deactivate_file_folio(*f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kInactiveFile), (Folios{&dirty, &last, &mapped, &first, &clean}));
  EXPECT_TRUE(phys::folio_test_reclaim(dirty));
  EXPECT_EQ(m.event(VmEvent::kPgrotated), 1);
  mapped.mapcount = 0;
  m.lru.validate();
}

TEST(Lru, LazyfreeJoinsTheInactiveFileList) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kAnon);
  m.lru.folio_activate(f);
  m.lru.lru_add_drain();
  m.lru.mark_folio_lazyfree(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kInactiveFile), Folios{&f});
  EXPECT_FALSE(phys::folio_test_swapbacked(f));
  EXPECT_EQ(m.event(VmEvent::kPglazyfree), 1);
  m.lru.validate();
}

TEST(Lru, RotateMovesACleanFolioToTheBack) {
  LruMachine m;
  Folio& a = m.added(AnonOrFile::kFile);
  Folio& b = m.added(AnonOrFile::kFile);
  m.lru.folio_rotate_reclaimable(b);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kInactiveFile), (Folios{&a, &b}));
  EXPECT_EQ(m.event(VmEvent::kPgrotated), 1);
  phys::folio_set_dirty(a);
  m.lru.folio_rotate_reclaimable(a);
  EXPECT_EQ(m.lru.batched(), 0u);
}

TEST(Lru, ABatchedMoveIsNotMadeWhenTheFolioWasIsolatedMeanwhile) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kFile);
  m.lru.folio_activate(f);
  ASSERT_TRUE(m.lru.folio_isolate_lru(f));
  m.lru.lru_add_drain();
  EXPECT_FALSE(phys::folio_test_active(f));
  EXPECT_FALSE(phys::folio_test_lru(f));
  EXPECT_EQ(phys::folio_ref_count(f), 2);
  m.lru.validate();
  m.lru.folio_putback_lru(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.list(LruList::kInactiveFile), Folios{&f});
  EXPECT_EQ(phys::folio_ref_count(f), 1);
}

TEST(Lru, IsolateOnlyOnce) {
  LruMachine m;
  Folio& f = m.added(AnonOrFile::kAnon);
  EXPECT_TRUE(m.lru.folio_isolate_lru(f));
  EXPECT_FALSE(m.lru.folio_isolate_lru(f));
  EXPECT_EQ(m.size(LruList::kInactiveAnon), 0u);
  m.lru.folio_putback_lru(f);
  m.lru.lru_add_drain();
  m.lru.validate();
}

TEST(Lru, TheLastReferenceFreesEvenFromABatch) {
  LruMachine m;
  const std::uint64_t before = m.free_pages();
  Folio& listed = m.added(AnonOrFile::kFile);
  Folio& batched = m.folio(AnonOrFile::kFile);
  m.lru.folio_add_lru(batched);
  m.put(batched);
  EXPECT_EQ(phys::folio_ref_count(batched), 1);  // the batch's
  m.put(listed);
  EXPECT_EQ(m.size(LruList::kInactiveFile), 0u);
  m.lru.lru_add_drain();
  EXPECT_EQ(m.free_pages(), before);
  EXPECT_EQ(m.size(LruList::kInactiveFile), 0u);
  m.lru.validate();
  m.phys->validate();
}

TEST(Lru, ReleaseFoliosFreesTheLastReferencesOnly) {
  LruMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  const std::uint64_t before = m.free_pages();
  std::vector<Folio*> folios;
  for (int i = 0; i < 40; ++i) {
    Folio& f = m.folio(i % 3 == 0 ? AnonOrFile::kAnon : AnonOrFile::kFile, Order(i % 5 == 0 ? 2 : 0), Nid(i % 2));
    if (i % 4 != 0) m.lru.folio_add_lru(f);
    folios.push_back(&f);
  }
  m.lru.lru_add_drain_all();
  m.lru.validate();
  phys::folio_get(*folios[7]);
  for (Folio* f : folios) f->mapping = 0;
  m.lru.release_folios(folios);
  EXPECT_EQ(phys::folio_ref_count(*folios[7]), 1);
  EXPECT_TRUE(phys::folio_test_lru(*folios[7]));
  EXPECT_EQ(before - m.free_pages(), 1u);
  m.lru.validate();
  m.put(*folios[7]);
  EXPECT_EQ(m.free_pages(), before);
}

TEST(Lru, NodesHaveListsOfTheirOwn) {
  LruMachine m({.ram = 128 * kMiB, .cpus = 2, .nodes = 2});
  Folio& zero = m.added(AnonOrFile::kAnon, Order(0), Nid(0));
  Folio& one = m.added(AnonOrFile::kAnon, Order(0), Nid(1));
  EXPECT_EQ(m.list(LruList::kInactiveAnon, Nid(0)), Folios{&zero});
  EXPECT_EQ(m.list(LruList::kInactiveAnon, Nid(1)), Folios{&one});
  const Lruvec& lruvec = m.lru.lruvec(Nid(1));
  EXPECT_EQ(lruvec.size(LruList::kInactiveAnon, phys::ZoneType::kMovable), 1u);
  EXPECT_EQ(lruvec.zone_size(LruList::kInactiveAnon, one.zone_type()), 1u);
}

TEST(Lru, TellsTracepointsAndHooks) {
  struct Log final : LruHooks {
    void folio_added(Folio&, LruList l) override { text += "+" + std::string(lru_list_name(l)) + " "; }
    void folio_removed(Folio&, LruList l) override { text += "-" + std::string(lru_list_name(l)) + " "; }
    void folio_activated(Folio&) override { text += "activated "; }
    std::string text;
  } log;
  LruMachine m;
  m.lru.set_hooks(&log);
  std::vector<std::string> events;
  for (const auto* name : {"mm_lru_insertion", "mm_lru_activate"}) {
    m.traces.find(name)->listen([&](const EventView& e) {
      std::string line(e.name());
      e.fields([&](std::string_view field, FieldValue v) {
        if (field != "pfn") line += " " + std::string(field) + "=" + std::to_string(std::get<std::uint64_t>(v));
      });
      events.push_back(line);
    });
  }
  Folio& f = m.added(AnonOrFile::kAnon);
  m.lru.folio_activate(f);
  m.lru.lru_add_drain();
  EXPECT_EQ(events, (std::vector<std::string>{"mm_lru_insertion lru=0 flags=18", "mm_lru_activate"}));
  EXPECT_EQ(log.text, "+inactive_anon -inactive_anon +active_anon activated ");
  m.lru.set_hooks(nullptr);
}

TEST(Lru, TasksOnSeveralCpusMoveTheirFolios) {
  for (std::uint64_t seed = 0; seed < 15; ++seed) {
    LruMachine m({.ram = 128 * kMiB, .cpus = 4, .nodes = 2, .seed = seed, .preempt_permille = 300});
    const std::uint64_t before = m.free_pages();
    for (std::uint64_t t = 0; t < 6; ++t) {
      m.scheduler.spawn("t" + std::to_string(t), [&m, t] {
        Rng rng(t);
        std::vector<Folio*> mine;
        for (int i = 0; i < 1500; ++i) {
          m.scheduler.charge(rng.below(200));
          if (mine.empty() || rng.below(3) == 0) {
            mine.push_back(&m.folio(rng.below(2) != 0 ? AnonOrFile::kAnon : AnonOrFile::kFile));
            m.lru.folio_add_lru(*mine.back());
            continue;
          }
          std::swap(mine[rng.below(mine.size())], mine.back());
          Folio& f = *mine.back();
          switch (rng.below(6)) {
            case 0: m.lru.mark_folio_accessed(f); break;
            case 1: m.lru.deactivate_folio(f); break;
            case 2: m.lru.folio_rotate_reclaimable(f); break;
            case 3:
              if (m.lru.folio_isolate_lru(f)) m.lru.folio_putback_lru(f);
              break;
            case 4: m.lru.folio_activate(f); break;
            default: m.put(f); mine.pop_back();
          }
        }
        for (Folio* f : mine) m.put(*f);
      });
    }
    m.scheduler.run();
    m.lru.validate();
    m.lru.lru_add_drain_all();
    m.lru.validate();
    EXPECT_EQ(m.free_pages(), before);
  }
}

}  // namespace
}  // namespace quire::lru
