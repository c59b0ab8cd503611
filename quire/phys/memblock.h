// The early allocator: which ranges are memory, which are reserved. Everything before the buddy (the memmap, node data,
// the kernel image) comes from here; memblock_free_all gives the rest to the buddy.
//
//   memory    [  RAM  ]      [ RAM, nomap ][   RAM, node 0   ][  RAM, node 1  ]
//   reserved  [r]  [r]                          [rrrrr]              [r]
//   free         ..  .                     .....       ...... .......   ......    for_each_free_range
//
// Both lists are arrays, sorted, without overlap, merged where neighbours touch and agree in node and flags. An array has room
// for 128 regions and then doubles: into memory that it describes itself, which it reserves, giving the old place back
// (allow_resize says how to reach memory; before that a 129th region is refused). discard() ends that: the regions
// move to the host and the arrays' frames are the buddy's.
// Locking: boot is single-threaded.
// Differs from Linux: regions stay readable after boot (x86 drops them), so no array ever moves into a slab.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/base/flags.h"
#include "quire/base/result.h"
#include "quire/base/types.h"

namespace quire::phys {

enum class MemblockFlag : std::uint8_t { kNone = 0, kHotplug = 1, kMirror = 2, kNoMap = 4, kDriverManaged = 8 };

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::MemblockFlag> = true;

namespace quire::phys {

struct MemblockRegion {
  Range<PhysAddr> range;
  Nid nid = kNoNode;
  MemblockFlag flags = MemblockFlag::kNone;
  bool operator==(const MemblockRegion&) const = default;
};
static_assert(sizeof(MemblockRegion) == 24);  // as struct memblock_region: what an array takes is Linux's figure

enum class MemblockDirection : std::uint8_t { kTopDown, kBottomUp };

struct MemblockAllocSpec {
  std::uint64_t size = 0;
  std::uint64_t align = 64;  // a power of two
  PhysAddr min{};            // 0: anywhere
  PhysAddr max{};            // 0: the current limit
  Nid nid = kNoNode;         // preferred; kNoNode: any
  enum class Node : std::uint8_t { kPrefer, kExact } node_rule = Node::kPrefer;
};

// One of the two lists: an array that is static at first and lies in the machine's memory once it has grown.
class MemblockRegions {
 public:
  static constexpr std::size_t kInitial = 128;  // INIT_MEMBLOCK_REGIONS

  MemblockRegions() = default;
  MemblockRegions(const MemblockRegions& other) { copy(other); }  // onto the host
  MemblockRegions& operator=(const MemblockRegions& other) {
    if (this != &other) copy(other);
    return *this;
  }

  [[nodiscard]] std::span<const MemblockRegion> span() const { return {data(), count_}; }
  [[nodiscard]] std::span<MemblockRegion> span() { return {data(), count_}; }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }
  // Where the array lies, page-aligned; empty while it is static or on the host.
  [[nodiscard]] Range<PhysAddr> place() const { return place_; }

  // Precondition: size() < capacity().
  void insert(std::size_t at, const MemblockRegion& region);
  void erase(std::size_t at);
  void truncate(std::size_t count) { count_ = count; }
  // The regions move to `to`, which lies at `place` and has room for `capacity`.
  void move_to(MemblockRegion* to, Range<PhysAddr> place, std::size_t capacity);

 private:
  void copy(const MemblockRegions& other);
  [[nodiscard]] MemblockRegion* data() { return moved_ != nullptr ? moved_ : initial_.data(); }
  [[nodiscard]] const MemblockRegion* data() const { return moved_ != nullptr ? moved_ : initial_.data(); }

  std::array<MemblockRegion, kInitial> initial_{};
  std::vector<MemblockRegion> host_;  // of a copy with more than fits into initial_
  MemblockRegion* moved_ = nullptr;
  std::size_t count_ = 0;
  std::size_t capacity_ = kInitial;
  Range<PhysAddr> place_{};
};

class Memblock {
 public:
  // memblock_allow_resize: physical address pa lies at base + pa from now on, as far as it is memory.
  void allow_resize(std::byte* base) { base_ = base; }
  // The arrays' places (at most two), which nobody uses any more: their frames can be freed. (memblock_discard)
  [[nodiscard]] std::vector<Range<PhysAddr>> discard();

  // Each of these gives kNoMem, and changes nothing, when an array would have to grow and cannot; complete() is false then.
  // memblock_add: [range) is memory. Overlaps join with what is there.
  Status add(Range<PhysAddr> range, Nid nid = kNoNode, MemblockFlag flags = MemblockFlag::kNone);
  Status remove(Range<PhysAddr> range);
  Status reserve(Range<PhysAddr> range, Nid nid = kNoNode);
  Status free(Range<PhysAddr> range);
  // memblock_set_node: memory inside [range) belongs to `nid`.
  Status set_node(Range<PhysAddr> range, Nid nid);
  // memblock_mark_hotplug, memblock_clear_nomap and their kin.
  Status mark(Range<PhysAddr> range, MemblockFlag flag);
  Status clear(Range<PhysAddr> range, MemblockFlag flag);
  // memblock_trim_memory: cuts memory regions to whole multiples of `align`.
  void trim_memory(std::uint64_t align);
  // memblock_enforce_memory_limit / mem=: nothing at or above this is memory.
  Status cap_memory(PhysAddr limit);
  // memblock_cap_memory_range: only [range) stays memory (and what is marked nomap); reservations outside it go.
  Status cap_memory_range(Range<PhysAddr> range);

  // Finds and reserves. nullopt when nothing fits. The lower limit is dropped when nothing lies above it
  // (memblock_alloc_internal).
  std::optional<PhysAddr> alloc(const MemblockAllocSpec& spec);
  // memblock_phys_alloc_range: the same within limits that hold.
  std::optional<PhysAddr> phys_alloc_range(const MemblockAllocSpec& spec);
  // Finds only, in memory with these flags (memblock_find_in_range_node). Never the first page.
  [[nodiscard]] std::optional<PhysAddr> find(const MemblockAllocSpec& spec, MemblockFlag flags = MemblockFlag::kNone) const;

  void set_current_limit(PhysAddr limit) { current_limit_ = limit; }
  [[nodiscard]] PhysAddr current_limit() const { return current_limit_; }
  // Bottom-up with a floor (the end of the kernel) looks above that first, and then top-down everywhere.
  void set_direction(MemblockDirection d, PhysAddr floor = PhysAddr{}) {
    direction_ = d;
    bottom_up_floor_ = floor;
  }
  // movable_node: allocations leave memory that can be unplugged alone.
  void set_movable_node(bool on) { movable_node_ = on; }

  [[nodiscard]] std::span<const MemblockRegion> memory() const { return memory_.span(); }
  [[nodiscard]] std::span<const MemblockRegion> reserved() const { return reserved_.span(); }
  [[nodiscard]] std::size_t memory_capacity() const { return memory_.capacity(); }
  [[nodiscard]] std::size_t reserved_capacity() const { return reserved_.capacity(); }
  [[nodiscard]] std::uint64_t memory_size() const;
  [[nodiscard]] std::uint64_t reserved_size() const;
  [[nodiscard]] PhysAddr start_of_dram() const;
  [[nodiscard]] PhysAddr end_of_dram() const;
  [[nodiscard]] bool is_memory(PhysAddr pa) const;
  [[nodiscard]] bool is_map_memory(PhysAddr pa) const;  // and not marked nomap
  [[nodiscard]] bool is_reserved(PhysAddr pa) const;

  // for_each_free_mem_range: f(Range<PhysAddr>, Nid) over memory that is not reserved, ascending. Without flags that
  // includes no memory marked nomap or driver-managed; with kMirror only what is mirrored.
  template <class F>
  void for_each_free_range(F&& f, MemblockFlag flags = MemblockFlag::kNone) const {
    const std::span<const MemblockRegion> taken = reserved();
    std::size_t r = 0;
    for (const MemblockRegion& m : memory()) {
      if (skipped(m, flags)) continue;
      PhysAddr at = m.range.begin;
      while (r < taken.size() && taken[r].range.end <= at) ++r;
      for (std::size_t i = r; i < taken.size() && taken[i].range.begin < m.range.end; ++i) {
        if (at < taken[i].range.begin) f(Range<PhysAddr>{at, taken[i].range.begin}, m.nid);
        if (at < taken[i].range.end) at = taken[i].range.end;
      }
      if (at < m.range.end) f(Range<PhysAddr>{at, m.range.end}, m.nid);
    }
  }

  // Where the arrays lie, as far as they have grown.
  [[nodiscard]] std::vector<Range<PhysAddr>> places() const;
  // No range was ever refused for want of room in an array.
  [[nodiscard]] bool complete() const { return complete_; }
  // "MEMBLOCK configuration:" and its lines, as memblock=debug prints them.
  [[nodiscard]] std::vector<std::string> dump() const;
  void validate() const;

 private:
  // Doubles the array until `more` regions fit. `coming`: what is about to be reserved, where the array must not go.
  Status make_room(MemblockRegions& regions, std::size_t more, Range<PhysAddr> coming);
  Status double_array(MemblockRegions& regions, Range<PhysAddr> coming);
  Status add_range(MemblockRegions& regions, const MemblockRegion& region);
  Status remove_range(MemblockRegions& regions, Range<PhysAddr> range);
  // Cuts regions at both ends of `range`; gives the index of the first inside it and behind the last.
  Result<Range<std::size_t>> isolate_range(MemblockRegions& regions, Range<PhysAddr> range);
  static void merge_regions(MemblockRegions& regions);
  Status set_flag(Range<PhysAddr> range, MemblockFlag flag, bool on);
  [[nodiscard]] bool skipped(const MemblockRegion& memory, MemblockFlag flags) const;
  [[nodiscard]] std::optional<PhysAddr> find_top_down(const MemblockAllocSpec& spec, Range<PhysAddr> within,
                                                      MemblockFlag flags) const;
  [[nodiscard]] std::optional<PhysAddr> find_bottom_up(const MemblockAllocSpec& spec, Range<PhysAddr> within,
                                                       MemblockFlag flags) const;

  MemblockRegions memory_;
  MemblockRegions reserved_;
  std::byte* base_ = nullptr;
  PhysAddr current_limit_{~std::uint64_t{0}};
  MemblockDirection direction_ = MemblockDirection::kTopDown;
  PhysAddr bottom_up_floor_{};
  bool movable_node_ = false;
  bool some_mirror_ = false;
  bool complete_ = true;
};

}  // namespace quire::phys
