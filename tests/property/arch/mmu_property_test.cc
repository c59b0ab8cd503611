// Random map, unmap and protect of 4 KiB, 2 MiB and 1 GiB pages in several address spaces on several CPUs, against a model.
//
// With the flushes that Linux makes, every translation of every CPU is the model's; with one left out, it is the old one
// and the stale-translation checker says so.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "quire/arch/mmu.h"
#include "quire/base/rng.h"
#include "table_arena.h"

namespace quire::arch {
namespace {

constexpr unsigned kSpaces = 3;
constexpr unsigned kCpus = 2;

struct Mapping {
  Pfn pfn{};
  Pgprot prot{};
  unsigned level = 1;
  bool accessed = false;
  bool dirty = false;
};

// Pages of each size have a GiB of their own, so that no table has to be freed.
class World {
 public:
  World(std::uint64_t seed, const Geometry& geometry) : rng_(seed) {
    for (unsigned i = 0; i < kSpaces; ++i) spaces_.push_back(std::make_unique<TableArena>(geometry, 512));
    for (unsigned i = 0; i < kSpaces; ++i) {
      for (unsigned c = 0; c < kCpus; ++c) mmus_.push_back(std::make_unique<Mmu>(spaces_[i]->tables()));
    }
    model_.resize(kSpaces);
  }

  void step() {
    const auto space = static_cast<unsigned>(rng_.below(kSpaces));
    const VirtAddr va = pick();
    switch (rng_.below(16)) {
      case 0:
      case 1:
      case 2: map(space, va); break;
      case 3: unmap(space, va); break;
      case 4: protect(space, va); break;
      case 5:
      case 6: clean(space, va); break;
      case 7:
        if (rng_.chance(1, 10)) unmap_range(space, va);
        break;
      default: access(space, va); break;
    }
  }

  void validate() {
    for (const auto& mmu : mmus_) mmu->tlb().validate();
    for (unsigned space = 0; space < kSpaces; ++space) {
      for (unsigned cpu = 0; cpu < kCpus; ++cpu) {
        const Tlb& tlb = mmu_of(space, cpu).tlb();
        tlb.for_each([&](const TlbEntry& entry) {
          ASSERT_EQ(entry.asid(), space);
          const VirtAddr va(entry.vpn << kPageShift);
          ASSERT_EQ(tlb.staleness(space, va, probe(space, va)), Staleness::kFresh);
        });
      }
    }
  }

  [[nodiscard]] std::uint64_t translated() const { return translated_; }

  // Changes a mapping that a CPU remembers and flushes nothing: the checker must see it.
  void forget_one_flush() {
    const unsigned space = 1;
    const VirtAddr va(0x7000);
    arena(space).map(va, Pfn(100), kPageShared);
    Mmu& mmu = mmu_of(space, 0);
    mmu.tlb().flush_page(space, va);
    ASSERT_TRUE(mmu.translate(space, arena(space).root(), va, Access::kWrite, Privilege::kUser));
    Pte* pte = arena(space).tables().lookup(arena(space).root(), va);

    const Pte was = *pte;
    *pte = pte_wrprotect(was);
    ASSERT_EQ(mmu.tlb().staleness(space, va, probe(space, va)), Staleness::kRights);
    *pte = pte_mkclean(was);
    ASSERT_EQ(mmu.tlb().staleness(space, va, probe(space, va)), Staleness::kDirty);
    *pte = pte_mkold(was);
    ASSERT_EQ(mmu.tlb().staleness(space, va, probe(space, va)), Staleness::kFresh);
    *pte = Pte();
    ASSERT_EQ(mmu.tlb().staleness(space, va, probe(space, va)), Staleness::kUnmapped);
    ASSERT_TRUE(mmu.translate(space, arena(space).root(), va, Access::kRead, Privilege::kUser));  // as hardware would
  }

 private:
  using Space = std::map<std::uint64_t, Mapping>;  // by first address

  TableArena& arena(unsigned space) { return *spaces_[space]; }
  Mmu& mmu_of(unsigned space, unsigned cpu) { return *mmus_[space * kCpus + cpu]; }
  WalkResult probe(unsigned space, VirtAddr va) { return arena(space).tables().probe(arena(space).root(), va); }

  // GiB 0: small pages; GiB 1: 2 MiB pages; GiB 2 and 3: 1 GiB pages.
  VirtAddr pick() {
    switch (rng_.below(4)) {
      case 0: return VirtAddr(kGiB + rng_.below(16) * kPmdSize + rng_.below(kPmdSize));
      case 1: return VirtAddr(2 * kGiB + rng_.below(2 * kGiB));
      default: return VirtAddr(rng_.below(400) * kPageSize + rng_.below(kPageSize));
    }
  }
  static unsigned level_at(VirtAddr va) { return va < VirtAddr(kGiB) ? 1 : va < VirtAddr(2 * kGiB) ? 2 : 3; }
  static std::uint64_t size_of(unsigned level) { return kPageSize << (9 * (level - 1)); }
  static std::uint64_t first_of(VirtAddr va) { return align_down(va.value(), size_of(level_at(va))); }

  Mapping* find(unsigned space, VirtAddr va) {
    const auto at = model_[space].find(first_of(va));
    return at == model_[space].end() ? nullptr : &at->second;
  }
  void flush(unsigned space, VirtAddr va) {
    for (unsigned cpu = 0; cpu < kCpus; ++cpu) mmu_of(space, cpu).tlb().flush_page(space, va);
  }
  Pgprot pick_prot() {
    const Pgprot all[] = {kPageReadonly, kPageReadonlyExec, kPageShared, kPageSharedExec, kPageNone};
    return all[rng_.below(std::size(all))];
  }
  std::uint64_t& entry(unsigned space, VirtAddr va) { return arena(space).entry(va, level_at(va)); }
  void write_entry(unsigned space, VirtAddr va, const Mapping& m) {
    Pte pte = mk_pte(m.pfn, m.prot);
    pte = m.accessed ? pte_mkyoung(pte) : pte_mkold(pte);
    if (m.dirty) pte = pte_mkdirty(pte);
    if (m.level > 1) pte = pte.with(PteBits::kPse);
    entry(space, va) = pte.value();
  }

  void map(unsigned space, VirtAddr va) {
    if (find(space, va) != nullptr) return;
    Mapping m;
    m.level = level_at(va);
    m.pfn = Pfn(rng_.below(1 << 16) << (9 * (m.level - 1)));
    m.prot = pick_prot();
    model_[space][first_of(va)] = m;
    write_entry(space, va, m);  // not-present → present needs no flush
  }
  void unmap(unsigned space, VirtAddr va) {
    if (find(space, va) == nullptr) return;
    model_[space].erase(first_of(va));
    entry(space, va) = 0;
    flush(space, va);
  }
  void unmap_range(unsigned space, VirtAddr va) {
    const VirtAddr begin(first_of(va));
    const VirtAddr end = begin + (1 + rng_.below(60)) * size_of(level_at(va));
    auto at = model_[space].lower_bound(begin.value());
    while (at != model_[space].end() && at->first < end.value()) {
      entry(space, VirtAddr(at->first)) = 0;
      at = model_[space].erase(at);
    }
    for (unsigned cpu = 0; cpu < kCpus; ++cpu) mmu_of(space, cpu).tlb().flush_range(space, {begin, end});
  }
  void protect(unsigned space, VirtAddr va) {
    Mapping* m = find(space, va);
    if (m == nullptr) return;
    m->prot = pick_prot();
    write_entry(space, va, *m);
    flush(space, va);
  }
  // page_mkclean, or the young bit alone, which is cleared without a flush.
  void clean(unsigned space, VirtAddr va) {
    Mapping* m = find(space, va);
    if (m == nullptr) return;
    m->accessed = false;
    if (rng_.chance(1, 2)) {
      m->dirty = false;
      write_entry(space, va, *m);
      flush(space, va);
    } else {
      write_entry(space, va, *m);
      cleared_young_[{space, first_of(va)}] = true;
    }
  }

  void access(unsigned space, VirtAddr va) {
    const auto cpu = static_cast<unsigned>(rng_.below(kCpus));
    const auto how = static_cast<Access>(rng_.below(3));
    const auto who = rng_.chance(1, 5) ? Privilege::kKernel : Privilege::kUser;
    Mmu& mmu = mmu_of(space, cpu);
    const WalkResult got = mmu.translate(space, arena(space).root(), va, how, who);
    mmu.tlb().check_against(space, va, probe(space, va));

    Mapping* m = find(space, va);
    ASSERT_EQ(static_cast<bool>(got), m != nullptr && allowed(*m, how, who));
    if (!got) {
      const bool present = m != nullptr && !any(m->prot.bits & PteBits::kProtNone, PteBits::kProtNone);
      ASSERT_EQ(any(got.code, FaultCode::kProt), present);
      ASSERT_EQ(any(got.code, FaultCode::kWrite), how == Access::kWrite);
      ASSERT_EQ(any(got.code, FaultCode::kInstr), how == Access::kExec);
      ASSERT_EQ(any(got.code, FaultCode::kUser), who == Privilege::kUser);
      return;
    }
    ++translated_;
    ASSERT_EQ(got.pa, pfn_to_phys(m->pfn) + (va.value() - first_of(va)));
    if (how == Access::kWrite) m->dirty = true;
    check_accessed_and_dirty(space, va, *m);
  }
  static bool allowed(const Mapping& m, Access how, Privilege who) {
    if (!any(m.prot.bits, PteBits::kPresent)) return false;
    if (how == Access::kWrite) return any(m.prot.bits, PteBits::kRw);
    if (how == Access::kExec) return who == Privilege::kUser && !any(m.prot.bits, PteBits::kNx);
    return true;
  }
  // D is exact. A is set unless it was cleared without a flush and the TLB has served everything since.
  void check_accessed_and_dirty(unsigned space, VirtAddr va, Mapping& m) {
    const Pte now(entry(space, va));
    ASSERT_EQ(pte_dirty(now), m.dirty);
    if (!pte_young(now)) {
      ASSERT_TRUE((cleared_young_.contains({space, first_of(va)})));
    }
    m.accessed = pte_young(now);
  }

  Rng rng_;
  std::uint64_t translated_ = 0;
  std::vector<std::unique_ptr<TableArena>> spaces_;  // each address space has RAM of its own, and a pair of MMUs
  std::vector<std::unique_ptr<Mmu>> mmus_;
  std::vector<Space> model_;
  std::map<std::pair<unsigned, std::uint64_t>, bool> cleared_young_;
};

class MmuProperty : public testing::TestWithParam<unsigned> {
 protected:
  static Geometry geometry() { return GetParam() == 4 ? Geometry::x86_64_4level() : Geometry::x86_64_5level(); }
};
INSTANTIATE_TEST_SUITE_P(Levels, MmuProperty, testing::Values(4u, 5u));

TEST_P(MmuProperty, TranslationsAreTheModels) {
  World world(GetParam(), geometry());
  for (int op = 0; op < 200'000; ++op) {
    world.step();
    if (op % 5'000 == 0) world.validate();
    ASSERT_FALSE(HasFatalFailure()) << "op " << op;
  }
  world.validate();
  EXPECT_GT(world.translated(), 20'000u);  // the run was about translations, not about holes
}

TEST_P(MmuProperty, ShortRunsOfManySeeds) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    World world(seed, geometry());
    for (int op = 0; op < 500; ++op) {
      world.step();
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " op " << op;
    }
    world.validate();
  }
}

TEST_P(MmuProperty, AMissingFlushIsSeen) {
  World world(1, geometry());
  world.forget_one_flush();
}

}  // namespace
}  // namespace quire::arch
