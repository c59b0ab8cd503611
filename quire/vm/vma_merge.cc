// Does a new or changed range become part of its neighbours? (Linux's vma_merge.)
//
//     range free between prev and next:   prev|range        → prev grows
//                                         range|next        → next grows
//                                         prev|range|next   → prev takes all, next vanishes
//     range is the head or all of an area: prev|RRRarea     → prev grows, the area's start moves up or it vanishes
//     range is the tail of an area:        areaRRR|next     → next grows down, the area's end moves down
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

bool is_singular(const Vma& vma) {
  auto at = vma.anon_vma_chain.begin();
  return at != vma.anon_vma_chain.end() && ++at == vma.anon_vma_chain.end();
}

bool is_mergeable_anon_vma(const AnonVma* a, const AnonVma* b, const Vma* vma) {
  // One of them may be missing; then the chain of the one that exists must not come from a fork, or its AnonVma family
  // would grow by areas that never map its folios.
  if ((a == nullptr || b == nullptr) && (vma == nullptr || is_singular(*vma))) return true;
  return a == b;
}

bool is_mergeable_vma(const Vma& vma, const MergeRequest& request) {
  if (any(vma.vm_flags ^ request.flags, ~VmFlags::kSoftDirty) || vma.vm_file != request.file) return false;
  return vma.vm_file == nullptr || vma.vm_file->area_ops == nullptr;
}

bool can_merge_after(const Vma& prev, const MergeRequest& request) {
  return prev.vm_end == request.range.begin && is_mergeable_vma(prev, request) &&
         is_mergeable_anon_vma(request.anon_vma, prev.anon_vma, &prev) && prev.vm_pgoff + prev.pages() == request.pgoff;
}

bool can_merge_before(const Vma& next, const MergeRequest& request) {
  return next.vm_start == request.range.end && is_mergeable_vma(next, request) &&
         is_mergeable_anon_vma(request.anon_vma, next.anon_vma, &next) &&
         next.vm_pgoff == request.pgoff + (request.range.size() >> kPageShift);
}

}  // namespace

Vma* Vm::vma_merge(Mm& mm, const MergeRequest& request) {
  if (any(request.flags, VmFlags::kSpecial)) return nullptr;
  Vma* prev = request.prev;
  Vma* area = prev != nullptr ? VmaTree::next(*prev) : mm.mm_vmas.first();  // at the range, or behind it
  if (area != nullptr && area->vm_start >= request.range.end) area = nullptr;
  // The tail of prev is the range: prev is the area that is changed itself.
  const bool tail_of_prev = prev != nullptr && prev->vm_end > request.range.begin;
  Vma* next = mm.mm_vmas.find(request.range.end);

  const bool merge_prev = prev != nullptr && !tail_of_prev && can_merge_after(*prev, request);
  const bool merge_next = next != nullptr && next != area && next != prev && can_merge_before(*next, request);

  if (merge_prev && merge_next && is_mergeable_anon_vma(prev->anon_vma, next->anon_vma, nullptr)) {
    VmaChange change{.vma = prev, .range = {prev->vm_start, next->vm_end}, .pgoff = prev->vm_pgoff};
    change.remove = area != nullptr ? area : next;
    change.remove2 = area != nullptr ? next : nullptr;
    return vma_adjust(change) ? prev : nullptr;
  }
  if (merge_prev) {
    VmaChange change{.vma = prev, .range = {prev->vm_start, request.range.end}, .pgoff = prev->vm_pgoff};
    if (area != nullptr) (area->vm_end == request.range.end ? change.remove : change.next) = area;
    return vma_adjust(change) ? prev : nullptr;
  }
  if (!merge_next) return nullptr;
  if (tail_of_prev) {
    const VmaChange change{.vma = prev, .range = {prev->vm_start, request.range.begin}, .pgoff = prev->vm_pgoff, .next = next};
    return vma_adjust(change) ? next : nullptr;
  }
  VmaChange change{.vma = next, .range = {request.range.begin, next->vm_end}, .pgoff = request.pgoff};
  change.remove = area;
  return vma_adjust(change) ? next : nullptr;
}

}  // namespace quire::vm
