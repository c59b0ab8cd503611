// The TLBs of the machine's CPUs: which address space each has loaded, and who must flush what when page tables change.
//
//   Mm.tlb_gen 7 ── flush ──► 8        CPU 0   loaded_mm ──► Mm    ctxs[0] {Mm, gen 8}   ctxs[1] {other, gen 3} …
//                                      CPU 1   lazy in Mm          ctxs[2] {Mm, gen 7}   looks when it goes on in Mm
//                                      CPU 2   in another Mm       ctxs[0] {Mm, gen 5}   looks when it switches to Mm
//
// As Linux's arch/x86/mm/tlb.c. Each CPU has kTlbNrDynAsids address-space ids (PCIDs) and knows for each which Mm it stands for
// and up to which generation of that Mm's tables its entries are good. Every flush raises the Mm's generation and interrupts
// the CPUs of its cpumask, those that have the Mm loaded; all others compare generations when they switch to it. A CPU that
// runs a kernel thread, or nothing, keeps the Mm loaded and is lazy: it is not interrupted either (unless page tables were
// freed, and then it leaves the Mm), and compares when it goes on.
//
// A switch happens when a task first touches memory of an Mm that its CPU does not have loaded; a CPU is lazy towards an Mm
// while the task it runs has last used, or begun in, another one, or none (sim::Task::mm_context).
//
// reclaim batches: try_to_unmap with kBatchFlush only notes the CPUs of the Mm in a batch of the task's own; flush_pending()
// later flushes them all, and no frame is freed before. Until then a CPU may still use a translation whose entry is gone, so
// who is about to judge entries by what they hold (unmap, protect, move) settles the Mm's share first:
// flush_tlb_batched_pending, with page_table_lock held.
//
// Rule for callers: clear or tighten the entry first, then flush, then free or reuse the frame. Where others may run between
// the first two, a TlbFlushPending (or an MmuGather, which has one) stands around both.
//
// A flush reaches all CPUs at once; its price is the caller's, who waits for the others' acknowledgement. Confined to the
// machine's host thread; nothing here waits.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "quire/arch/mmu.h"
#include "quire/base/types.h"
#include "quire/phys/vmstat.h"
#include "quire/sim/scheduler.h"
#include "quire/vm/mm.h"
#include "quire/vm/tlb_flush.h"

namespace quire::vm {

inline constexpr unsigned kTlbNrDynAsids = 6;  // TLB_NR_DYN_ASIDS
// Above this many pages a flush of the whole address space is cheaper (tlb_single_page_flush_ceiling).
inline constexpr std::uint64_t kTlbSinglePageFlushCeiling = 33;

// init_mm's Mm::context_id: a CPU that leaves an Mm loads it, and it takes an id like any other.
inline constexpr std::uint64_t kInitMmContext = 1;

// What one address-space id of a CPU stands for (tlb_context).
struct TlbContext {
  std::uint64_t ctx_id = 0;   // Mm::context_id; 0: nobody yet
  std::uint64_t tlb_gen = 0;  // the entries are good for the tables as they were at this generation
};

// One CPU's (cpu_tlbstate).
struct CpuTlbState {
  CpuTlbState(const arch::PageTables& tables, const arch::TlbConfig& config) : mmu(tables, config) {}

  arch::Mmu mmu;
  Mm* loaded_mm = nullptr;  // null: init_mm
  unsigned loaded_mm_asid = 0;
  unsigned next_asid = 1;
  std::array<TlbContext, kTlbNrDynAsids> ctxs{TlbContext{kInitMmContext, 1}};

  // The hardware's number of an id: 0 is the kernel's own.
  [[nodiscard]] static arch::Asid kern_pcid(unsigned asid) { return asid + 1; }
};

class TlbShootdown {
 public:
  TlbShootdown(sim::Scheduler& scheduler, const arch::PageTables& tables, phys::VmStat& vmstat, TraceRegistry& traces,
               const arch::TlbConfig& config);

  [[nodiscard]] arch::Mmu& mmu(unsigned cpu) { return cpus_[cpu]->mmu; }
  [[nodiscard]] const CpuTlbState& cpu_state(unsigned cpu) const { return *cpus_[cpu]; }

  // --- which Mm a CPU has loaded (tlb_switch.cc) -----------------------------------------------------------------------
  // The current task goes on in `mm` on this CPU: loads it if need be, flushes what is out of date (switch_mm_irqs_off).
  void switch_mm(Mm& mm);
  // A task is about to begin that runs in `mm`, without having touched its memory yet.
  static void begins_in(sim::Task& task, const Mm& mm) { task.mm_context = mm.context_id; }
  // The current task uses the Mm no more; its CPU may keep it (enter_lazy_tlb).
  void enter_lazy_tlb(const Mm& mm);
  // Nobody can use the Mm any more: CPUs that have it loaded still load init_mm.
  void mm_gone(Mm& mm);
  // Does the CPU hold the Mm only because nothing else needed one since?
  [[nodiscard]] bool is_lazy(unsigned cpu, const Mm& mm) const;

  // --- flushes -----------------------------------------------------------------------------------------------------------
  void flush_tlb_mm(Mm& mm, FlushSite site = FlushSite::kOther);
  void flush_tlb_range(Mm& mm, Range<VirtAddr> range, FlushSite site, FreedTables freed_tables = FreedTables::kNo);
  void flush_tlb_page(Mm& mm, VirtAddr address, FlushSite site) { flush_tlb_range(mm, {address, address + kPageSize}, site); }

  // Clears an entry and flushes its page, where a CPU could have it: a page without rights (PROT_NONE) is in no TLB, unless the
  // flush for what took its rights is still to come.
  [[nodiscard]] arch::Pte ptep_clear_flush(Mm& mm, arch::Pte* pte, VirtAddr address, FlushSite site);

  // Deferred flushes. Should the flush for an entry of this Mm be put off? Only when it would interrupt another CPU.
  [[nodiscard]] bool should_defer_flush(const Mm& mm) const;
  enum class Dirty : std::uint8_t { kNo, kYes };
  void defer(Mm& mm, Dirty dirty);  // set_tlb_ubc_flush_pending
  // Flushes the Mm if entries of it were noted since it was last settled here.
  void flush_tlb_batched_pending(Mm& mm);
  void flush_pending();        // try_to_unmap_flush: the current task's
  void flush_pending_dirty();  // only when an entry that was noted could still be written through
  [[nodiscard]] bool pending() const { return !open_batches_.empty(); }
  // Will some batch still flush this CPU for the Mm's sake?
  [[nodiscard]] bool pending(unsigned cpu, const Mm& mm) const;

  // For tests: asked before each flush; where it says true, the flush does not happen and everything goes on as if it had.
  using Omit = std::function<bool(FlushSite)>;
  void omit_flushes(Omit omit) { omit_ = std::move(omit); }

  struct Stats {
    std::uint64_t local_flushes = 0, remote_flushes = 0, ipis = 0, full_flushes = 0;
    std::uint64_t switches = 0, switch_flushes = 0, lazy_skipped = 0, deferred = 0;
  };
  [[nodiscard]] const Stats& stats() const { return stats_; }
  void validate() const;
  void validate(const Mm& mm) const;  // its cpumask

  Tracepoint<TlbFlush> tlb_flush;

 private:
  // Whom a flush is for (flush_tlb_info). `mm` null: whatever each CPU has loaded.
  struct Info {
    Mm* mm;
    Range<VirtAddr> range;
    std::uint64_t pages;  // kTlbFlushAll
    FreedTables freed_tables;
  };

  [[nodiscard]] bool omitted(FlushSite site) const { return omit_ != nullptr && omit_(site); }
  [[nodiscard]] unsigned choose_new_asid(CpuTlbState& state, std::uint64_t next);
  void load(CpuTlbState& state, Mm& mm, unsigned asid);
  void flush_loaded(unsigned cpu, const TlbContext& now, FlushSite site);
  void leave_mm(unsigned cpu);
  void flush_cpus(const sim::CpuMask& mask, const Info& info);
  void flush_tlb_multi(const sim::CpuMask& mask, const Info& info);
  void flush_tlb_func(unsigned cpu, const Info& info);
  std::uint64_t flush_local(CpuTlbState& state, const Info& info);
  [[nodiscard]] sim::UnmapBatch& batch() { return scheduler_.context().tlb_ubc; }

  sim::Scheduler& scheduler_;
  phys::VmStat& vmstat_;
  std::vector<std::unique_ptr<CpuTlbState>> cpus_;  // fixed at boot
  List<sim::UnmapBatch, &sim::UnmapBatch::open> open_batches_;
  Omit omit_;
  Stats stats_;
};

// Entries of an Mm are being changed, and the flush for them is still to come (inc_tlb_flush_pending). Counted in one of the
// Mm's two counts.
class [[nodiscard]] TlbFlushPending {
 public:
  explicit TlbFlushPending(unsigned& count) : count_(count) { ++count; }
  ~TlbFlushPending() { --count_; }
  TlbFlushPending(const TlbFlushPending&) = delete;
  TlbFlushPending& operator=(const TlbFlushPending&) = delete;

 private:
  unsigned& count_;
};

}  // namespace quire::vm
