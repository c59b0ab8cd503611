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
// must walk again (permits() says no), and a missed flush gives a stale translation (staleness() compares; vm::TlbChecker looks).
//
// Entries carry an address-space id (a PCID), so switching address spaces flushes nothing by itself; which Mm has which id on
// which CPU is vm's to say. A translation whose leaf has the G bit is global: it serves every id. Replacement is
// not-recently-used: one reference bit a way, the lowest unreferenced way is the victim, and when all are referenced all are
// cleared first. Sizes are a machine's options. L1 and L2 are filled together; neither includes the other afterwards, flushes
// reach both.
//
// A flush of an address space, or of everything, touches no entry: an entry carries its id's flush generation, and one of an
// older generation matches no lookup. Such entries are swept out of a set when the set next needs a victim, so that they take
// no way from a living one.
//
// INVPCID's four kinds, and INVLPG: flush_page (INVLPG: global entries too), flush_asid (single context), flush_all (all, with
// global ones), flush_nonglobal.
//
// Differs from hardware: one L1 serves instructions and data; no paging-structure caches; 15 ids of the 4096 (Linux's six
// dynamic ones are PCIDs 1 to 6, and as many again for user space where page tables are isolated).
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "quire/arch/page_tables.h"
#include "quire/base/types.h"

namespace quire::arch {

using Asid = std::uint32_t;
inline constexpr unsigned kAsidBits = 4;
inline constexpr Asid kAsids = 1u << kAsidBits;
inline constexpr Asid kGlobalAsid = kAsids - 1;  // under which global entries are kept; nobody's own
inline constexpr Asid kAsidMax = kGlobalAsid - 1;

struct TlbEntry {
  std::uint64_t vpn = kInvalidVpn;  // of the first 4 KiB page that the entry covers
  std::uint64_t vpn_mask = ~std::uint64_t{0};
  PhysAddr frame{};       // physical address of that page
  std::uint32_t key = 0;  // address space, with its flush generation above it
  Rights rights = Rights::kNone;
  std::uint8_t level = 0;  // page-table level of the leaf: 1, 2 or 3

  static constexpr std::uint64_t kInvalidVpn = ~std::uint64_t{0};

  [[nodiscard]] bool matches(std::uint32_t k, std::uint64_t v) const { return (v & vpn_mask) == vpn && key == k; }
  [[nodiscard]] Asid asid() const { return key & (kAsids - 1); }
  [[nodiscard]] bool permits(Access access, Privilege privilege) const { return arch::permits(rights, access, privilege); }
  // Physical address of `va`, which the entry covers.
  [[nodiscard]] PhysAddr translate(VirtAddr va) const { return frame + (va.value() - (vpn << kPageShift)); }
  [[nodiscard]] std::uint64_t pages() const { return ~vpn_mask + 1; }
};
static_assert(sizeof(TlbEntry) == 32);

// Entries and ways of each array. Sets (entries / ways) must be a power of two, ways at most 16, all of L1 at most 256
// entries. The defaults are Skylake's data TLB and second level (Intel's optimization reference manual).
struct TlbConfig {
  struct Array {
    unsigned entries = 0;
    unsigned ways = 0;
    [[nodiscard]] bool operator==(const Array&) const = default;
  };
  static constexpr unsigned kMaxWays = 16;
  static constexpr unsigned kMaxL1 = 256;
  static constexpr unsigned kMaxEntries = 1u << 20;
  [[nodiscard]] bool operator==(const TlbConfig&) const = default;

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
  std::uint64_t flush_all = 0;  // flush_nonglobal, too
  std::uint64_t flushed_entries = 0;
};

// What an entry is against the tables.
enum class Staleness : std::uint8_t {
  kFresh,       // no entry, or one that the tables still justify
  kUnmapped,    // the tables no longer translate the address
  kOtherFrame,  // they translate it elsewhere
  kRights,      // the entry allows what the tables do not
  kDirty,       // the entry takes D for set, the leaf has it clear: a write would be lost to write-back
};

[[nodiscard]] std::string_view staleness_name(Staleness s);

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
    if (entry->matches(keys_[asid], vpn)) [[likely]] {
      referenced_[way] = 1;
      ++stats_.l1_hits;
      return entry;
    }
    return lookup_slow(asid, vpn);
  }

  // Remembers a translation (`walk` must be one) for the page of va. An older entry of the same page is replaced. One with
  // Rights::kGlobal serves every id from then on.
  TlbEntry* insert(Asid asid, VirtAddr va, const WalkResult& walk);

  // Forget: the page (of whatever size) that holds va; every page that overlaps the range; an address space; everything but
  // global entries; everything. The first two reach global entries as well.
  void flush_page(Asid asid, VirtAddr va);
  void flush_range(Asid asid, Range<VirtAddr> range);
  void flush_asid(Asid asid);
  void flush_nonglobal();
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
  // False only where no valid entry reaches the page at `frame` (4 KiB). Quick under QUIRE_DEBUG; elsewhere always true.
  [[nodiscard]] bool may_reach(PhysAddr frame) const;
  [[nodiscard]] const TlbStats& stats() const { return stats_; }
  [[nodiscard]] const TlbConfig& config() const { return config_; }
  void validate() const;

 private:
  // One of the arrays in the picture: sets of `ways` consecutive entries of entries_.
  struct Array {
    std::uint32_t first = 0;
    std::uint32_t ways = 0;
    std::uint64_t set_mask = 0;
    std::uint32_t first_set = 0;  // among the sets of all arrays
  };
  static constexpr unsigned kLeafLevels = 3;
  static constexpr unsigned kHints = 1024;
  static_assert(TlbConfig::kMaxL1 <= 256, "hint_ holds bytes");
  static constexpr unsigned kFrameBuckets = 1 << 14;

  [[nodiscard]] Array add_array(const TlbConfig::Array& shape);
  [[nodiscard]] static std::uint8_t tag_of(std::uint32_t key, std::uint64_t first_vpn, unsigned level);
  [[nodiscard]] static std::uint32_t set_of(const Array& array, std::uint64_t vpn, unsigned level);
  [[nodiscard]] static unsigned ways_with(const std::vector<std::uint8_t>& bytes, const Array& array, std::uint32_t set,
                                          std::uint8_t value);
  [[nodiscard]] const TlbEntry* find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level) const;
  template <class F>
  void for_each_place(Asid asid, std::uint64_t vpn, F&& f) const;
  [[nodiscard]] TlbEntry* find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level);
  [[nodiscard]] TlbEntry* victim(const Array& array, std::uint64_t vpn, unsigned level);
  [[nodiscard]] TlbEntry* l2_way_for(Asid asid, std::uint64_t vpn, unsigned level);
  [[nodiscard]] bool known_missing(Asid asid, std::uint64_t vpn) const {
    return missing_vpn_ == vpn && missing_key_ == keys_[asid];
  }
  [[nodiscard]] TlbEntry* lookup_slow(Asid asid, std::uint64_t vpn);
  [[nodiscard]] TlbEntry* lookup_id(Asid id, std::uint64_t vpn);
  TlbEntry* fill_l1(const TlbEntry& entry, std::uint64_t vpn);
  [[nodiscard]] std::size_t way_of(const TlbEntry& entry) const { return static_cast<std::size_t>(&entry - entries_.data()); }
  // Of the present generation; what is not, but has a tag still, waits to be swept.
  [[nodiscard]] bool valid(std::size_t way) const {
    return tags_[way] != 0 && entries_[way].key == keys_[entries_[way].asid()];
  }
  void count(const TlbEntry& entry, int n);
  void count_frame(const TlbEntry& entry, int n);
  void erase(std::size_t way);
  void sweep(const Array& array, std::uint32_t set, std::size_t set_number);
  void retire(Asid asid);
  void remember_way(const TlbEntry& l1_entry, std::uint64_t vpn);
  void put(TlbEntry& way, const TlbEntry& entry);
  void drop(TlbEntry& entry);
  template <class Match>
  void drop_if(Match&& match);
  [[noreturn, gnu::cold]] static void report_stale(Asid asid, VirtAddr va, Staleness s);

  TlbStats stats_;
  std::uint32_t keys_[kAsids];     // what a valid entry of each id has as its key
  std::vector<TlbEntry> entries_;  // L1 first
  // Beside each entry, packed so that a set is searched within one line: a digest of its key (0 when invalid), and
  // the replacement bit. What an invalid entry itself holds is stale: an older generation, or no page at all.
  std::vector<std::uint8_t> tags_;
  std::vector<std::uint8_t> referenced_;
  Array l1_[kLeafLevels];  // by level - 1
  Array l2_[kLeafLevels];  // by level - 1; the first two are the same
  // Valid entries of each id by level, L1 and L2 together.
  static constexpr unsigned kAllLevels = 0;
  std::uint32_t live_of_[kAsids][kLeafLevels + 1]{};
  // When a set was last swept, in flushes of whole address spaces; behind flushes_: some of its entries may be dead.
  std::vector<std::uint64_t> swept_;
  std::uint64_t flushes_ = 0;
  // The page that the last lookup did not find, until something is inserted: of what follows a miss, nobody needs to look again.
  std::uint64_t missing_vpn_ = TlbEntry::kInvalidVpn;
  std::uint32_t missing_key_ = 0;
  TlbConfig config_;
  std::uint8_t hint_[kHints]{};
#ifdef QUIRE_DEBUG
  std::vector<std::uint16_t> frames_ =
      std::vector<std::uint16_t>(kFrameBuckets);  // tagged 4 KiB entries by frame % kFrameBuckets
#endif
};

}  // namespace quire::arch
