// The early allocator: which ranges are memory, which are reserved. Everything before the buddy (the memmap, node data,
// the kernel image) comes from here; memblock_free_all gives the rest to the buddy.
//
// Both lists are sorted, non-overlapping, and merged where neighbours agree in node and flags.
// Locking: boot is single-threaded.
// Differs from Linux: the region arrays are host vectors, so they never need to double themselves inside the memory they
// describe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"

namespace quire::phys {

enum class MemblockFlag : std::uint8_t { kNone = 0, kHotplug = 1, kMirror = 2, kNoMap = 4, kDriverManaged = 8 };

struct MemblockRegion {
  Range<PhysAddr> range;
  Nid nid = kNoNode;
  MemblockFlag flags = MemblockFlag::kNone;
  bool operator==(const MemblockRegion&) const = default;
};

enum class MemblockDirection : std::uint8_t { kTopDown, kBottomUp };

struct MemblockAllocSpec {
  std::uint64_t size = 0;
  std::uint64_t align = 64;
  PhysAddr min{};     // 0: anywhere
  PhysAddr max{};     // 0: the current limit
  Nid nid = kNoNode;  // preferred; kNoNode: any
  enum class Node : std::uint8_t { kPrefer, kExact } node_rule = Node::kPrefer;
};

class Memblock {
 public:
  // memblock_add: [range) is memory. Overlaps join with what is there.
  void add(Range<PhysAddr> range, Nid nid = kNoNode, MemblockFlag flags = MemblockFlag::kNone);
  void remove(Range<PhysAddr> range);
  void reserve(Range<PhysAddr> range, Nid nid = kNoNode);
  void free(Range<PhysAddr> range);
  // memblock_set_node: memory inside [range) belongs to `nid`.
  void set_node(Range<PhysAddr> range, Nid nid);
  // memblock_trim_memory: cuts memory regions to whole multiples of `align`.
  void trim_memory(std::uint64_t align);
  // memblock_enforce_memory_limit / mem=: nothing at or above this is memory.
  void cap_memory(PhysAddr limit);

  // Finds and reserves. nullopt when nothing fits.
  std::optional<PhysAddr> alloc(const MemblockAllocSpec& spec);
  // Finds only (memblock_find_in_range_node).
  [[nodiscard]] std::optional<PhysAddr> find(const MemblockAllocSpec& spec) const;

  void set_current_limit(PhysAddr limit) { current_limit_ = limit; }
  [[nodiscard]] PhysAddr current_limit() const { return current_limit_; }
  void set_direction(MemblockDirection d) { direction_ = d; }

  [[nodiscard]] std::span<const MemblockRegion> memory() const { return memory_; }
  [[nodiscard]] std::span<const MemblockRegion> reserved() const { return reserved_; }
  [[nodiscard]] std::uint64_t memory_size() const;
  [[nodiscard]] std::uint64_t reserved_size() const;
  [[nodiscard]] PhysAddr start_of_dram() const;
  [[nodiscard]] PhysAddr end_of_dram() const;
  [[nodiscard]] bool is_memory(PhysAddr pa) const;
  [[nodiscard]] bool is_reserved(PhysAddr pa) const;

  // for_each_free_mem_range: f(Range<PhysAddr>, Nid) over memory that is not reserved, ascending.
  template <class F>
  void for_each_free_range(F&& f) const {
    std::size_t r = 0;
    for (const MemblockRegion& m : memory_) {
      PhysAddr at = m.range.begin;
      while (r < reserved_.size() && reserved_[r].range.end <= at) ++r;
      for (std::size_t i = r; i < reserved_.size() && reserved_[i].range.begin < m.range.end; ++i) {
        if (at < reserved_[i].range.begin) f(Range<PhysAddr>{at, reserved_[i].range.begin}, m.nid);
        if (at < reserved_[i].range.end) at = reserved_[i].range.end;
      }
      if (at < m.range.end) f(Range<PhysAddr>{at, m.range.end}, m.nid);
    }
  }

  // f(Range<PhysAddr>) over the parts of `within` that are no memory, ascending.
  template <class F>
  void for_each_gap(Range<PhysAddr> within, F&& f) const {
    PhysAddr at = within.begin;
    for (const MemblockRegion& m : memory_) {
      const Range<PhysAddr> gap = Range<PhysAddr>{at, m.range.begin}.intersect(within);
      if (!gap.empty()) f(gap);
      if (at < m.range.end) at = m.range.end;
    }
    if (at < within.end) f(Range<PhysAddr>{at, within.end});
  }

  // "MEMBLOCK configuration:" and its lines, as memblock=debug prints them.
  [[nodiscard]] std::vector<std::string> dump() const;
  void validate() const;

 private:
  using Regions = std::vector<MemblockRegion>;
  static void insert(Regions& regions, const MemblockRegion& region);
  static void erase(Regions& regions, Range<PhysAddr> range);
  static void merge(Regions& regions);
  static std::size_t isolate(Regions& regions, Range<PhysAddr> range);

  Regions memory_;
  Regions reserved_;
  PhysAddr current_limit_{~std::uint64_t{0}};
  MemblockDirection direction_ = MemblockDirection::kTopDown;
};

}  // namespace quire::phys
