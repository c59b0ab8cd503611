// Tasks that run freely on two to four CPUs, preempted at any sync point, and change one address space of several page tables:
// a call of one often gives way between a change and its flush, and others meet what it has changed. Each byte read and each
// refusal is held against a model of what may be there, and the stale-translation checker looks at the end of each gather.
//
// QUIRE_SEEDS sets how many programs are run.
#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <set>

#include "../../unit/vm/vm_machine.h"
#include "effort.h"
#include "quire/base/rng.h"

namespace quire::vm {
namespace {

constexpr VirtAddr kArea{512 * kMiB};
constexpr std::uint64_t kTables = 3;
constexpr std::uint64_t kTablePages = 512;
constexpr std::uint64_t kAreaPages = kTables * kTablePages;
constexpr std::uint64_t kHot = 2;  // pages of each table that tasks touch: the first ones
constexpr Prot kBoth = Prot::kRead | Prot::kWrite;

enum class Rights : std::uint8_t { kWritable, kReadOnly, kUnknown };

// What a page may hold, and whether it may be written, while calls that overlap it are under way.
struct PageModel {
  std::set<int> possible{0};
  unsigned discards = 0, frees = 0, protects = 0;  // calls under way
  std::uint64_t writes = 0, protects_begun = 0;    // ever
  bool alone = true;                               // no two calls of mprotect overlapped since none was under way
  bool lazy = false;                               // MADV_FREE has, or may have, met what was written last
  Rights rights = Rights::kWritable;
};

class FreeRunning {
 public:
  explicit FreeRunning(std::uint64_t seed)
      : seed_(seed),
        weights_(draw_weights(seed)),
        m_({.ram = 96 * kMiB,
            .cpus = 2 + static_cast<unsigned>(seed % 3),
            .seed = seed,
            .preempt_permille = 50 + 50 * static_cast<unsigned>(seed % 5),
            .zram = 8 * kMiB}) {
    m_.vm.shootdown().omit_flushes([this](FlushSite site) { return site == omit_; });
    m_.vm.tlb_checker().listen([this](const StaleTranslation& s) { wrong(s.text()); });
  }

  // `omit`: the flushes that are left out; kCount: none.
  void run(unsigned ops, FlushSite omit = FlushSite::kCount) {
    omit_ = omit;
    m_.run([&] {
      mm_ = &m_.mm_alloc();
      m_.anon(*mm_, kAreaPages, kBoth, MapFlags::kFixed | MapFlags::kPrivate, kArea);
    });
    racers(ops);
    m_.run([&] {
      for (std::uint64_t i = 0; i < kHot * kTables && wrong_.empty(); ++i) read(hot(i));
    });
    if (!wrong_.empty()) return;
    m_.validate();
    m_.run([&] {
      m_.vm.mmput(*mm_);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
  }
  [[nodiscard]] const std::string& what_is_wrong() const { return wrong_; }
  [[nodiscard]] std::uint64_t met() const { return met_; }
  [[nodiscard]] const TlbShootdown::Stats& stats() { return m_.vm.shootdown().stats(); }

 private:
  void racers(unsigned ops) {
    for (unsigned task = 0; task < m_.scheduler.cpus(); ++task) {
      m_.scheduler.spawn("racer", [this, task, ops] {
        Rng rng(seed_ * 16 + task);
        for (unsigned i = 0; i < ops && wrong_.empty(); ++i) step(rng);
        m_.vm.shootdown().enter_lazy_tlb(*mm_);
      });
    }
    EXPECT_TRUE(m_.scheduler.run().done());
  }

  static VirtAddr address(std::uint64_t page) { return kArea + page * kPageSize; }
  static std::uint64_t hot(std::uint64_t n) { return n / kHot * kTablePages + n % kHot; }
  void wrong(const std::string& text) {
    if (wrong_.empty()) wrong_ = text;
  }

  // A part of the area that begins and ends at a page that is touched: a page or two, or across tables.
  static Range<std::uint64_t> some_pages(Rng& rng) {
    const std::uint64_t a = rng.below(kHot * kTables);
    const std::uint64_t b = rng.chance(1, 2) ? a : rng.below(kHot * kTables);
    return {hot(std::min(a, b)), hot(std::max(a, b)) + 1};
  }
  template <class F>
  void for_each(Range<std::uint64_t> pages, F&& f) {
    for (std::uint64_t i = pages.begin; i < pages.end; ++i) f(model_[i]);
  }

  // What a program does, and how often: some kinds not at all, so that others meet undisturbed.
  enum Kind : std::size_t { kRead, kWrite, kFill, kDiscard, kMapAgain, kFree, kProtect, kReclaim, kFork, kKinds };
  static std::array<std::uint64_t, kKinds> draw_weights(std::uint64_t seed) {
    Rng rng(seed);
    std::array<std::uint64_t, kKinds> weights{};
    for (std::uint64_t& weight : weights) weight = rng.chance(1, 3) ? 0 : 1 + rng.below(8);
    weights[kRead] += 8;
    weights[kWrite] += 8;
    weights[kFill] += 2;
    return weights;
  }
  Kind draw_kind(Rng& rng) const {
    std::uint64_t at = rng.below(std::accumulate(weights_.begin(), weights_.end(), std::uint64_t{0}));
    std::size_t kind = 0;
    for (; at >= weights_[kind]; ++kind) at -= weights_[kind];
    return static_cast<Kind>(kind);
  }

  void step(Rng& rng) {
    if (mm_->tlb_flush_pending != 0) ++met_;
    const std::uint64_t page = hot(rng.below(kHot * kTables));
    const Range<std::uint64_t> pages = some_pages(rng);
    switch (draw_kind(rng)) {
      case kRead: return read(page);
      case kWrite: return write(page, some_byte(rng));
      case kFill: return fill(rng);
      case kDiscard: discard(pages); break;
      case kMapAgain: map_again(pages); break;
      case kFree: advise_free(pages); break;
      case kProtect: return protect(pages, rng.chance(1, 3) ? Rights::kReadOnly : Rights::kWritable);
      case kReclaim: return reclaim(page, rng.chance(1, 2) ? TtuFlags::kBatchFlush : TtuFlags::kNone);
      case kFork: return fork();
      case kKinds: break;
    }
    // What is just thrown away is what a missing flush would show.
    rng.chance(1, 2) ? read(pages.begin) : write(pages.begin, some_byte(rng));
  }
  static std::uint8_t some_byte(Rng& rng) { return static_cast<std::uint8_t>(1 + rng.below(255)); }

  void read(std::uint64_t page) {
    const int found = m_.read(*mm_, address(page));
    PageModel& model = model_[page];
    if (!model.possible.contains(found)) {
      return wrong("page " + std::to_string(page) + " reads as " + std::to_string(found) + ", not " +
                   std::to_string(*model.possible.rbegin()));
    }
    if (model.discards != 0 || model.lazy) {
      model.possible = {0, found};
    } else {
      model.possible = {found};
    }
  }

  void write(std::uint64_t page, std::uint8_t value) {
    PageModel& model = model_[page];
    const auto rights = model.rights;
    const std::uint64_t begun = model.protects_begun;
    const AccessOutcome outcome = m_.write(*mm_, address(page), value);
    const bool same = begun == model.protects_begun && model.protects == 0;
    if (same && outcome.ok() && rights == Rights::kReadOnly) return wrong("a write to a page without the right");
    if (same && !outcome.ok() && rights == Rights::kWritable) return wrong("a write that was refused");
    if (!outcome.ok()) return;
    ++model.writes;
    model.possible = {value};
    if (model.discards != 0 || model.frees != 0) model.possible.insert(0);
    model.lazy = model.frees != 0;
  }

  // Many pages that nobody looks at: what takes a walk its time.
  void fill(Rng& rng) {
    const std::uint64_t first = rng.below(kTables) * kTablePages + kHot;
    static_cast<void>(m_.vm.touch_user(*mm_, address(first), (kTablePages - kHot) * kPageSize, arch::Access::kWrite));
  }

  template <class Call>
  void discarding(Range<std::uint64_t> pages, Call&& call) {
    std::vector<std::uint64_t> writes;
    for_each(pages, [&](PageModel& model) {
      ++model.discards;
      model.possible.insert(0);
      writes.push_back(model.writes);
    });
    call();
    std::size_t i = 0;
    for_each(pages, [&](PageModel& model) {
      --model.discards;
      if (model.writes == writes[i++]) model.possible = {0};
    });
  }
  void discard(Range<std::uint64_t> pages) {
    discarding(pages,
               [&] { EXPECT_TRUE(m_.vm.madvise(*mm_, address(pages.begin), pages.size() * kPageSize, Advice::kDontNeed)); });
  }
  void map_again(Range<std::uint64_t> pages) {
    begin_protect(pages);
    discarding(pages, [&] { m_.anon(*mm_, pages.size(), kBoth, MapFlags::kFixed | MapFlags::kPrivate, address(pages.begin)); });
    end_protect(pages, Rights::kWritable);
  }

  void advise_free(Range<std::uint64_t> pages) {
    for_each(pages, [](PageModel& model) {
      ++model.frees;
      model.lazy = true;
      model.possible.insert(0);
    });
    EXPECT_TRUE(m_.vm.madvise(*mm_, address(pages.begin), pages.size() * kPageSize, Advice::kFree));
    for_each(pages, [](PageModel& model) { --model.frees; });
  }

  void begin_protect(Range<std::uint64_t> pages) {
    for_each(pages, [](PageModel& model) {
      model.alone = ++model.protects == 1;
      ++model.protects_begun;
      model.rights = Rights::kUnknown;
    });
  }
  // Known only where no other call came in between.
  void end_protect(Range<std::uint64_t> pages, Rights rights) {
    for_each(pages, [&](PageModel& model) {
      if (--model.protects == 0 && model.alone) model.rights = rights;
    });
  }
  void protect(Range<std::uint64_t> pages, Rights rights) {
    begin_protect(pages);
    const Prot prot = rights == Rights::kWritable ? kBoth : Prot::kRead;
    EXPECT_TRUE(m_.vm.mprotect(*mm_, address(pages.begin), pages.size() * kPageSize, prot));
    end_protect(pages, rights);
  }

  void reclaim(std::uint64_t page, TtuFlags flags) {
    phys::Page* frame = m_.page_at(*mm_, address(page));
    if (frame == nullptr || frame == &m_.vm.zero_page()) return;
    m_.reclaim(phys::page_folio(*frame), flags);
  }

  void fork() {
    const Result<Mm*> child = m_.vm.dup_mm(*mm_);
    if (child) m_.vm.mmput(**child);
  }

  std::uint64_t seed_;
  std::array<std::uint64_t, kKinds> weights_;
  VmMachine m_;
  Mm* mm_ = nullptr;
  std::vector<PageModel> model_ = std::vector<PageModel>(kAreaPages);
  FlushSite omit_ = FlushSite::kCount;
  std::string wrong_;
  std::uint64_t met_ = 0;
};

TEST(FlushRace, BytesAndRefusalsAreWhatTheCallsAllow) {
  std::uint64_t met = 0;
  TlbShootdown::Stats sum;
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 60, 12);
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    FreeRunning program(seed);
    program.run(400);
    ASSERT_EQ(program.what_is_wrong(), "") << "seed " << seed;
    met += program.met();
    sum.ipis += program.stats().ipis;
    sum.deferred += program.stats().deferred;
  }
  // The programs reach what they are for.
  RecordProperty("met", static_cast<int>(met));
  EXPECT_GT(met, 0u);
  EXPECT_GT(sum.ipis, 0u);
  EXPECT_GT(sum.deferred, 0u);
}

// Most kinds of programs never come to one; some do.
TEST(FlushRace, AGatherThatForgetsTheOthersIsFound) {
  unsigned found = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    FreeRunning program(seed);
    program.run(400, FlushSite::kNested);
    found += program.what_is_wrong().empty() ? 0 : 1;
  }
  EXPECT_GT(found, 1u);
}

}  // namespace
}  // namespace quire::vm
