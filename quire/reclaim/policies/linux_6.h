// Reclaim as Linux 6.1 does it without the multi-generational LRU: two lists each for anon and file, a second chance by
// Accessed bits, and a balance between anon and file by what each cost lately (refaults and writes) and vm.swappiness.
#pragma once

#include "quire/reclaim/reclaim_policy.h"

namespace quire::reclaim {

class Linux6Policy final : public ReclaimPolicy {
 public:
  [[nodiscard]] std::string_view name() const override { return "linux-6"; }
  void prepare_scan_count(const phys::Node& node, lru::Lruvec& lruvec, ScanControl& sc, const ReclaimView& view) override;
  [[nodiscard]] ScanCounts get_scan_count(const lru::Lruvec& lruvec, const ScanControl& sc, const ReclaimView& view) override;
  [[nodiscard]] bool inactive_is_low(const lru::Lruvec& lruvec, lru::LruList inactive) const override;
  [[nodiscard]] ActiveFate judge_active(const phys::Folio& folio, const vm::FolioReferenced& referenced) const override;
  [[nodiscard]] FolioReferences folio_check_references(phys::Folio& folio,
                                                       const vm::FolioReferenced& referenced) const override;
  void snapshot_refaults(const phys::Node& node, lru::Lruvec& lruvec) override;

 private:
  enum class ScanBalance : std::uint8_t { kEqual, kFract, kAnon, kFile };
  [[nodiscard]] static ScanBalance scan_balance(const ScanControl& sc, const ReclaimView& view);
};

}  // namespace quire::reclaim
