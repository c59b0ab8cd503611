#include "quire/phys/memory_pressure.h"

namespace quire::phys {

std::string_view compact_result_name(CompactResult result) {
  switch (result) {
    case CompactResult::kNotSuitable: return "not_suitable_zone";
    case CompactResult::kSkipped: return "skipped";
    case CompactResult::kDeferred: return "deferred";
    case CompactResult::kNoSuitablePage: return "no_suitable_page";
    case CompactResult::kContinue: return "continue";
    case CompactResult::kComplete: return "complete";
    case CompactResult::kPartialSkipped: return "partial_skipped";
    case CompactResult::kContended: return "contended";
    case CompactResult::kSuccess: break;
  }
  return "success";
}

std::string_view node_reclaim_result_name(NodeReclaimResult result) {
  switch (result) {
    case NodeReclaimResult::kNoScan: return "not tried";
    case NodeReclaimResult::kFull: return "nothing to be had";
    case NodeReclaimResult::kSome: return "some pages";
    case NodeReclaimResult::kSuccess: break;
  }
  return "enough pages";
}

}  // namespace quire::phys
