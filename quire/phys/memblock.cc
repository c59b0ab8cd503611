#include "quire/phys/memblock.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "quire/base/bug.h"

namespace quire::phys {

// --- the arrays -----------------------------------------------------------------------------------------------------------------

void MemblockRegions::insert(std::size_t at, const MemblockRegion& region) {
  QUIRE_BUG_ON(count_ == capacity_);
  MemblockRegion* const regions = data();
  std::copy_backward(regions + at, regions + count_, regions + count_ + 1);
  regions[at] = region;
  ++count_;
}

void MemblockRegions::erase(std::size_t at) {
  MemblockRegion* const regions = data();
  std::copy(regions + at + 1, regions + count_, regions + at);
  --count_;
}

void MemblockRegions::move_to(MemblockRegion* to, Range<PhysAddr> place, std::size_t capacity) {
  std::uninitialized_copy_n(data(), count_, to);
  moved_ = to;
  place_ = place;
  capacity_ = capacity;
}

void MemblockRegions::copy(const MemblockRegions& other) {
  count_ = other.count_;
  capacity_ = other.capacity_;
  place_ = {};
  host_.clear();
  moved_ = nullptr;
  if (capacity_ == kInitial) {
    std::copy_n(other.data(), count_, initial_.data());
    return;
  }
  host_.assign(other.data(), other.data() + count_);
  host_.resize(capacity_);
  moved_ = host_.data();
}

std::vector<Range<PhysAddr>> Memblock::places() const {
  std::vector<Range<PhysAddr>> out;
  for (const MemblockRegions* regions : {&memory_, &reserved_}) {
    if (!regions->place().empty()) out.push_back(regions->place());
  }
  return out;
}

std::vector<Range<PhysAddr>> Memblock::discard() {
  std::vector<Range<PhysAddr>> out = places();
  for (MemblockRegions* regions : {&memory_, &reserved_}) {
    const MemblockRegions on_host(*regions);
    *regions = on_host;
  }
  base_ = nullptr;
  return out;
}

Status Memblock::make_room(MemblockRegions& regions, std::size_t more, Range<PhysAddr> coming) {
  while (regions.size() + more > regions.capacity()) {
    if (auto status = double_array(regions, coming); !status) {
      complete_ = false;
      return status;
    }
  }
  return {};
}

Status Memblock::double_array(MemblockRegions& regions, Range<PhysAddr> coming) {
  if (base_ == nullptr) return std::unexpected(Errno::kNoMem);
  const std::size_t capacity = regions.capacity() * 2;
  MemblockAllocSpec spec{.size = align_up(capacity * sizeof(MemblockRegion), kPageSize), .align = kPageSize};
  // What is about to be reserved, or to go, must not hold the array: look above it, then below.
  spec.min = coming.end;
  std::optional<PhysAddr> at = find(spec);
  if (!at && coming.begin != PhysAddr{}) {
    spec.min = PhysAddr{};
    spec.max = coming.begin;
    at = find(spec);
  }
  if (!at) return std::unexpected(Errno::kNoMem);

  const Range<PhysAddr> old_place = regions.place();
  regions.move_to(reinterpret_cast<MemblockRegion*>(base_ + at->value()), {*at, *at + spec.size}, capacity);
  // There is room for both now, should `regions` be the list of reservations itself.
  if (!old_place.empty()) {
    if (auto status = free(old_place); !status) return status;
  }
  return reserve({*at, *at + spec.size});
}

// --- changing the lists -----------------------------------------------------------------------------------------------------------

// Parts that are covered already keep what they are.
Status Memblock::add_range(MemblockRegions& regions, const MemblockRegion& region) {
  if (region.range.empty()) return {};
  const auto for_each_gap = [&](auto&& f) {
    PhysAddr at = region.range.begin;
    for (const MemblockRegion& r : regions.span()) {
      if (r.range.end <= at) continue;
      if (r.range.begin >= region.range.end) break;
      if (at < r.range.begin) f(Range<PhysAddr>{at, r.range.begin});
      at = std::max(at, r.range.end);
    }
    if (at < region.range.end) f(Range<PhysAddr>{at, region.range.end});
  };
  // Counted first: making room may itself reserve, which changes the list.
  for (;;) {
    std::size_t gaps = 0;
    for_each_gap([&](Range<PhysAddr>) { ++gaps; });
    if (gaps == 0) return {};
    if (regions.size() + gaps <= regions.capacity()) break;
    if (auto status = make_room(regions, gaps, region.range); !status) return status;
  }
  for (PhysAddr from = region.range.begin;;) {
    Range<PhysAddr> gap{};
    for_each_gap([&](Range<PhysAddr> g) {
      if (gap.empty() && g.begin >= from) gap = g;
    });
    if (gap.empty()) break;
    const auto begins = [](const MemblockRegion& r) { return r.range.begin; };
    const auto place = std::ranges::lower_bound(regions.span(), gap.begin, {}, begins);
    regions.insert(static_cast<std::size_t>(place - regions.span().begin()), {gap, region.nid, region.flags});
    from = gap.end;
  }
  merge_regions(regions);
  return {};
}

Result<Range<std::size_t>> Memblock::isolate_range(MemblockRegions& regions, Range<PhysAddr> range) {
  if (auto status = make_room(regions, 2, range); !status) return std::unexpected(status.error());
  for (const PhysAddr cut : {range.begin, range.end}) {
    for (std::size_t i = 0; i < regions.size(); ++i) {
      MemblockRegion& lower = regions.span()[i];
      if (lower.range.begin >= cut || cut >= lower.range.end) continue;
      MemblockRegion upper = lower;
      upper.range.begin = cut;
      lower.range.end = cut;
      regions.insert(i + 1, upper);
      break;
    }
  }
  Range<std::size_t> inside{0, 0};
  const auto list = regions.span();
  while (inside.begin < list.size() && list[inside.begin].range.begin < range.begin) ++inside.begin;
  inside.end = inside.begin;
  while (inside.end < list.size() && list[inside.end].range.end <= range.end) ++inside.end;
  return inside;
}

Status Memblock::remove_range(MemblockRegions& regions, Range<PhysAddr> range) {
  if (range.empty()) return {};
  const auto inside = isolate_range(regions, range);
  if (!inside) return std::unexpected(inside.error());
  for (std::size_t i = inside->end; i > inside->begin; --i) regions.erase(i - 1);
  return {};
}

void Memblock::merge_regions(MemblockRegions& regions) {
  const auto list = regions.span();
  if (list.empty()) return;
  std::size_t kept = 0;
  for (std::size_t i = 1; i < list.size(); ++i) {
    MemblockRegion& last = list[kept];
    const MemblockRegion& next = list[i];
    if (last.range.end == next.range.begin && last.nid == next.nid && last.flags == next.flags) {
      last.range.end = next.range.end;
    } else {
      list[++kept] = next;
    }
  }
  regions.truncate(kept + 1);
}

Status Memblock::add(Range<PhysAddr> range, Nid nid, MemblockFlag flags) {
  if (any(flags, MemblockFlag::kMirror)) some_mirror_ = true;
  return add_range(memory_, {range, nid, flags});
}
Status Memblock::remove(Range<PhysAddr> range) { return remove_range(memory_, range); }
Status Memblock::reserve(Range<PhysAddr> range, Nid nid) { return add_range(reserved_, {range, nid, MemblockFlag::kNone}); }
Status Memblock::free(Range<PhysAddr> range) { return remove_range(reserved_, range); }

Status Memblock::set_node(Range<PhysAddr> range, Nid nid) {
  const auto inside = isolate_range(memory_, range);
  if (!inside) return std::unexpected(inside.error());
  for (MemblockRegion& r : memory_.span().subspan(inside->begin, inside->size())) r.nid = nid;
  merge_regions(memory_);
  return {};
}

Status Memblock::set_flag(Range<PhysAddr> range, MemblockFlag flag, bool on) {
  const auto inside = isolate_range(memory_, range);
  if (!inside) return std::unexpected(inside.error());
  for (MemblockRegion& r : memory_.span().subspan(inside->begin, inside->size())) {
    r.flags = on ? r.flags | flag : r.flags & ~flag;
  }
  merge_regions(memory_);
  return {};
}

Status Memblock::mark(Range<PhysAddr> range, MemblockFlag flag) {
  if (any(flag, MemblockFlag::kMirror)) some_mirror_ = true;
  return set_flag(range, flag, true);
}
Status Memblock::clear(Range<PhysAddr> range, MemblockFlag flag) { return set_flag(range, flag, false); }

void Memblock::trim_memory(std::uint64_t align) {
  for (std::size_t i = memory_.size(); i > 0; --i) {
    MemblockRegion& r = memory_.span()[i - 1];
    r.range.begin = align_up(r.range.begin, align);
    r.range.end = align_down(r.range.end, align);
    if (r.range.empty()) memory_.erase(i - 1);
  }
}

Status Memblock::cap_memory(PhysAddr limit) {
  const Range<PhysAddr> above{limit, PhysAddr(~std::uint64_t{0})};
  if (auto status = remove_range(memory_, above); !status) return status;
  return remove_range(reserved_, above);
}

Status Memblock::cap_memory_range(Range<PhysAddr> range) {
  if (range.empty()) return {};
  const Range<PhysAddr> below{PhysAddr{}, range.begin};
  const Range<PhysAddr> above{range.end, PhysAddr(~std::uint64_t{0})};
  const auto remove_mapped = [this](Range<PhysAddr> part) -> Status {
    const auto inside = isolate_range(memory_, part);
    if (!inside) return std::unexpected(inside.error());
    for (std::size_t i = inside->end; i > inside->begin; --i) {
      if (!any(memory_.span()[i - 1].flags, MemblockFlag::kNoMap)) memory_.erase(i - 1);
    }
    return {};
  };
  // An array that grows on the way must land in what stays.
  const PhysAddr limit = std::exchange(current_limit_, std::min(current_limit_, range.end));
  Status status = remove_mapped(below);
  if (status) status = remove_mapped(above);
  if (status) status = remove_range(reserved_, below);
  if (status) status = remove_range(reserved_, above);
  current_limit_ = limit;
  return status;
}

// --- finding ------------------------------------------------------------------------------------------------------------------------

bool Memblock::skipped(const MemblockRegion& memory, MemblockFlag flags) const {
  const auto is = [&](MemblockFlag f) { return any(memory.flags, f); };
  if (movable_node_ && is(MemblockFlag::kHotplug) && !any(flags, MemblockFlag::kHotplug)) return true;
  if (any(flags, MemblockFlag::kMirror) && !is(MemblockFlag::kMirror)) return true;
  if (is(MemblockFlag::kNoMap) && !any(flags, MemblockFlag::kNoMap)) return true;
  return is(MemblockFlag::kDriverManaged) && !any(flags, MemblockFlag::kDriverManaged);
}

std::optional<PhysAddr> Memblock::find_top_down(const MemblockAllocSpec& spec, Range<PhysAddr> within,
                                                MemblockFlag flags) const {
  std::optional<PhysAddr> found;
  for_each_free_range(
      [&](Range<PhysAddr> range, Nid nid) {
        if (spec.nid != kNoNode && nid != spec.nid) return;
        const Range<PhysAddr> usable = range.intersect(within);
        if (usable.size() < spec.size) return;
        const PhysAddr at = align_down(usable.end - spec.size, spec.align);
        if (at >= usable.begin) found = at;  // ranges ascend: the last fit is the highest
      },
      flags);
  return found;
}

std::optional<PhysAddr> Memblock::find_bottom_up(const MemblockAllocSpec& spec, Range<PhysAddr> within,
                                                 MemblockFlag flags) const {
  std::optional<PhysAddr> found;
  for_each_free_range(
      [&](Range<PhysAddr> range, Nid nid) {
        if (found || (spec.nid != kNoNode && nid != spec.nid)) return;
        const Range<PhysAddr> usable = range.intersect(within);
        const PhysAddr at = align_up(usable.begin, spec.align);
        if (at < usable.end && usable.end - at >= spec.size) found = at;
      },
      flags);
  return found;
}

std::optional<PhysAddr> Memblock::find(const MemblockAllocSpec& spec, MemblockFlag flags) const {
  QUIRE_BUG_ON(!std::has_single_bit(spec.align));
  const PhysAddr max = spec.max == PhysAddr{} ? current_limit_ : std::min(spec.max, current_limit_);
  const PhysAddr min = std::max(spec.min, PhysAddr(kPageSize));  // never physical page zero
  if (spec.size == 0 || min >= max) return std::nullopt;
  const Range<PhysAddr> within{min, max};
  if (direction_ == MemblockDirection::kTopDown) return find_top_down(spec, within, flags);
  if (bottom_up_floor_ == PhysAddr{}) return find_bottom_up(spec, within, flags);
  const Range<PhysAddr> above{std::max(min, bottom_up_floor_), max};
  if (!above.empty()) {
    if (const auto at = find_bottom_up(spec, above, flags)) return at;
  }
  return find_top_down(spec, within, flags);
}

std::optional<PhysAddr> Memblock::phys_alloc_range(const MemblockAllocSpec& spec) {
  // What must survive a memory error goes to mirrored memory while there is some.
  MemblockFlag flags = some_mirror_ ? MemblockFlag::kMirror : MemblockFlag::kNone;
  for (;;) {
    std::optional<PhysAddr> at = find(spec, flags);
    if (!at && spec.nid != kNoNode && spec.node_rule == MemblockAllocSpec::Node::kPrefer) {
      MemblockAllocSpec anywhere = spec;
      anywhere.nid = kNoNode;
      at = find(anywhere, flags);
    }
    if (at) return reserve({*at, *at + spec.size}) ? at : std::nullopt;
    if (!any(flags, MemblockFlag::kMirror)) return std::nullopt;
    flags = MemblockFlag::kNone;
  }
}

std::optional<PhysAddr> Memblock::alloc(const MemblockAllocSpec& spec) {
  if (const auto at = phys_alloc_range(spec)) return at;
  if (spec.min == PhysAddr{}) return std::nullopt;
  MemblockAllocSpec low = spec;
  low.min = PhysAddr{};
  return phys_alloc_range(low);
}

// --- looking --------------------------------------------------------------------------------------------------------------------------

namespace {

std::uint64_t size_of(std::span<const MemblockRegion> regions) {
  std::uint64_t n = 0;
  for (const MemblockRegion& r : regions) n += r.range.size();
  return n;
}

const MemblockRegion* region_of(std::span<const MemblockRegion> regions, PhysAddr pa) {
  const auto above = std::ranges::upper_bound(regions, pa, {}, [](const MemblockRegion& r) { return r.range.begin; });
  if (above == regions.begin()) return nullptr;
  const MemblockRegion& below = *(above - 1);
  return below.range.contains(pa) ? &below : nullptr;
}

}  // namespace

std::uint64_t Memblock::memory_size() const { return size_of(memory()); }
std::uint64_t Memblock::reserved_size() const { return size_of(reserved()); }
PhysAddr Memblock::start_of_dram() const { return memory().empty() ? PhysAddr{} : memory().front().range.begin; }
PhysAddr Memblock::end_of_dram() const { return memory().empty() ? PhysAddr{} : memory().back().range.end; }
bool Memblock::is_memory(PhysAddr pa) const { return region_of(memory(), pa) != nullptr; }
bool Memblock::is_reserved(PhysAddr pa) const { return region_of(reserved(), pa) != nullptr; }
bool Memblock::is_map_memory(PhysAddr pa) const {
  const MemblockRegion* region = region_of(memory(), pa);
  return region != nullptr && !any(region->flags, MemblockFlag::kNoMap);
}

std::vector<std::string> Memblock::dump() const {
  std::vector<std::string> out;
  out.emplace_back("MEMBLOCK configuration:");
  out.push_back(fmt::format(" memory size = {:#018x} reserved size = {:#018x}", memory_size(), reserved_size()));
  const auto list = [&](std::string_view name, std::span<const MemblockRegion> regions) {
    out.push_back(fmt::format(" {}.cnt  = {:#x}", name, regions.size()));
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const MemblockRegion& r = regions[i];
      const std::string node = r.nid == kNoNode ? "" : fmt::format(" on node {}", r.nid.value());
      out.push_back(fmt::format(" {}[{:#x}]\t[{:#018x}-{:#018x}], {:#018x} bytes{} flags: {:#x}", name, i,
                                r.range.begin.value(), r.range.end.value() - 1, r.range.size(), node,
                                static_cast<unsigned>(r.flags)));
    }
  };
  list("memory", memory());
  list("reserved", reserved());
  return out;
}

void Memblock::validate() const {
  for (const MemblockRegions* regions : {&memory_, &reserved_}) {
    const auto list = regions->span();
    QUIRE_BUG_ON(list.size() > regions->capacity());
    for (std::size_t i = 0; i < list.size(); ++i) {
      QUIRE_BUG_ON(list[i].range.empty());
      QUIRE_BUG_ON(i > 0 && list[i - 1].range.end > list[i].range.begin);
    }
    // Nobody else gets the memory that an array lies in.
    const Range<PhysAddr> place = regions->place();
    if (!place.empty()) QUIRE_BUG_ON(!is_reserved(place.begin) || !is_reserved(place.end - 1));
  }
}

}  // namespace quire::phys
