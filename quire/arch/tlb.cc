#include "quire/arch/tlb.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "quire/base/bug.h"

namespace quire::arch {
namespace {

constexpr std::uint64_t level_pages(unsigned level) { return std::uint64_t{1} << (9 * (level - 1)); }

}  // namespace

Tlb::Array Tlb::add_array(const TlbConfig::Array& shape) {
  QUIRE_BUG_ON(shape.ways == 0 || shape.ways > TlbConfig::kMaxWays || shape.entries % shape.ways != 0);
  const unsigned sets = shape.entries / shape.ways;
  QUIRE_BUG_ON(!std::has_single_bit(sets));
  const Array array{static_cast<std::uint32_t>(entries_.size()), shape.ways, sets - 1,
                    static_cast<std::uint32_t>(swept_.size())};
  entries_.resize(entries_.size() + shape.entries);
  swept_.resize(swept_.size() + sets);
  return array;
}

Tlb::Tlb(const TlbConfig& config) : config_(config) {
  for (Asid asid = 0; asid < kAsids; ++asid) keys_[asid] = asid;
  l1_[0] = add_array(config.l1_4k);
  l1_[1] = add_array(config.l1_2m);
  l1_[2] = add_array(config.l1_1g);
  QUIRE_BUG_ON(entries_.size() > TlbConfig::kMaxL1);
  l2_[0] = l2_[1] = add_array(config.l2);
  l2_[2] = add_array(config.l2_1g);
  tags_.resize(entries_.size() + TlbConfig::kMaxWays);  // a set is read as a whole, of whatever size: past the last one, too
  referenced_.resize(tags_.size());
}

// Never 0; equal for equal keys, and seldom equal for different ones in a set.
std::uint8_t Tlb::tag_of(std::uint32_t key, std::uint64_t first_vpn, unsigned level) {
  const std::uint64_t mixed = (first_vpn ^ (std::uint64_t{key} << 36) ^ level) * 0x9e3779b97f4a7c15;
  return static_cast<std::uint8_t>(mixed >> 56) | 0x80;
}

std::uint32_t Tlb::set_of(const Array& array, std::uint64_t vpn, unsigned level) {
  const std::uint64_t page = vpn >> (9 * (level - 1));
  return array.first + static_cast<std::uint32_t>(page & array.set_mask) * array.ways;
}

// The ways of a set whose byte in `bytes` is `value`, a bit each: all at once, since which one it is cannot be predicted.
[[gnu::always_inline]] inline unsigned Tlb::ways_with(const std::vector<std::uint8_t>& bytes, const Array& array,
                                                      std::uint32_t set, std::uint8_t value) {
  const std::uint8_t* at = bytes.data() + set;
#ifdef __SSE2__
  const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  const auto equal = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_set1_epi8(static_cast<char>(value)))));
#else
  unsigned equal = 0;
  for (unsigned way = 0; way < TlbConfig::kMaxWays; ++way) equal |= (at[way] == value ? 1u : 0u) << way;
#endif
  return equal & ((1u << array.ways) - 1);
}

[[gnu::always_inline]] inline const TlbEntry* Tlb::find(const Array& array, Asid asid, std::uint64_t vpn,
                                                        unsigned level) const {
  const std::uint64_t first_vpn = vpn & ~(level_pages(level) - 1);
  const std::uint32_t key = keys_[asid];
  const std::uint32_t set = set_of(array, vpn, level);
  for (unsigned ways = ways_with(tags_, array, set, tag_of(key, first_vpn, level)); ways != 0; ways &= ways - 1) {
    const TlbEntry& entry = entries_[set + static_cast<unsigned>(std::countr_zero(ways))];
    if (entry.vpn == first_vpn && entry.key == key && entry.level == level) return &entry;
  }
  return nullptr;
}

[[gnu::always_inline]] inline TlbEntry* Tlb::find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level) {
  return const_cast<TlbEntry*>(static_cast<const Tlb*>(this)->find(array, asid, vpn, level));
}

// In L1, then in L2; only at levels of which there are entries.
TlbEntry* Tlb::lookup_id(Asid id, std::uint64_t vpn) {
  const std::uint32_t* live = live_of_[id];
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    if (live[level] == 0) continue;
    if (TlbEntry* hit = find(l1_[level - 1], id, vpn, level)) {
      referenced_[way_of(*hit)] = 1;
      remember_way(*hit, vpn);
      ++stats_.l1_hits;
      return hit;
    }
  }
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    if (live[level] == 0) continue;
    if (TlbEntry* hit = find(l2_[level - 1], id, vpn, level)) {
      referenced_[way_of(*hit)] = 1;
      ++stats_.l2_hits;
      return fill_l1(*hit, vpn);
    }
  }
  return nullptr;
}

TlbEntry* Tlb::lookup_slow(Asid asid, std::uint64_t vpn) {
  if (TlbEntry* own = lookup_id(asid, vpn)) return own;
  if (live_of_[kGlobalAsid][kAllLevels] != 0) {
    if (TlbEntry* global = lookup_id(kGlobalAsid, vpn)) return global;
  }
  ++stats_.misses;
  missing_vpn_ = vpn;
  missing_key_ = keys_[asid];
  return nullptr;
}

// Throws entries of past generations out of a set.
void Tlb::sweep(const Array& array, std::uint32_t set, std::size_t set_number) {
  if (swept_[set_number] == flushes_) [[likely]]
    return;
  swept_[set_number] = flushes_;
  for (std::uint32_t way = set; way < set + array.ways; ++way) {
    if (tags_[way] != 0 && !valid(way)) erase(way);
  }
}

[[gnu::always_inline]] inline TlbEntry* Tlb::victim(const Array& array, std::uint64_t vpn, unsigned level) {
  const std::uint32_t set = set_of(array, vpn, level);
  sweep(array, set, array.first_set + ((vpn >> (9 * (level - 1))) & array.set_mask));
  unsigned candidates = ways_with(tags_, array, set, 0);  // invalid ones first
  if (candidates == 0) candidates = ways_with(referenced_, array, set, 0);
  if (candidates != 0) return &entries_[set + static_cast<unsigned>(std::countr_zero(candidates))];
  std::memset(referenced_.data() + set, 0, array.ways);
  return &entries_[set];
}

void Tlb::remember_way(const TlbEntry& l1_entry, std::uint64_t vpn) {
  hint_[vpn % kHints] = static_cast<std::uint8_t>(way_of(l1_entry));
}

void Tlb::count(const TlbEntry& entry, int n) {
  const auto by = static_cast<std::uint32_t>(n);
  live_of_[entry.asid()][entry.level] += by;
  live_of_[entry.asid()][kAllLevels] += by;
}

void Tlb::count_frame([[maybe_unused]] const TlbEntry& entry, [[maybe_unused]] int n) {
#ifdef QUIRE_DEBUG
  std::uint16_t& bucket = frames_[(entry.frame.value() >> kPageShift) % kFrameBuckets];
  if (entry.level == 1) bucket = static_cast<std::uint16_t>(bucket + n);
#endif
}

// The way holds nothing any more. Whether it counted is the caller's to know.
void Tlb::erase(std::size_t way) {
  count_frame(entries_[way], -1);
  entries_[way] = TlbEntry();
  tags_[way] = 0;
  referenced_[way] = 0;
}

[[gnu::always_inline]] inline void Tlb::put(TlbEntry& way, const TlbEntry& entry) {
  const std::size_t place = way_of(way);
  const bool held = tags_[place] != 0;
  if (held) count_frame(way, -1);
  // (As one expression: the compiler compares fields of one word by reading the word, which waits for their stores.)
  if (!held || ((way.key ^ entry.key) | static_cast<std::uint32_t>(way.level ^ entry.level)) != 0) {
    if (held) count(way, -1);
    count(entry, 1);
  }
  way = entry;
  tags_[place] = tag_of(way.key, way.vpn, way.level);
  referenced_[place] = 1;
  count_frame(way, 1);
}

[[gnu::always_inline]] inline TlbEntry* Tlb::fill_l1(const TlbEntry& entry, std::uint64_t vpn) {
  TlbEntry* way = victim(l1_[entry.level - 1], vpn, entry.level);
  put(*way, entry);
  remember_way(*way, vpn);
  return way;
}

TlbEntry* Tlb::insert(Asid asid, VirtAddr va, const WalkResult& walk) {
  QUIRE_DCHECK(walk && walk.level >= 1 && walk.level <= kLeafLevels && asid <= kAsidMax);
  if (any(walk.rights, Rights::kGlobal)) asid = kGlobalAsid;
  const std::uint64_t vpn = va.value() >> kPageShift;
  const std::uint64_t pages = level_pages(walk.level);
  TlbEntry entry;
  entry.vpn_mask = ~(pages - 1);
  entry.vpn = vpn & entry.vpn_mask;
  entry.frame = align_down(walk.pa, pages << kPageShift);
  entry.key = keys_[asid];
  entry.rights = walk.rights;
  entry.level = walk.level;
  ++stats_.insertions;

  put(*l2_way_for(asid, vpn, walk.level), entry);
  TlbEntry* old = known_missing(asid, vpn) ? nullptr : find(l1_[walk.level - 1], asid, vpn, walk.level);
  missing_vpn_ = TlbEntry::kInvalidVpn;
  if (old == nullptr) return fill_l1(entry, vpn);
  put(*old, entry);
  remember_way(*old, vpn);
  return old;
}

// Where L2 has the page, or a way that it may take.
TlbEntry* Tlb::l2_way_for(Asid asid, std::uint64_t vpn, unsigned level) {
  const Array& l2 = l2_[level - 1];
  if (!known_missing(asid, vpn)) {
    if (TlbEntry* old = find(l2, asid, vpn, level)) return old;
  }
  TlbEntry* way = victim(l2, vpn, level);
  if (valid(way_of(*way))) ++stats_.evictions;
  return way;
}

void Tlb::drop(TlbEntry& entry) {
  count(entry, -1);
  erase(way_of(entry));
}

template <class Match>
void Tlb::drop_if(Match&& match) {
  for (TlbEntry& entry : entries_) {
    if (!valid(way_of(entry)) || !match(entry)) continue;
    drop(entry);
    ++stats_.flushed_entries;
  }
}

// f(entry) for each entry that serves `vpn` to the address space: its own and global ones, in L1 and in L2.
template <class F>
void Tlb::for_each_place(Asid asid, std::uint64_t vpn, F&& f) const {
  for (const Asid id : {asid, kGlobalAsid}) {
    for (unsigned level = 1; level <= kLeafLevels; ++level) {
      if (live_of_[id][level] == 0) continue;
      for (const Array* array : {&l1_[level - 1], &l2_[level - 1]}) {
        if (const TlbEntry* entry = find(*array, id, vpn, level)) f(*entry);
      }
    }
  }
}

unsigned Tlb::forget(Asid asid, VirtAddr va) {
  if (known_missing(asid, va.value() >> kPageShift)) return 0;
  unsigned dropped = 0;
  for_each_place(asid, va.value() >> kPageShift, [&](const TlbEntry& entry) {
    drop(entries_[way_of(entry)]);
    ++dropped;
  });
  return dropped;
}

void Tlb::flush_page(Asid asid, VirtAddr va) {
  ++stats_.flush_page;
  stats_.flushed_entries += forget(asid, va);
}

void Tlb::flush_range(Asid asid, Range<VirtAddr> range) {
  ++stats_.flush_range;
  if (range.empty()) return;
  const std::uint64_t first = range.begin.value() >> kPageShift;
  const std::uint64_t last = (range.end.value() - 1) >> kPageShift;
  // Page by page while that is less work than a look at every entry.
  constexpr std::uint64_t kProbesPerPage = 32;
  if (last - first < entries_.size() / kProbesPerPage) {
    for (std::uint64_t vpn = first; vpn <= last; ++vpn) {
      stats_.flushed_entries += forget(asid, VirtAddr(vpn << kPageShift));
    }
    return;
  }
  const auto serves = [&](const TlbEntry& e) { return e.asid() == asid || e.asid() == kGlobalAsid; };
  drop_if([&](const TlbEntry& e) { return serves(e) && e.vpn <= last && e.vpn + (e.pages() - 1) >= first; });
}

// The address space's entries belong to the past.
void Tlb::retire(Asid asid) {
  const std::uint32_t gone = live_of_[asid][kAllLevels];
  if (gone == 0) return;
  std::ranges::fill(live_of_[asid], 0);
  stats_.flushed_entries += gone;
  ++flushes_;
  keys_[asid] += kAsids;
  if (keys_[asid] >= kAsids) [[likely]]
    return;
  // All generations used up: the next ones are those of the oldest entries.
  for (std::size_t way = 0; way < entries_.size(); ++way) {
    if (entries_[way].vpn != TlbEntry::kInvalidVpn && entries_[way].asid() == asid) erase(way);
  }
}

void Tlb::flush_asid(Asid asid) {
  ++stats_.flush_asid;
  retire(asid);
}

void Tlb::flush_nonglobal() {
  ++stats_.flush_all;
  for (Asid asid = 0; asid <= kAsidMax; ++asid) retire(asid);
}

void Tlb::flush_all() {
  flush_nonglobal();
  retire(kGlobalAsid);
}

namespace {

Staleness judge(const TlbEntry& entry, VirtAddr va, const WalkResult& now) {
  if (!now) return Staleness::kUnmapped;
  if (entry.translate(va) != now.pa) return Staleness::kOtherFrame;
  const Rights beyond = entry.rights & ~now.rights;
  if (any(beyond, ~Rights::kDirty)) return Staleness::kRights;
  // A clean leaf matters only where a write could go through unseen.
  return any(beyond, Rights::kDirty) && any(entry.rights, Rights::kWrite) ? Staleness::kDirty : Staleness::kFresh;
}

}  // namespace

std::string_view staleness_name(Staleness s) {
  switch (s) {
    case Staleness::kFresh: return "mapped just so";
    case Staleness::kUnmapped: return "no longer mapped";
    case Staleness::kOtherFrame: return "mapped to another frame";
    case Staleness::kRights: return "mapped with fewer rights";
    case Staleness::kDirty: return "mapped by a clean entry";
  }
  return "?";
}

Staleness Tlb::staleness(Asid asid, VirtAddr va, const WalkResult& now) const {
  Staleness found = Staleness::kFresh;
  for_each_place(asid, va.value() >> kPageShift, [&](const TlbEntry& entry) {
    if (found == Staleness::kFresh) found = judge(entry, va, now);
  });
  return found;
}

bool Tlb::may_reach([[maybe_unused]] PhysAddr frame) const {
#ifdef QUIRE_DEBUG
  if (frames_[(frame.value() >> kPageShift) % kFrameBuckets] != 0) return true;
  return std::ranges::any_of(live_of_, [](const auto& live) { return live[kAllLevels] != live[1]; });  // huge pages
#else
  return true;
#endif
}

void Tlb::report_stale(Asid asid, VirtAddr va, Staleness s) {
  bug(fmt::format("stale TLB entry for {:#x} of address space {}: {}, and nobody flushed", va.value(), asid,
                  staleness_name(s)));
}

void Tlb::for_each(const std::function<void(const TlbEntry&)>& f) const {
  for (const TlbEntry& entry : entries_) {
    if (valid(way_of(entry))) f(entry);
  }
}

void Tlb::validate() const {
  std::uint32_t live[kAsids][kLeafLevels + 1]{};
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const TlbEntry& entry = entries_[i];
    if (!valid(i)) {  // no lookup through hint_ may find it
      QUIRE_BUG_ON(entry.vpn != TlbEntry::kInvalidVpn && entry.key == keys_[entry.asid()]);
      continue;
    }
    QUIRE_BUG_ON(entry.level < 1 || entry.level > kLeafLevels);
    QUIRE_BUG_ON((entry.asid() == kGlobalAsid) != any(entry.rights, Rights::kGlobal));
    ++live[entry.asid()][entry.level];
    ++live[entry.asid()][kAllLevels];
    QUIRE_BUG_ON(entry.pages() != level_pages(entry.level) || (entry.vpn & ~entry.vpn_mask) != 0);
    QUIRE_BUG_ON(entry.frame.value() % (entry.pages() << kPageShift) != 0);
    // It stands in its own set, and once only.
    const bool in_l1 = i < l2_[0].first;
    const Array& array = (in_l1 ? l1_ : l2_)[entry.level - 1];
    QUIRE_BUG_ON(find(array, entry.asid(), entry.vpn, entry.level) != &entry);
  }
  for (Asid asid = 0; asid < kAsids; ++asid) QUIRE_BUG_ON(!std::ranges::equal(live[asid], live_of_[asid]));
  for (const std::uint8_t hint : hint_) QUIRE_BUG_ON(hint >= l2_[0].first);
}

}  // namespace quire::arch
