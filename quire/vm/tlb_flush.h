// What a TLB flush is told and tells: who asks for it, how much, and the tracepoint.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/tracepoint.h"
#include "quire/base/types.h"

namespace quire::vm {

// The places that flush. Each is one that a test leaves out, to see that the stale-translation checker misses it.
enum class FlushSite : std::uint8_t {
  kMunmap,        // unmap_region
  kExit,          // exit_mmap
  kZap,           // zap_page_range: MADV_DONTNEED and its kin
  kTruncate,      // unmap_mapping_pages
  kZapDirty,      // zap_pte_range: before a dirty file page may be cleaned
  kNested,        // tlb_finish_mmu: for what another gather, still under way, has changed
  kMprotect,      // change_protection
  kMremap,        // move_page_tables
  kFork,          // dup_mmap: the parent's pages are read-only now
  kCow,           // wp_page_copy
  kUnmap,         // try_to_unmap, at once
  kUnmapBatch,    // try_to_unmap_flush and _dirty: what try_to_unmap has put off
  kBatchPending,  // flush_tlb_batched_pending: the same, for who meets the Mm before
  kMigrate,       // try_to_migrate
  kMkclean,       // folio_mkclean
  kFree,          // MADV_FREE
  kCold,          // MADV_COLD, MADV_PAGEOUT (Accessed bits only: to leave it out loses accuracy, not data)
  kSwitch,        // a CPU comes to an Mm whose tables have changed since it left
  kNewAsid,       // a CPU gives an address-space id to another Mm
  kLazyBack,      // a CPU that was lazy goes on in its Mm, whose tables have changed
  kOther,         // tests
  kCount
};

// TLB_* of trace_tlb_flush.
enum class TlbFlushReason : std::uint8_t {
  kOnTaskSwitch,
  kRemoteShootdown,
  kLocalShootdown,
  kLocalMmShootdown,
  kRemoteSendIpi,
};

struct TlbFlush {
  static constexpr std::string_view kName = "tlb_flush";
  TlbFlushReason reason;
  std::uint64_t pages;  // kTlbFlushAll: everything
  void fields(auto&& f) const {
    f("reason", static_cast<unsigned>(reason));
    f("pages", static_cast<std::int64_t>(pages));  // everything: -1
  }
};

inline constexpr std::uint64_t kTlbFlushAll = ~std::uint64_t{0};
inline constexpr Range<VirtAddr> kAllAddresses{VirtAddr(0), VirtAddr(kTlbFlushAll)};

// Were page tables taken out as well? Then lazy CPUs have to hear of it too.
enum class FreedTables : std::uint8_t { kNo, kYes };

}  // namespace quire::vm
