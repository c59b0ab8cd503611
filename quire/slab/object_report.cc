#include "quire/slab/object_report.h"

namespace quire::slab {

std::string_view object_problem_name(ObjectProblem problem) {
  switch (problem) {
    case ObjectProblem::kLeftRedZone: return "written before the object's start (left red zone)";
    case ObjectProblem::kRightRedZone: return "written beyond the object's end (right red zone)";
    case ObjectProblem::kUseAfterFree: return "written after it was freed (poison)";
    case ObjectProblem::kPadding: return "written into the padding behind the object";
    case ObjectProblem::kSlabPadding: return "written into the padding behind the slab's last object";
    case ObjectProblem::kDoubleFree: return "freed twice";
    case ObjectProblem::kInvalidPointer: return "freed at an address that is not the start of an object";
    case ObjectProblem::kNoObject: return "freed, but it is no slab object";
    case ObjectProblem::kWrongCache: return "freed to a cache that is not its own";
    case ObjectProblem::kCount: break;
  }
  return "?";
}

void ObjectReports::add(ObjectReport report) {
  count_only(report.problem);
  if (handler_) handler_(report);
  if (kept_.size() < kKept) kept_.push_back(std::move(report));
}

void ObjectReports::clear() {
  kept_.clear();
  count_ = 0;
  counts_ = {};
}

}  // namespace quire::slab
