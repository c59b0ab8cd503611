#include "quire/arch/tlb.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "quire/base/bug.h"

namespace quire::arch {
namespace {

constexpr unsigned kMaxWays = 16;
constexpr std::uint64_t level_pages(unsigned level) { return std::uint64_t{1} << (9 * (level - 1)); }

}  // namespace

Tlb::Array Tlb::add_array(const TlbConfig::Array& shape) {
  QUIRE_BUG_ON(shape.ways == 0 || shape.ways > kMaxWays || shape.entries % shape.ways != 0);
  const unsigned sets = shape.entries / shape.ways;
  QUIRE_BUG_ON(!std::has_single_bit(sets));
  const Array array{static_cast<std::uint32_t>(entries_.size()), shape.ways, sets - 1};
  entries_.resize(entries_.size() + shape.entries);
  return array;
}

Tlb::Tlb(const TlbConfig& config) : config_(config) {
  l1_[0] = add_array(config.l1_4k);
  l1_[1] = add_array(config.l1_2m);
  l1_[2] = add_array(config.l1_1g);
  QUIRE_BUG_ON(entries_.size() > kHintable);
  l2_[0] = l2_[1] = add_array(config.l2);
  l2_[2] = add_array(config.l2_1g);
  tags_.resize(entries_.size() + sizeof(std::uint64_t));  // sets are read by words, which may reach past the last one
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

// Calls f(way) for the ways of a set, from `set` on, whose byte in `bytes` is `value`, in order, until it returns true. Eight
// ways at a time and without a branch a way: which one it is cannot be predicted.
template <class F>
bool Tlb::any_way(const std::vector<std::uint8_t>& bytes, const Array& array, std::uint32_t set, std::uint8_t value, F&& f) {
  constexpr std::uint64_t kOnes = 0x0101'0101'0101'0101;
  constexpr std::uint64_t kLow7 = 0x7f7f'7f7f'7f7f'7f7f;
  for (std::uint32_t base = 0; base < array.ways; base += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + set + base, sizeof word);
    word ^= value * kOnes;
    std::uint64_t equal = ~(((word & kLow7) + kLow7) | word | kLow7);  // the top bit of each byte that is zero now
    if (array.ways - base < 8) equal &= (std::uint64_t{1} << (8 * (array.ways - base))) - 1;
    for (; equal != 0; equal &= equal - 1) {
      if (f(set + base + static_cast<std::uint32_t>(std::countr_zero(equal)) / 8)) return true;
    }
  }
  return false;
}

const TlbEntry* Tlb::find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level) const {
  const std::uint64_t first_vpn = vpn & ~(level_pages(level) - 1);
  const std::uint32_t key = asid | generation_;
  const TlbEntry* found = nullptr;
  any_way(tags_, array, set_of(array, vpn, level), tag_of(key, first_vpn, level), [&](std::uint32_t way) {
    const TlbEntry& entry = entries_[way];
    if (entry.vpn != first_vpn || entry.key != key || entry.level != level) return false;
    found = &entry;
    return true;
  });
  return found;
}

TlbEntry* Tlb::find(const Array& array, Asid asid, std::uint64_t vpn, unsigned level) {
  return const_cast<TlbEntry*>(static_cast<const Tlb*>(this)->find(array, asid, vpn, level));
}

TlbEntry* Tlb::lookup_slow(Asid asid, std::uint64_t vpn) {
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    if (live_[level - 1] == 0) continue;
    if (TlbEntry* hit = find(l1_[level - 1], asid, vpn, level)) {
      referenced_[way_of(*hit)] = 1;
      remember_way(*hit, vpn);
      ++stats_.l1_hits;
      return hit;
    }
  }
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    if (live_[level - 1] == 0) continue;
    if (TlbEntry* hit = find(l2_[level - 1], asid, vpn, level)) {
      referenced_[way_of(*hit)] = 1;
      ++stats_.l2_hits;
      return fill_l1(*hit, vpn);
    }
  }
  ++stats_.misses;
  return nullptr;
}

TlbEntry* Tlb::victim(const Array& array, std::uint64_t vpn, unsigned level) {
  const std::uint32_t set = set_of(array, vpn, level);
  std::uint32_t chosen = set;
  const auto choose = [&chosen](std::uint32_t way) {
    chosen = way;
    return true;
  };
  if (any_way(tags_, array, set, 0, choose)) return &entries_[chosen];  // invalid ones first
  if (any_way(referenced_, array, set, 0, choose)) return &entries_[chosen];
  std::memset(referenced_.data() + set, 0, array.ways);
  return &entries_[set];
}

void Tlb::remember_way(const TlbEntry& l1_entry, std::uint64_t vpn) {
  hint_[vpn % kHints] = static_cast<std::uint8_t>(way_of(l1_entry));
}

void Tlb::put(TlbEntry& way, const TlbEntry& entry) {
  const std::size_t place = way_of(way);
  if (valid(place)) --live_[way.level - 1];
  way = entry;
  ++live_[way.level - 1];
  tags_[place] = tag_of(way.key, way.vpn, way.level);
  referenced_[place] = 1;
}

TlbEntry* Tlb::fill_l1(const TlbEntry& entry, std::uint64_t vpn) {
  TlbEntry* way = victim(l1_[entry.level - 1], vpn, entry.level);
  put(*way, entry);
  remember_way(*way, vpn);
  return way;
}

TlbEntry* Tlb::insert(Asid asid, VirtAddr va, const WalkResult& walk) {
  QUIRE_DCHECK(walk && walk.level >= 1 && walk.level <= kLeafLevels && asid <= kAsidMax);
  const std::uint64_t vpn = va.value() >> kPageShift;
  const std::uint64_t pages = level_pages(walk.level);
  TlbEntry entry;
  entry.vpn_mask = ~(pages - 1);
  entry.vpn = vpn & entry.vpn_mask;
  entry.frame = align_down(walk.pa, pages << kPageShift);
  entry.key = asid | generation_;
  entry.rights = walk.rights;
  entry.level = walk.level;
  ++stats_.insertions;

  const Array& l2 = l2_[walk.level - 1];
  TlbEntry* way = find(l2, asid, vpn, walk.level);
  if (way == nullptr) {
    way = victim(l2, vpn, walk.level);
    if (valid(way_of(*way))) ++stats_.evictions;
  }
  put(*way, entry);

  if (TlbEntry* old = find(l1_[walk.level - 1], asid, vpn, walk.level)) {
    put(*old, entry);
    remember_way(*old, vpn);
    return old;
  }
  return fill_l1(entry, vpn);
}

void Tlb::drop(TlbEntry& entry) {
  --live_[entry.level - 1];
  entry = TlbEntry();
  tags_[way_of(entry)] = 0;
  referenced_[way_of(entry)] = 0;
}

template <class Match>
void Tlb::drop_if(Match&& match) {
  for (TlbEntry& entry : entries_) {
    if (!valid(way_of(entry)) || !match(entry)) continue;
    drop(entry);
    ++stats_.flushed_entries;
  }
}

unsigned Tlb::forget(Asid asid, VirtAddr va) {
  const std::uint64_t vpn = va.value() >> kPageShift;
  unsigned dropped = 0;
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    if (live_[level - 1] == 0) continue;
    for (const Array* array : {&l1_[level - 1], &l2_[level - 1]}) {
      TlbEntry* entry = find(*array, asid, vpn, level);
      if (entry == nullptr) continue;
      drop(*entry);
      ++dropped;
    }
  }
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
  drop_if([&](const TlbEntry& e) { return e.asid() == asid && e.vpn <= last && e.vpn + (e.pages() - 1) >= first; });
}

void Tlb::flush_asid(Asid asid) {
  ++stats_.flush_asid;
  drop_if([&](const TlbEntry& e) { return e.asid() == asid; });
}

void Tlb::flush_all() {
  ++stats_.flush_all;
  for (std::uint32_t& live : live_) stats_.flushed_entries += std::exchange(live, 0);
  std::ranges::fill(tags_, 0);
  std::ranges::fill(referenced_, 0);
  generation_ += kAsidMax + 1;
  // All generations used up: the next ones are those of the oldest entries.
  if (generation_ == 0) std::ranges::fill(entries_, TlbEntry());
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

std::string_view staleness_name(Staleness s) {
  switch (s) {
    case Staleness::kFresh: return "fresh";
    case Staleness::kUnmapped: return "no longer mapped";
    case Staleness::kOtherFrame: return "mapped to another frame";
    case Staleness::kRights: return "rights were taken away";
    case Staleness::kDirty: return "the dirty bit was cleared";
  }
  return "?";
}

}  // namespace

Staleness Tlb::staleness(Asid asid, VirtAddr va, const WalkResult& now) const {
  const std::uint64_t vpn = va.value() >> kPageShift;
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    if (live_[level - 1] == 0) continue;
    for (const Array* array : {&l1_[level - 1], &l2_[level - 1]}) {
      const TlbEntry* entry = find(*array, asid, vpn, level);
      if (entry == nullptr) continue;
      if (const Staleness s = judge(*entry, va, now); s != Staleness::kFresh) return s;
    }
  }
  return Staleness::kFresh;
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
  std::uint32_t live[kLeafLevels]{};
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const TlbEntry& entry = entries_[i];
    if (!valid(i)) {  // no lookup through hint_ may find it
      QUIRE_BUG_ON(entry.vpn != TlbEntry::kInvalidVpn && (entry.key & ~kAsidMax) == generation_);
      continue;
    }
    QUIRE_BUG_ON(entry.level < 1 || entry.level > kLeafLevels || (entry.key & ~kAsidMax) != generation_);
    ++live[entry.level - 1];
    QUIRE_BUG_ON(entry.pages() != level_pages(entry.level) || (entry.vpn & ~entry.vpn_mask) != 0);
    QUIRE_BUG_ON(entry.frame.value() % (entry.pages() << kPageShift) != 0);
    // It stands in its own set, and once only.
    const bool in_l1 = i < l2_[0].first;
    const Array& array = (in_l1 ? l1_ : l2_)[entry.level - 1];
    QUIRE_BUG_ON(find(array, entry.asid(), entry.vpn, entry.level) != &entry);
  }
  for (unsigned l = 0; l < kLeafLevels; ++l) QUIRE_BUG_ON(live[l] != live_[l]);
  for (const std::uint8_t hint : hint_) QUIRE_BUG_ON(hint >= l2_[0].first);
}

}  // namespace quire::arch
