// The allocation flow of Linux 4.0: a fast path over the zonelist at the low watermark, fair between a node's zones, with
// reclaim of a near zone before a far one is used, where that is allowed; then the slow path: wake kswapd, the min watermark
// and the caller's rights, compaction (asynchronous first), direct reclaim, the OOM killer, and round again.
//
// __GFP_WAIT is Gfp::kDirectReclaim, __GFP_NO_KSWAPD is the absence of Gfp::kKswapdReclaim, __GFP_REPEAT (now
// __GFP_RETRY_MAYFAIL) keeps its bit.
// Differs from Linux: no zonelist cache (it remembered for a second which zones were full), no MIGRATE_RESERVE pageblocks,
// no cpusets; real-time tasks are like others; waiting for congestion is a sleep of HZ/50.
#include <vector>

#include "quire/phys/alloc/alloc_policy.h"
#include "quire/phys/alloc/flow_trace.h"
#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

constexpr sim::Nanos kCongestionWait = 20'000'000;  // HZ/50
constexpr unsigned kReclaimDistance = 30;           // RECLAIM_DISTANCE

constexpr Watermark mark_of(AllocFlags flags) { return static_cast<Watermark>(bits(flags & AllocFlags::kWmarkMask)); }

// 4.0's check: beside the pages, each smaller order is counted out in turn against half the mark before. A zone may so
// refuse a block that lies free in it.
bool zone_watermark_ok(const Zone& zone, Order order, std::uint64_t mark, ZoneType classzone, AllocFlags flags) {
  auto free = static_cast<std::int64_t>(zone.free_pages() + 1) - static_cast<std::int64_t>(order.pages());
  auto min = static_cast<std::int64_t>(mark);
  if (any(flags, AllocFlags::kHigh)) min -= min / 2;
  if (any(flags, AllocFlags::kHarder)) min -= min / 4;
  const std::int64_t cma = any(flags, AllocFlags::kCma) ? 0 : zone.state(ZoneStat::kNrFreeCma);
  if (free - cma <= min + zone.lowmem_reserve(classzone)) return false;
  for (unsigned o = 0; o < order.value(); ++o) {
    free -= static_cast<std::int64_t>(zone.free_area(Order(o)).nr_free << o);
    min >>= 1;
    if (free <= min) return false;
  }
  return true;
}

// How much of each zone may still be taken before its neighbours' turn has come, so that pages live equally long whichever
// zone they landed in (NR_ALLOC_BATCH, ZONE_FAIR_DEPLETED).
class FairShares {
 public:
  [[nodiscard]] bool depleted(const Zone& zone) { return share(zone).depleted; }
  void take(const Zone& zone, Order order) {
    Share& s = share(zone);
    s.batch -= static_cast<std::int64_t>(order.pages());
    if (s.batch <= 0) s.depleted = true;
  }
  // reset_alloc_batches: the preferred zone and those below it on its node.
  void reset(Zone& preferred) {
    preferred.node().for_each_zone([&](Zone& zone) {
      if (zone.type() <= preferred.type()) share(zone) = full(zone);
    });
  }

 private:
  struct Share {
    std::int64_t batch = 0;
    bool depleted = false;
    bool known = false;
  };
  static Share full(const Zone& zone) {
    const auto batch = static_cast<std::int64_t>(zone.watermark(Watermark::kHigh) - zone.watermark(Watermark::kLow));
    return {batch, false, true};
  }
  Share& share(const Zone& zone) {
    const std::size_t at =
        static_cast<std::size_t>(zone.node().nid().value()) * kZoneTypes + static_cast<std::size_t>(zone.type());
    if (at >= shares_.size()) shares_.resize(at + 1);  // at a node's first page only
    if (!shares_[at].known) shares_[at] = full(zone);
    return shares_[at];
  }
  std::vector<Share> shares_;
};

class Linux40AllocPolicy final : public AllocPolicy {
 public:
  [[nodiscard]] std::string_view name() const override { return "linux-4.0"; }
  Page* alloc_pages(PhysMem& mem, AllocContext& ac) override;

 private:
  FairShares shares_;
};

// One request on its way through fast and slow path.
class Request {
 public:
  Request(PhysMem& mem, AllocContext& ac, FairShares& shares)
      : mem_(mem), ac_(ac), shares_(shares), classzone_(ac.preferred_zone->type()) {}
  Page* run();

 private:
  enum class Step : std::uint8_t { kRetry, kGiveUp, kDone };
  enum class Visit : std::uint8_t { kNextZone, kStop };
  enum class Next : std::uint8_t { kGoOn, kStop };

  Page* get_page_from_freelist(AllocFlags flags, std::string_view why);
  Visit visit(Zone& zone, AllocFlags flags, unsigned& fair_skipped);
  bool zone_reclaim(Zone& zone, AllocFlags flags, std::uint64_t mark);
  Page* slowpath();
  Step attempt();
  Next may_go_on();
  Next try_compaction_first();
  void wake_all_kswapds();
  Page* high_priority();
  Page* direct_compact();
  Page* direct_reclaim();
  Page* may_oom();
  [[nodiscard]] AllocFlags gfp_to_alloc_flags() const;
  [[nodiscard]] bool should_alloc_retry() const;
  [[nodiscard]] bool may(Gfp flag) const { return any(ac_.gfp, flag); }
  [[nodiscard]] bool task(TaskFlag flag) const { return task_test(mem_.scheduler(), flag); }
  [[nodiscard]] bool costly() const { return ac_.order > kPageAllocCostlyOrder; }
  // As GFP_TRANSHUGE in 4.0: a caller who would rather have no huge page than wait for one.
  [[nodiscard]] bool for_huge_page() const {
    return all(ac_.gfp, Gfp::kTransHugeLight | Gfp::kNoRetry) && !may(Gfp::kKswapdReclaim);
  }
  bool found(Page* page) {
    page_ = page;
    return page != nullptr;
  }
  Step hopeless(std::string_view why) {
    why_ = why;
    return Step::kGiveUp;
  }

  PhysMem& mem_;
  AllocContext& ac_;
  FairShares& shares_;
  const ZoneType classzone_;  // of the zone preferred: its column of each zone's protection counts
  AllocFlags flags_ = AllocFlags::kWmarkMin;
  Page* page_ = nullptr;
  CompactPriority migration_mode_ = CompactPriority::kAsync;
  CompactResult compact_result_ = CompactResult::kSkipped;
  std::uint64_t did_some_progress_ = 0;
  std::uint64_t pages_reclaimed_ = 0;
  std::string_view why_;
};

Page* Linux40AllocPolicy::alloc_pages(PhysMem& mem, AllocContext& ac) {
  flow::begin(mem, name(), ac);
  if (ac.preferred_zone == nullptr) {
    flow::gave_up(mem, "no zone of the zonelist is low enough");
    return nullptr;
  }
  return Request(mem, ac, shares_).run();
}

Page* Request::run() {
  AllocFlags flags = AllocFlags::kWmarkLow | AllocFlags::kCpuset | AllocFlags::kFair;
  if (ac_.migratetype == MigrateType::kMovable) flags |= AllocFlags::kCma;
  if (found(get_page_from_freelist(flags, "fast path"))) return page_;
  ac_.spread_dirty_pages = false;
  return slowpath();
}

Page* Request::get_page_from_freelist(AllocFlags flags, std::string_view why) {
  for (;;) {
    flow::pass(mem_, why, flags);
    unsigned fair_skipped = 0;
    page_ = nullptr;
    ac_.zonelist->for_each_zone(ac_.highest_zoneidx,
                                [&](Zone& zone) { return visit(zone, flags, fair_skipped) == Visit::kNextZone; });
    if (page_ != nullptr || !any(flags, AllocFlags::kFair)) return page_;
    // The first look was at the local node, as far as its shares went. Begin new shares, and let other nodes count too:
    // their free memory comes before reclaim at home.
    flags &= ~AllocFlags::kFair;
    if (fair_skipped != 0) shares_.reset(*ac_.preferred_zone);
    if (fair_skipped == 0 && mem_.nodes().size() == 1) return nullptr;
    why = fair_skipped != 0 ? "again, shares renewed and other nodes too" : "again, other nodes too";
  }
}

Request::Visit Request::visit(Zone& zone, AllocFlags flags, unsigned& fair_skipped) {
  const std::uint64_t mark = zone.watermark(mark_of(flags));
  const auto tell = [&](std::string_view verdict) {
    flow::zone(mem_, zone, ac_.order, mark_of(flags), mark, zone.lowmem_reserve(classzone_), verdict);
  };
  if (any(flags, AllocFlags::kFair)) {
    if (zone.node().nid() != ac_.preferred_zone->node().nid()) return Visit::kStop;
    if (shares_.depleted(zone)) {
      ++fair_skipped;
      tell("its fair share is used up");
      return Visit::kNextZone;
    }
  }
  if (ac_.spread_dirty_pages && mem_.memory_pressure() != nullptr && !mem_.memory_pressure()->node_dirty_ok(zone.node())) {
    tell("it has its share of dirty pages");
    return Visit::kNextZone;
  }
  if (zone_watermark_ok(zone, ac_.order, mark, classzone_, flags)) {
    tell("ok");
  } else if (any(flags, AllocFlags::kNoWatermarks)) {
    tell("ok: no watermark for this caller");
  } else {
    tell(flow::refusal(zone, ac_.order, mark, zone.lowmem_reserve(classzone_)));
    if (!zone_reclaim(zone, flags, mark)) return Visit::kNextZone;
    tell("ok after zone reclaim");
  }
  page_ = mem_.rmqueue(*ac_.preferred_zone, zone, ac_.order, flags, ac_.migratetype);
  if (page_ == nullptr) return Visit::kNextZone;
  shares_.take(zone, ac_.order);
  mem_.prep_new_page(*page_, ac_.order, ac_.gfp);
  return Visit::kStop;
}

// vm.zone_reclaim_mode: gives up clean pages of a near zone, then asks again.
bool Request::zone_reclaim(Zone& zone, AllocFlags flags, std::uint64_t mark) {
  MemoryPressure* pressure = mem_.memory_pressure();
  if (pressure == nullptr || !pressure->node_reclaim_enabled()) return false;
  if (ac_.preferred_zone->node().distance(zone.node().nid()) > kReclaimDistance) return false;
  const NodeReclaimResult result = pressure->node_reclaim(zone, ac_.gfp, ac_.order);
  flow::step(mem_, "zone reclaim", node_reclaim_result_name(result));
  if (result == NodeReclaimResult::kNoScan || result == NodeReclaimResult::kFull) return false;
  return zone_watermark_ok(zone, ac_.order, mark, classzone_, flags);
}

AllocFlags Request::gfp_to_alloc_flags() const {
  AllocFlags flags = AllocFlags::kWmarkMin | AllocFlags::kCpuset;
  const bool atomic = may(Gfp::kKswapdReclaim) && !may(Gfp::kDirectReclaim);
  if (may(Gfp::kHigh)) flags |= AllocFlags::kHigh;
  if (atomic) {
    if (!may(Gfp::kNoMemAlloc)) flags |= AllocFlags::kHarder;
    flags &= ~AllocFlags::kCpuset;
  }
  if (!may(Gfp::kNoMemAlloc) && (may(Gfp::kMemAlloc) || task(TaskFlag::kMemalloc) || task(TaskFlag::kOomVictim))) {
    flags |= AllocFlags::kNoWatermarks;
  }
  if (ac_.migratetype == MigrateType::kMovable) flags |= AllocFlags::kCma;
  return flags;
}

void Request::wake_all_kswapds() {
  MemoryPressure* pressure = mem_.memory_pressure();
  if (pressure == nullptr) return;
  flow::step(mem_, "wake kswapd");
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](Zone& zone) {
    pressure->wakeup_kswapd(zone, ac_.gfp, ac_.order, classzone_);
    return true;
  });
}

Page* Request::slowpath() {
  const bool local_only = all(ac_.gfp, Gfp::kThisNode | Gfp::kNoRetry | Gfp::kNoWarn);  // GFP_THISNODE of the time
  Step step = local_only ? hopeless("GFP_THISNODE: the caller wanted what the node has, no more") : attempt();
  while (step == Step::kRetry) step = attempt();
  if (step == Step::kDone) return page_;
  flow::gave_up(mem_, why_);
  mem_.warn_alloc(ac_);
  return nullptr;
}

// One round, from waking kswapd to the OOM killer.
Request::Step Request::attempt() {
  if (may(Gfp::kKswapdReclaim)) wake_all_kswapds();
  flags_ = gfp_to_alloc_flags();
  if (found(get_page_from_freelist(flags_ & ~AllocFlags::kNoWatermarks, "slow path"))) return Step::kDone;
  if (any(flags_, AllocFlags::kNoWatermarks) && found(high_priority())) return Step::kDone;
  if (may_go_on() == Next::kStop) return Step::kGiveUp;

  if (found(direct_compact())) return Step::kDone;
  if (try_compaction_first() == Next::kStop) return Step::kGiveUp;
  if (found(direct_reclaim())) return Step::kDone;

  pages_reclaimed_ += did_some_progress_;
  if (!should_alloc_retry()) {
    // A large request does not come round again, and compaction may have what it needs only now.
    if (found(direct_compact())) return Step::kDone;
    return hopeless(may(Gfp::kNoRetry) ? "__GFP_NORETRY" : "a costly order, and enough was reclaimed for it");
  }
  if (did_some_progress_ == 0) {
    if (found(may_oom())) return Step::kDone;
    if (did_some_progress_ == 0) return hopeless("reclaim frees nothing and nobody may be killed");
  }
  flow::retry(mem_, costly() ? "__GFP_REPEAT: less reclaimed than asked for" : "an order this small is always tried again");
  mem_.scheduler().sleep_for(kCongestionWait);
  return Step::kRetry;
}

// Who must not reclaim ends here.
Request::Next Request::may_go_on() {
  std::string_view why;
  if (!may(Gfp::kDirectReclaim)) {
    why = "the caller may not wait";
  } else if (task(TaskFlag::kMemalloc)) {
    why = "PF_MEMALLOC: reclaim does not reclaim for itself";
  } else if (task(TaskFlag::kOomVictim) && !may(Gfp::kNoFail)) {
    why = "the caller is being killed itself";
  } else if (mem_.memory_pressure() == nullptr) {
    why = "nobody to reclaim";
  }
  why_ = why;
  return why.empty() ? Next::kGoOn : Next::kStop;
}

// After the first, asynchronous compaction: a huge page is not worth the disturbance that more would be.
Request::Next Request::try_compaction_first() {
  if (!for_huge_page()) {
    migration_mode_ = CompactPriority::kSyncLight;
    return Next::kGoOn;
  }
  const bool withdrawn = compact_result_ == CompactResult::kDeferred || compact_result_ == CompactResult::kContended;
  if (withdrawn) why_ = "a huge page is not worth more: compaction was deferred or met contention";
  return withdrawn ? Next::kStop : Next::kGoOn;
}

// Reclaim, and those being killed, take what there is (__alloc_pages_high_priority).
Page* Request::high_priority() {
  for (;;) {
    if (Page* page = get_page_from_freelist(AllocFlags::kNoWatermarks, "without watermarks")) return page;
    if (!may(Gfp::kNoFail)) return nullptr;
    mem_.scheduler().sleep_for(kCongestionWait);
  }
}

Page* Request::direct_compact() {
  if (ac_.order.value() == 0 || !mem_.memory_pressure()->compaction_enabled()) return nullptr;
  {
    const MemallocScope scope(mem_.scheduler());
    compact_result_ = mem_.memory_pressure()->try_to_compact_pages(*ac_.zonelist, ac_.order, ac_.gfp, flags_, migration_mode_);
  }
  flow::step(mem_, flow::compact_step_name(migration_mode_), compact_result_name(compact_result_));
  if (compact_result_ == CompactResult::kDeferred || compact_result_ == CompactResult::kSkipped) return nullptr;
  mem_.vmstat().count_vm_event(VmEvent::kCompactStall);
  Page* page = get_page_from_freelist(flags_ & ~AllocFlags::kNoWatermarks, "after compaction");
  mem_.vmstat().count_vm_event(page != nullptr ? VmEvent::kCompactSuccess : VmEvent::kCompactFail);
  if (page != nullptr) mem_.memory_pressure()->compaction_succeeded(mem_.page_zone(*page), ac_.order);
  if (page == nullptr) mem_.scheduler().sync_point();
  return page;
}

Page* Request::direct_reclaim() {
  {
    const MemallocScope scope(mem_.scheduler());
    did_some_progress_ = mem_.memory_pressure()->try_to_free_pages(*ac_.zonelist, ac_.order, ac_.gfp);
  }
  flow::step(mem_, "direct reclaim", did_some_progress_ != 0 ? "progress" : "no progress", did_some_progress_);
  mem_.scheduler().sync_point();
  if (did_some_progress_ == 0) return nullptr;
  const AllocFlags flags = flags_ & ~AllocFlags::kNoWatermarks;
  if (Page* page = get_page_from_freelist(flags, "after reclaim")) return page;
  mem_.drain_all_pages();
  return get_page_from_freelist(flags, "after draining the per-CPU lists");
}

bool Request::should_alloc_retry() const {
  if (may(Gfp::kNoRetry)) return false;
  if (may(Gfp::kNoFail)) return true;
  if (!costly()) return true;
  return may(Gfp::kRetryMayFail) && pages_reclaimed_ < ac_.order.pages();
}

Page* Request::may_oom() {
  if (!mem_.oom_lock().try_lock()) {
    did_some_progress_ = 1;
    flow::step(mem_, "OOM killer", "at work for somebody else: wait");
    mem_.scheduler().sleep_for(sim::kJiffy);
    return nullptr;
  }
  Page* page = get_page_from_freelist(AllocFlags::kWmarkHigh | AllocFlags::kCpuset, "once more before killing");
  const bool may_kill =
      may(Gfp::kNoFail) || (!costly() && ac_.highest_zoneidx >= ZoneType::kNormal && may(Gfp::kFs) && !may(Gfp::kThisNode));
  if (page == nullptr && !may_kill) flow::step(mem_, "OOM killer", "kills nobody for such a request");
  if (page == nullptr && may_kill) {
    const bool killed = mem_.memory_pressure()->out_of_memory(ac_.gfp, ac_.order);
    flow::step(mem_, "OOM killer", killed ? "memory will come free" : "nobody to kill");
    if (killed || may(Gfp::kNoFail)) did_some_progress_ = 1;
  }
  mem_.oom_lock().unlock();
  return page;
}

}  // namespace

std::unique_ptr<AllocPolicy> make_linux_4_0_alloc_policy() { return std::make_unique<Linux40AllocPolicy>(); }

}  // namespace quire::phys
