// Intervals [first, last] on a 64-bit axis, both ends included, and "which of them overlap this one" in O(log n + found)
// (Linux's interval_tree). The reverse maps are made of these: who maps page n of this file, of this anon_vma.
//
// A red-black tree by `first`; each node knows the greatest `last` below it, which says when a subtree cannot overlap:
//
//                 [20,30] ≤41
//                 /         \           .
//        [5,41] ≤41        [25,26] ≤39
//                             \         .
//                            [33,39] ≤39
//
// Overlapping intervals come in order of `first`, equal ones in order of insertion. An object embeds an IntervalNode, as a
// base class or as a member (IntervalTreeOf). Keys are fixed while a node is in the tree: erase, change, insert.
// Locking is the owner's.
#pragma once

#include <cstdint>

#include "quire/base/bug.h"
#include "quire/base/container_of.h"
#include "quire/base/rbtree.h"

namespace quire {

struct IntervalNode {
  RbNode rb;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t subtree_last = 0;  // greatest `last` in the subtree below and with this node

  [[nodiscard]] bool linked() const { return rb.linked(); }
  [[nodiscard]] bool overlaps(std::uint64_t f, std::uint64_t l) const { return first <= l && f <= last; }
};

class IntervalTree {
 public:
  [[nodiscard]] bool empty() const { return tree_.empty(); }

  // Precondition: first <= last, and the node is in no tree.
  void insert(IntervalNode& node, std::uint64_t first, std::uint64_t last) {
    node.first = first;
    node.last = last;
    insert(node);
  }
  void insert(IntervalNode& node) {
    QUIRE_BUG_ON(node.first > node.last);
    tree_.insert(node);
  }
  void erase(IntervalNode& node) { tree_.erase(node); }

  // The first interval, in order, that overlaps [first, last]; the next one after `node`. nullptr when there is none.
  [[nodiscard]] IntervalNode* iter_first(std::uint64_t first, std::uint64_t last) const;
  [[nodiscard]] static IntervalNode* iter_next(const IntervalNode& node, std::uint64_t first, std::uint64_t last);

  // Calls f(IntervalNode&) for each interval that overlaps [first, last]. f may erase the node it is given, no other.
  template <class F>
  void for_each(std::uint64_t first, std::uint64_t last, F&& f) const {
    for (IntervalNode* node = iter_first(first, last); node != nullptr;) {
      IntervalNode* next = iter_next(*node, first, last);
      f(*node);
      node = next;
    }
  }

  [[nodiscard]] std::size_t count() const { return tree_.count(); }
  void validate() const { tree_.validate(); }

 private:
  struct ByFirst {
    bool operator()(const IntervalNode& a, const IntervalNode& b) const { return a.first < b.first; }
  };
  struct MaxLast {
    static bool update(RbNode& rb);
  };
  using Tree = RbTree<IntervalNode, &IntervalNode::rb, ByFirst, MaxLast>;

  static IntervalNode* subtree_first(IntervalNode* node, std::uint64_t first, std::uint64_t last);

  Tree tree_;
};

// The same for objects that carry the node as a member: IntervalTreeOf<AnonVmaChain, &AnonVmaChain::rb>.
template <class T, IntervalNode T::* kMember>
class IntervalTreeOf {
 public:
  [[nodiscard]] bool empty() const { return tree_.empty(); }
  void insert(T& t, std::uint64_t first, std::uint64_t last) { tree_.insert(t.*kMember, first, last); }
  void erase(T& t) { tree_.erase(t.*kMember); }
  [[nodiscard]] T* iter_first(std::uint64_t first, std::uint64_t last) const {
    return owner_or_null(tree_.iter_first(first, last));
  }
  [[nodiscard]] static T* iter_next(const T& t, std::uint64_t first, std::uint64_t last) {
    return owner_or_null(IntervalTree::iter_next(t.*kMember, first, last));
  }
  template <class F>
  void for_each(std::uint64_t first, std::uint64_t last, F&& f) const {
    tree_.for_each(first, last, [&f](IntervalNode& node) { f(*owner_or_null(&node)); });
  }
  [[nodiscard]] std::size_t count() const { return tree_.count(); }
  void validate() const { tree_.validate(); }

 private:
  static T* owner_or_null(IntervalNode* node) { return node == nullptr ? nullptr : container_of(node, kMember); }

  IntervalTree tree_;
};

}  // namespace quire
