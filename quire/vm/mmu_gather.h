// Batched unmapping: entries are cleared first, one TLB flush covers them all, and only then are the frames let go.
//
//   MmuGather tlb(vm, mm);          zap: clear pte → tlb.unmap_page(address, folio) …     (page_table_lock held)
//   tlb.finish();                   flush_tlb_range(what was gathered) → release_folios   (no page_table_lock)
//
// When the batch is full, need_flush() tells the zapper to leave the page-table lock and call flush(). finish() must be called
// before destruction, unless the task is being unwound.
#pragma once

#include <array>
#include <cstdint>
#include <exception>

#include "quire/base/types.h"
#include "quire/phys/folio.h"
#include "quire/vm/mm.h"

namespace quire::vm {

class Vm;

class [[nodiscard]] MmuGather {
 public:
  enum class Scope : std::uint8_t { kRange, kFullMm };
  MmuGather(Vm& vm, Mm& mm, Scope scope = Scope::kRange) : vm_(vm), mm_(mm), scope_(scope) {}
  MmuGather(const MmuGather&) = delete;
  MmuGather& operator=(const MmuGather&) = delete;
  ~MmuGather() { QUIRE_BUG_ON(std::uncaught_exceptions() == 0 && (count_ != 0 || !range_.empty())); }

  // An entry of the range was cleared or tightened.
  void note_range(VirtAddr address) {
    if (range_.empty()) range_ = {address, address + kPageSize};
    if (address < range_.begin) range_.begin = address;
    if (range_.end < address + kPageSize) range_.end = address + kPageSize;
  }
  // The entry of `address` was cleared; its reference on the folio goes with the batch.
  void unmap_page(VirtAddr address, phys::Folio& folio) {
    note_range(address);
    folios_[count_++] = &folio;
  }
  [[nodiscard]] bool need_flush() const { return count_ == folios_.size(); }
  void flush();
  void flush_tlb_only();
  void finish() { flush(); }

  [[nodiscard]] Mm& mm() const { return mm_; }
  [[nodiscard]] Scope scope() const { return scope_; }

 private:
  Vm& vm_;
  Mm& mm_;
  Scope scope_;
  Range<VirtAddr> range_;
  std::size_t count_ = 0;
  std::array<phys::Folio*, 256> folios_;
};

}  // namespace quire::vm
