// The counters of /proc/vmstat under Linux 6.1's names and in its order: per zone (ZoneStat), per zone of NUMA hits
// (NumaStat), per node (NodeStat), and events of the whole machine (VmEvent). Each page or zone has its ZoneStat in the
// zone, NodeStat in the node; VmEvents are in PhysMem::vmstat().
//
// Linux sums per-CPU differences and may read a stale total; here a machine is confined to one host thread and every
// total is exact. Both stand in one 4 KiB-page unit unless the name says bytes or KiB (nr_kernel_stack is KiB).
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/counters.h"
#include "quire/phys/page.h"
#include "quire/phys/phys_config.h"

namespace quire::phys {

// Pages of one zone in a state.
// clang-format off
enum class ZoneStat : std::uint16_t {
  kNrFreePages, kNrZoneInactiveAnon, kNrZoneActiveAnon, kNrZoneInactiveFile, kNrZoneActiveFile,
  kNrZoneUnevictable, kNrZoneWritePending, kNrMlock, kNrBounce, kNrZspages, kNrFreeCma,
  kCount
};
// clang-format on
[[nodiscard]] std::string_view counter_name(ZoneStat e);

// Where allocations of one zone came from.
// clang-format off
enum class NumaStat : std::uint16_t {
  kNumaHit, kNumaMiss, kNumaForeign, kNumaInterleave, kNumaLocal, kNumaOther,
  kCount
};
// clang-format on
[[nodiscard]] std::string_view counter_name(NumaStat e);

// Pages of one node in a state, and events counted by node.
// clang-format off
enum class NodeStat : std::uint16_t {
  kNrInactiveAnon, kNrActiveAnon, kNrInactiveFile, kNrActiveFile, kNrUnevictable, kNrSlabReclaimable,
  kNrSlabUnreclaimable, kNrIsolatedAnon, kNrIsolatedFile, kWorkingsetNodes, kWorkingsetRefaultAnon,
  kWorkingsetRefaultFile, kWorkingsetActivateAnon, kWorkingsetActivateFile, kWorkingsetRestoreAnon,
  kWorkingsetRestoreFile, kWorkingsetNodereclaim, kNrAnonPages, kNrMapped, kNrFilePages, kNrDirty,
  kNrWriteback, kNrWritebackTemp, kNrShmem, kNrShmemHugepages, kNrShmemPmdmapped, kNrFileHugepages,
  kNrFilePmdmapped, kNrAnonTransparentHugepages, kNrVmscanWrite, kNrVmscanImmediateReclaim, kNrDirtied,
  kNrWritten, kNrThrottledWritten, kNrKernelMiscReclaimable, kNrFollPinAcquired, kNrFollPinReleased,
  kNrKernelStack, kNrPageTablePages, kNrSecPageTablePages, kNrSwapcached, kPgpromoteSuccess,
  kPgpromoteCandidate,
  kCount
};
// clang-format on
[[nodiscard]] std::string_view counter_name(NodeStat e);

// Events of the machine.
// clang-format off
enum class VmEvent : std::uint16_t {
  kPgpgin, kPgpgout, kPswpin, kPswpout, kPgallocDma, kPgallocDma32, kPgallocNormal, kPgallocHigh, kPgallocMovable,
  kPgallocDevice, kAllocstallDma, kAllocstallDma32, kAllocstallNormal, kAllocstallHigh, kAllocstallMovable, kAllocstallDevice,
  kPgskipDma, kPgskipDma32, kPgskipNormal, kPgskipHigh, kPgskipMovable, kPgskipDevice, kPgfree, kPgactivate,
  kPgdeactivate, kPglazyfree, kPgfault, kPgmajfault, kPglazyfreed, kPgrefill, kPgreuse, kPgstealKswapd,
  kPgstealDirect, kPgdemoteKswapd, kPgdemoteDirect, kPgscanKswapd, kPgscanDirect, kPgscanDirectThrottle,
  kPgscanAnon, kPgscanFile, kPgstealAnon, kPgstealFile, kZoneReclaimFailed, kPginodesteal, kSlabsScanned,
  kKswapdInodesteal, kKswapdLowWmarkHitQuickly, kKswapdHighWmarkHitQuickly, kPageoutrun, kPgrotated,
  kDropPagecache, kDropSlab, kOomKill, kNumaPteUpdates, kNumaHugePteUpdates, kNumaHintFaults,
  kNumaHintFaultsLocal, kNumaPagesMigrated, kPgmigrateSuccess, kPgmigrateFail, kThpMigrationSuccess,
  kThpMigrationFail, kThpMigrationSplit, kCompactMigrateScanned, kCompactFreeScanned, kCompactIsolated,
  kCompactStall, kCompactFail, kCompactSuccess, kCompactDaemonWake, kCompactDaemonMigrateScanned,
  kCompactDaemonFreeScanned, kHtlbBuddyAllocSuccess, kHtlbBuddyAllocFail, kUnevictablePgsCulled,
  kUnevictablePgsScanned, kUnevictablePgsRescued, kUnevictablePgsMlocked, kUnevictablePgsMunlocked,
  kUnevictablePgsCleared, kUnevictablePgsStranded, kThpFaultAlloc, kThpFaultFallback,
  kThpFaultFallbackCharge, kThpCollapseAlloc, kThpCollapseAllocFailed, kThpFileAlloc, kThpFileFallback,
  kThpFileFallbackCharge, kThpFileMapped, kThpSplitPage, kThpSplitPageFailed, kThpDeferredSplitPage,
  kThpSplitPmd, kThpScanExceedNonePte, kThpScanExceedSwapPte, kThpScanExceedSharePte, kThpSplitPud,
  kThpZeroPageAlloc, kThpZeroPageAllocFailed, kThpSwpout, kThpSwpoutFallback, kBalloonInflate,
  kBalloonDeflate, kBalloonMigrate, kNrTlbRemoteFlush, kNrTlbRemoteFlushReceived, kNrTlbLocalFlushAll,
  kNrTlbLocalFlushOne, kSwapRa, kSwapRaHit, kKsmSwpinCopy, kCowKsm, kDirectMapLevel2Splits,
  kDirectMapLevel3Splits,
  kCount
};
// clang-format on
[[nodiscard]] std::string_view counter_name(VmEvent e);

// False for a counter of a zone that the architecture does not have: its kernel does not print it.
[[nodiscard]] bool counted(Arch arch, VmEvent event);

// pgalloc_dma … pgalloc_device, allocstall_*, pgskip_*: the member of the family for a zone.
[[nodiscard]] constexpr VmEvent for_zone(VmEvent dma_event, ZoneType zone) {
  return static_cast<VmEvent>(static_cast<unsigned>(dma_event) + static_cast<unsigned>(zone));
}

class VmStat {
 public:
  void count_vm_event(VmEvent e) { events_.add(e); }
  void count_vm_events(VmEvent e, std::int64_t n) { events_.add(e, n); }
  void count_zid_vm_events(VmEvent dma_event, ZoneType zone, std::int64_t n) { events_.add(for_zone(dma_event, zone), n); }
  [[nodiscard]] std::int64_t operator[](VmEvent e) const { return events_[e]; }
  [[nodiscard]] const Counters<VmEvent>& events() const { return events_; }

 private:
  Counters<VmEvent> events_;
};

}  // namespace quire::phys
