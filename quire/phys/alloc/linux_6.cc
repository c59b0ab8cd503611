// The allocation flow of Linux 6.1: fast path over the zonelist at the low watermark; then kswapd, the min watermark and
// whatever the caller may dip into; direct compaction and reclaim; retries while there is progress; the OOM killer.
#include "quire/phys/alloc/alloc_policy.h"
#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

constexpr int kMaxReclaimRetries = 16;
constexpr sim::Nanos kOneJiffy = 4'000'000;

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
};

// Takes the first zone of the list whose watermark allows it.
Page* get_page_from_freelist(PhysMem& mem, AllocContext& ac, AllocFlags flags) {
  for (;;) {
    Page* page = nullptr;
    bool left_local_node = false;
    ac.zonelist->for_each_zone(ac.highest_zoneidx, [&](Zone& zone) {
      if (any(flags, AllocFlags::kNoFragment) && &zone != ac.preferred_zone && mem.nodes().size() > 1 &&
          zone.node().nid() != ac.preferred_zone->node().nid()) {
        left_local_node = true;  // a mixed pageblock here is better than a remote page
        return false;
      }
      if (ac.spread_dirty_pages && mem.memory_pressure() != nullptr && !mem.memory_pressure()->node_dirty_ok(zone.node())) {
        return true;
      }
      const auto mark = zone.wmark_pages(static_cast<Watermark>(bits(flags & AllocFlags::kWmarkMask)));
      if (!any(flags, AllocFlags::kNoWatermarks) &&
          !PhysMem::zone_watermark_fast(zone, ac.order, mark, ac.highest_zoneidx, flags, ac.gfp)) {
        return true;
      }
      page = mem.rmqueue(*ac.preferred_zone, zone, ac.order, flags, ac.migratetype);
      if (page == nullptr) return true;
      mem.prep_new_page(*page, ac.order, ac.gfp);
      if (ac.order.value() != 0 && any(flags, AllocFlags::kHarder)) mem.reserve_highatomic_pageblock(zone, *page);
      return false;
    });
    if (page != nullptr) return page;
    if (!left_local_node && !any(flags, AllocFlags::kNoFragment)) return nullptr;
    flags &= ~AllocFlags::kNoFragment;
  }
}

// Rather use DMA32 than mix types in a pageblock of Normal (alloc_flags_nofragment).
AllocFlags alloc_flags_nofragment(PhysMem& mem, const Zone& zone, Gfp gfp) {
  const AllocFlags flags = any(gfp, Gfp::kKswapdReclaim) ? AllocFlags::kKswapd : AllocFlags::kWmarkMin;
  if (zone.type() != ZoneType::kNormal) return flags;
  if (mem.nodes().size() > 1 && !zone.node().zone(ZoneType::kDma32).populated()) return flags;
  return flags | AllocFlags::kNoFragment;
}

AllocFlags gfp_to_alloc_flags(Gfp gfp) {
  AllocFlags flags = AllocFlags::kWmarkMin | AllocFlags::kCpuset;
  if (any(gfp, Gfp::kHigh)) flags |= AllocFlags::kHigh;
  if (any(gfp, Gfp::kKswapdReclaim)) flags |= AllocFlags::kKswapd;
  if (any(gfp, Gfp::kBareAtomic)) {
    if (!any(gfp, Gfp::kNoMemAlloc)) flags |= AllocFlags::kHarder;
    flags &= ~AllocFlags::kCpuset;
  }
  return flags;
}

Page* Linux6AllocPolicy::alloc_pages(PhysMem& mem, AllocContext& ac) {
  if (ac.preferred_zone == nullptr) return nullptr;
  const AllocFlags flags = AllocFlags::kWmarkLow | alloc_flags_nofragment(mem, *ac.preferred_zone, ac.gfp);
  if (Page* page = get_page_from_freelist(mem, ac, flags)) return page;
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
  flags_ = gfp_to_alloc_flags(ac_.gfp);
  if (any(flags_, AllocFlags::kKswapd)) wake_all_kswapds();
  if (Page* page = get_page_from_freelist(mem_, ac_, flags_)) return page;

  // Memory is there but in pieces, for a request that is worth moving pages: try that before reclaiming any.
  const bool worth_compacting = costly() || (ac_.order.value() > 0 && ac_.migratetype != MigrateType::kMovable);
  if (may(Gfp::kDirectReclaim) && worth_compacting && !any(pfmemalloc_flags(), AllocFlags::kNoWatermarks)) {
    if (Page* page = direct_compact(CompactPriority::kAsync)) return page;
    if (costly() && may(Gfp::kNoRetry)) {
      if (compact_result_ == CompactResult::kSkipped || compact_result_ == CompactResult::kDeferred) return nullptr;
      compact_priority_ = CompactPriority::kAsync;
    }
  }

  for (;;) {
    Step step = attempt();
    if (step == Step::kGiveUp && may(Gfp::kNoFail) && may(Gfp::kDirectReclaim)) {
      // It may not fail: use part of the reserves, then start again.
      page_ = get_page_from_freelist(mem_, ac_, AllocFlags::kHarder);
      if (page_ != nullptr) return page_;
      mem_.scheduler().yield();
      step = Step::kRetry;
    }
    if (step == Step::kDone) return page_;
    if (step == Step::kGiveUp) return nullptr;
  }
}

// One round: freelist, reclaim, compaction, and at the end of hope the OOM killer.
SlowPath::Step SlowPath::attempt() {
  if (any(flags_, AllocFlags::kKswapd)) wake_all_kswapds();
  const AllocFlags reserves = pfmemalloc_flags();
  if (reserves != AllocFlags::kWmarkMin) flags_ = reserves | (flags_ & AllocFlags::kKswapd);

  const auto found = [&](Page* page) {
    page_ = page;
    return page != nullptr;
  };
  if (found(get_page_from_freelist(mem_, ac_, flags_))) return Step::kDone;
  if (!may(Gfp::kDirectReclaim) || task_test(mem_.scheduler(), TaskFlag::kMemalloc)) return Step::kGiveUp;
  if (mem_.memory_pressure() == nullptr) return Step::kGiveUp;

  if (found(direct_reclaim())) return Step::kDone;
  if (found(direct_compact(compact_priority_))) return Step::kDone;
  if (may(Gfp::kNoRetry)) return Step::kGiveUp;
  if (costly() && !may(Gfp::kRetryMayFail)) return Step::kGiveUp;
  if (should_reclaim_retry()) return Step::kRetry;
  if (did_some_progress_ > 0 && should_compact_retry()) return Step::kRetry;

  if (found(may_oom())) return Step::kDone;
  if (task_test(mem_.scheduler(), TaskFlag::kOomVictim) && (any(flags_, AllocFlags::kOom) || may(Gfp::kNoMemAlloc))) {
    return Step::kGiveUp;
  }
  if (did_some_progress_ == 0) return Step::kGiveUp;
  no_progress_loops_ = 0;
  return Step::kRetry;
}

Page* SlowPath::direct_reclaim() {
  {
    const MemallocScope scope(mem_.scheduler());
    did_some_progress_ = mem_.memory_pressure()->try_to_free_pages(*ac_.zonelist, ac_.order, ac_.gfp);
  }
  mem_.scheduler().sync_point();
  if (did_some_progress_ == 0) return nullptr;
  if (Page* page = get_page_from_freelist(mem_, ac_, flags_)) return page;
  // What was reclaimed may sit on other CPUs' lists or in the atomic reserve.
  mem_.unreserve_highatomic_pageblock(ac_, PhysMem::Unreserve::kKeepOne);
  mem_.drain_all_pages();
  return get_page_from_freelist(mem_, ac_, flags_);
}

Page* SlowPath::direct_compact(CompactPriority priority) {
  if (ac_.order.value() == 0 || mem_.memory_pressure() == nullptr) return nullptr;
  {
    const MemallocScope scope(mem_.scheduler());
    compact_result_ = mem_.memory_pressure()->try_to_compact_pages(*ac_.zonelist, ac_.order, ac_.gfp, flags_, priority);
  }
  if (compact_result_ == CompactResult::kSkipped) return nullptr;
  mem_.vmstat().count_vm_event(VmEvent::kCompactStall);
  if (Page* page = get_page_from_freelist(mem_, ac_, flags_)) {
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
    return mem_.unreserve_highatomic_pageblock(ac_, PhysMem::Unreserve::kAll);
  }
  bool retry = false;
  ac_.zonelist->for_each_zone(ac_.highest_zoneidx, [&](Zone& zone) {
    const std::uint64_t available = zone.free_pages() + mem_.memory_pressure()->zone_reclaimable_pages(zone);
    retry =
        PhysMem::zone_watermark_ok(zone, ac_.order, zone.wmark_pages(Watermark::kMin), ac_.highest_zoneidx, flags_, available);
    return !retry;
  });
  mem_.scheduler().sync_point();
  return retry;
}

bool SlowPath::should_compact_retry() {
  if (ac_.order.value() == 0 || compact_result_ == CompactResult::kSkipped) return false;
  const int max_retries = costly() ? kMaxReclaimRetries / 4 : kMaxReclaimRetries;
  if (++compaction_retries_ <= max_retries) return true;
  const auto floor = costly() ? CompactPriority::kSyncLight : CompactPriority::kSyncFull;
  if (compact_priority_ > floor) {
    compact_priority_ = static_cast<CompactPriority>(static_cast<unsigned>(compact_priority_) - 1);
    compaction_retries_ = 0;
    return true;
  }
  return false;
}

Page* SlowPath::may_oom() {
  did_some_progress_ = 0;
  if (!mem_.oom_lock().try_lock()) {
    // Somebody else is killing already: wait for what that frees.
    did_some_progress_ = 1;
    mem_.scheduler().sleep_for(kOneJiffy);
    return nullptr;
  }
  AllocContext last_try = ac_;
  last_try.gfp = (ac_.gfp | Gfp::kHardWall) & ~Gfp::kDirectReclaim;
  Page* page = get_page_from_freelist(mem_, last_try, AllocFlags::kWmarkHigh | AllocFlags::kCpuset);
  // Nobody is killed for the sake of low memory: what he would free is hardly there.
  const bool lowmem = ac_.highest_zoneidx < ZoneType::kNormal;
  const bool may_kill = !costly() && !may(Gfp::kRetryMayFail) && !may(Gfp::kThisNode) && !lowmem;
  if (page == nullptr && may_kill) {
    if (mem_.memory_pressure()->out_of_memory(ac_.gfp, ac_.order) || may(Gfp::kNoFail)) {
      did_some_progress_ = 1;
      if (may(Gfp::kNoFail)) page = get_page_from_freelist(mem_, ac_, AllocFlags::kNoWatermarks);
    }
  }
  mem_.oom_lock().unlock();
  return page;
}

}  // namespace

std::unique_ptr<AllocPolicy> make_linux_6_alloc_policy() { return std::make_unique<Linux6AllocPolicy>(); }

}  // namespace quire::phys
