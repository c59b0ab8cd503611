// Reaching a page through the kernel's address space. On x86-64 every page has its address in the direct map, and all of this
// is one addition. On i386 pages of HighMem have none until they get one:
//
//   kmap          PKMAP_BASE + n pages   one of LAST_PKMAP places for all, kept until somebody needs it; waits when all are used
//   kmap_local    fixmap, per CPU        at most 16 of a task at once, strictly nested; the task stays on its CPU, may sleep
//   kmap_atomic   the same               and may not be preempted, nor sleep
//   set_fixmap    fixmap                 a fixed address for one purpose
//
// A place of the first kind counts its users: 0 free, 1 mapped but unused (left in the TLBs' memory), n: n - 1 users. When the
// search for a free one has come around, all unused ones are cleared and one flush serves them.
//
// A mapping tells both addresses: the kernel's, and the host's pointer, which is the direct map's whatever the page is.
//
// Invariants (validate()): the kmap area and the slots are mapped exactly as counts and tasks say; the hash finds every page
// that the kmap area maps.
// Locking: kmap_lock for the kmap area; slots belong to their CPU.
// Differs from Linux: mistakes with kmap_local (a wrong order) are told in the log, and nothing is done; an interrupt has no
// slots, so kmap_local of a HighMem page there is a BUG.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "quire/kvirt/init_mm.h"
#include "quire/kvirt/kernel_log.h"
#include "quire/kvirt/kernel_tlb.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"
#include "quire/sim/wait_queue.h"

namespace quire::kvirt {

struct KmapAddress {
  std::byte* native = nullptr;
  VirtAddr kva{};
};

class Kmap final : sim::KmapSwitchListener {
 public:
  Kmap(phys::PhysMem& phys, InitMm& init_mm, KernelTlb& tlb, KernelLog& log);
  ~Kmap() override;
  Kmap(const Kmap&) = delete;
  Kmap& operator=(const Kmap&) = delete;

  // May sleep, as long as it takes. Every kmap wants a kunmap; a page that is mapped keeps its address.
  [[nodiscard]] KmapAddress kmap(phys::Page& page) {
    if (!high(page)) [[likely]]
      return direct(page);
    return kmap_high(page);
  }
  void kunmap(phys::Page& page) {
    if (high(page)) [[unlikely]]
      kunmap_high(page);
  }

  // Never fails: the seventeenth at once is a BUG, and so is a HighMem page in an interrupt. Unmapped in the reverse order, by the same task.
  [[nodiscard]] KmapAddress kmap_local_page(phys::Page& page, arch::Pgprot prot = arch::kPageKernel) {
    if (!high(page)) [[likely]]
      return direct(page);
    return kmap_local_high(page, prot);
  }
  void kunmap_local(const KmapAddress& at) {
    if (slots_.contains(at.kva)) [[unlikely]]
      kunmap_local_high(at.kva);
  }
  [[nodiscard]] KmapAddress kmap_atomic(phys::Page& page) {
    scheduler_.preempt_disable();
    return kmap_local_page(page);
  }
  void kunmap_atomic(const KmapAddress& at) {
    kunmap_local(at);
    scheduler_.preempt_enable();
  }

  // The page behind an address of the direct map, the kmap area or the slots; nullptr: nothing is mapped there.
  [[nodiscard]] phys::Page* kmap_to_page(VirtAddr va);
  // The kernel address that the page has now; none for a page of HighMem that kmap has not mapped (Linux: NULL).
  [[nodiscard]] std::optional<VirtAddr> page_address(const phys::Page& page) const;
  // Clears every unused place of the kmap area. One flush. (kmap_flush_unused)
  void kmap_flush_unused();

  // Replaces what is at that fixed address. `pa` is page aligned.
  void set_fixmap(Fixmap index, PhysAddr pa, arch::Pgprot prot = arch::kPageKernel);
  void clear_fixmap(Fixmap index);

  [[nodiscard]] std::uint64_t flushes() const { return flushes_; }
  [[nodiscard]] unsigned last_pkmap() const { return static_cast<unsigned>(places_.size()); }

  void validate() const;

 private:
  static constexpr std::uint16_t kNone = 0xffff;
  static constexpr unsigned kHashBuckets = 128;
  struct Place {
    const phys::Page* page = nullptr;
    std::uint32_t count = 0;
    std::uint16_t next = kNone;  // in the bucket
  };

  [[nodiscard]] bool high(const phys::Page& page) const { return has_highmem_ && phys_.page_to_phys(page) >= high_memory_; }
  [[nodiscard]] KmapAddress direct(const phys::Page& page) const {
    return {phys_.page_address(page), page_offset_ + phys_.page_to_phys(page).value()};
  }
  [[nodiscard]] VirtAddr pkmap_addr(std::size_t place) const { return init_mm_.layout().pkmap.begin + place * kPageSize; }
  [[nodiscard]] unsigned bucket(const phys::Page& page) const;
  [[nodiscard]] std::uint16_t find(const phys::Page& page) const;
  [[gnu::noinline]] KmapAddress kmap_high(phys::Page& page);
  [[gnu::noinline]] void kunmap_high(phys::Page& page);
  [[gnu::noinline]] KmapAddress kmap_local_high(phys::Page& page, arch::Pgprot prot);
  [[gnu::noinline]] void kunmap_local_high(VirtAddr kva);
  [[nodiscard]] std::uint16_t map_new_virtual(phys::Page& page) QUIRE_REQUIRES(kmap_lock_);
  void flush_all_zero_pkmaps() QUIRE_REQUIRES(kmap_lock_);
  void unhash(std::uint16_t place);
  [[nodiscard]] VirtAddr slot_addr(unsigned cpu, unsigned idx) const;
  void kmap_local_sched_out(sim::Task& task) override;
  void kmap_local_sched_in(sim::Task& task) override;

  phys::PhysMem& phys_;
  InitMm& init_mm_;
  KernelTlb& tlb_;
  KernelLog& log_;
  sim::Scheduler& scheduler_;
  bool has_highmem_;
  PhysAddr high_memory_;
  VirtAddr page_offset_;
  Range<VirtAddr> slots_;
  sim::SpinLock kmap_lock_;
  sim::WaitQueue pkmap_map_wait_;
  std::vector<Place> places_;
  std::array<std::uint16_t, kHashBuckets> buckets_;
  std::size_t last_place_ = 0;
  std::uint64_t flushes_ = 0;
};

}  // namespace quire::kvirt
