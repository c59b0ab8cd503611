#include "quire/compact/compaction.h"

#include "quire/phys/task_flags.h"

namespace quire::compact {

using phys::CompactPriority;
using phys::CompactResult;
using phys::Gfp;
using phys::MigrateMode;
using phys::Zone;

Compaction::Compaction(vm::Vm& vm, TraceRegistry& traces) : parts_(vm.parts()), migration_(vm.migration()), events_(traces) {
  for (const auto& node : parts_.phys.nodes()) {
    nodes_.push_back(std::make_unique<NodeCompaction>(parts_.scheduler, *node));
    node->for_each_zone([](Zone& zone) {
      if (!zone.populated()) return;
      zone.compaction.cached_migrate_pfn.fill(zone.start_pfn());
      zone.compaction.cached_free_pfn = CompactControl::block_start(zone.end_pfn() - 1);
    });
  }
}

Compaction::~Compaction() {
  if (parts_.phys.page_mover() != this) return;
  parts_.phys.set_page_mover(nullptr);
  parts_.phys.hotplug().remove_listener(*this);
}

CompactResult Compaction::try_to_compact_pages(phys::ZoneList& zonelist, Order order, Gfp gfp, phys::AllocFlags flags,
                                               CompactPriority priority) {
  // Pages of the cache may need I/O to move.
  if (!any(gfp, Gfp::kIo)) return CompactResult::kSkipped;
  events_.try_to_compact_pages([&] { return MmCompactionTryToCompactPages{order.value(), phys::gfp_names(gfp), priority}; });
  CompactResult best = CompactResult::kSkipped;
  const bool full = priority == CompactPriority::kSyncFull;
  zonelist.for_each_zone(parts_.phys.gfp_zone(gfp), [&](Zone& zone) {
    if (!full && compaction_deferred(zone, order)) {
      best = std::max(best, CompactResult::kDeferred);
      return true;
    }
    CompactControl cc{.zone = zone,
                      .order = order,
                      .gfp = gfp,
                      .mode = priority == CompactPriority::kAsync ? MigrateMode::kAsync : MigrateMode::kSyncLight,
                      .alloc_flags = flags,
                      .highest_zoneidx = parts_.phys.gfp_zone(gfp),
                      .direct_compaction = true,
                      .whole_zone = full,
                      .ignore_skip_hint = full,
                      .ignore_block_suitable = full};
    const CompactResult status = compact_zone(cc);
    best = std::max(best, status);
    if (status == CompactResult::kSuccess) {
      compaction_defer_reset(zone, order, AllocSuccess::kNo);
      return false;
    }
    const bool all_seen = status == CompactResult::kComplete || status == CompactResult::kPartialSkipped;
    if (cc.sync() && all_seen) defer_compaction(zone, order);
    return !fatal_signal_pending();
  });
  return best;
}

void Compaction::compact_nodes() {
  parts_.lru.lru_add_drain_all();
  for (const auto& node : parts_.phys.nodes()) {
    node->for_each_zone([&](Zone& zone) {
      if (!zone.populated()) return;
      CompactControl cc{.zone = zone, .mode = MigrateMode::kSync, .whole_zone = true, .ignore_skip_hint = true};
      static_cast<void>(compact_zone(cc));
    });
  }
}

void Compaction::lru_add_drain_all() { parts_.lru.lru_add_drain_all(); }

std::uint64_t Compaction::migrate_range(Range<Pfn> pfns, MigrateMode mode, phys::MigrateReason reason) {
  phys::PhysMem& phys = parts_.phys;
  // On the node where it is, if that has room: the caller's isolation keeps the range itself out.
  const auto get = [&](phys::Folio& from) {
    return phys.folio_alloc(Gfp::kHighUserMovable | Gfp::kRetryMayFail, Order(0), from.nid());
  };
  const auto put = [&](phys::Folio& unused) { phys.free_page(unused); };
  std::uint64_t failed = 0;
  for (Pfn at = pfns.begin; at < pfns.end;) {
    phys::FolioList batch;
    for (std::uint64_t n = 0; at < pfns.end && n < kCompactClusterMax; at += 1) {
      if (!phys.pfn_valid(at) || !phys.page_initialised(at)) continue;
      phys::Page& page = phys.pfn_to_page(at);
      if (page.is_compound() || !page.test(phys::PageFlag::kLru) || page.refcount == 0) continue;
      if (migration_.isolate(static_cast<phys::Folio&>(page), batch)) ++n;
    }
    if (batch.empty()) continue;
    failed += migration_.migrate_pages(batch, get, put, mode, reason).failed;
    migration_.putback_movable_pages(batch);
  }
  if (failed != 0) parts_.lru.lru_add_drain_all();  // back on their lists, where another try finds them
  return failed;
}

}  // namespace quire::compact
