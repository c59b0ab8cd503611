// One address space (Linux's mm_struct).
//
// Locks, in the order of taking: mmap_lock → i_mmap_rwsem / AnonVma root rwsem → page_table_lock → (swap, LRU, zone locks).
// mmap_lock guards the areas and all sizes; page_table_lock guards page tables and the rss counters. A fault holds mmap_lock
// for reading. Where Linux has one lock per page-table page, an Mm has one for all of them.
#pragma once

#include <array>
#include <cstdint>

#include "quire/base/intrusive_list.h"
#include "quire/base/types.h"
#include "quire/sim/cpu_mask.h"
#include "quire/sim/lock_guards.h"
#include "quire/vm/limits.h"
#include "quire/vm/vma_tree.h"

namespace quire::vm {

class Vm;

// What a present page or swap entry of an Mm counts as (MM_FILEPAGES …).
enum class Rss : std::uint8_t { kFilePages, kAnonPages, kSwapEnts, kShmemPages, kCount };

// MEMBARRIER_STATE_*: the expedited kinds of barrier that the process has asked for.
enum class MembarrierState : std::uint8_t {
  kNone = 0,
  kPrivateExpedited = 1,
  kGlobalExpedited = 2,
  kPrivateExpeditedSyncCore = 4,
  kPrivateExpeditedRseq = 8,
};

// MMF_*
enum class MmFlags : std::uint32_t {
  kNone = 0,
  kOomSkip = 1u << 0,    // nothing more to be had from it: the OOM killer looks elsewhere
  kOomVictim = 1u << 1,  // chosen by the OOM killer
  kKilled = 1u << 2,     // a SIGKILL is pending for its tasks: faults and waits return instead of retrying
  kExiting = 1u << 3,    // in exit_mmap: no area will be added any more
  kHasPinned = 1u << 5,  // pages of it were pinned at some time: fork has to look
};

inline constexpr std::size_t kAuxvWords = 2 * (20 + 3 + 1);  // AT_VECTOR_SIZE

struct Mm {
  Mm(Vm& of, sim::Scheduler& scheduler, VmaTree::NodeCache& nodes, sim::LockClass& mmap_lock_class,
     sim::LockClass& page_table_lock_class, std::uint64_t id)
      : vm(of),
        context_id(id),
        mmap_lock(scheduler, mmap_lock_class),
        page_table_lock(scheduler, page_table_lock_class),
        mm_vmas(nodes) {}

  Vm& vm;
  std::uint64_t context_id;  // ctx_id: what CPUs know the Mm by; never 0, never given twice
  PhysAddr pgd;
  std::uint32_t mm_users = 1;  // tasks; the last one runs exit_mmap
  std::uint32_t mm_count = 1;  // references to the object; all users together hold one

  sim::RwSemaphore mmap_lock;
  sim::SpinLock page_table_lock;
  VmaTree mm_vmas;
  int map_count = 0;

  VirtAddr task_size;         // first address beyond user space
  VirtAddr mmap_base;         // top of the area for mappings (top down) or its start (legacy)
  VirtAddr mmap_legacy_base;  // where a search upwards begins
  MmapLayout layout = MmapLayout::kTopDown;
  Randomize randomize = Randomize::kNo;  // PF_RANDOMIZE of the program
  VirtAddr start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
  VirtAddr arg_start, arg_end, env_start, env_end;
  VirtAddr vdso;                                       // where exec put [vdso]; 0: nowhere
  std::array<std::uint64_t, kAuxvWords> saved_auxv{};  // the auxiliary vector that exec made, as /proc/PID/auxv shows it

  // Pages.
  std::uint64_t total_vm = 0, locked_vm = 0, data_vm = 0, exec_vm = 0, stack_vm = 0;
  std::uint64_t hiwater_rss = 0, hiwater_vm = 0;
  std::uint64_t pgtables_pages = 0;  // pgtables_bytes: tables of ptes, PMDs and PUDs
  std::array<std::int64_t, static_cast<std::size_t>(Rss::kCount)> rss_stat{};
  std::uint64_t min_flt = 0, maj_flt = 0;

  VmFlags def_flags = VmFlags::kNone;  // mlockall(MCL_FUTURE)
  MmFlags flags = MmFlags::kNone;
  MembarrierState membarrier_state = MembarrierState::kNone;
  Rlimits rlimits;
  CapIpcLock ipc_lock = CapIpcLock::kNo;

  // TLBs (tlb_shootdown.h).
  sim::CpuMask cpumask;       // CPUs that have this Mm loaded, lazy ones too
  std::uint64_t tlb_gen = 1;  // raised by each flush, and by each entry whose flush is put off
  struct DeferredFlushes {
    std::uint32_t pending = 0;  // how often reclaim cleared an entry and left the flush for later
    std::uint32_t flushed = 0;  // that many of them were settled since
  };
  DeferredFlushes tlb_flush_batched;
  std::uint64_t last_deferred = 0;  // which of all deferrals was the last of its own (TlbShootdown::Stats::deferred)
  unsigned tlb_flush_pending = 0;   // gathers that stand between a change of entries and its flush
  unsigned fork_flush_pending = 0;  // forks that have made entries read-only and have not flushed yet

  void* owner = nullptr;  // the process, for who made this Mm
  ListNode mmlist;        // all Mms of a Vm

  [[nodiscard]] std::int64_t counter(Rss r) const { return rss_stat[static_cast<std::size_t>(r)]; }
  void add_counter(Rss r, std::int64_t n) { rss_stat[static_cast<std::size_t>(r)] += n; }
  // Resident pages: file, anonymous and shmem (get_mm_rss).
  [[nodiscard]] std::uint64_t rss() const {
    return static_cast<std::uint64_t>(counter(Rss::kFilePages) + counter(Rss::kAnonPages) + counter(Rss::kShmemPages));
  }
  void update_hiwater_rss() {
    if (rss() > hiwater_rss) hiwater_rss = rss();
  }
  void update_hiwater_vm() {
    if (total_vm > hiwater_vm) hiwater_vm = total_vm;
  }
  [[nodiscard]] bool killed() const {
    return (static_cast<std::uint32_t>(flags) & static_cast<std::uint32_t>(MmFlags::kKilled)) != 0;
  }
};

}  // namespace quire::vm

template <>
inline constexpr bool quire::kIsFlags<quire::vm::MmFlags> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::MembarrierState> = true;
