// Random operations on the lists. First drained after each, against a model that keeps five plain lists a node; then with
// full batches and several CPUs, where validate() and the final balance must hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>

#include "lru_machine.h"

namespace quire::lru {
namespace {

using phys::Folio;

// What a folio is and where it stands, by the naive reading of the rules.
struct Known {
  AnonOrFile list_kind;  // which lists it belongs to
  AnonOrFile kind;       // what it is
  bool active = false;
  bool referenced = false;
  bool dirty = false;
  unsigned mlocks = 0;
  enum class Place { kListed, kIsolated } place = Place::kListed;
};

class Model {
 public:
  Model(LruMachine& m, std::uint64_t seed) : m_(m), rng_(seed) {}

  void step() {
    if (known_.empty() || (known_.size() < 150 && rng_.below(4) == 0)) return add();
    auto it = known_.begin();
    std::advance(it, static_cast<long>(rng_.below(known_.size())));
    Folio& f = *it->second.first;
    Known& k = it->second.second;
    operate(f, k, it->first);
    m_.lru.lru_add_drain_all();
  }

  void check() {
    m_.lru.validate();
    for (std::size_t n = 0; n < m_.lru.nodes(); ++n) {
      const Nid nid(static_cast<int>(n));
      for (std::size_t l = 0; l < 4; ++l) {
        const auto& expected = lists_[{n, l}];
        ASSERT_EQ(m_.list(static_cast<LruList>(l), nid), std::vector<const Folio*>(expected.begin(), expected.end()));
      }
      std::uint64_t unevictable = 0;
      for (const auto& [id, entry] : known_) {
        const auto& [f, k] = entry;
        if (k.mlocks > 0 && k.place == Known::Place::kListed && f->nid() == nid) unevictable += folio_nr_pages(*f);
        ASSERT_EQ(phys::folio_test_referenced(*f), k.referenced);
        if (k.mlocks == 0) {
          ASSERT_EQ(phys::folio_test_active(*f), k.active);
        }
      }
      ASSERT_EQ(m_.lru.lruvec(nid).size(LruList::kUnevictable), unevictable);
    }
  }

  void finish() {
    while (!known_.empty()) drop(known_.begin()->first);
    m_.lru.lru_add_drain_all();
  }

 private:
  using Plain = std::list<const Folio*>;

  Plain& plain(const Folio& f, const Known& k) {
    const std::size_t l = (k.list_kind == AnonOrFile::kFile ? 2u : 0u) + (k.active ? 1u : 0u);
    return lists_[{static_cast<std::size_t>(f.nid().value()), l}];
  }
  void unlink(const Folio& f, const Known& k) {
    if (k.mlocks == 0 && k.place == Known::Place::kListed) plain(f, k).remove(&f);
  }
  void link_front(const Folio& f, const Known& k) {
    if (k.mlocks == 0) plain(f, k).push_front(&f);
  }

  void add() {
    const auto kind = rng_.below(2) != 0 ? AnonOrFile::kAnon : AnonOrFile::kFile;
    const Order order(rng_.below(8) == 0 ? static_cast<unsigned>(rng_.below(4)) : 0);
    Folio& f = m_.folio(kind, order, Nid(static_cast<int>(rng_.below(m_.lru.nodes()))));
    Known k{.list_kind = kind, .kind = kind};
    if (rng_.below(4) == 0) {
      phys::folio_set_active(f);
      k.active = true;
    }
    m_.lru.folio_add_lru(f);
    m_.lru.lru_add_drain_all();
    link_front(f, k);
    known_.emplace(next_id_++, std::pair(&f, k));
  }

  void activate(Folio& f, Known& k) {
    if (k.place != Known::Place::kListed || k.active || k.mlocks > 0) return;
    unlink(f, k);
    k.active = true;
    link_front(f, k);
  }

  void operate(Folio& f, Known& k, std::uint64_t id) {
    switch (rng_.below(11)) {
      case 0: return accessed(f, k);
      case 1: m_.lru.folio_activate(f); return activate(f, k);
      case 2: return deactivate(f, k);
      case 3: return deactivate_file(f, k);
      case 4: return lazyfree(f, k);
      case 5: return rotate(f, k);
      case 6: return isolate_or_put_back(f, k);
      case 7: return mlock(f, k);
      case 8: return munlock(f, k);
      case 9: return toggle_dirty(f, k);
      default: return drop(id);
    }
  }

  void accessed(Folio& f, Known& k) {
    m_.lru.mark_folio_accessed(f);
    if (!k.referenced) {
      k.referenced = true;
    } else if (!phys::folio_test_unevictable(f) && !k.active) {
      activate(f, k);
      k.referenced = false;
    }
  }
  void deactivate(Folio& f, Known& k) {
    m_.lru.deactivate_folio(f);
    if (k.place != Known::Place::kListed || !k.active || k.mlocks > 0) return;
    unlink(f, k);
    k.active = k.referenced = false;
    link_front(f, k);
  }
  void deactivate_file(Folio& f, Known& k) {
    m_.lru.deactivate_file_folio(f);
    if (k.place != Known::Place::kListed || k.mlocks > 0) return;
    unlink(f, k);
    k.active = k.referenced = false;
    k.dirty ? plain(f, k).push_front(&f) : plain(f, k).push_back(&f);
  }
  void lazyfree(Folio& f, Known& k) {
    m_.lru.mark_folio_lazyfree(f);
    if (k.place != Known::Place::kListed || k.mlocks > 0 || k.list_kind != AnonOrFile::kAnon) return;
    unlink(f, k);
    k.active = k.referenced = false;
    k.list_kind = AnonOrFile::kFile;
    link_front(f, k);
  }
  void rotate(Folio& f, Known& k) {
    m_.lru.folio_rotate_reclaimable(f);
    if (k.place != Known::Place::kListed || k.dirty || k.mlocks > 0) return;
    unlink(f, k);
    k.active = false;
    plain(f, k).push_back(&f);
  }
  void isolate_or_put_back(Folio& f, Known& k) {
    if (k.place == Known::Place::kListed) {
      unlink(f, k);
      k.place = Known::Place::kIsolated;
      ASSERT_TRUE(m_.lru.folio_isolate_lru(f));
      return;
    }
    ASSERT_FALSE(m_.lru.folio_isolate_lru(f));
    m_.lru.folio_putback_lru(f);
    m_.lru.lru_add_drain_all();
    k.place = Known::Place::kListed;
    if (k.mlocks > 0) {
      // Whoever locked it while it was counted is forgotten but for one (mlock_count starts anew).
      k.active = false;
      k.mlocks = 1;
      ASSERT_EQ(folio_mlock_count(f), k.mlocks);
    }
    link_front(f, k);
  }
  void mlock(Folio& f, Known& k) {
    if (k.place != Known::Place::kListed) return;
    unlink(f, k);
    m_.lru.mlock_folio(f);
    if (k.mlocks++ == 0) k.active = false;
    ASSERT_EQ(folio_mlock_count(f), k.mlocks);
  }
  void munlock(Folio& f, Known& k) {
    if (k.place != Known::Place::kListed || k.mlocks == 0) return;
    m_.lru.munlock_folio(f);
    if (--k.mlocks == 0) link_front(f, k);
    ASSERT_EQ(phys::folio_test_mlocked(f), k.mlocks > 0);
  }
  void toggle_dirty(Folio& f, Known& k) {
    k.dirty = !k.dirty;
    k.dirty ? phys::folio_set_dirty(f) : phys::folio_clear_dirty(f);
  }
  void drop(std::uint64_t id) {
    auto [f, k] = known_.at(id);
    unlink(*f, k);
    if (k.place == Known::Place::kIsolated) m_.lru.folio_put(*f);  // the isolation's reference
    phys::folio_clear_dirty(*f);
    phys::folio_clear_reclaim(*f);
    m_.put(*f);
    known_.erase(id);
  }

  LruMachine& m_;
  Rng rng_;
  std::uint64_t next_id_ = 0;
  std::map<std::uint64_t, std::pair<Folio*, Known>> known_;
  std::map<std::pair<std::size_t, std::size_t>, Plain> lists_;
};

TEST(LruProperty, DrainedOperationsMatchTheModel) {
  for (std::uint64_t seed = 1; seed <= 30 && !testing::Test::HasFatalFailure(); ++seed) {
    LruMachine m({.ram = 48 * kMiB, .cpus = 2, .nodes = seed % 2 == 0 ? 2u : 1u, .seed = seed});
    const std::uint64_t before = m.free_pages();
    Model model(m, seed);
    for (int i = 0; i < 2000 && !testing::Test::HasFatalFailure(); ++i) {
      model.step();
      if (i % 50 == 0) model.check();
    }
    model.check();
    model.finish();
    m.lru.validate();
    EXPECT_EQ(m.free_pages(), before);
  }
}

// Whatever waits in whichever batch: lists, flags and counters agree at every moment, and in the end all is given back.
TEST(LruProperty, UndrainedOperationsOnManyCpusStayConsistent) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    LruMachine m({.ram = 96 * kMiB, .cpus = 3, .nodes = 3, .seed = seed, .preempt_permille = 200});
    const std::uint64_t before = m.free_pages();
    std::vector<Folio*> shared;  // each task holds a reference of its own while it works on one
    for (int i = 0; i < 60; ++i) shared.push_back(&m.added(i % 2 == 0 ? AnonOrFile::kAnon : AnonOrFile::kFile));
    for (std::uint64_t t = 0; t < 5; ++t) {
      m.scheduler.spawn("t" + std::to_string(t), [&m, &shared, t, seed] {
        Rng rng(seed * 31 + t);
        for (int i = 0; i < 1000; ++i) {
          m.scheduler.charge(rng.below(400));
          Folio& f = *shared[rng.below(shared.size())];
          phys::folio_get(f);
          switch (rng.below(9)) {
            case 0: m.lru.mark_folio_accessed(f); break;
            case 1: m.lru.folio_activate(f); break;
            case 2: m.lru.deactivate_folio(f); break;
            case 3: m.lru.deactivate_file_folio(f); break;
            case 4: m.lru.folio_rotate_reclaimable(f); break;
            case 5: m.lru.mlock_folio(f); break;
            case 6: m.lru.munlock_folio(f); break;
            case 7: m.lru.lru_add_drain(); break;
            default:
              if (m.lru.folio_isolate_lru(f)) {
                m.scheduler.sleep_for(rng.below(1000));
                m.lru.folio_putback_lru(f);
              }
          }
          m.lru.folio_put(f);
        }
      });
    }
    m.scheduler.run();
    m.lru.validate();
    m.lru.lru_add_drain_all();
    m.lru.validate();
    for (Folio* f : shared) {
      ASSERT_EQ(phys::folio_ref_count(*f), 1);
      ASSERT_TRUE(phys::folio_test_lru(*f));
      phys::folio_clear_reclaim(*f);
      m.put(*f);
    }
    m.lru.validate();
    EXPECT_EQ(m.free_pages(), before);
    EXPECT_EQ(m.zone_stat(phys::ZoneStat::kNrMlock), 0);
  }
}

}  // namespace
}  // namespace quire::lru
