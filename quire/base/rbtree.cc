#include "quire/base/rbtree.h"

namespace quire::rb {

RbNode* first(RbNode* root) {
  while (root->left != nullptr) root = root->left;
  return root;
}

RbNode* last(RbNode* root) {
  while (root->right != nullptr) root = root->right;
  return root;
}

RbNode* next(RbNode* node) {
  if (node->right != nullptr) return first(node->right);
  RbNode* parent = node->parent();
  while (parent != nullptr && parent->right == node) {
    node = parent;
    parent = node->parent();
  }
  return parent;
}

RbNode* prev(RbNode* node) {
  if (node->left != nullptr) return last(node->left);
  RbNode* parent = node->parent();
  while (parent != nullptr && parent->left == node) {
    node = parent;
    parent = node->parent();
  }
  return parent;
}

namespace {

// Black nodes from `node` down to a leaf.
std::size_t validate_subtree(const RbNode* node, std::size_t& count) {
  if (node == nullptr) return 0;
  ++count;
  for (const RbNode* child : {node->left, node->right}) {
    if (child == nullptr) continue;
    QUIRE_BUG_ON(child->parent() != node);
    QUIRE_BUG_ON(node->red() && child->red());
  }
  const std::size_t left = validate_subtree(node->left, count);
  const std::size_t right = validate_subtree(node->right, count);
  QUIRE_BUG_ON(left != right);
  return left + (node->black() ? 1 : 0);
}

}  // namespace

std::size_t validate(const RbNode* root) {
  std::size_t count = 0;
  if (root == nullptr) return 0;
  QUIRE_BUG_ON(root->parent() != nullptr || root->red());
  validate_subtree(root, count);
  return count;
}

}  // namespace quire::rb
