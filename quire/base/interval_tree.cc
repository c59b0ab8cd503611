#include "quire/base/interval_tree.h"

#include <algorithm>

namespace quire {

namespace {

IntervalNode* node_or_null(RbNode* rb) {
  static_assert(offsetof(IntervalNode, rb) == 0);
  return reinterpret_cast<IntervalNode*>(rb);
}

}  // namespace

bool IntervalTree::MaxLast::update(RbNode& rb) {
  IntervalNode& node = *node_or_null(&rb);
  std::uint64_t greatest = node.last;
  for (RbNode* child : {rb.left, rb.right}) {
    if (child != nullptr) greatest = std::max(greatest, node_or_null(child)->subtree_last);
  }
  if (node.subtree_last == greatest) return false;
  node.subtree_last = greatest;
  return true;
}

// The leftmost overlap below `node`, whose subtree reaches `first`.
IntervalNode* IntervalTree::subtree_first(IntervalNode* node, std::uint64_t first, std::uint64_t last) {
  while (true) {
    IntervalNode* left = node_or_null(node->rb.left);
    if (left != nullptr && left->subtree_last >= first) {
      // If the left side holds no overlap after all, its intervals that reach `first` begin after `last`, and so does
      // everything to the right of them.
      node = left;
      continue;
    }
    if (node->first > last) return nullptr;
    if (node->last >= first) return node;
    node = node_or_null(node->rb.right);
    if (node == nullptr || node->subtree_last < first) return nullptr;
  }
}

IntervalNode* IntervalTree::iter_first(std::uint64_t first, std::uint64_t last) const {
  IntervalNode* root = tree_.root();
  if (root == nullptr || root->subtree_last < first) return nullptr;
  return subtree_first(root, first, last);
}

IntervalNode* IntervalTree::iter_next(const IntervalNode& from, std::uint64_t first, std::uint64_t last) {
  const IntervalNode* node = &from;
  const RbNode* right = node->rb.right;
  while (true) {
    // Everything before `node` and its left side are done; its right side is next, then the ancestors it is left of.
    if (right != nullptr) {
      IntervalNode* below = node_or_null(const_cast<RbNode*>(right));
      if (below->subtree_last >= first) return subtree_first(below, first, last);
    }
    const RbNode* child;
    do {
      const RbNode* parent = node->rb.parent();
      if (parent == nullptr) return nullptr;
      child = &node->rb;
      node = node_or_null(const_cast<RbNode*>(parent));
      right = node->rb.right;
    } while (child == right);
    if (node->first > last) return nullptr;
    if (node->last >= first) return const_cast<IntervalNode*>(node);
  }
}

}  // namespace quire
