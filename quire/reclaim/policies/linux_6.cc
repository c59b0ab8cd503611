#include "quire/reclaim/policies/linux_6.h"

#include <algorithm>
#include <array>

namespace quire::reclaim {

using lru::AnonOrFile;
using lru::LruList;
using lru::Lruvec;
using phys::NodeStat;
using vm::VmFlags;

namespace {

constexpr unsigned kMaxSwappiness = 200;

std::uint64_t int_sqrt(std::uint64_t x) {
  std::uint64_t root = 0;
  for (std::uint64_t bit = std::uint64_t{1} << 31; bit != 0; bit >>= 1) {
    const std::uint64_t candidate = root | bit;
    if (candidate * candidate <= x) root = candidate;
  }
  return root;
}

std::uint64_t stat(const phys::Node& node, NodeStat s) { return static_cast<std::uint64_t>(node.stats[s]); }

May deactivate(AnonOrFile kind) { return kind == AnonOrFile::kFile ? May::kDeactivateFile : May::kDeactivateAnon; }

}  // namespace

void Linux6Policy::prepare_scan_count(const phys::Node& node, Lruvec& lruvec, ScanControl& sc, const ReclaimView&) {
  sc.anon_cost = lruvec.anon_cost;
  sc.file_cost = lruvec.file_cost;

  // The active list is aged when the inactive one is too short, and when pages that were evicted come back and turn out to
  // be in use: a new working set is moving in, and what is active may be stale.
  for (const AnonOrFile kind : {AnonOrFile::kAnon, AnonOrFile::kFile}) {
    const bool file = kind == AnonOrFile::kFile;
    const std::uint64_t refaults = stat(node, file ? NodeStat::kWorkingsetActivateFile : NodeStat::kWorkingsetActivateAnon);
    const bool age = sc.deactivate == ScanControl::Deactivate::kForce ||
                     refaults != lruvec.refaults[static_cast<std::size_t>(kind)] || inactive_is_low(lruvec, lru_list(kind));
    sc.may = age ? sc.may | deactivate(kind) : sc.may & ~deactivate(kind);
  }

  // Plenty of inactive file pages that nobody misses: take those, and leave anonymous memory alone.
  sc.cache_trim_mode = (lruvec.size(LruList::kInactiveFile) >> sc.priority) != 0 && !any(sc.may, May::kDeactivateFile);

  // Hardly any page cache left: scanning it harder only throws out what is in use. Go for anon, if there is some.
  std::uint64_t total_high_wmark = 0;
  std::uint64_t free = 0;
  node.for_each_zone([&](const phys::Zone& zone) {
    free += zone.free_pages();
    if (zone.managed()) total_high_wmark += zone.wmark_pages(phys::Watermark::kHigh);
  });
  const std::uint64_t file = stat(node, NodeStat::kNrActiveFile) + stat(node, NodeStat::kNrInactiveFile);
  const std::uint64_t anon = stat(node, NodeStat::kNrInactiveAnon);
  sc.file_is_tiny = file + free <= total_high_wmark && !any(sc.may, May::kDeactivateAnon) && (anon >> sc.priority) != 0;
}

Linux6Policy::ScanBalance Linux6Policy::scan_balance(const ScanControl& sc, const ReclaimView& view) {
  if (!any(sc.may, May::kSwap) || view.nr_swap_pages == 0) return ScanBalance::kFile;
  // Close to OOM: no cleverness.
  if (sc.priority == 0 && view.swappiness != 0) return ScanBalance::kEqual;
  if (sc.file_is_tiny) return ScanBalance::kAnon;
  if (sc.cache_trim_mode) return ScanBalance::kFile;
  return ScanBalance::kFract;
}

ScanCounts Linux6Policy::get_scan_count(const Lruvec& lruvec, const ScanControl& sc, const ReclaimView& view) {
  const ScanBalance balance = scan_balance(sc, view);
  // The share of a kind is swappiness against its part of the cost, each kind's cost weighed with half of the total, so
  // that neither is ever left out: a third to two thirds of the pressure at even swappiness.
  const std::uint64_t cost = sc.anon_cost + sc.file_cost;
  const std::uint64_t anon_cost = cost + sc.anon_cost;
  const std::uint64_t file_cost = cost + sc.file_cost;
  const std::uint64_t total_cost = anon_cost + file_cost;
  const std::uint64_t anon_part = view.swappiness * (total_cost + 1) / (anon_cost + 1);
  const std::uint64_t file_part = (kMaxSwappiness - view.swappiness) * (total_cost + 1) / (file_cost + 1);
  const std::uint64_t denominator = anon_part + file_part;

  ScanCounts counts{};
  for (const LruList list : {LruList::kInactiveAnon, LruList::kActiveAnon, LruList::kInactiveFile, LruList::kActiveFile}) {
    const bool file = is_file_lru(list);
    std::uint64_t scan = lruvec.size(list, sc.reclaim_idx) >> sc.priority;
    switch (balance) {
      case ScanBalance::kEqual: break;
      case ScanBalance::kFract: scan = scan * (file ? file_part : anon_part) / denominator; break;
      case ScanBalance::kFile:
        if (!file) scan = 0;
        break;
      case ScanBalance::kAnon:
        if (file) scan = 0;
        break;
    }
    counts[static_cast<std::size_t>(list)] = scan;
  }
  return counts;
}

// The larger the memory, the smaller the part of it that has to be inactive for a page to prove itself:
//   total     inactive : active
//   1 GiB        1 : 3
//   10 GiB       1 : 10
//   1 TiB        1 : 101
bool Linux6Policy::inactive_is_low(const Lruvec& lruvec, LruList inactive_list) const {
  const std::uint64_t inactive = lruvec.size(inactive_list);
  const std::uint64_t active = lruvec.size(active_lru(inactive_list));
  const std::uint64_t gib = (inactive + active) >> (30 - kPageShift);
  const std::uint64_t ratio = gib != 0 ? int_sqrt(10 * gib) : 1;
  return inactive * ratio < active;
}

// Program text that is in use stays; losing it stalls everybody who runs it. Everything else starts anew as inactive.
ActiveFate Linux6Policy::judge_active(const phys::Folio& folio, const vm::FolioReferenced& referenced) const {
  const bool used = referenced.contended || referenced.referenced != 0;
  const bool text = any(referenced.vm_flags, VmFlags::kExec) && lru::folio_is_file_lru(folio);
  return used && text ? ActiveFate::kRotate : ActiveFate::kDeactivate;
}

FolioReferences Linux6Policy::folio_check_references(phys::Folio& folio, const vm::FolioReferenced& referenced) const {
  const bool referenced_folio = phys::folio_test_clear_referenced(folio);
  if (any(referenced.vm_flags, VmFlags::kLocked)) return FolioReferences::kActivate;
  if (referenced.contended) return FolioReferences::kKeep;
  if (referenced.referenced != 0) {
    // A page that is mapped was touched to be mapped, so one reference proves nothing: it is remembered, and a second
    // one, now or in the next round, activates.
    phys::folio_set_referenced(folio);
    if (referenced_folio || referenced.referenced > 1) return FolioReferences::kActivate;
    if (any(referenced.vm_flags, VmFlags::kExec) && lru::folio_is_file_lru(folio)) return FolioReferences::kActivate;
    return FolioReferences::kKeep;
  }
  if (referenced_folio && lru::folio_is_file_lru(folio)) return FolioReferences::kReclaimClean;
  return FolioReferences::kReclaim;
}

void Linux6Policy::snapshot_refaults(const phys::Node& node, Lruvec& lruvec) {
  lruvec.refaults[0] = stat(node, NodeStat::kWorkingsetActivateAnon);
  lruvec.refaults[1] = stat(node, NodeStat::kWorkingsetActivateFile);
}

std::unique_ptr<ReclaimPolicy> make_reclaim_policy(std::string_view name) {
  if (name == "linux-6") return std::make_unique<Linux6Policy>();
  return nullptr;
}

}  // namespace quire::reclaim
