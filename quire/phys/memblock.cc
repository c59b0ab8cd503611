#include "quire/phys/memblock.h"

#include <fmt/format.h>

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::phys {

namespace {

constexpr Nid kAnyNode = kNoNode;

bool on_node(const MemblockRegion& r, Nid nid) { return nid == kAnyNode || r.nid == nid; }

}  // namespace

// Cuts regions at both ends of `range`; gives the index of the first one inside it (or where one would go).
std::size_t Memblock::isolate(Regions& regions, Range<PhysAddr> range) {
  for (const PhysAddr cut : {range.begin, range.end}) {
    for (std::size_t i = 0; i < regions.size(); ++i) {
      if (regions[i].range.begin < cut && cut < regions[i].range.end) {
        MemblockRegion upper = regions[i];
        upper.range.begin = cut;
        regions[i].range.end = cut;
        regions.insert(regions.begin() + static_cast<std::ptrdiff_t>(i) + 1, upper);
        break;
      }
    }
  }
  std::size_t first = 0;
  while (first < regions.size() && regions[first].range.begin < range.begin) ++first;
  return first;
}

// Parts that are covered already keep what they are (as memblock_add_range).
void Memblock::insert(Regions& regions, const MemblockRegion& region) {
  if (region.range.empty()) return;
  Regions fresh;
  PhysAddr at = region.range.begin;
  for (const MemblockRegion& r : regions) {
    if (r.range.end <= at) continue;
    if (r.range.begin >= region.range.end) break;
    if (at < r.range.begin) fresh.push_back({{at, r.range.begin}, region.nid, region.flags});
    at = std::max(at, r.range.end);
  }
  if (at < region.range.end) fresh.push_back({{at, region.range.end}, region.nid, region.flags});
  for (const MemblockRegion& f : fresh) {
    const auto place =
        std::ranges::lower_bound(regions, f.range.begin, {}, [](const MemblockRegion& r) { return r.range.begin; });
    regions.insert(place, f);
  }
  merge(regions);
}

void Memblock::erase(Regions& regions, Range<PhysAddr> range) {
  if (range.empty()) return;
  isolate(regions, range);
  std::erase_if(regions, [&](const MemblockRegion& r) { return range.contains(r.range); });
}

void Memblock::merge(Regions& regions) {
  std::size_t kept = 0;
  for (std::size_t i = 1; i < regions.size(); ++i) {
    MemblockRegion& last = regions[kept];
    const MemblockRegion& next = regions[i];
    if (last.range.end == next.range.begin && last.nid == next.nid && last.flags == next.flags) {
      last.range.end = next.range.end;
    } else {
      regions[++kept] = next;
    }
  }
  if (!regions.empty()) regions.resize(kept + 1);
}

void Memblock::add(Range<PhysAddr> range, Nid nid, MemblockFlag flags) { insert(memory_, {range, nid, flags}); }
void Memblock::remove(Range<PhysAddr> range) { erase(memory_, range); }
void Memblock::reserve(Range<PhysAddr> range, Nid nid) { insert(reserved_, {range, nid, MemblockFlag::kNone}); }
void Memblock::free(Range<PhysAddr> range) { erase(reserved_, range); }

void Memblock::set_node(Range<PhysAddr> range, Nid nid) {
  isolate(memory_, range);
  for (MemblockRegion& r : memory_) {
    if (range.contains(r.range)) r.nid = nid;
  }
  merge(memory_);
}

void Memblock::trim_memory(std::uint64_t align) {
  for (MemblockRegion& r : memory_) {
    r.range.begin = align_up(r.range.begin, align);
    r.range.end = align_down(r.range.end, align);
  }
  std::erase_if(memory_, [](const MemblockRegion& r) { return r.range.empty(); });
}

void Memblock::cap_memory(PhysAddr limit) {
  const Range<PhysAddr> above{limit, PhysAddr(~std::uint64_t{0})};
  erase(memory_, above);
  erase(reserved_, above);
}

std::optional<PhysAddr> Memblock::find(const MemblockAllocSpec& spec) const {
  const PhysAddr max = spec.max == PhysAddr{} ? current_limit_ : std::min(spec.max, current_limit_);
  const PhysAddr min = std::max(spec.min, PhysAddr(kPageSize));  // never physical page zero
  std::optional<PhysAddr> found;
  for_each_free_range([&](Range<PhysAddr> range, Nid nid) {
    if (!on_node({range, nid, MemblockFlag::kNone}, spec.nid)) return;
    const Range<PhysAddr> usable = range.intersect({min, max});
    if (usable.size() < spec.size) return;
    if (direction_ == MemblockDirection::kTopDown) {
      const PhysAddr at = align_down(usable.end - spec.size, spec.align);
      if (at >= usable.begin) found = at;  // ranges ascend: the last fit is the highest
    } else if (!found) {
      const PhysAddr at = align_up(usable.begin, spec.align);
      if (at < usable.end && usable.end - at >= spec.size) found = at;
    }
  });
  return found;
}

std::optional<PhysAddr> Memblock::alloc(const MemblockAllocSpec& spec) {
  std::optional<PhysAddr> at = find(spec);
  if (!at && spec.nid != kNoNode && spec.node_rule == MemblockAllocSpec::Node::kPrefer) {
    MemblockAllocSpec anywhere = spec;
    anywhere.nid = kNoNode;
    at = find(anywhere);
  }
  if (!at && spec.min != PhysAddr{}) {  // memblock_alloc_internal drops the lower limit at last
    MemblockAllocSpec low = spec;
    low.min = PhysAddr{};
    return alloc(low);
  }
  if (at) reserve({*at, *at + spec.size});
  return at;
}

std::uint64_t Memblock::memory_size() const {
  std::uint64_t n = 0;
  for (const MemblockRegion& r : memory_) n += r.range.size();
  return n;
}
std::uint64_t Memblock::reserved_size() const {
  std::uint64_t n = 0;
  for (const MemblockRegion& r : reserved_) n += r.range.size();
  return n;
}
PhysAddr Memblock::start_of_dram() const { return memory_.empty() ? PhysAddr{} : memory_.front().range.begin; }
PhysAddr Memblock::end_of_dram() const { return memory_.empty() ? PhysAddr{} : memory_.back().range.end; }

bool Memblock::is_memory(PhysAddr pa) const {
  return std::ranges::any_of(memory_, [&](const MemblockRegion& r) { return r.range.contains(pa); });
}
bool Memblock::is_reserved(PhysAddr pa) const {
  return std::ranges::any_of(reserved_, [&](const MemblockRegion& r) { return r.range.contains(pa); });
}

std::vector<std::string> Memblock::dump() const {
  std::vector<std::string> out;
  out.emplace_back("MEMBLOCK configuration:");
  out.push_back(fmt::format(" memory size = {:#018x} reserved size = {:#018x}", memory_size(), reserved_size()));
  const auto list = [&](std::string_view name, const Regions& regions) {
    out.push_back(fmt::format(" {}.cnt  = {:#x}", name, regions.size()));
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const MemblockRegion& r = regions[i];
      const std::string node = r.nid == kNoNode ? "" : fmt::format(" on node {}", r.nid.value());
      out.push_back(fmt::format(" {}[{:#x}]\t[{:#018x}-{:#018x}], {:#018x} bytes{} flags: {:#x}", name, i,
                                r.range.begin.value(), r.range.end.value() - 1, r.range.size(), node,
                                static_cast<unsigned>(r.flags)));
    }
  };
  list("memory", memory_);
  list("reserved", reserved_);
  return out;
}

void Memblock::validate() const {
  for (const Regions* regions : {&memory_, &reserved_}) {
    for (std::size_t i = 0; i < regions->size(); ++i) {
      QUIRE_BUG_ON((*regions)[i].range.empty());
      QUIRE_BUG_ON(i > 0 && (*regions)[i - 1].range.end > (*regions)[i].range.begin);
    }
  }
}

}  // namespace quire::phys
