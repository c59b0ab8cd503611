#include "quire/lru/workingset.h"

#include <algorithm>
#include <bit>

#include "quire/lru/lru.h"

namespace quire::lru {

using phys::Folio;
using phys::NodeStat;

// --- shadow entries ---------------------------------------------------------------------------------------------------

unsigned workingset_bucket_order(std::uint64_t total_pages) {
  constexpr unsigned kTimestampBits = 64 - kEvictionShift;
  const auto max_order = static_cast<unsigned>(std::bit_width(total_pages - 1));
  return max_order > kTimestampBits ? max_order - kTimestampBits : 0;
}

XaValue pack_shadow(const Shadow& shadow) {
  std::uint64_t v = shadow.eviction & kEvictionMask;
  v = (v << kMemCgroupIdShift) | shadow.memcg_id;
  v = (v << kNodesShift) | static_cast<std::uint64_t>(shadow.nid.value());
  v = (v << kWorkingsetShift) | static_cast<std::uint64_t>(shadow.workingset);
  return XaValue(v);
}

Shadow unpack_shadow(XaValue value) {
  std::uint64_t v = value.value();
  Shadow shadow;
  shadow.workingset = static_cast<WorkingsetBit>(v & ((1u << kWorkingsetShift) - 1));
  v >>= kWorkingsetShift;
  shadow.nid = Nid(static_cast<int>(v & ((1u << kNodesShift) - 1)));
  v >>= kNodesShift;
  shadow.memcg_id = static_cast<std::uint16_t>(v & ((1u << kMemCgroupIdShift) - 1));
  shadow.eviction = v >> kMemCgroupIdShift;
  return shadow;
}

// --- eviction and refault ---------------------------------------------------------------------------------------------

namespace {

// The anon or file member of a pair of counters, the anon one given.
NodeStat of_kind(NodeStat anon, AnonOrFile kind) {
  return static_cast<NodeStat>(static_cast<std::size_t>(anon) + (kind == AnonOrFile::kFile ? 1 : 0));
}

}  // namespace

void Lru::workingset_age_nonresident(Lruvec& lruvec, std::uint64_t nr_pages) { lruvec.nonresident_age += nr_pages; }

void Lru::workingset_activation(Folio& folio) { workingset_age_nonresident(folio_lruvec(folio), phys::folio_nr_pages(folio)); }

XaValue Lru::workingset_eviction(Folio& folio) {
  QUIRE_BUG_ON(phys::folio_test_lru(folio));
  QUIRE_BUG_ON(phys::folio_ref_count(folio) != 0);
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  Lruvec& lruvec = folio_lruvec(folio);
  const std::uint64_t eviction = lruvec.nonresident_age >> bucket_order_;
  workingset_age_nonresident(lruvec, phys::folio_nr_pages(folio));
  if (hooks_ != nullptr) hooks_->folio_evicted(folio);
  return pack_shadow({.memcg_id = 0,
                      .nid = folio.nid(),
                      .eviction = eviction,
                      .workingset = phys::folio_test_workingset(folio) ? WorkingsetBit::kYes : WorkingsetBit::kNo});
}

// All pages that would have had to make room: the active ones, and those of the other kind if swap lets them go.
std::uint64_t Lru::workingset_size(const Lruvec& lruvec, AnonOrFile kind) const {
  std::uint64_t pages = lruvec.size(LruList::kActiveFile);
  if (kind == AnonOrFile::kAnon) pages += lruvec.size(LruList::kInactiveFile);
  if (swap_space_ != nullptr && swap_space_->nr_swap_pages() > 0) {
    pages += lruvec.size(LruList::kActiveAnon);
    if (kind == AnonOrFile::kFile) pages += lruvec.size(LruList::kInactiveAnon);
  }
  return pages;
}

void Lru::workingset_refault(Folio& folio, XaValue value) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio));
  const Shadow shadow = unpack_shadow(value);
  QUIRE_BUG_ON(static_cast<std::size_t>(shadow.nid.value()) >= lruvecs_.size());
  const Lruvec& eviction_lruvec = lruvec(shadow.nid);
  const std::uint64_t eviction = shadow.eviction << bucket_order_;
  // The counter wraps; unsigned arithmetic gives the distance as long as it is below the mask.
  const std::uint64_t distance = (eviction_lruvec.nonresident_age - eviction) & kEvictionMask;

  const AnonOrFile kind = folio_kind(folio);
  const std::uint64_t nr = phys::folio_nr_pages(folio);
  const auto nr_counted = static_cast<std::int64_t>(nr);
  Counters<NodeStat>& stats = phys_.page_node(folio).stats;
  stats.add(of_kind(NodeStat::kWorkingsetRefaultAnon, kind), nr_counted);
  if (distance > workingset_size(eviction_lruvec, kind)) {
    if (hooks_ != nullptr) hooks_->folio_refaulted(folio, distance, RefaultOutcome::kTooFar);
    return;
  }

  phys::folio_set_active(folio);
  workingset_age_nonresident(folio_lruvec(folio), nr);
  stats.add(of_kind(NodeStat::kWorkingsetActivateAnon, kind), nr_counted);
  if (shadow.workingset == WorkingsetBit::kYes) {
    phys::folio_set_workingset(folio);
    lru_note_cost_folio(folio);
    stats.add(of_kind(NodeStat::kWorkingsetRestoreAnon, kind), nr_counted);
  }
  if (hooks_ != nullptr) hooks_->folio_refaulted(folio, distance, RefaultOutcome::kActivated);
}

// --- what reclaim costs -----------------------------------------------------------------------------------------------

void Lru::lru_note_cost(Lruvec& lruvec, AnonOrFile kind, std::uint64_t nr_pages) {
  sim::SpinGuard guard(lruvec.lru_lock);
  (kind == AnonOrFile::kFile ? lruvec.file_cost : lruvec.anon_cost) += nr_pages;
  const std::uint64_t lru_size = lruvec.size(LruList::kInactiveAnon) + lruvec.size(LruList::kActiveAnon) +
                                 lruvec.size(LruList::kInactiveFile) + lruvec.size(LruList::kActiveFile);
  // Old cost fades, so that the balance follows a changing load.
  if (lruvec.file_cost + lruvec.anon_cost > lru_size / 4) {
    lruvec.file_cost /= 2;
    lruvec.anon_cost /= 2;
  }
}

void Lru::lru_note_cost_folio(Folio& folio) {
  lru_note_cost(folio_lruvec(folio), folio_kind(folio), phys::folio_nr_pages(folio));
}

}  // namespace quire::lru
