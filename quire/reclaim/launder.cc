// What linux-2.4's allocation asks of reclaim: one clean page at once, dirty pages made clean, a wait for kswapd.
//
// 2.4 kept inactive pages on two kinds of lists, clean ones a zone and dirty ones for the machine. Here both are the inactive
// file list: clean, unmapped folios at its tail count as inactive-clean, dirty ones as inactive-dirty. Anonymous pages wait
// for kswapd (2.4 had those in the swap cache among them).
#include <algorithm>

#include "quire/phys/page_wait.h"
#include "quire/phys/task_flags.h"
#include "quire/reclaim/reclaim.h"
#include "quire/sim/lock_guards.h"

namespace quire::reclaim {

using lru::LruList;
using lru::Lruvec;
using phys::Folio;
using phys::FolioList;
using phys::Gfp;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneStat;

namespace {

constexpr std::uint64_t kMaxLaunder = 32;                    // MAX_LAUNDER
constexpr sim::Nanos kKswapdWait = 100 * sim::kMillisecond;  // so that nobody waits for ever for a round that is not needed

std::uint64_t not_below_zero(std::int64_t n) { return static_cast<std::uint64_t>(std::max<std::int64_t>(n, 0)); }

}  // namespace

void Reclaim::wakeup_bdflush() { parts_.actions.wakeup_flusher_threads(); }

// Errs on the low side: what is mapped or dirty may be on the active list as well.
std::uint64_t Reclaim::nr_inactive_clean_pages(const phys::Zone& zone) const {
  return not_below_zero(zone.state(ZoneStat::kNrZoneInactiveFile) - zone.state(ZoneStat::kNrZoneWritePending) -
                        zone.node().stats[NodeStat::kNrMapped]);
}

std::uint64_t Reclaim::nr_inactive_dirty_pages() const {
  const auto dirty = parts_.phys.global_node_page_state(NodeStat::kNrDirty);
  return not_below_zero(std::min(dirty, parts_.phys.global_node_page_state(NodeStat::kNrInactiveFile)));
}

// Takes the first folio from the tail of the inactive file list that is `wanted`; each of the list is looked at once.
Folio* Reclaim::isolate_inactive_file(NodeReclaim& node, Lruvec& lruvec, FunctionRef<bool(Folio&)> wanted) {
  parts_.lru.lru_add_drain();
  sim::SpinGuard guard(lruvec.lru_lock);
  FolioList& list = lruvec.list(LruList::kInactiveFile);
  for (Folio* folio = list.back_or_null(); folio != nullptr; folio = list.prev_or_null(*folio)) {
    parts_.scheduler.charge(parts_.scheduler.costs().reclaim_scan_page);
    if (wanted(*folio) && phys::folio_test_lru(*folio) && folio_try_get(*folio)) {
      const std::uint64_t pages = folio_nr_pages(*folio);
      phys::folio_clear_lru(*folio);
      list.erase(*folio);
      parts_.lru.update_lru_size(lruvec, LruList::kInactiveFile, folio_zone_type(*folio), -static_cast<std::int64_t>(pages));
      node.node.stats.add(NodeStat::kNrIsolatedFile, static_cast<std::int64_t>(pages));
      return folio;
    }
  }
  return nullptr;
}

void Reclaim::putback_inactive_file(NodeReclaim& node, Lruvec& lruvec, FolioList& folios) {
  {
    sim::SpinGuard guard(lruvec.lru_lock);
    std::int64_t pages = 0;
    for (Folio* folio = folios.front_or_null(); folio != nullptr; folio = folios.next_or_null(*folio)) {
      pages += static_cast<std::int64_t>(folio_nr_pages(*folio));
    }
    move_folios_to_lru(lruvec, folios);
    node.node.stats.sub(NodeStat::kNrIsolatedFile, pages);
  }
  parts_.lru.free_folios(folios);
}

bool Reclaim::reclaim_page(phys::Zone& zone) {
  if (nr_inactive_clean_pages(zone) == 0) return false;
  NodeReclaim& node = node_of(zone.node());
  Lruvec& lruvec = parts_.lru.lruvec(zone.node().nid());
  // Only single pages: 2.4 knew no others.
  Folio* folio = isolate_inactive_file(node, lruvec, [&](Folio& f) {
    const bool clean = !phys::folio_test_dirty(f) && !phys::folio_test_writeback(f) && !phys::folio_test_locked(f);
    return clean && folio_zone_type(f) == zone.type() && !folio_mapped(f) && folio_nr_pages(f) == 1 && folio_ref_count(f) == 1;
  });
  if (folio == nullptr) return false;
  FolioList folios;
  folios.push_back(*folio);
  ScanControl sc{.gfp_mask = Gfp::kNone, .reclaim_idx = zone.type(), .may = May::kNone};
  ReclaimStat stat;
  std::uint64_t nr_reclaimed = 0;
  {
    const phys::MemallocScope memalloc(parts_.scheduler);
    nr_reclaimed = shrink_folio_list(folios, node, sc, stat, References::kIgnore);
  }
  phys::VmStat& vmstat = parts_.phys.vmstat();
  for (const VmEvent event : {VmEvent::kPgscanDirect, VmEvent::kPgscanFile}) vmstat.count_vm_event(event);
  if (nr_reclaimed != 0) {
    for (const VmEvent event : {VmEvent::kPgstealDirect, VmEvent::kPgstealFile}) vmstat.count_vm_event(event);
    node.node.stats.sub(NodeStat::kNrIsolatedFile, 1);
    return true;
  }
  putback_inactive_file(node, lruvec, folios);
  return false;
}

// Each node's share: some pages from the tail are written here, the flusher is told of the rest, and what was begun is
// waited for.
std::uint64_t Reclaim::page_launder(Gfp gfp) {
  if (!all(gfp, Gfp::kIo | Gfp::kFs) || nr_inactive_dirty_pages() == 0) return 0;
  parts_.actions.wakeup_flusher_threads();
  std::uint64_t cleaned = 0;
  for (const auto& node : nodes_) {
    if (!node->node.has_memory()) continue;
    Lruvec& lruvec = parts_.lru.lruvec(node->node.nid());
    FolioList taken;
    for (std::uint64_t n = 0; n < kMaxLaunder; ++n) {
      Folio* folio = isolate_inactive_file(*node, lruvec, [](Folio& f) {
        return phys::folio_test_dirty(f) && !phys::folio_test_writeback(f) && !phys::folio_test_locked(f);
      });
      if (folio == nullptr) break;
      taken.push_back(*folio);
      if (!phys::folio_trylock(*folio)) continue;
      if (parts_.actions.pageout(*folio) != Pageout::kSuccess) {
        phys::folio_unlock(parts_.phys, *folio);
      } else {
        node->node.stats.add(NodeStat::kNrVmscanWrite, static_cast<std::int64_t>(folio_nr_pages(*folio)));
      }
    }
    for (Folio* folio = taken.front_or_null(); folio != nullptr; folio = taken.next_or_null(*folio)) {
      phys::folio_wait_writeback(parts_.phys, *folio);
      cleaned += phys::folio_test_dirty(*folio) ? 0 : folio_nr_pages(*folio);
    }
    putback_inactive_file(*node, lruvec, taken);
  }
  return cleaned;
}

// A kswapd that has given up frees nothing however long one waits: then the caller tries for itself.
bool Reclaim::wait_for_kswapd(phys::Node& node) {
  NodeReclaim& of = node_of(node);
  if (of.kswapd == nullptr || of.kswapd_failures >= kMaxReclaimRetries) {
    return try_to_free_pages(node.zonelist(), Order(0), Gfp::kKernel) != 0;
  }
  static_cast<void>(of.kswapd_done.wait_timeout(kKswapdWait));
  return true;
}

}  // namespace quire::reclaim
