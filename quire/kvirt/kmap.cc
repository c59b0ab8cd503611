#include "quire/kvirt/kmap.h"

#include <fmt/format.h>

namespace quire::kvirt {

using phys::Page;

static_assert(sim::KmapCtrl::kMost == kKmMaxIdx);

Kmap::Kmap(phys::PhysMem& phys, InitMm& init_mm, KernelTlb& tlb, KernelLog& log)
    : phys_(phys),
      init_mm_(init_mm),
      tlb_(tlb),
      log_(log),
      scheduler_(phys.scheduler()),
      has_highmem_(phys.has_zone(phys::ZoneType::kHighMem)),
      high_memory_(init_mm.layout().high_memory - init_mm.layout().page_offset),
      page_offset_(init_mm.layout().page_offset),
      kmap_lock_(scheduler_, scheduler_.locks().lock_class("kmap_lock")),
      pkmap_map_wait_(scheduler_, "pkmap_map_wait"),
      places_(init_mm.layout().last_pkmap()) {
  buckets_.fill(kNone);
  if (!has_highmem_) return;
  // The slots of CPU 0 begin at FIX_KMAP_BEGIN; higher numbers lie lower.
  const unsigned last = scheduler_.cpus() * kKmMaxIdx - 1;
  slots_ = {slot_addr(last / kKmMaxIdx, last % kKmMaxIdx), slot_addr(0, 0) + kPageSize};
  scheduler_.set_kmap_switch_listener(this);
}

Kmap::~Kmap() {
  if (has_highmem_) scheduler_.set_kmap_switch_listener(nullptr);
}

// --- kmap ---------------------------------------------------------------------------------------------------------------

unsigned Kmap::bucket(const Page& page) const {
  constexpr std::uint64_t kGoldenRatio = 0x61c8'8646'80b5'83eb;
  return static_cast<unsigned>((phys_.page_to_pfn(page).value() * kGoldenRatio) >> 57);
}

std::uint16_t Kmap::find(const Page& page) const {
  std::uint16_t place = buckets_[bucket(page)];
  while (place != kNone && places_[place].page != &page) place = places_[place].next;
  return place;
}

void Kmap::unhash(std::uint16_t place) {
  std::uint16_t* link = &buckets_[bucket(*places_[place].page)];
  while (*link != place) link = &places_[*link].next;
  *link = places_[place].next;
}

KmapAddress Kmap::kmap_high(Page& page) {
  for (;;) {
    {
      sim::SpinGuard guard(kmap_lock_);
      std::uint16_t place = find(page);
      if (place == kNone) place = map_new_virtual(page);
      if (place != kNone) {
        QUIRE_BUG_ON(places_[place].count == 0);
        ++places_[place].count;
        return {phys_.page_address(page), pkmap_addr(place)};
      }
    }
    if (scheduler_.current() == nullptr) {
      bug(fmt::format("kmap: all {} places are in use and nobody runs who could give one back; kunmap pages sooner",
                      places_.size()));
    }
    pkmap_map_wait_.wait();
  }
}

// Maps the page at the next free place in turn, with no user yet; kNone: all are in use.
std::uint16_t Kmap::map_new_virtual(Page& page) {
  std::size_t tried = 0;
  do {
    if (tried++ == places_.size()) return kNone;
    if (++last_place_ >= places_.size()) {
      last_place_ = 0;
      flush_all_zero_pkmaps();
      tried = 1;
    }
  } while (places_[last_place_].count != 0);
  const auto place = static_cast<std::uint16_t>(last_place_);
  init_mm_.set_pte(pkmap_addr(place), phys_.page_to_phys(page), arch::kPageKernel);
  scheduler_.charge(scheduler_.costs().pte_copy);
  const unsigned in = bucket(page);
  places_[place] = {.page = &page, .count = 1, .next = buckets_[in]};
  buckets_[in] = place;
  return place;
}

void Kmap::kunmap_high(Page& page) {
  sim::SpinGuard guard(kmap_lock_);
  const std::uint16_t place = find(page);
  if (place == kNone || places_[place].count < 2) {
    bug(fmt::format("kunmap of page {:#x}, which no kmap holds", phys_.page_to_pfn(page).value()));
  }
  if (--places_[place].count == 1) static_cast<void>(pkmap_map_wait_.wake_all());
}

void Kmap::flush_all_zero_pkmaps() {
  bool need_flush = false;
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].count != 1) continue;
    init_mm_.clear_pte(pkmap_addr(i));
    scheduler_.charge(scheduler_.costs().pte_zap);
    unhash(static_cast<std::uint16_t>(i));
    places_[i] = {};
    need_flush = true;
  }
  if (!need_flush) return;
  tlb_.flush_tlb_kernel_range(init_mm_.layout().pkmap);
  ++flushes_;
}

void Kmap::kmap_flush_unused() {
  sim::SpinGuard guard(kmap_lock_);
  flush_all_zero_pkmaps();
}

// --- kmap_local -----------------------------------------------------------------------------------------------------------

VirtAddr Kmap::slot_addr(unsigned cpu, unsigned idx) const {
  return init_mm_.layout().fix_to_virt(static_cast<unsigned>(Fixmap::kKmapBegin) + cpu * kKmMaxIdx + idx);
}

KmapAddress Kmap::kmap_local_high(Page& page, arch::Pgprot prot) {
  // An interrupt has no CPU of its own here, and would write over the slots of CPU 0's running task.
  if (scheduler_.in_interrupt()) {
    bug("kmap_local of a HighMem page in an interrupt: it has no slots; map it in a task, or take a page of lowmem");
  }
  sim::Task& task = scheduler_.context();
  sim::KmapCtrl& ctrl = task.kmap_ctrl;
  if (ctrl.idx == kKmMaxIdx) {
    bug(fmt::format("kmap_local: '{}' holds {} mappings already; undo some before it makes another", task.name(), kKmMaxIdx));
  }
  scheduler_.migrate_disable();
  const VirtAddr kva = slot_addr(scheduler_.cpu(), ctrl.idx);
  const PhysAddr pa = phys_.page_to_phys(page);
  init_mm_.set_pte(kva, pa, prot);
  scheduler_.charge(scheduler_.costs().pte_copy);
  ctrl.pteval[ctrl.idx++] = pa.value() | static_cast<std::uint64_t>(prot.bits);
  return {phys_.page_address(page), kva};
}

void Kmap::kunmap_local_high(VirtAddr kva) {
  sim::Task& task = scheduler_.context();
  sim::KmapCtrl& ctrl = task.kmap_ctrl;
  const VirtAddr page = align_down(kva, kPageSize);
  if (ctrl.idx == 0 || slot_addr(scheduler_.cpu(), ctrl.idx - 1) != page) {
    log_.warn(fmt::format("kunmap_local of {:#x} out of order: '{}' has {} mappings, of which the last must go first",
                          kva.value(), task.name(), ctrl.idx));
    return;
  }
  ctrl.pteval[--ctrl.idx] = 0;
  init_mm_.clear_pte(page);
  scheduler_.charge(scheduler_.costs().tlb_flush_page);  // INVLPG, on this CPU alone
  scheduler_.migrate_enable();
}

void Kmap::kmap_local_sched_out(sim::Task& task) {
  for (unsigned i = 0; i < task.kmap_ctrl.idx; ++i) init_mm_.clear_pte(slot_addr(task.cpu(), i));
}

void Kmap::kmap_local_sched_in(sim::Task& task) {
  constexpr std::uint64_t kFrame = arch::kPteFrameMask;
  for (unsigned i = 0; i < task.kmap_ctrl.idx; ++i) {
    const std::uint64_t pte = task.kmap_ctrl.pteval[i];
    init_mm_.set_pte(slot_addr(task.cpu(), i), PhysAddr(pte & kFrame), {static_cast<arch::PteBits>(pte & ~kFrame)});
  }
}

// --- looking, and the fixmap ----------------------------------------------------------------------------------------------

Page* Kmap::kmap_to_page(VirtAddr va) {
  const KernelLayout& layout = init_mm_.layout();
  // On x86-64 the direct map has room for what is plugged in later.
  const VirtAddr direct_end = layout.is_64bit() ? layout.vmalloc.begin : layout.high_memory;
  if (Range<VirtAddr>{layout.page_offset, direct_end}.contains(va)) {
    const Pfn pfn = phys_to_pfn(PhysAddr(va - layout.page_offset));
    return phys_.pfn_valid(pfn) ? &phys_.pfn_to_page(pfn) : nullptr;
  }
  if (!layout.pkmap.contains(va) && !slots_.contains(va)) return nullptr;
  const auto found = init_mm_.translate(va);
  return found ? &phys_.phys_to_page(found->pa) : nullptr;
}

std::optional<VirtAddr> Kmap::page_address(const Page& page) const {
  if (!high(page)) return direct(page).kva;
  const std::uint16_t place = find(page);
  return place == kNone ? std::nullopt : std::optional(pkmap_addr(place));
}

void Kmap::set_fixmap(Fixmap index, PhysAddr pa, arch::Pgprot prot) {
  QUIRE_BUG_ON(index == Fixmap::kHole || index >= Fixmap::kKmapBegin || pa.value() % kPageSize != 0);
  const VirtAddr at = init_mm_.layout().fix_to_virt(index);
  init_mm_.set_pte(at, pa, prot);
  tlb_.flush_tlb_kernel_range({at, at + kPageSize});
}

void Kmap::clear_fixmap(Fixmap index) {
  QUIRE_BUG_ON(index == Fixmap::kHole || index >= Fixmap::kKmapBegin);
  const VirtAddr at = init_mm_.layout().fix_to_virt(index);
  init_mm_.clear_pte(at);
  tlb_.flush_tlb_kernel_range({at, at + kPageSize});
}

void Kmap::validate() const {
  std::size_t hashed = 0;
  for (const std::uint16_t head : buckets_) {
    for (std::uint16_t at = head; at != kNone; at = places_[at].next) {
      QUIRE_BUG_ON(++hashed > places_.size() || places_[at].count == 0);
    }
  }
  for (std::size_t i = 0; i < places_.size(); ++i) {
    const auto found = init_mm_.translate(pkmap_addr(i));
    QUIRE_BUG_ON(found.has_value() != (places_[i].count != 0));
    if (!found) continue;
    --hashed;
    QUIRE_BUG_ON(phys_.page_to_phys(*places_[i].page) != found->pa || find(*places_[i].page) != i);
  }
  QUIRE_BUG_ON(hashed != 0);
}

}  // namespace quire::kvirt
