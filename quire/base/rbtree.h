// A red-black tree whose links live in the objects (Linux's rb_root / rb_node): no allocation, and each node may carry a
// summary of its subtree, kept up by a policy ("augmented").
//
//   struct Vma { VirtAddr start; RbNode rb; };
//   struct ByStart { bool operator()(const Vma& a, const Vma& b) const { return a.start < b.start; } };
//   RbTree<Vma, &Vma::rb, ByStart> tree;
//
// Elements that compare equal keep their order of insertion. Searches take a predicate, so that any key will do:
// partition_point([&](const Vma& v) { return v.end <= addr; }) is the first element for which it is false.
//
// Augmentation: `struct Augment { static bool update(RbNode& node); }` recomputes a node's summary from the node and its
// children and tells whether it changed. It is called bottom-up wherever a subtree changed; call propagate() after changing
// an element's own contribution.
//
// Invariants (validate()): no red node has a red child; every path from a node down has the same number of black nodes; in
// order by Less. A node that is in no tree is zero. Locking is the owner's; the tree does not own its members.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/bug.h"
#include "quire/base/container_of.h"

namespace quire {

struct RbNode {
  std::uintptr_t parent_color = 0;  // parent | 1 when black; 0 when in no tree (a root is black)
  RbNode* left = nullptr;
  RbNode* right = nullptr;

  static constexpr std::uintptr_t kBlack = 1;

  [[nodiscard]] bool linked() const { return parent_color != 0; }
  [[nodiscard]] RbNode* parent() const { return reinterpret_cast<RbNode*>(parent_color & ~kBlack); }
  [[nodiscard]] bool black() const { return (parent_color & kBlack) != 0; }
  [[nodiscard]] bool red() const { return !black(); }
};

struct RbNoAugment {
  static bool update(RbNode&) { return false; }
};

// The algorithms, on bare nodes. Searching and ordering are the caller's.
namespace rb {

[[nodiscard]] RbNode* first(RbNode* root);
[[nodiscard]] RbNode* last(RbNode* root);
[[nodiscard]] RbNode* next(RbNode* node);
[[nodiscard]] RbNode* prev(RbNode* node);
// Colours and shape below root; aborts when broken. Returns the number of nodes.
std::size_t validate(const RbNode* root);

inline void set_parent(RbNode* node, RbNode* parent) {
  node->parent_color = reinterpret_cast<std::uintptr_t>(parent) | (node->parent_color & RbNode::kBlack);
}
inline void set_black(RbNode* node) { node->parent_color |= RbNode::kBlack; }
inline void set_red(RbNode* node) { node->parent_color &= ~RbNode::kBlack; }
inline void copy_color(RbNode* to, const RbNode* from) {
  to->parent_color = (to->parent_color & ~RbNode::kBlack) | (from->parent_color & RbNode::kBlack);
}
[[nodiscard]] inline bool is_black(const RbNode* node) { return node == nullptr || node->black(); }

// Puts `to` where `from` hangs below `parent` (or at the root).
inline void replace_child(RbNode*& root, RbNode* parent, RbNode* from, RbNode* to) {
  (parent == nullptr ? root : parent->left == from ? parent->left : parent->right) = to;
}

template <class Augment>
void propagate(RbNode* node) {
  while (node != nullptr && Augment::update(*node)) node = node->parent();
}

//     node            up
//     /  \           /  \        rotate(node, up = node.right); mirrored when up is the left child.
//    a    up   →  node   c
//        /  \     /  \       .
//       b    c   a    b
template <class Augment>
void rotate(RbNode*& root, RbNode* node, RbNode* up) {
  RbNode* parent = node->parent();
  RbNode*& middle = node->right == up ? up->left : up->right;
  (node->right == up ? node->right : node->left) = middle;
  if (middle != nullptr) set_parent(middle, node);
  middle = node;
  set_parent(node, up);
  set_parent(up, parent);
  replace_child(root, parent, node, up);
  Augment::update(*node);
  Augment::update(*up);
}

// Hangs `node` at the empty link below `parent` and rebalances.
template <class Augment>
void insert(RbNode*& root, RbNode* node, RbNode* parent, RbNode** link) {
  node->parent_color = reinterpret_cast<std::uintptr_t>(parent);  // red
  node->left = node->right = nullptr;
  *link = node;
  Augment::update(*node);
  propagate<Augment>(parent);

  while (true) {
    RbNode* up = node->parent();
    if (up == nullptr) {
      set_black(node);
      return;
    }
    if (up->black()) return;
    RbNode* grand = up->parent();  // a red node has a parent
    RbNode* uncle = grand->left == up ? grand->right : grand->left;
    if (!is_black(uncle)) {
      set_black(up);
      set_black(uncle);
      set_red(grand);
      node = grand;
      continue;
    }
    const bool outer = (grand->left == up) == (up->left == node);
    if (!outer) {
      rotate<Augment>(root, up, node);
      up = node;
    }
    rotate<Augment>(root, grand, up);
    set_black(up);
    set_red(grand);
    return;
  }
}

// `node` (may be null) below `parent` lacks one black; mends that.
template <class Augment>
void erase_fixup(RbNode*& root, RbNode* node, RbNode* parent) {
  while (parent != nullptr && is_black(node)) {
    const bool left = parent->left == node;
    RbNode* sibling = left ? parent->right : parent->left;
    if (sibling->red()) {
      rotate<Augment>(root, parent, sibling);
      set_black(sibling);
      set_red(parent);
      sibling = left ? parent->right : parent->left;
    }
    RbNode* near = left ? sibling->left : sibling->right;
    RbNode* far = left ? sibling->right : sibling->left;
    if (is_black(near) && is_black(far)) {
      set_red(sibling);
      node = parent;
      parent = node->parent();
      continue;
    }
    if (is_black(far)) {
      rotate<Augment>(root, sibling, near);
      set_black(near);
      set_red(sibling);
      far = sibling;
      sibling = near;
    }
    rotate<Augment>(root, parent, sibling);
    copy_color(sibling, parent);
    set_black(parent);
    set_black(far);
    return;
  }
  if (node != nullptr) set_black(node);
}

// Takes `node` out of the tree and rebalances.
template <class Augment>
void erase(RbNode*& root, RbNode* node) {
  RbNode* child;
  RbNode* parent;
  bool lost_black;
  if (node->left != nullptr && node->right != nullptr) {
    // The successor takes the node's place and colour; its own place is the one that closes.
    RbNode* heir = first(node->right);
    child = heir->right;
    parent = heir->parent();
    lost_black = heir->black();
    if (parent == node) {
      parent = heir;
    } else {
      parent->left = child;
      if (child != nullptr) set_parent(child, parent);
      heir->right = node->right;
      set_parent(heir->right, heir);
    }
    heir->left = node->left;
    set_parent(heir->left, heir);
    heir->parent_color = node->parent_color;
    replace_child(root, node->parent(), node, heir);
  } else {
    child = node->left != nullptr ? node->left : node->right;
    parent = node->parent();
    lost_black = node->black();
    if (child != nullptr) set_parent(child, parent);
    replace_child(root, parent, node, child);
  }
  // To the root without stopping early: the heir's summary is stale wherever it stood.
  for (RbNode* up = parent; up != nullptr; up = up->parent()) Augment::update(*up);
  if (lost_black) erase_fixup<Augment>(root, child, parent);
  *node = RbNode();
}

}  // namespace rb

template <class T, RbNode T::* kMember, class Less, class Augment = RbNoAugment>
class RbTree {
 public:
  RbTree() = default;
  RbTree(const RbTree&) = delete;
  RbTree& operator=(const RbTree&) = delete;

  [[nodiscard]] bool empty() const { return root_ == nullptr; }
  [[nodiscard]] T* root() const { return owner_or_null(root_); }
  [[nodiscard]] T* first() const { return root_ == nullptr ? nullptr : owner(rb::first(root_)); }
  [[nodiscard]] T* last() const { return root_ == nullptr ? nullptr : owner(rb::last(root_)); }
  [[nodiscard]] static T* next(const T& t) { return owner_or_null(rb::next(node_of(t))); }
  [[nodiscard]] static T* prev(const T& t) { return owner_or_null(rb::prev(node_of(t))); }
  [[nodiscard]] static T* left(const T& t) { return owner_or_null((t.*kMember).left); }
  [[nodiscard]] static T* right(const T& t) { return owner_or_null((t.*kMember).right); }
  [[nodiscard]] static T* parent(const T& t) { return owner_or_null((t.*kMember).parent()); }

  // After every element that is not greater.
  void insert(T& t) {
    RbNode* parent = nullptr;
    RbNode** link = &root_;
    while (*link != nullptr) {
      parent = *link;
      link = Less{}(t, *owner(parent)) ? &parent->left : &parent->right;
    }
    insert_at(t, parent, link);
  }
  // At a place that the caller's own descent has found (rb_link_node): `link` is the empty link below `parent`.
  void insert_at(T& t, RbNode* parent, RbNode** link) {
    QUIRE_DCHECK(!(t.*kMember).linked() && *link == nullptr);
    rb::insert<Augment>(root_, &(t.*kMember), parent, link);
  }
  // Where a descent of the caller's starts.
  [[nodiscard]] RbNode** root_link() { return &root_; }

  void erase(T& t) {
    QUIRE_DCHECK((t.*kMember).linked());
    rb::erase<Augment>(root_, &(t.*kMember));
  }
  // Call after `t`'s own contribution to the summaries has changed.
  static void propagate(T& t) { rb::propagate<Augment>(&(t.*kMember)); }

  // The first element for which `before` is false; `before` is true for a prefix of the order.
  template <class Before>
  [[nodiscard]] T* partition_point(Before&& before) const {
    RbNode* found = nullptr;
    for (RbNode* node = root_; node != nullptr;) {
      if (before(static_cast<const T&>(*owner(node)))) {
        node = node->right;
      } else {
        found = node;
        node = node->left;
      }
    }
    return owner_or_null(found);
  }

  // Calls f(T&) in order. f must not change the tree.
  template <class F>
  void for_each(F&& f) const {
    for (T* t = first(); t != nullptr; t = next(*t)) f(*t);
  }

  [[nodiscard]] std::size_t count() const {
    std::size_t n = 0;
    for_each([&n](const T&) { ++n; });
    return n;
  }

  void validate() const {
    const std::size_t nodes = rb::validate(root_);
    std::size_t seen = 0;
    const T* before = nullptr;
    for_each([&](T& t) {
      QUIRE_BUG_ON(before != nullptr && Less{}(t, *before));
      QUIRE_BUG_ON(Augment::update(t.*kMember));  // was up to date
      before = &t;
      ++seen;
    });
    QUIRE_BUG_ON(seen != nodes);
  }

 private:
  static T* owner(RbNode* node) { return container_of(node, kMember); }
  static T* owner_or_null(RbNode* node) { return node == nullptr ? nullptr : owner(node); }
  static RbNode* node_of(const T& t) { return const_cast<RbNode*>(&(t.*kMember)); }

  RbNode* root_ = nullptr;
};

}  // namespace quire
