// Random programs of three address spaces on two CPUs, one of which falls asleep now and then: with every flush done the
// stale-translation checker finds nothing after any step, and with one flush left out it often does (not always: mostly nobody
// remembers what was flushed).
//
// QUIRE_SEEDS sets how many programs are run.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>

#include "../../unit/vm/two_cpus.h"
#include "quire/base/rng.h"

namespace quire::vm {
namespace {

constexpr VirtAddr kFirst{0x10000000};
constexpr std::uint64_t kPages = 24;
constexpr std::size_t kSpaces = 3;

class FlushProgram {
 public:
  explicit FlushProgram(std::uint64_t seed) : rng_(seed) {}

  // Runs `ops` steps, or until something is found. `omit`: which flush is left out, counted from 1; 0: none.
  void run(std::uint64_t ops, std::uint64_t omit) {
    std::uint64_t flushes = 0;
    two_.m.vm.shootdown().omit_flushes([&](FlushSite site) {
      if (site == FlushSite::kCold) return false;  // costs accuracy only
      return ++flushes == omit;
    });
    two_.run([&] {
      file_ = &two_.m.open("/data", kPages * kPageSize, 5);
      for (Mm*& mm : mms_) {
        mm = &two_.m.mm_alloc();
        map(*mm, 0, kPages);
      }
      for (std::uint64_t i = 0; i < ops && two_.found.empty(); ++i) {
        step();
        two_.check();
      }
      found_ = two_.found;
      two_.m.vm.shootdown().omit_flushes(nullptr);
      for (Mm* mm : mms_) two_.m.vm.mmput(*mm);
      two_.m.vfs.fput(*file_);
      two_.m.lru.lru_add_drain_all();
    });
  }
  [[nodiscard]] const std::vector<std::string>& found() const { return found_; }
  [[nodiscard]] const TlbShootdown::Stats& stats() { return two_.m.vm.shootdown().stats(); }

 private:
  VirtAddr page(std::uint64_t n) const { return kFirst + n * kPageSize; }
  void map(Mm& mm, std::uint64_t first, std::uint64_t pages) {
    const bool named = rng_.chance(1, 3);
    const MapFlags type = rng_.chance(1, 3) ? MapFlags::kShared : MapFlags::kPrivate;
    const MapFlags flags = type | MapFlags::kFixed | (named ? MapFlags::kNone : MapFlags::kAnonymous);
    EXPECT_TRUE(two_.m.vm.mmap(mm, page(first), pages * kPageSize, Prot::kRead | Prot::kWrite, flags, named ? file_ : nullptr,
                               named ? first * kPageSize : 0));
  }
  void on_some_cpu(const std::function<void()>& f) { rng_.chance(1, 2) ? f() : two_.on_other(f); }

  void step() {
    Mm*& mm = mms_[rng_.below(kSpaces)];
    const std::uint64_t first = rng_.below(kPages - 3);
    const std::uint64_t pages = 1 + rng_.below(3);
    Vm& vm = two_.m.vm;
    const std::uint64_t what = rng_.below(100);
    if (what < 60) {
      const auto kind = rng_.chance(1, 2) ? arch::Access::kWrite : arch::Access::kRead;
      return on_some_cpu([&] {
        for (std::uint64_t i = 0; i < pages; ++i) static_cast<void>(vm.access(*mm, page(first + i), kind));
      });
    }
    if (what < 65) return on_some_cpu([&] { static_cast<void>(vm.munmap(*mm, page(first), pages * kPageSize)); });
    if (what < 72) return map(*mm, first, pages);
    if (what < 78) {
      const Prot prot = rng_.chance(1, 2) ? Prot::kRead : Prot::kRead | Prot::kWrite;
      return on_some_cpu([&] { static_cast<void>(vm.mprotect(*mm, page(first), pages * kPageSize, prot)); });
    }
    if (what < 83) {
      constexpr std::array kAdvices{Advice::kDontNeed, Advice::kFree, Advice::kCold};
      const Advice advice = kAdvices[rng_.below(kAdvices.size())];
      return on_some_cpu([&] { static_cast<void>(vm.madvise(*mm, page(first), pages * kPageSize, advice)); });
    }
    if (what < 86) {
      constexpr MremapFlags kMove = MremapFlags::kMayMove | MremapFlags::kFixed;
      const VirtAddr to = page(rng_.below(kPages));
      return static_cast<void>(vm.mremap(*mm, page(first), kPageSize, kPageSize, kMove, to));
    }
    if (what < 94) {
      return on_some_cpu([&] {
        phys::Page* frame = two_.m.page_at(*mm, page(first));
        if (frame == nullptr || frame == &vm.zero_page()) return;
        two_.m.reclaim(phys::page_folio(*frame), rng_.chance(1, 2) ? TtuFlags::kBatchFlush : TtuFlags::kNone);
      });
    }
    if (what < 97) {
      const Result<Mm*> copy = vm.dup_mm(*mms_[rng_.below(kSpaces)]);
      ASSERT_TRUE(copy);
      vm.mmput(*std::exchange(mm, *copy));
      return;
    }
    two_.other_is(rng_.chance(1, 2) ? TwoCpus::Between::kAsleep : TwoCpus::Between::kBusy);
  }

  Rng rng_;
  TwoCpus two_;
  file::File* file_ = nullptr;
  std::array<Mm*, kSpaces> mms_{};
  std::vector<std::string> found_;
};

std::uint64_t seeds(std::uint64_t otherwise) {
  const char* text = std::getenv("QUIRE_SEEDS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

TEST(FlushProperty, WithEveryFlushDoneNoTranslationIsStale) {
  TlbShootdown::Stats sum;
  for (std::uint64_t seed = 1; seed <= seeds(15); ++seed) {
    FlushProgram program(seed);
    program.run(400, 0);
    ASSERT_TRUE(program.found().empty()) << "seed " << seed << ": " << program.found().front();
    sum.ipis += program.stats().ipis;
    sum.switch_flushes += program.stats().switch_flushes;
    sum.lazy_skipped += program.stats().lazy_skipped;
    sum.deferred += program.stats().deferred;
  }
  // The programs reach what they are for.
  EXPECT_GT(sum.ipis, 0u);
  EXPECT_GT(sum.switch_flushes, 0u);
  EXPECT_GT(sum.lazy_skipped, 0u);
  EXPECT_GT(sum.deferred, 0u);
}

TEST(FlushProperty, AFlushLeftOutIsOftenFound) {
  std::uint64_t found = 0;
  const std::uint64_t programs = seeds(30);
  for (std::uint64_t seed = 1; seed <= programs; ++seed) {
    FlushProgram program(seed);
    program.run(400, 20 + seed % 40);
    found += program.found().empty() ? 0 : 1;
  }
  EXPECT_GE(found, programs / 5);
  RecordProperty("found", static_cast<int>(found));
  RecordProperty("programs", static_cast<int>(programs));
}

}  // namespace
}  // namespace quire::vm
