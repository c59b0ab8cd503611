// Batched unmapping: entries are cleared first, one TLB flush covers them all, and only then are frames and tables let go.
//
//   MmuGather tlb(vm, mm, site);    zap: clear pte → tlb.unmap_page(address, folio) …     (page_table_lock held)
//                                   free_pgtables: unhook → tlb.free_table(address, page)
//   tlb.finish();                   flush_tlb_range(what was gathered) → release_folios   (no page_table_lock)
//
// The first few folios lie in the gather itself, more in frames that are taken without waiting, kMaxBatches of them at most:
// 8 + 19 · 510 folios and tables together, as in Linux. When there is no room for another, need_flush() tells the zapper to leave the page-table
// lock and call flush(). finish() must be called before destruction, unless the task is being unwound. From construction to
// destruction the Mm counts as having a flush pending; a gather that finishes while there are others flushes all of the Mm.
#pragma once

#include <cstdint>
#include <exception>

#include "quire/base/types.h"
#include "quire/phys/folio.h"
#include "quire/vm/mm.h"
#include "quire/vm/tlb_shootdown.h"

namespace quire::vm {

class Vm;

class [[nodiscard]] MmuGather {
 public:
  enum class Scope : std::uint8_t { kRange, kFullMm };
  MmuGather(Vm& vm, Mm& mm, FlushSite site, Scope scope = Scope::kRange)
      : vm_(vm), mm_(mm), pending_(mm.tlb_flush_pending), site_(site), scope_(scope) {}
  MmuGather(const MmuGather&) = delete;
  MmuGather& operator=(const MmuGather&) = delete;
  ~MmuGather() {
    if (std::uncaught_exceptions() != 0) return;
    QUIRE_BUG_ON(local_.nr != 0 || local_.next != nullptr || !range_.empty() || !tables_.empty());
  }

  // An entry of the range was cleared or tightened (tlb_remove_tlb_entry).
  void note_range(VirtAddr address) {
    if (range_.empty()) range_ = {address, address + kPageSize};
    if (address < range_.begin) range_.begin = address;
    if (range_.end < address + kPageSize) range_.end = address + kPageSize;
  }
  // The entry of `address` was cleared; its reference on the folio goes with the batch. Not while need_flush().
  void unmap_page(VirtAddr address, phys::Folio& folio) {
    note_range(address);
    active_->folios()[active_->nr++] = &folio;
    take_place();
  }
  // A table that served `address` was unhooked; it is freed with the batch (tlb_remove_table). May flush.
  void free_table(VirtAddr address, phys::Page& table);
  [[nodiscard]] bool need_flush() const { return full_; }
  // Flushes TLBs at once, with page_table_lock held; what is gathered goes when the zapper has left it.
  void force_flush(FlushSite site) {
    flush_tlb_only(site);
    full_ = true;
  }
  void flush_tlb_only() { flush_tlb_only(site_); }
  void flush_tlb_only(FlushSite site);  // tlb_flush_mmu_tlbonly
  void flush();                         // tlb_flush_mmu
  void finish();                        // tlb_finish_mmu

  [[nodiscard]] Mm& mm() const { return mm_; }

 private:
  enum class Room : std::uint8_t { kNone, kMore };
  // mmu_gather_batch: a head, and the folios behind it.
  struct Batch {
    Batch* next = nullptr;
    std::uint16_t nr = 0;      // folios
    std::uint16_t tables = 0;  // places that tables take; they are in tables_
    std::uint32_t max = 0;
    [[nodiscard]] phys::Folio** folios() { return reinterpret_cast<phys::Folio**>(this + 1); }
  };
  static constexpr unsigned kBundle = 8;  // MMU_GATHER_BUNDLE
  struct FirstBatch : Batch {
    phys::Folio* room[kBundle];
  };
  static constexpr unsigned kMaxGatherBatch = 510;  // MAX_GATHER_BATCH
  static constexpr unsigned kMaxBatches = 19;       // MAX_GATHER_BATCH_COUNT
  static_assert(sizeof(Batch) + kMaxGatherBatch * sizeof(phys::Folio*) == kPageSize);

  [[nodiscard]] Room next_batch();
  void take_place() {
    if (active_->nr + active_->tables == active_->max) [[unlikely]]
      full_ = next_batch() == Room::kNone;
  }

  Vm& vm_;
  Mm& mm_;
  TlbFlushPending pending_;
  FlushSite site_;
  Scope scope_;
  FreedTables freed_tables_ = FreedTables::kNo;
  bool full_ = false;
  unsigned batches_ = 0;
  Range<VirtAddr> range_;
  phys::PageList tables_;
  Batch* active_ = &local_;
  FirstBatch local_{{nullptr, 0, 0, kBundle}, {}};
};

}  // namespace quire::vm
