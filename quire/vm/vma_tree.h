// The areas of one address space, in address order, with free-gap search.
//
// A B+ tree of wide nodes (maple_node.h), as Linux 6's maple tree is: areas are entries of the leaves, and each entry
// above a leaf knows the largest gap in front of any area below it, so that finding an area and finding the highest or lowest
// gap of a size are one walk each, a few cache lines long. Neighbours are linked through the areas themselves. A stack area's
// guard gap below it counts as used, as far as there is room.
//
// Nodes come from the cache "maple_node" and are set aside before they are needed: insert() cannot fail, reserve() can.
// Guarded by the Mm's mmap_lock.
#pragma once

#include <cstdint>
#include <optional>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/slab/kmem_cache.h"
#include "quire/vm/maple_node.h"
#include "quire/vm/vma.h"

namespace quire::vm {

class VmaTree {
 public:
  using NodeCache = slab::KmemCache<MapleNode>;

  explicit VmaTree(NodeCache& nodes, std::uint64_t stack_guard_bytes = 256 * kPageSize)
      : nodes_(nodes), guard_(stack_guard_bytes) {}
  ~VmaTree();                                                    // gives its nodes back; the areas are their owner's
  void set_stack_guard(std::uint64_t bytes) { guard_ = bytes; }  // while the tree is empty
  VmaTree(const VmaTree&) = delete;
  VmaTree& operator=(const VmaTree&) = delete;

  // The first area that ends above `address`: it contains the address, or is the next one (find_vma).
  [[nodiscard]] Vma* find(VirtAddr address) const {
    if (address.value() - found_.from < found_.bytes) [[likely]]
      return found_.vma;
    return find_from_root(address);
  }
  // The area that contains the address, or null (vma_lookup).
  [[nodiscard]] Vma* lookup(VirtAddr address) const {
    Vma* vma = find(address);
    return vma != nullptr && vma->vm_start <= address ? vma : nullptr;
  }
  // The lowest area that overlaps the range, or null (find_vma_intersection).
  [[nodiscard]] Vma* find_intersection(Range<VirtAddr> range) const {
    Vma* vma = find(range.begin);
    return vma != nullptr && vma->vm_start < range.end ? vma : nullptr;
  }
  // The last area that starts below `address` and does not contain it.
  [[nodiscard]] Vma* find_prev(VirtAddr address) const {
    Vma* vma = find(address);
    return vma != nullptr ? vma->vm_prev_ : last_;
  }

  [[nodiscard]] Vma* first() const { return first_; }
  [[nodiscard]] Vma* last() const { return last_; }
  [[nodiscard]] static Vma* next(const Vma& vma) { return vma.vm_next_; }
  [[nodiscard]] static Vma* prev(const Vma& vma) { return vma.vm_prev_; }
  [[nodiscard]] bool empty() const { return first_ == nullptr; }

  // Sets aside what one insert() may need. kNoMem: nothing is changed. May sleep (mas_preallocate).
  [[nodiscard]] Status reserve();
  // Needs a reserve() since the last insert().
  void insert(Vma& vma);
  void erase(Vma& vma);
  // Moves an area's bounds. The new range may not reach beyond its neighbours.
  void adjust(Vma& vma, Range<VirtAddr> range);

  // The start of the highest (lowest) free range of `length` bytes inside `limits` that keeps clear of stack guard gaps.
  [[nodiscard]] std::optional<VirtAddr> highest_gap(std::uint64_t length, Range<VirtAddr> limits) const;
  [[nodiscard]] std::optional<VirtAddr> lowest_gap(std::uint64_t length, Range<VirtAddr> limits) const;

  // Start of the area with its guard gap in front (vm_start_gap).
  [[nodiscard]] VirtAddr start_with_gap(const Vma& vma) const {
    if (!vma.has(VmFlags::kGrowsDown)) return vma.vm_start;
    return VirtAddr(vma.vm_start.value() > guard_ ? vma.vm_start.value() - guard_ : 0);
  }

  template <class V>
  struct Iterator {
    V* at = nullptr;
    V& operator*() const { return *at; }
    V* operator->() const { return at; }
    Iterator& operator++() {
      at = next(*at);
      return *this;
    }
    bool operator==(const Iterator&) const = default;
  };
  [[nodiscard]] Iterator<Vma> begin() const { return {first_}; }
  [[nodiscard]] Iterator<Vma> end() const { return {nullptr}; }

  [[nodiscard]] unsigned height() const { return height_; }

  // Order, links, gaps, fill and the tree's shape; BUGs when one is wrong.
  void validate() const;

 private:
  // Nodes at least half full: a height of 16 is beyond any number of areas.
  static constexpr unsigned kMaxHeight = 16;
  // The way from the root (step[0]) to an entry of a leaf (step[height - 1]).
  struct Path {
    struct Step {
      MapleNode* node;
      unsigned slot;
    };
    std::array<Step, kMaxHeight> step;
    [[nodiscard]] Step& operator[](unsigned depth) { return step[depth]; }
  };

  // Addresses as nodes hold them; user space ends below 2^63.
  [[nodiscard]] static std::int64_t key(VirtAddr address) { return static_cast<std::int64_t>(address.value()); }

  // An area, and the addresses that lead to it: from the end of the one before to its own.
  struct Found {
    Vma* vma = nullptr;
    std::uint64_t from = 0;
    std::uint64_t bytes = 0;
  };
  template <auto kFind>
  Vma* walk(std::int64_t at) const;
  Vma* walk_any(std::int64_t at) const;
  Vma* walk_avx2(std::int64_t at) const;
  void forget_found();
  [[nodiscard]] Vma* find_from_root(VirtAddr address) const;
  [[nodiscard]] Path path_to(VirtAddr address) const;
  [[nodiscard]] std::uint64_t largest_gap(const MapleNode& node) const;
  [[nodiscard]] MapleNode::Entry entry_of(Vma& vma) const;
  [[nodiscard]] MapleNode::Entry entry_of(MapleNode& node) const;

  [[nodiscard]] bool share(Path& path, unsigned depth, const MapleNode::Entry& entry);
  void insert_entry(Path& path, unsigned depth, const MapleNode::Entry& entry);
  void split(Path& path, unsigned depth, const MapleNode::Entry& entry);
  void rebalance(Path& path, unsigned depth);
  static void move_up(MapleNode& lower, MapleNode& upper);
  static void move_down(MapleNode& lower, MapleNode& upper);
  void merge(MapleNode& parent, unsigned left);
  void drop_root_level();
  // Brings ends and gaps above a changed node up to date.
  void refresh(Path& path, unsigned depth);
  // The gap in front of `vma` has changed (null: nothing has).
  void refresh_gap(const Vma* vma);

  [[nodiscard]] MapleNode* take_spare(std::uint32_t level);
  void give_back(MapleNode& node);

  template <class Visit>
  std::uint64_t validate_node(const MapleNode& node, std::uint64_t low, const Visit& visit) const;

  NodeCache& nodes_;
  MapleNode* root_ = nullptr;
  unsigned height_ = 0;  // levels; 0: empty
  unsigned spares_ = 0;
  MapleNode* spare_ = nullptr;  // chained by next_spare
  Vma* first_ = nullptr;
  Vma* last_ = nullptr;
  std::int64_t end_ = 0;  // of the last area
  mutable Found found_;   // the area found last (Linux's mmap_cache)
  std::uint64_t guard_;
};

}  // namespace quire::vm
