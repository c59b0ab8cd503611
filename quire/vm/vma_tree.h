// The areas of one address space, in address order, with free-gap search.
//
// An intrusive red-black tree whose nodes also know the largest gap in front of any area of their subtree, so that finding an
// area and finding the highest or lowest gap of a size are one walk each. (Linux 6 uses a maple tree; the interface here
// leaves room for a B-tree.) A stack area's guard gap below it counts as used, as far as there is room.
//
// Guarded by the Mm's mmap_lock.
#pragma once

#include <cstdint>
#include <optional>

#include "quire/base/rbtree.h"
#include "quire/base/types.h"
#include "quire/vm/vma.h"

namespace quire::vm {

class VmaTree {
 public:
  explicit VmaTree(std::uint64_t stack_guard_bytes = 256 * kPageSize) : guard_(stack_guard_bytes) {}
  void set_stack_guard(std::uint64_t bytes) { guard_ = bytes; }  // while the tree is empty
  VmaTree(const VmaTree&) = delete;
  VmaTree& operator=(const VmaTree&) = delete;

  // The first area that ends above `address`: it contains the address, or is the next one (find_vma).
  [[nodiscard]] Vma* find(VirtAddr address) const;
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

  void insert(Vma& vma);
  void erase(Vma& vma);
  // Moves an area's bounds. The new range may not reach beyond its neighbours.
  void adjust(Vma& vma, Range<VirtAddr> range);

  // The start of the highest (lowest) free range of `length` bytes inside `limits` that keeps clear of stack guard gaps.
  [[nodiscard]] std::optional<VirtAddr> highest_gap(std::uint64_t length, Range<VirtAddr> limits) const;
  [[nodiscard]] std::optional<VirtAddr> lowest_gap(std::uint64_t length, Range<VirtAddr> limits) const;

  // Start of the area with its guard gap in front (vm_start_gap).
  [[nodiscard]] VirtAddr start_with_gap(const Vma& vma) const;

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

  // Order, links, gaps and the tree's shape; BUGs when one is wrong.
  void validate() const;

 private:
  struct ByStart {
    bool operator()(const Vma& a, const Vma& b) const { return a.vm_start < b.vm_start; }
  };
  struct MaxGap {
    static bool update(RbNode& node);
  };
  using Tree = RbTree<Vma, &Vma::rb_node_, ByStart, MaxGap>;

  // The free bytes in front of `vma`, its guard gap taken off.
  [[nodiscard]] std::uint64_t gap_of(const Vma& vma) const;
  void update_gap(Vma* vma);
  [[nodiscard]] Range<VirtAddr> clipped_gap(const Vma& vma, Range<VirtAddr> limits) const;
  [[nodiscard]] std::optional<VirtAddr> highest_below(const Vma* node, std::uint64_t length, Range<VirtAddr> limits) const;
  [[nodiscard]] std::optional<VirtAddr> lowest_below(const Vma* node, std::uint64_t length, Range<VirtAddr> limits) const;

  Tree tree_;
  Vma* first_ = nullptr;
  Vma* last_ = nullptr;
  mutable Vma* cached_ = nullptr;  // the area found last (Linux's mmap_cache)
  std::uint64_t guard_;
};

}  // namespace quire::vm
