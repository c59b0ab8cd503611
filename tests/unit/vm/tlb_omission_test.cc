// Each place that flushes, left out once: the stale-translation checker must find it. And with nothing left out it must find
// nothing. CPU 0 changes the tables; CPU 1 has used the pages and goes on running in the same address space, unless the case
// is about one that does not.
#include <gtest/gtest.h>

#include <array>
#include <string_view>

#include "quire/vm/tlb_flush.h"
#include "two_cpus.h"

namespace quire::vm {
namespace {

constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;

// What a case works on: pages written on CPU 0 and used on CPU 1.
struct Scene {
  TwoCpus& two;
  Mm& mm;
  VmMachine& m = two.m;

  // `pages` private pages, all touched by both CPUs; one more behind them keeps their table in use.
  VirtAddr anon(std::uint64_t pages, arch::Access kind = arch::Access::kWrite) {
    const VirtAddr at = m.anon(mm, pages + 1);
    for (std::uint64_t i = 0; i <= pages; ++i) {
      EXPECT_TRUE(m.write(mm, at + i * kPageSize, static_cast<std::uint8_t>(i)).ok());
      two.touch_on_other(mm, at + i * kPageSize, kind);
    }
    return at;
  }
  VirtAddr shared_file(file::File& file) {
    const VirtAddr at = m.vm.mmap(mm, VirtAddr(0), 2 * kPageSize, kReadWrite, MapFlags::kShared, &file, 0).value();
    two.touch_on_other(mm, at, arch::Access::kWrite);
    return at;
  }
  file::File& file() { return m.open("/f", 4 * kPageSize, 3); }
  void unmap_without_flush(VirtAddr at) {
    phys::Folio& folio = m.folio_at(mm, at);
    m.lru.lru_add_drain_all();
    phys::folio_lock(*m.phys, folio);
    EXPECT_TRUE(m.swap.add_to_swap(folio));
    EXPECT_TRUE(m.vm.rmap().try_to_unmap(folio, TtuFlags::kBatchFlush));
    phys::folio_unlock(*m.phys, folio);
    EXPECT_TRUE(m.vm.shootdown().pending());
  }
};

void munmap(Scene& s) {
  const VirtAddr at = s.anon(3);
  ASSERT_TRUE(s.m.vm.munmap(s.mm, at, kPageSize));
}

void exit(Scene& s) {
  Mm& child = s.m.mm_alloc();
  const VirtAddr at = s.m.anon(child, 2);
  ASSERT_TRUE(s.m.write(child, at, 1).ok());
  s.two.touch_on_other(child, at);
  s.m.lru.lru_add_drain_all();  // so that the frames are freed at once
  s.m.vm.mmput(child);
}

void zap(Scene& s) {
  const VirtAddr at = s.anon(3);
  ASSERT_TRUE(s.m.vm.madvise(s.mm, at, kPageSize, Advice::kDontNeed));
}

void truncate(Scene& s) {
  file::File& file = s.file();
  const VirtAddr at = s.m.vm.mmap(s.mm, VirtAddr(0), 2 * kPageSize, Prot::kRead, MapFlags::kShared, &file, 0).value();
  s.two.touch_on_other(s.mm, at);
  s.m.vm.unmap_mapping_pages(file.mapping(), Pgoff(0), 1, file::EvenCows::kYes);
  s.two.check();
  s.m.vfs.fput(file);
}

void zap_dirty(Scene& s) {
  file::File& file = s.file();
  const VirtAddr at = s.shared_file(file);
  ASSERT_TRUE(s.m.vm.madvise(s.mm, at, kPageSize, Advice::kDontNeed));
  s.two.check();
  s.m.vfs.fput(file);
}

// CPU 0 discards two tables full and gives way before the second; CPU 1 discards a page of the first.
void nested(Scene& s) {
  constexpr std::uint64_t kTablePages = 512;
  constexpr VirtAddr kAt{512 * kMiB};
  s.m.anon(s.mm, 2 * kTablePages, kReadWrite, MapFlags::kFixed | MapFlags::kPrivate, kAt);
  ASSERT_EQ(s.m.vm.touch_user(s.mm, kAt, 2 * kTablePages * kPageSize, arch::Access::kWrite), 2 * kTablePages * kPageSize);
  s.two.touch_on_other(s.mm, kAt);
  s.two.start_on_other([&] {
    while (!s.m.vm.pgtable().pte_offset(s.mm, kAt)->none()) s.two.pass_time();
    ASSERT_TRUE(s.m.vm.madvise(s.mm, kAt, kPageSize, Advice::kDontNeed));
  });
  ASSERT_TRUE(s.m.vm.madvise(s.mm, kAt, 2 * kTablePages * kPageSize, Advice::kDontNeed));
  s.two.finish_other();
}

void mprotect(Scene& s) {
  const VirtAddr at = s.anon(3);
  ASSERT_TRUE(s.m.vm.mprotect(s.mm, at, kPageSize, Prot::kRead));
}

void mremap(Scene& s) {
  const VirtAddr at = s.anon(3);
  constexpr MremapFlags kMove = MremapFlags::kMayMove | MremapFlags::kFixed;
  ASSERT_TRUE(s.m.vm.mremap(s.mm, at, kPageSize, kPageSize, kMove, VirtAddr(0x1234'0000)));
}

void fork(Scene& s) {
  static_cast<void>(s.anon(3));
  const Result<Mm*> child = s.m.vm.dup_mm(s.mm);
  ASSERT_TRUE(child);
  s.two.check();
  s.m.vm.mmput(**child);
}

void cow(Scene& s) {
  const VirtAddr at = s.anon(1);
  const Result<Mm*> child = s.m.vm.dup_mm(s.mm);
  ASSERT_TRUE(child);
  s.two.touch_on_other(s.mm, at);
  ASSERT_TRUE(s.m.write(s.mm, at, 9).ok());
  s.two.check();
  s.m.vm.mmput(**child);
}

void unmap(Scene& s) {
  const VirtAddr at = s.anon(1);
  s.m.reclaim(s.m.folio_at(s.mm, at), TtuFlags::kNone);
}

void unmap_batch(Scene& s) {
  const VirtAddr at = s.anon(1);
  s.unmap_without_flush(at);
  s.two.check();  // it is still to come
  ASSERT_TRUE(s.two.found.empty()) << s.two.found.front();
  s.m.vm.shootdown().flush_pending();
}

void batch_pending(Scene& s) {
  const VirtAddr at = s.anon(1);
  s.unmap_without_flush(at);
  ASSERT_TRUE(s.m.vm.munmap(s.mm, at, kPageSize));
  s.m.vm.shootdown().flush_pending();
}

void migrate(Scene& s) {
  const VirtAddr at = s.anon(1);
  phys::Folio& folio = s.m.folio_at(s.mm, at);
  s.m.lru.lru_add_drain_all();
  phys::folio_get(folio);
  phys::folio_lock(*s.m.phys, folio);
  AnonVma* anon_vma = s.m.vm.rmap().folio_get_anon_vma(folio);
  ASSERT_TRUE(s.m.vm.rmap().try_to_migrate(folio));
  s.two.check();
  s.m.vm.rmap().remove_migration_ptes(folio, folio);
  s.m.vm.rmap().put_anon_vma(*anon_vma);
  phys::folio_unlock(*s.m.phys, folio);
  s.m.lru.folio_put(folio);
}

void mkclean(Scene& s) {
  file::File& file = s.file();
  const VirtAddr at = s.shared_file(file);
  phys::Folio& folio = s.m.folio_at(s.mm, at);
  phys::folio_lock(*s.m.phys, folio);
  EXPECT_EQ(s.m.vm.rmap().folio_mkclean(folio), 1);
  phys::folio_unlock(*s.m.phys, folio);
  s.two.check();
  s.m.vfs.fput(file);
}

void advise_free(Scene& s) {
  const VirtAddr at = s.anon(3);
  ASSERT_TRUE(s.m.vm.madvise(s.mm, at, kPageSize, Advice::kFree));
}

void advise_cold(Scene& s) {
  const VirtAddr at = s.anon(3);
  ASSERT_TRUE(s.m.vm.madvise(s.mm, at, kPageSize, Advice::kCold));
}

// CPU 1 goes to another address space, and comes back when a page has gone.
void switch_back(Scene& s) {
  const VirtAddr at = s.anon(2);
  Mm& away = s.m.mm_alloc();
  const VirtAddr there = s.m.anon(away, 1);
  s.two.touch_on_other(away, there);
  ASSERT_TRUE(s.m.vm.munmap(s.mm, at, kPageSize));
  s.two.touch_on_other(s.mm, at + kPageSize);
  s.two.check();
  s.m.vm.mmput(away);
}

// More address spaces than a CPU has ids.
void new_asid(Scene& s) {
  static_cast<void>(s.anon(1));
  std::array<Mm*, kTlbNrDynAsids> others{};
  for (Mm*& other : others) {
    other = &s.m.mm_alloc();
    s.two.touch_on_other(*other, s.m.anon(*other, 1));
  }
  s.two.check();
  for (Mm* other : others) s.m.vm.mmput(*other);
}

// CPU 1 sleeps, keeps the address space, and goes on in it when a page has gone.
void lazy_back(Scene& s) {
  const VirtAddr at = s.anon(2);
  s.two.other_is(TwoCpus::Between::kAsleep);
  const std::uint64_t ipis = s.m.vm.shootdown().stats().ipis;
  ASSERT_TRUE(s.m.vm.munmap(s.mm, at, kPageSize));
  EXPECT_EQ(s.m.vm.shootdown().stats().ipis, ipis);
  s.two.touch_on_other(s.mm, at + kPageSize);
}

enum class Harm : std::uint8_t { kStale, kNone };
struct Case {
  FlushSite site;
  const char* name;
  void (*run)(Scene&);
  Harm harm = Harm::kStale;
};
constexpr std::array kCases{
    Case{FlushSite::kMunmap, "Munmap", munmap},
    Case{FlushSite::kExit, "Exit", exit},
    Case{FlushSite::kZap, "Zap", zap},
    Case{FlushSite::kTruncate, "Truncate", truncate},
    Case{FlushSite::kZapDirty, "ZapDirty", zap_dirty},
    Case{FlushSite::kNested, "Nested", nested},
    Case{FlushSite::kMprotect, "Mprotect", mprotect},
    Case{FlushSite::kMremap, "Mremap", mremap},
    Case{FlushSite::kFork, "Fork", fork},
    Case{FlushSite::kCow, "Cow", cow},
    Case{FlushSite::kUnmap, "Unmap", unmap},
    Case{FlushSite::kUnmapBatch, "UnmapBatch", unmap_batch},
    Case{FlushSite::kBatchPending, "BatchPending", batch_pending},
    Case{FlushSite::kMigrate, "Migrate", migrate},
    Case{FlushSite::kMkclean, "Mkclean", mkclean},
    Case{FlushSite::kFree, "Free", advise_free},
    // Accessed bits only: what is lost is accuracy (the page looks unused), never a byte.
    Case{FlushSite::kCold, "Cold", advise_cold, Harm::kNone},
    Case{FlushSite::kSwitch, "Switch", switch_back},
    Case{FlushSite::kNewAsid, "NewAsid", new_asid},
    Case{FlushSite::kLazyBack, "LazyBack", lazy_back},
};
static_assert(kCases.size() == static_cast<std::size_t>(FlushSite::kOther));  // each site but the tests' own

class FlushOmission : public testing::TestWithParam<Case> {
 protected:
  // How often the site was asked; what the checker found.
  unsigned play(const TlbShootdown::Omit& omit) {
    unsigned asked = 0;
    two_.m.vm.shootdown().omit_flushes([&](FlushSite site) {
      asked += site == GetParam().site ? 1 : 0;
      return omit(site);
    });
    two_.run([&] {
      Mm& mm = two_.m.mm_alloc();
      Scene scene{two_, mm};
      GetParam().run(scene);
      two_.check();
      two_.m.vm.shootdown().omit_flushes(nullptr);
      found_ = two_.found;
      two_.m.vm.mmput(mm);
    });
    return asked;
  }
  TwoCpus two_;
  std::vector<std::string> found_;
};

TEST_P(FlushOmission, IsFound) {
  EXPECT_GT(play([](FlushSite site) { return site == GetParam().site; }), 0u) << "the case does not flush there";
  EXPECT_EQ(found_.empty(), GetParam().harm == Harm::kNone);
}

TEST_P(FlushOmission, NothingIsFoundWithoutOne) {
  EXPECT_GT(play([](FlushSite) { return false; }), 0u);
  EXPECT_TRUE(found_.empty()) << found_.front();
  EXPECT_TRUE(two_.found.empty());
}

INSTANTIATE_TEST_SUITE_P(Sites, FlushOmission, testing::ValuesIn(kCases),
                         [](const testing::TestParamInfo<Case>& one) { return std::string(one.param.name); });

// Reclaim has put off a flush of one address space that both CPUs have used. A flush of another, which leaves out CPU 1 though
// that runs there, is found all the same.
TEST(FlushExcuse, ABatchExcusesOnlyTheAddressSpacesThatItHasNoted) {
  TwoCpus two;
  two.run([&] {
    Mm& noted = two.m.mm_alloc();
    Mm& other = two.m.mm_alloc();
    Scene scene{two, noted};
    const VirtAddr at = two.m.anon(other, 2);
    for (std::uint64_t i = 0; i < 2; ++i) ASSERT_TRUE(two.m.write(other, at + i * kPageSize, 1).ok());
    scene.unmap_without_flush(scene.anon(1));
    two.touch_on_other(other, at);
    ASSERT_TRUE(two.m.vm.shootdown().pending(1, noted));
    other.cpumask.clear(1);
    ASSERT_TRUE(two.m.vm.madvise(other, at, kPageSize, Advice::kDontNeed));
    other.cpumask.set(1);
    EXPECT_FALSE(two.found.empty());
    two.m.vm.shootdown().flush_pending();
    two.m.vm.mmput(other);
    two.m.vm.mmput(noted);
  });
}

}  // namespace
}  // namespace quire::vm
