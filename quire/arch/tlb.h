// The TLB of one simulated CPU: what it remembers of page tables, and goes on believing until somebody flushes it.
//
//   lookup(asid, va)
//      │ hint[vpn] names the L1 way that served this vpn last      (host-side way prediction, no state of the model)
//      ▼
//   L1   4 KiB pages 64 entries 4-way │ 2 MiB 32 entries 4-way │ 1 GiB 4 entries
//      │ miss
//      ▼
//   L2   4 KiB and 2 MiB pages 1536 entries 12-way │ 1 GiB 16 entries 4-way        → refills L1
//      │ miss
//      ▼
//   nullptr: the caller walks and insert()s
//
// An entry caches the frame, the rights and the dirty state that the walk found. It is not kept coherent: a changed page
// table is seen only after the matching flush, exactly as on hardware. So a write that hits an entry with Rights::kDirty clear
// must walk again (permits() says no), and a missed flush gives a stale translation. check_against() finds those.
//
// Entries carry an address-space id (PCID in hardware, here 28 bits: the Mm's context id), so switching address spaces
// flushes nothing. Replacement is not-recently-used: one reference bit a way, the lowest unreferenced way is the victim, and
// when all are referenced all are cleared first. Sizes are a machine's options. L1 and L2 are filled together; neither
// includes the other afterwards, flushes reach both. A flush of everything costs a clearing of the tags, one byte an entry:
// entries carry the flush generation in which they were made, and one of an older generation matches no lookup.
//
// Differs from hardware: one L1 serves instructions and data; no paging-structure caches; no global entries (kernel mappings
// do not go through the TLB here).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "quire/arch/page_tables.h"
#include "quire/base/types.h"

namespace quire::arch {

using Asid = std::uint32_t;
inline constexpr unsigned kAsidBits = 28;
inline constexpr Asid kAsidMax = (1u << kAsidBits) - 1;

struct TlbEntry {
  std::uint64_t vpn = kInvalidVpn;  // of the first 4 KiB page that the entry covers
  std::uint64_t vpn_mask = ~std::uint64_t{0};
  PhysAddr frame{};       // physical address of that page
  std::uint32_t key = 0;  // address space, with the flush generation above it
  Rights rights : 8 = Rights::kNone;
  std::uint32_t level : 8 = 0;  // page-table level of the leaf: 1, 2 or 3

  static constexpr std::uint64_t kInvalidVpn = ~std::uint64_t{0};

  [[nodiscard]] bool matches(std::uint32_t k, std::uint64_t v) const { return (v & vpn_mask) == vpn && key == k; }
  [[nodiscard]] Asid asid() const { return key & kAsidMax; }
  [[nodiscard]] bool permits(Access access, Privilege privilege) const { return arch::permits(rights, access, privilege); }
  // Physical address of `va`, which the entry covers.
  [[nodiscard]] PhysAddr translate(VirtAddr va) const { return frame + (va.value() - (vpn << kPageShift)); }
  [[nodiscard]] std::uint64_t pages() const { return ~vpn_mask + 1; }
};
static_assert(sizeof(TlbEntry) == 32);

// Entries and ways of each array. Sets (entries / ways) must be a power of two, ways at most 16.
struct TlbConfig {
  struct Array {
    unsigned entries = 0;
    unsigned ways = 0;
  };
  Array l1_4k{64, 4};
  Array l1_2m{32, 4};
  Array l1_1g{4, 4};
  Array l2{1536, 12};
  Array l2_1g{16, 4};
};

struct TlbStats {
  std::uint64_t l1_hits = 0;
  std::uint64_t l2_hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t insertions = 0;
  std::uint64_t evictions = 0;   // valid entries pushed out of L2
  std::uint64_t flush_page = 0;  // calls
  std::uint64_t flush_range = 0;
  std::uint64_t flush_asid = 0;
  std::uint64_t flush_all = 0;
  std::uint64_t flushed_entries = 0;
};

// What check_against found.
enum class Staleness : std::uint8_t {
  kFresh,       // no entry, or one that the tables still justify
  kUnmapped,    // the tables no longer translate the address
  kOtherFrame,  // they translate it elsewhere
  kRights,      // the entry allows what the tables do not
  kDirty,       // the entry takes D for set, the leaf has it clear: a write would be lost to write-back
};

class Tlb {
 public:
  explicit Tlb(const TlbConfig& config = {});
  Tlb(const Tlb&) = delete;
  Tlb& operator=(const Tlb&) = delete;

  // The entry that covers va, or nullptr. Valid until the next call that is not const. Rights are the caller's to check.
  [[nodiscard]] TlbEntry* lookup(Asid asid, VirtAddr va) {
    const std::uint64_t vpn = va.value() >> kPageShift;
    const std::size_t way = hint_[vpn % kHints];
    TlbEntry* entry = entries_.data() + way;
    if (entry->matches(asid | generation_, vpn)) [[likely]] {
      referenced_[way] = 1;
      ++stats_.l1_hits;
      return entry;
    }
    return lookup_slow(asid, vpn);
  }

  // Remembers a translation (`walk` must be one) for the page of va. An older entry of the same page is replaced.
  TlbEntry* insert(Asid asid, VirtAddr va, const WalkResult& walk);

  // Forget: the page (of whatever size) that holds va; every page that overlaps the range; an address space; everything.
  void flush_page(Asid asid, VirtAddr va);
  void flush_range(Asid asid, Range<VirtAddr> range);
  void flush_asid(Asid asid);
  void flush_all();
  // Drops the entries of the page that holds va without counting a flush (a processor does so by itself when an access
  // faults); returns how many.
  unsigned forget(Asid asid, VirtAddr va);

  // Compares what this TLB believes of va with what the tables say now (PageTables::probe of va). Legal between a change of
  // the tables and the end of its flush; at any other time anything but kFresh is a missing flush.
  [[nodiscard]] Staleness staleness(Asid asid, VirtAddr va, const WalkResult& now) const;
  // The stale-translation checker: aborts unless fresh. Compiled out without QUIRE_DEBUG.
  void check_against(Asid asid, VirtAddr va, const WalkResult& now) const {
#ifdef QUIRE_DEBUG
    if (const Staleness s = staleness(asid, va, now); s != Staleness::kFresh) report_stale(asid, va, s);
#else
    (void)asid, (void)va, (void)now;
#endif
  }

  // Calls f for each valid entry (an entry in L1 and L2 comes twice).
  void for_each(const std::function<void(const TlbEntry&)>& f) const;
  [[nodiscard]] const TlbStats& stats() const { return stats_; }
  [[nodiscard]] const TlbConfig& config() const { return config_; }
  void validate() const;

 private:
  // One of the arrays in the picture: sets of `ways` consecutive entries of entries_.
  struct Array {
    std::uint32_t first = 0;
    std::uint32_t ways = 0;
    std::uint64_t set_mask = 0;
  };
  static constexpr unsigned kLeafLevels = 3;
  static constexpr unsigned kHints = 1024;
  static constexpr std::size_t kHintable = 256;  // hint_ holds bytes, so L1 has at most this many entries

  [[nodiscard]] Array add_array(const TlbConfig::Array& shape);
  [[nodiscard]] static std::uint8_t tag_of(std::uint32_t key, std::uint64_t first_vpn, unsigned level);
  [[nodiscard]] static std::uint32_t set_of(const Array& array, std::uint64_t vpn, unsigned level);
  template <class F>
  static bool any_way(const std::vector<std::uint8_t>& bytes, const Array& array, std::uint32_t set, std::uint8_t value, F&& f);
  [[nodiscard]] const TlbEntry* find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level) const;
  [[nodiscard]] TlbEntry* find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level);
  [[nodiscard]] TlbEntry* victim(const Array& array, std::uint64_t vpn, unsigned level);
  [[nodiscard]] TlbEntry* lookup_slow(Asid asid, std::uint64_t vpn);
  TlbEntry* fill_l1(const TlbEntry& entry, std::uint64_t vpn);
  [[nodiscard]] std::size_t way_of(const TlbEntry& entry) const { return static_cast<std::size_t>(&entry - entries_.data()); }
  [[nodiscard]] bool valid(std::size_t way) const { return tags_[way] != 0; }
  void remember_way(const TlbEntry& l1_entry, std::uint64_t vpn);
  void put(TlbEntry& way, const TlbEntry& entry);
  void drop(TlbEntry& entry);
  template <class Match>
  void drop_if(Match&& match);
  [[noreturn, gnu::cold]] static void report_stale(Asid asid, VirtAddr va, Staleness s);

  TlbStats stats_;
  std::uint32_t generation_ = 0;   // in the bits above an Asid's
  std::vector<TlbEntry> entries_;  // L1 first
  // Beside each entry, packed so that a set is searched within one line: a digest of its key (0 when invalid), and
  // the replacement bit. What an invalid entry itself holds is stale: an older generation, or no page at all.
  std::vector<std::uint8_t> tags_;
  std::vector<std::uint8_t> referenced_;
  Array l1_[kLeafLevels];              // by level - 1
  Array l2_[kLeafLevels];              // by level - 1; the first two are the same
  std::uint32_t live_[kLeafLevels]{};  // valid entries by level - 1, L1 and L2 together
  TlbConfig config_;
  std::uint8_t hint_[kHints]{};
};

}  // namespace quire::arch
