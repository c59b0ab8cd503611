// The allocation flow of early Linux 2.4 (free, inactive-clean and inactive-dirty pages), in its seven steps:
//
//   1  zonelist by gfp                                       PhysMem::alloc_pages
//   2  free pages short: wake kswapd, or bdflush when writing would do
//   3  a zone with more free pages than its low mark
//   4  a zone whose free and inactive-clean pages together pass the high mark, then the low one; wake kswapd, yield
//   5  the same at the min mark
//   6  a block of several pages: launder inactive-dirty pages, free inactive-clean ones until the block is there;
//      a single page: wait for kswapd and start again
//   7  what is left, but for a quarter of the min mark (PF_MEMALLOC: all of it); give up
//
// An inactive-clean page is one that costs nothing but its removal from the page cache.
// Differs from Linux: inactive-clean pages have no list of their own; clean, unmapped file pages of the inactive list are
// what counts as such. A page taken from there passes through the free list. When kswapd has given up, it is the waiting
// caller that turns to the OOM killer, not kswapd. kreclaimd's work is done by the callers themselves.
#include "quire/phys/alloc/alloc_policy.h"
#include "quire/phys/alloc/flow_trace.h"
#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

class Linux24AllocPolicy final : public AllocPolicy {
 public:
  [[nodiscard]] std::string_view name() const override { return "linux-2.4"; }
  Page* alloc_pages(PhysMem& mem, AllocContext& ac) override;
};

class Request {
 public:
  Request(PhysMem& mem, AllocContext& ac)
      : mem_(mem),
        ac_(ac),
        pressure_(mem.memory_pressure()),
        memalloc_(task_test(mem.scheduler(), TaskFlag::kMemalloc) && !any(ac.gfp, Gfp::kNoMemAlloc)),
        direct_reclaim_(ac.order.value() == 0 && may(Gfp::kDirectReclaim) && !memalloc_) {}
  Page* run();

 private:
  enum class Next : std::uint8_t { kTryAgain, kFinalPhase };

  void wake_helpers();
  Page* alloc_free();
  Page* alloc_pages_limit(Watermark limit);
  Page* launder_and_assemble();
  Next wait_for_memory();
  Page* alloc_anything();

  Page* rmqueue(Zone& zone);
  bool reclaim_page(Zone& zone);
  [[nodiscard]] std::uint64_t inactive_clean(const Zone& zone) const {
    return pressure_ == nullptr ? 0 : pressure_->nr_inactive_clean_pages(zone);
  }
  [[nodiscard]] std::uint64_t free_shortage() const;
  [[nodiscard]] std::uint64_t inactive_shortage() const;
  void tell(const Zone& zone, Watermark mark, std::string_view verdict) {
    flow::zone(mem_, zone, ac_.order, mark, zone.watermark(mark), 0, verdict);
  }
  template <class F>
  void for_each_zone(F&& f) {
    ac_.zonelist->for_each_zone(ac_.highest_zoneidx, std::forward<F>(f));
  }
  [[nodiscard]] bool may(Gfp flag) const { return any(ac_.gfp, flag); }

  PhysMem& mem_;
  AllocContext& ac_;
  MemoryPressure* pressure_;
  const bool memalloc_;
  const bool direct_reclaim_;  // may take inactive-clean pages itself: single pages, callers that may wait
};

Page* Linux24AllocPolicy::alloc_pages(PhysMem& mem, AllocContext& ac) {
  flow::begin(mem, name(), ac);
  if (ac.preferred_zone == nullptr) {
    flow::gave_up(mem, "no zone of the zonelist is low enough");
    return nullptr;
  }
  return Request(mem, ac).run();
}

Page* Request::run() {
  wake_helpers();
  for (;;) {
    if (Page* page = alloc_free()) return page;
    if (Page* page = alloc_pages_limit(Watermark::kHigh)) return page;
    if (Page* page = alloc_pages_limit(Watermark::kLow)) return page;
    if (pressure_ != nullptr) {
      flow::step(mem_, "wake kswapd");
      pressure_->wakeup_kswapd(*ac_.preferred_zone, ac_.gfp, ac_.order, ac_.highest_zoneidx);
    }
    if (may(Gfp::kDirectReclaim)) mem_.scheduler().yield();
    if (Page* page = alloc_pages_limit(Watermark::kMin)) return page;
    if (memalloc_ || pressure_ == nullptr) break;
    if (ac_.order.value() > 0 && may(Gfp::kDirectReclaim)) {
      if (Page* page = launder_and_assemble()) return page;
    }
    if (!may(Gfp::kDirectReclaim) || wait_for_memory() == Next::kFinalPhase) break;
  }
  if (Page* page = alloc_anything()) return page;
  flow::gave_up(mem_, "no zone has a block left that this caller may take");
  mem_.warn_alloc(ac_);
  return nullptr;
}

// How many free and inactive-clean pages the zones lack below their low marks.
std::uint64_t Request::free_shortage() const {
  std::uint64_t shortage = 0;
  mem_.for_each_populated_zone([&](Zone& zone) {
    const std::uint64_t have = zone.free_pages() + inactive_clean(zone);
    const std::uint64_t low = zone.watermark(Watermark::kLow);
    if (have < low) shortage += low - have;
  });
  return shortage;
}

// What kswapd tries to keep ready: free, clean and dirty inactive pages for a sixty-fourth of memory (inactive_target when
// no pressure was seen yet).
std::uint64_t Request::inactive_shortage() const {
  std::uint64_t ready = pressure_->nr_inactive_dirty_pages();
  std::uint64_t high = 0;
  mem_.for_each_populated_zone([&](Zone& zone) {
    ready += zone.free_pages() + inactive_clean(zone);
    high += zone.watermark(Watermark::kHigh);
  });
  const std::uint64_t target = high + mem_.totalram_pages() / 64;
  return ready < target ? target - ready : 0;
}

// Step 2.
void Request::wake_helpers() {
  if (pressure_ == nullptr) return;
  const std::uint64_t short_of = free_shortage();
  if (short_of == 0) return;
  if (inactive_shortage() > mem_.totalram_pages() / 128) {
    flow::step(mem_, "wake kswapd", "free and inactive pages are short");
    pressure_->wakeup_kswapd(*ac_.preferred_zone, ac_.gfp, ac_.order, ac_.highest_zoneidx);
    return;
  }
  if (pressure_->nr_inactive_dirty_pages() > short_of) {
    flow::step(mem_, "wake bdflush", "writing dirty pages would do");
    pressure_->wakeup_bdflush();
  }
}

Page* Request::rmqueue(Zone& zone) {
  Page* page = mem_.rmqueue(*ac_.preferred_zone, zone, ac_.order, AllocFlags::kWmarkMin, ac_.migratetype);
  if (page != nullptr) mem_.prep_new_page(*page, ac_.order, ac_.gfp);
  return page;
}

bool Request::reclaim_page(Zone& zone) {
  if (pressure_ == nullptr || !pressure_->reclaim_page(zone)) return false;
  flow::step(mem_, "inactive-clean page", zone.name(), 1);
  return true;
}

// Step 3: free pages first, for what lies in an inactive page may be wanted again.
Page* Request::alloc_free() {
  flow::pass(mem_, "free pages above the low mark", AllocFlags::kWmarkLow);
  Page* page = nullptr;
  for_each_zone([&](Zone& zone) {
    if (zone.free_pages() < zone.watermark(Watermark::kLow)) {
      tell(zone, Watermark::kLow, "below the mark");
      return true;
    }
    tell(zone, Watermark::kLow, "ok");
    page = rmqueue(zone);
    return page == nullptr;
  });
  return page;
}

// Steps 4 and 5: a zone that has enough, free and inactive-clean pages taken together (__alloc_pages_limit).
Page* Request::alloc_pages_limit(Watermark limit) {
  constexpr std::uint64_t kSpare = 8;  // free pages are spared when the zone has hardly more than its min mark
  flow::pass(mem_, "free and inactive-clean pages together", static_cast<AllocFlags>(limit));
  Page* page = nullptr;
  for_each_zone([&](Zone& zone) {
    if (zone.free_pages() + inactive_clean(zone) < zone.watermark(limit)) {
      tell(zone, limit, "below the mark");
      return true;
    }
    tell(zone, limit, "ok");
    if (direct_reclaim_ && zone.free_pages() < zone.watermark(Watermark::kMin) + kSpare) reclaim_page(zone);
    page = rmqueue(zone);
    return page == nullptr;
  });
  return page;
}

// Step 6 for a block of several pages: frees inactive-clean pages one by one, in the hope that they lie side by side.
Page* Request::launder_and_assemble() {
  std::uint64_t cleaned = 0;
  {
    const MemallocScope scope(mem_.scheduler());
    cleaned = pressure_->page_launder(ac_.gfp);
  }
  flow::step(mem_, "page_launder", cleaned != 0 ? "inactive-dirty pages written" : "nothing to write", cleaned);
  Page* page = nullptr;
  for_each_zone([&](Zone& zone) {
    std::uint64_t freed = 0;
    while (page == nullptr && pressure_->reclaim_page(zone)) {
      ++freed;
      page = rmqueue(zone);
    }
    if (freed != 0) flow::step(mem_, "inactive-clean pages freed", zone.name(), freed);
    return page == nullptr;
  });
  return page;
}

// Step 6: sleeps until kswapd has done a round. Who may not start I/O could hold what kswapd waits for, so it reclaims
// by itself instead.
Request::Next Request::wait_for_memory() {
  const bool again = ac_.order.value() == 0;  // large blocks do not come of waiting
  if (!may(Gfp::kIo)) {
    std::uint64_t freed = 0;
    {
      const MemallocScope scope(mem_.scheduler());
      freed = pressure_->try_to_free_pages(*ac_.zonelist, ac_.order, ac_.gfp);
    }
    flow::step(mem_, "try_to_free_pages", freed != 0 ? "progress" : "no progress", freed);
    if (!again || freed == 0) return Next::kFinalPhase;
    flow::retry(mem_, "pages were freed");
    return Next::kTryAgain;
  }
  const bool hope = pressure_->wait_for_kswapd(ac_.preferred_zone->node());
  flow::step(mem_, "wait for kswapd", hope ? "it has done a round" : "it has given up");
  if (!again) return Next::kFinalPhase;
  if (!hope) {
    const bool killed = pressure_->out_of_memory(ac_.gfp, ac_.order);
    flow::step(mem_, "OOM killer", killed ? "memory will come free" : "nobody to kill");
    if (!killed && !may(Gfp::kNoFail)) return Next::kFinalPhase;
    mem_.scheduler().sync_point();
  }
  if (task_test(mem_.scheduler(), TaskFlag::kOomVictim) && !may(Gfp::kNoFail)) return Next::kFinalPhase;
  flow::retry(mem_, "a single page is waited for");
  return Next::kTryAgain;
}

// Step 7.
Page* Request::alloc_anything() {
  flow::pass(mem_, "anything that is left", memalloc_ ? AllocFlags::kNoWatermarks : AllocFlags::kWmarkMin);
  Page* page = nullptr;
  for_each_zone([&](Zone& zone) {
    if (direct_reclaim_) reclaim_page(zone);
    if (zone.free_pages() < zone.watermark(Watermark::kMin) / 4 && !memalloc_) {
      tell(zone, Watermark::kMin, "below a quarter of the mark");
      return true;
    }
    tell(zone, Watermark::kMin, "ok");
    page = rmqueue(zone);
    return page == nullptr;
  });
  return page;
}

}  // namespace

std::unique_ptr<AllocPolicy> make_linux_2_4_alloc_policy() { return std::make_unique<Linux24AllocPolicy>(); }

}  // namespace quire::phys
