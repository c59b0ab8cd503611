// The allocation flow of Linux 6.1: fast path over the zonelist at the low watermark; then kswapd, the min watermark and
// whatever the caller may dip into; direct compaction and reclaim; retries while there is progress; the OOM killer.
//
// Differs from Linux: a killed task is known by its OOM mark only (TaskFlag::kOomVictim), not by any pending SIGKILL; a
// block that compaction made is taken from the free list, not handed over directly (capture).
#include "quire/phys/alloc/alloc_policy.h"
#include "quire/phys/alloc/flow_trace.h"
#include "quire/phys/fragmentation.h"
#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

constexpr int kMaxReclaimRetries = 16;
constexpr int kMaxCompactRetries = 16;

class Linux6AllocPolicy final : public AllocPolicy {
 public:
  [[nodiscard]] std::string_view name() const override { return "linux-6"; }
  Page* alloc_pages(PhysMem& mem, AllocContext& ac) override;
};

// One run through the slow path: the request and what it remembers between tries.
class SlowPath {
 public:
  SlowPath(PhysMem& mem, AllocContext& ac) : mem_(mem), ac_(ac) {}
  Page* run();

 private:
  enum class Step : std::uint8_t { kRetry, kGiveUp, kDone };
  Step attempt();
  void wake_all_kswapds();
  Page* direct_reclaim();
  Page* direct_compact(CompactPriority priority);
  bool should_reclaim_retry();
  bool should_compact_retry();
  bool compaction_zonelist_suitable();
  [[nodiscard]] bool any_zone_has_free_pages() const;
  Page* give_up(std::string_view why);
  Step hopeless(std::string_view why);
  Page* may_oom();
  [[nodiscard]] AllocFlags pfmemalloc_flags() const;
  [[nodiscard]] bool costly() const { return ac_.order > kPageAllocCostlyOrder; }
  [[nodiscard]] bool may(Gfp flag) const { return any(ac_.gfp, flag); }

  PhysMem& mem_;
  AllocContext& ac_;
  AllocFlags flags_ = AllocFlags::kWmarkMin;
  Page* page_ = nullptr;
  std::uint64_t did_some_progress_ = 0;
  int no_progress_loops_ = 0;
  int compaction_retries_ = 0;
  CompactPriority compact_priority_ = CompactPriority::kSyncLight;
  CompactResult compact_result_ = CompactResult::kSkipped;
  std::string_view why_;  // of the last kGiveUp
};

constexpr unsigned kNodeReclaimDistance = 30;  // RECLAIM_DISTANCE: farther nodes are not reclaimed for us

constexpr Watermark mark_of(AllocFlags flags) { return static_cast<Watermark>(bits(flags & AllocFlags::kWmarkMask)); }

// One look over the zonelist.
class Pass {
 public:
  Pass(PhysMem& mem, AllocContext& ac, AllocFlags flags) : mem_(mem), ac_(ac), flags_(flags) {}
  Page* run();
  // It stopped at the first zone of another node, for the sake of unmixed pageblocks.
  [[nodiscard]] bool left_local_node() const { return left_local_node_; }

 private:
  enum class Visit : std::uint8_t { kNextZone, kStop };
  Visit visit(Zone& zone);
  bool may_use(Zone& zone);
  bool reclaim_node(Zone& zone, std::uint64_t mark);
  [[nodiscard]] bool dirty_ok(const Node& node);
  void tell(const Zone& zone, std::string_view verdict) {
    flow::zone(mem_, zone, ac_.order, mark_of(flags_), zone.wmark_pages(mark_of(flags_)),
               zone.lowmem_reserve(ac_.highest_zoneidx), verdict);
  }

  PhysMem& mem_;
  AllocContext& ac_;
  const AllocFlags flags_;
  Page* page_ = nullptr;
  bool left_local_node_ = false;
  const Node* dirty_node_ = nullptr;  // the node asked last, and its answer
  bool dirty_node_ok_ = true;
};

Page* Pass::run() {
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](Zone& zone) { return visit(zone) == Visit::kNextZone; });
  return page_;
}

Pass::Visit Pass::visit(Zone& zone) {
  if (ac_.spread_dirty_pages && !dirty_ok(zone.node())) {
    tell(zone, "its node has its share of dirty pages");
    return Visit::kNextZone;
  }
  if (any(flags_, AllocFlags::kNoFragment) && zone.node().nid() != ac_.preferred_zone->node().nid()) {
    left_local_node_ = true;  // a mixed pageblock here is better than a remote page
    tell(zone, "remote: rather mix pageblocks on the local node");
    return Visit::kStop;
  }
  if (!may_use(zone)) return Visit::kNextZone;
  page_ = mem_.rmqueue(*ac_.preferred_zone, zone, ac_.order, flags_, ac_.migratetype);
  if (page_ == nullptr) return Visit::kNextZone;
  mem_.prep_new_page(*page_, ac_.order, ac_.gfp);
  if (ac_.order.value() != 0 && any(flags_, AllocFlags::kHarder)) mem_.reserve_highatomic_pageblock(zone, *page_);
  return Visit::kStop;
}

bool Pass::dirty_ok(const Node& node) {
  if (mem_.memory_pressure() == nullptr) return true;
  if (&node != dirty_node_) {
    dirty_node_ = &node;
    dirty_node_ok_ = mem_.memory_pressure()->node_dirty_ok(node);
  }
  return dirty_node_ok_;
}

bool Pass::may_use(Zone& zone) {
  const std::uint64_t mark = zone.wmark_pages(mark_of(flags_));
  if (PhysMem::zone_watermark_fast(zone, ac_.order, mark, ac_.highest_zoneidx, flags_, ac_.gfp)) {
    tell(zone, "ok");
    return true;
  }
  if (any(flags_, AllocFlags::kNoWatermarks)) {
    tell(zone, "ok: no watermark for this caller");
    return true;
  }
  tell(zone, flow::refusal(zone, ac_.order, mark, zone.lowmem_reserve(ac_.highest_zoneidx)));
  return reclaim_node(zone, mark);
}

// vm.zone_reclaim_mode: clean pages of a near node are given up before memory of a far one is used.
bool Pass::reclaim_node(Zone& zone, std::uint64_t mark) {
  MemoryPressure* pressure = mem_.memory_pressure();
  if (pressure == nullptr || !pressure->node_reclaim_enabled()) return false;
  if (ac_.preferred_zone->node().distance(zone.node().nid()) > kNodeReclaimDistance) return false;
  const NodeReclaimResult result = pressure->node_reclaim(zone, ac_.gfp, ac_.order);
  flow::step(mem_, "node reclaim", node_reclaim_result_name(result));
  if (result == NodeReclaimResult::kNoScan || result == NodeReclaimResult::kFull) return false;
  const bool ok = PhysMem::zone_watermark_ok(zone, ac_.order, mark, ac_.highest_zoneidx, flags_, zone.free_pages());
  tell(zone, ok ? "ok after node reclaim" : "still below the mark");
  return ok;
}

// Takes the first zone of the list whose watermark allows it.
Page* get_page_from_freelist(PhysMem& mem, AllocContext& ac, AllocFlags flags, std::string_view why) {
  for (;;) {
    flow::pass(mem, why, flags);
    Pass pass(mem, ac, flags);
    if (Page* page = pass.run()) return page;
    if (!any(flags, AllocFlags::kNoFragment)) return nullptr;
    // On one node every zone may be fragmented: then types mix after all.
    flags &= ~AllocFlags::kNoFragment;
    why = pass.left_local_node() ? "again, mixing pageblocks of the local node" : "again, mixing pageblocks";
  }
}

// Rather use DMA32 than mix types in a pageblock of Normal (alloc_flags_nofragment).
AllocFlags alloc_flags_nofragment(PhysMem& mem, const Zone& zone, Gfp gfp) {
  const AllocFlags flags = any(gfp, Gfp::kKswapdReclaim) ? AllocFlags::kKswapd : AllocFlags::kWmarkMin;
  if (zone.type() != ZoneType::kNormal) return flags;
  if (!mem.has_zone(ZoneType::kDma32)) return flags;
  if (mem.nodes().size() > 1 && !zone.node().zone(ZoneType::kDma32).populated()) return flags;
  return flags | AllocFlags::kNoFragment;
}

// Movable pages may lie in CMA areas: they can be moved out when the area is wanted (gfp_to_alloc_flags_cma).
AllocFlags alloc_flags_cma(const AllocContext& ac) {
  return ac.migratetype == MigrateType::kMovable ? AllocFlags::kCma : AllocFlags::kWmarkMin;
}

AllocFlags gfp_to_alloc_flags(const AllocContext& ac) {
  const Gfp gfp = ac.gfp;
  AllocFlags flags = AllocFlags::kWmarkMin | AllocFlags::kCpuset | alloc_flags_cma(ac);
  if (any(gfp, Gfp::kHigh)) flags |= AllocFlags::kHigh;
  if (any(gfp, Gfp::kKswapdReclaim)) flags |= AllocFlags::kKswapd;
  if (any(gfp, Gfp::kBareAtomic)) {
    if (!any(gfp, Gfp::kNoMemAlloc)) flags |= AllocFlags::kHarder;
    flags &= ~AllocFlags::kCpuset;
  }
  return flags;
}

Page* Linux6AllocPolicy::alloc_pages(PhysMem& mem, AllocContext& ac) {
  flow::begin(mem, name(), ac);
  if (ac.preferred_zone == nullptr) {
    flow::gave_up(mem, "no zone of the zonelist is low enough");
    return nullptr;
  }
  const AllocFlags flags =
      AllocFlags::kWmarkLow | alloc_flags_cma(ac) | alloc_flags_nofragment(mem, *ac.preferred_zone, ac.gfp);
  if (Page* page = get_page_from_freelist(mem, ac, flags, "fast path")) return page;
  ac.spread_dirty_pages = false;
  return SlowPath(mem, ac).run();
}

// What the task's own standing allows beyond its gfp flags (__gfp_pfmemalloc_flags).
AllocFlags SlowPath::pfmemalloc_flags() const {
  if (may(Gfp::kNoMemAlloc)) return AllocFlags::kWmarkMin;
  if (may(Gfp::kMemAlloc) || task_test(mem_.scheduler(), TaskFlag::kMemalloc)) return AllocFlags::kNoWatermarks;
  if (task_test(mem_.scheduler(), TaskFlag::kOomVictim)) return AllocFlags::kOom;
  return AllocFlags::kWmarkMin;
}

void SlowPath::wake_all_kswapds() {
  MemoryPressure* pressure = mem_.memory_pressure();
  if (pressure == nullptr) return;
  flow::step(mem_, "wake kswapd");
  const Node* last = nullptr;
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](Zone& zone) {
    if (zone.managed() && &zone.node() != last) {
      pressure->wakeup_kswapd(zone, ac_.gfp, ac_.order, ac_.highest_zoneidx);
      last = &zone.node();
    }
    return true;
  });
}

Page* SlowPath::run() {
  flags_ = gfp_to_alloc_flags(ac_);
  if (any(flags_, AllocFlags::kKswapd)) wake_all_kswapds();
  if (Page* page = get_page_from_freelist(mem_, ac_, flags_, "slow path")) return page;

  // Memory is there but in pieces, for a request that is worth moving pages: try that before reclaiming any.
  const bool worth_compacting = costly() || (ac_.order.value() > 0 && ac_.migratetype != MigrateType::kMovable);
  if (may(Gfp::kDirectReclaim) && worth_compacting && pfmemalloc_flags() == AllocFlags::kWmarkMin) {
    if (Page* page = direct_compact(CompactPriority::kAsync)) return page;
    if (costly() && may(Gfp::kNoRetry)) {
      // Compaction that would not even start will not do better later; a caller with a fallback uses that.
      if (compact_result_ == CompactResult::kSkipped || compact_result_ == CompactResult::kDeferred) {
        return give_up("__GFP_NORETRY, and compaction was skipped or deferred");
      }
      compact_priority_ = CompactPriority::kAsync;
    }
  }

  for (;;) {
    Step step = attempt();
    if (step == Step::kGiveUp && may(Gfp::kNoFail) && may(Gfp::kDirectReclaim)) {
      // It may not fail: use part of the reserves, then start again.
      page_ = get_page_from_freelist(mem_, ac_, AllocFlags::kHarder, "__GFP_NOFAIL");
      if (page_ != nullptr) return page_;
      mem_.scheduler().yield();
      flow::retry(mem_, "__GFP_NOFAIL");
      step = Step::kRetry;
    }
    if (step == Step::kDone) return page_;
    if (step == Step::kGiveUp) return give_up(why_);
  }
}

Page* SlowPath::give_up(std::string_view why) {
  flow::gave_up(mem_, why);
  mem_.warn_alloc(ac_);
  return nullptr;
}

SlowPath::Step SlowPath::hopeless(std::string_view why) {
  why_ = why;
  return Step::kGiveUp;
}

// One round: freelist, reclaim, compaction, and at the end of hope the OOM killer.
SlowPath::Step SlowPath::attempt() {
  if (any(flags_, AllocFlags::kKswapd)) wake_all_kswapds();
  const AllocFlags reserves = pfmemalloc_flags();
  if (reserves != AllocFlags::kWmarkMin) flags_ = reserves | alloc_flags_cma(ac_) | (flags_ & AllocFlags::kKswapd);

  const auto found = [&](Page* page) {
    page_ = page;
    return page != nullptr;
  };
  if (found(get_page_from_freelist(mem_, ac_, flags_, "with all that the caller may use"))) return Step::kDone;
  if (!may(Gfp::kDirectReclaim)) return hopeless("the caller may not wait");
  if (task_test(mem_.scheduler(), TaskFlag::kMemalloc)) return hopeless("PF_MEMALLOC: reclaim does not reclaim for itself");
  if (mem_.memory_pressure() == nullptr) return hopeless("nobody to reclaim");

  if (found(direct_reclaim())) return Step::kDone;
  if (found(direct_compact(compact_priority_))) return Step::kDone;
  if (may(Gfp::kNoRetry)) return hopeless("__GFP_NORETRY");
  if (costly() && !may(Gfp::kRetryMayFail)) return hopeless("a costly order without __GFP_RETRY_MAYFAIL");
  if (should_reclaim_retry()) return Step::kRetry;
  if (did_some_progress_ > 0 && should_compact_retry()) return Step::kRetry;

  if (found(may_oom())) return Step::kDone;
  if (task_test(mem_.scheduler(), TaskFlag::kOomVictim) && (any(flags_, AllocFlags::kOom) || may(Gfp::kNoMemAlloc))) {
    return hopeless("the caller is being killed itself");
  }
  if (did_some_progress_ == 0) return hopeless("reclaim frees nothing and nobody may be killed");
  no_progress_loops_ = 0;
  flow::retry(mem_, "memory is about to come free");
  return Step::kRetry;
}

Page* SlowPath::direct_reclaim() {
  {
    const MemallocScope scope(mem_.scheduler());
    did_some_progress_ = mem_.memory_pressure()->try_to_free_pages(*ac_.zonelist, ac_.order, ac_.gfp);
  }
  flow::step(mem_, "direct reclaim", did_some_progress_ != 0 ? "progress" : "no progress", did_some_progress_);
  mem_.scheduler().sync_point();
  if (did_some_progress_ == 0) return nullptr;
  if (Page* page = get_page_from_freelist(mem_, ac_, flags_, "after reclaim")) return page;
  // What was reclaimed may sit on other CPUs' lists or in the atomic reserve.
  mem_.unreserve_highatomic_pageblock(ac_, PhysMem::Unreserve::kKeepOne);
  mem_.drain_all_pages();
  return get_page_from_freelist(mem_, ac_, flags_, "after draining the per-CPU lists");
}

Page* SlowPath::direct_compact(CompactPriority priority) {
  if (ac_.order.value() == 0 || mem_.memory_pressure() == nullptr || !mem_.memory_pressure()->compaction_enabled()) {
    return nullptr;
  }
  {
    const MemallocScope scope(mem_.scheduler());
    compact_result_ = mem_.memory_pressure()->try_to_compact_pages(*ac_.zonelist, ac_.order, ac_.gfp, flags_, priority);
  }
  flow::step(mem_, flow::compact_step_name(priority), compact_result_name(compact_result_));
  if (compact_result_ == CompactResult::kSkipped) return nullptr;
  mem_.vmstat().count_vm_event(VmEvent::kCompactStall);
  if (Page* page = get_page_from_freelist(mem_, ac_, flags_, "after compaction")) {
    mem_.vmstat().count_vm_event(VmEvent::kCompactSuccess);
    mem_.memory_pressure()->compaction_succeeded(mem_.page_zone(*page), ac_.order);
    return page;
  }
  mem_.vmstat().count_vm_event(VmEvent::kCompactFail);
  mem_.scheduler().sync_point();
  return nullptr;
}

// Another round makes sense while reclaim gets on, or while the request would fit if all that can be reclaimed were free.
bool SlowPath::should_reclaim_retry() {
  if (did_some_progress_ > 0 && !costly()) {
    no_progress_loops_ = 0;
  } else {
    ++no_progress_loops_;
  }
  if (no_progress_loops_ > kMaxReclaimRetries) {
    const bool moved = mem_.unreserve_highatomic_pageblock(ac_, PhysMem::Unreserve::kAll);
    if (moved) flow::retry(mem_, "the atomic reserve was given back");
    return moved;
  }
  bool retry = false;
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](Zone& zone) {
    const std::uint64_t reclaimable = mem_.memory_pressure()->zone_reclaimable_pages(zone);
    const std::uint64_t available = zone.free_pages() + reclaimable;
    const std::uint64_t min = zone.wmark_pages(Watermark::kMin);
    retry = PhysMem::zone_watermark_ok(zone, ac_.order, min, ac_.highest_zoneidx, flags_, available);
    mem_.trace().reclaim_retry_zone([&] {
      return ReclaimRetryZone{zone.node().nid().value(),
                              mem_.zone_index(zone.type()),
                              ac_.order.value(),
                              reclaimable,
                              available,
                              min,
                              no_progress_loops_,
                              retry};
    });
    return !retry;
  });
  mem_.scheduler().sync_point();
  if (retry) flow::retry(mem_, "reclaim may still help");
  return retry;
}

// Whether some zone would have enough single pages for compaction, were all that can be reclaimed free. Counts less than
// there is, so that a request does not loop over a zone that just cannot give (compaction_zonelist_suitable).
bool SlowPath::compaction_zonelist_suitable() {
  bool suitable = false;
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](Zone& zone) {
    const std::uint64_t reclaimable = mem_.memory_pressure()->zone_reclaimable_pages(zone) / ac_.order.value();
    const std::uint64_t available = zone.free_pages() + reclaimable;
    const std::uint64_t mark = zone.wmark_pages(static_cast<Watermark>(bits(flags_ & AllocFlags::kWmarkMask)));
    // A zone that has the block already needs no compaction.
    if (PhysMem::zone_watermark_ok(zone, ac_.order, mark, ac_.highest_zoneidx, flags_, zone.free_pages())) return true;
    const std::uint64_t gap = compact_gap(ac_.order);
    const std::uint64_t base = zone.wmark_pages(costly() ? Watermark::kLow : Watermark::kMin);
    suitable = PhysMem::zone_watermark_ok(zone, Order(0), base + gap, ac_.highest_zoneidx, AllocFlags::kCma, available);
    return !suitable;
  });
  return suitable;
}

// Without compaction a small block may still come of what others free, as long as there is memory at all.
bool SlowPath::any_zone_has_free_pages() const {
  bool found = false;
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](const Zone& zone) {
    const std::uint64_t min = zone.wmark_pages(Watermark::kMin);
    found = PhysMem::zone_watermark_ok(zone, Order(0), min, ac_.highest_zoneidx, flags_, zone.free_pages());
    return !found;
  });
  return found;
}

// Compaction failed: once more, harder, as long as that can change anything.
bool SlowPath::should_compact_retry() {
  if (ac_.order.value() == 0 || task_test(mem_.scheduler(), TaskFlag::kOomVictim)) return false;
  if (!mem_.memory_pressure()->compaction_enabled()) return !costly() && any_zone_has_free_pages();
  const int max_retries = costly() ? kMaxCompactRetries / 4 : kMaxCompactRetries;
  const CompactPriority priority = compact_priority_;
  if (compact_result_ == CompactResult::kSuccess) ++compaction_retries_;
  const int retries = compaction_retries_;
  const auto raise_priority = [&] {
    const auto floor = costly() ? CompactPriority::kSyncLight : CompactPriority::kSyncFull;
    if (compact_priority_ <= floor) return false;
    compact_priority_ = static_cast<CompactPriority>(static_cast<unsigned>(compact_priority_) - 1);
    compaction_retries_ = 0;
    return true;
  };
  bool ret = false;
  std::string_view feedback = "progress";
  switch (compact_result_) {
    case CompactResult::kComplete:  // looked everywhere in vain
      feedback = "failed";
      ret = raise_priority();
      break;
    case CompactResult::kSkipped:  // too few free pages to work with
      feedback = "needs reclaim";
      ret = compaction_zonelist_suitable();
      break;
    case CompactResult::kDeferred:
    case CompactResult::kContended:
    case CompactResult::kPartialSkipped:  // did not really try
      feedback = "withdrawn";
      ret = raise_priority();
      break;
    default: ret = retries <= max_retries || raise_priority(); break;
  }
  mem_.trace().compact_retry(
      [&] { return CompactRetry{ac_.order.value(), static_cast<unsigned>(priority), feedback, retries, max_retries, ret}; });
  if (ret) flow::retry(mem_, "compaction may still help");
  return ret;
}

Page* SlowPath::may_oom() {
  did_some_progress_ = 0;
  if (!mem_.oom_lock().try_lock()) {
    // Somebody else is killing already: wait for what that frees.
    did_some_progress_ = 1;
    flow::step(mem_, "OOM killer", "at work for somebody else: wait");
    mem_.scheduler().sleep_for(sim::kJiffy);
    return nullptr;
  }
  AllocContext last_try = ac_;
  last_try.gfp = (ac_.gfp | Gfp::kHardWall) & ~Gfp::kDirectReclaim;
  Page* page = get_page_from_freelist(mem_, last_try, AllocFlags::kWmarkHigh | AllocFlags::kCpuset, "once more before killing");
  // Nobody is killed for the sake of low memory: what he would free is hardly there.
  const bool lowmem = ac_.highest_zoneidx < ZoneType::kNormal;
  const bool may_kill = !costly() && !may(Gfp::kRetryMayFail) && !may(Gfp::kThisNode) && !lowmem;
  if (page == nullptr && !may_kill) flow::step(mem_, "OOM killer", "kills nobody for such a request");
  if (page == nullptr && may_kill) {
    const bool killed = mem_.memory_pressure()->out_of_memory(ac_.gfp, ac_.order);
    flow::step(mem_, "OOM killer", killed ? "memory will come free" : "nobody to kill");
    if (killed || may(Gfp::kNoFail)) {
      did_some_progress_ = 1;
      if (may(Gfp::kNoFail)) page = get_page_from_freelist(mem_, ac_, AllocFlags::kNoWatermarks, "__GFP_NOFAIL: all reserves");
    }
  }
  mem_.oom_lock().unlock();
  return page;
}

}  // namespace

std::unique_ptr<AllocPolicy> make_linux_6_alloc_policy() { return std::make_unique<Linux6AllocPolicy>(); }

}  // namespace quire::phys
