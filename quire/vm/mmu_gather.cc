#include "quire/vm/mmu_gather.h"

#include <memory>
#include <new>
#include <span>
#include <utility>

#include "quire/vm/vm.h"

namespace quire::vm {

// A frame for more folios; what flush() has emptied is used again. May fail: then what is gathered is flushed first.
MmuGather::Room MmuGather::next_batch() {
  if (active_->next != nullptr) {
    active_ = active_->next;
    return Room::kMore;
  }
  if (batches_ == kMaxBatches) return Room::kNone;
  phys::PhysMem& phys = vm_.parts_.phys;
  phys::Page* page = phys.alloc_page(phys::Gfp::kNoWait | phys::Gfp::kNoWarn);
  if (page == nullptr) return Room::kNone;
  ++batches_;
  active_ = active_->next = new (phys.page_address(*page)) Batch{nullptr, 0, 0, kMaxGatherBatch};
  return Room::kMore;
}

void MmuGather::flush_tlb_only(FlushSite site) {
  if (range_.empty() && freed_tables_ == FreedTables::kNo) return;
  const Range<VirtAddr> range = scope_ == Scope::kFullMm ? kAllAddresses : range_;
  vm_.shootdown_.flush_tlb_range(mm_, range, site, freed_tables_);
  range_ = {};
  freed_tables_ = FreedTables::kNo;
}

void MmuGather::free_table(VirtAddr address, phys::Page& table) {
  note_range(address);
  freed_tables_ = FreedTables::kYes;
  tables_.push_back(table);
  ++active_->tables;
  take_place();
  if (full_) flush();
}

void MmuGather::flush() {
  flush_tlb_only();
  while (!tables_.empty()) vm_.parts_.phys.free_page(*tables_.pop_front());
  for (Batch* batch = &local_; batch != nullptr; batch = batch->next) {
    if (batch->nr + std::exchange(batch->tables, 0) == 0) break;
    const std::span folios(batch->folios(), std::exchange(batch->nr, 0));
    // free_pages_and_swap_cache: what only the swap cache would keep is not kept.
    for (phys::Folio* folio : folios) vm_.free_swap_cache(*folio);
    vm_.parts_.lru.release_folios(folios);
  }
  active_ = &local_;
  full_ = false;
}

// Where another gather of the Mm is under way, entries that this one found as they should be may be that one's changes, whose
// flush is still to come: then everything is flushed.
void MmuGather::finish() {
  const bool nested = mm_.tlb_flush_pending > 1;  // mm_tlb_flush_nested
  if (nested) {
    scope_ = Scope::kFullMm;
    freed_tables_ = FreedTables::kYes;
  }
  flush_tlb_only(nested ? FlushSite::kNested : site_);
  vm_.tlb_checker_.after_gather(mm_);
  flush();
  while (Batch* batch = local_.next) {
    local_.next = batch->next;
    vm_.parts_.phys.free_page(vm_.parts_.phys.virt_to_page(batch));
  }
  batches_ = 0;
}

}  // namespace quire::vm
