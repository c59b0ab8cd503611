// The lists of one node on which folios age, and what reclaim remembers of them (Linux's struct lruvec).
//
//              ┌───────────────┐  refault/2nd touch ┌─────────────┐
//   new anon ─▶│ inactive_anon │ ──────────────────▶│ active_anon │        front: most recent
//              └───────────────┘ ◀────────────────── └─────────────┘        back:  next to be looked at
//   new file ─▶  inactive_file  ◀─── ageing ───────▶  active_file
//                                         unevictable: counted, not linked
//
// Invariants: a folio is on a list iff it has PG_lru; the list is the one that folio_lru_list() computes from its flags;
// size(list, zone) is the pages of that zone on it. Folios of the unevictable list are counted but not linked (as in
// Linux 6.1: the link's room holds mlock_count).
// Lock: lru_lock for lists, sizes and costs. nonresident_age and refaults are plain (Linux: atomics).
// Differs from Linux: one lruvec a node, as long as there are no memory cgroups; a machine with them will have one a
// cgroup and node, chosen by folio_lruvec.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/base/types.h"
#include "quire/phys/folio.h"
#include "quire/phys/node.h"
#include "quire/sim/lock_guards.h"

namespace quire::lru {

enum class LruList : std::uint8_t { kInactiveAnon, kActiveAnon, kInactiveFile, kActiveFile, kUnevictable, kCount };
inline constexpr std::size_t kLruLists = static_cast<std::size_t>(LruList::kCount);

enum class AnonOrFile : std::uint8_t { kAnon, kFile };

[[nodiscard]] constexpr bool is_file_lru(LruList l) { return l == LruList::kInactiveFile || l == LruList::kActiveFile; }
[[nodiscard]] constexpr bool is_active_lru(LruList l) { return l == LruList::kActiveAnon || l == LruList::kActiveFile; }
[[nodiscard]] constexpr LruList lru_list(AnonOrFile kind) {
  return kind == AnonOrFile::kFile ? LruList::kInactiveFile : LruList::kInactiveAnon;
}
[[nodiscard]] constexpr LruList active_lru(LruList inactive) {
  return static_cast<LruList>(static_cast<unsigned>(inactive) + 1);
}
[[nodiscard]] std::string_view lru_list_name(LruList l);  // "inactive_anon"

// folio_is_file_lru: backed by a file rather than by swap. Anonymous folios after MADV_FREE count as file.
[[nodiscard]] inline bool folio_is_file_lru(const phys::Folio& folio) { return !phys::folio_test_swapbacked(folio); }
[[nodiscard]] inline AnonOrFile folio_kind(const phys::Folio& folio) {
  return folio_is_file_lru(folio) ? AnonOrFile::kFile : AnonOrFile::kAnon;
}

// What a folio counts for in statistics, which are signed.
[[nodiscard]] inline std::int64_t pages(const phys::Folio& folio) {
  return static_cast<std::int64_t>(phys::folio_nr_pages(folio));
}

// The list on which the folio's flags put it.
[[nodiscard]] inline LruList folio_lru_list(const phys::Folio& folio) {
  if (phys::folio_test_unevictable(folio)) return LruList::kUnevictable;
  const LruList inactive = lru_list(folio_kind(folio));
  return phys::folio_test_active(folio) ? active_lru(inactive) : inactive;
}

// While a folio is unevictable its list link holds how many locked mappings keep it so (folio->mlock_count).
[[nodiscard]] inline std::uint64_t folio_mlock_count(const phys::Folio& folio) {
  return reinterpret_cast<std::uintptr_t>(folio.owner_word[1]);
}
inline void folio_set_mlock_count(phys::Folio& folio, std::uint64_t n) {
  folio.owner_word[0] = nullptr;
  folio.owner_word[1] = reinterpret_cast<void*>(static_cast<std::uintptr_t>(n));
}

class Lruvec {
 public:
  Lruvec(sim::Scheduler& scheduler, sim::LockClass& lock_class, phys::Node& node)
      : lru_lock(scheduler, lock_class), nid(node.nid()), node_(node) {}
  Lruvec(const Lruvec&) = delete;
  Lruvec& operator=(const Lruvec&) = delete;

  sim::SpinLock lru_lock;

  // Pages (not folios) on a list; the second form counts only zones up to `highest` (lruvec_lru_size).
  [[nodiscard]] std::uint64_t size(LruList l) const;
  [[nodiscard]] std::uint64_t size(LruList l, phys::ZoneType highest) const;
  [[nodiscard]] std::uint64_t zone_size(LruList l, phys::ZoneType zone) const { return zone_size_[index(zone)][index(l)]; }

  [[nodiscard]] phys::FolioList& list(LruList l) { return lists_[index(l)]; }
  [[nodiscard]] const phys::FolioList& list(LruList l) const { return lists_[index(l)]; }

  const Nid nid;
  std::uint64_t anon_cost = 0;  // of reclaiming anon and file pages, decayed: the balance of get_scan_count
  std::uint64_t file_cost = 0;
  std::uint64_t nonresident_age = 0;        // the clock of workingset.h: evictions and activations
  std::array<std::uint64_t, 2> refaults{};  // snapshot of workingset_activate_* at the last reclaim, anon and file
  std::uint64_t flags = 0;                  // reclaim's own (LRUVEC_CONGESTED)

 private:
  friend class Lru;
  template <class E>
  static constexpr std::size_t index(E e) {
    return static_cast<std::size_t>(e);
  }

  phys::Node& node_;
  std::array<phys::FolioList, kLruLists> lists_;
  std::array<std::array<std::uint64_t, kLruLists>, phys::kZoneTypes> zone_size_{};
};

}  // namespace quire::lru
