// What a reclaim policy decides; vmscan (the other files of this folder) does the work. A policy answers three questions:
//
//   balance   how many pages of each list to look at in this round          prepare_scan_count, get_scan_count
//   ageing    which active pages grow old, and when                         inactive_is_low, judge_active
//   choice    what to do with an inactive page, given how it was used       folio_check_references
//
// and is told, if it gives lru::LruHooks, what happens to folios in between. One file a policy, under policies/.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "quire/lru/lru_hooks.h"
#include "quire/lru/lruvec.h"
#include "quire/phys/node.h"
#include "quire/reclaim/scan_control.h"
#include "quire/vm/rmap.h"

namespace quire::reclaim {

// FOLIOREF_*: what the references to an inactive folio mean.
enum class FolioReferences : std::uint8_t {
  kReclaim,
  kReclaimClean,  // reclaim if that needs no writing
  kKeep,          // one more round on the inactive list
  kActivate,
};
enum class ActiveFate : std::uint8_t { kRotate, kDeactivate };

// Pages of each evictable list to scan.
using ScanCounts = std::array<std::uint64_t, 4>;

// What a policy may know of the machine beyond the lists.
struct ReclaimView {
  std::uint64_t nr_swap_pages = 0;  // free swap slots
  std::uint64_t total_swap_pages = 0;
  unsigned swappiness = 60;  // 0 … 200
};

class ReclaimPolicy {
 public:
  virtual ~ReclaimPolicy() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // Who is to be told of each folio's life; nullptr: the lists and shadows tell this policy enough. A call for each folio
  // that moves is not free.
  [[nodiscard]] virtual lru::LruHooks* lru_hooks() { return nullptr; }

  // Before each pass over a node: sets may (deactivation), cache_trim_mode, file_is_tiny and the costs of `sc`.
  virtual void prepare_scan_count(const phys::Node& node, lru::Lruvec& lruvec, ScanControl& sc, const ReclaimView& view) = 0;
  [[nodiscard]] virtual ScanCounts get_scan_count(const lru::Lruvec& lruvec, const ScanControl& sc,
                                                  const ReclaimView& view) = 0;
  [[nodiscard]] virtual bool inactive_is_low(const lru::Lruvec& lruvec, lru::LruList inactive) const = 0;
  [[nodiscard]] virtual ActiveFate judge_active(const phys::Folio& folio, const vm::FolioReferenced& referenced) const = 0;
  // May change the folio's referenced bit, which is this question's memory.
  [[nodiscard]] virtual FolioReferences folio_check_references(phys::Folio& folio,
                                                               const vm::FolioReferenced& referenced) const = 0;
  // Reclaim of the node has ended for now.
  virtual void snapshot_refaults(const phys::Node& node, lru::Lruvec& lruvec) = 0;
};

// The policy of that name ("linux-6"); nullptr when there is none.
[[nodiscard]] std::unique_ptr<ReclaimPolicy> make_reclaim_policy(std::string_view name);

}  // namespace quire::reclaim
