#include "quire/vm/vma_tree.h"

#include <algorithm>

#include "quire/base/container_of.h"

namespace quire::vm {

bool VmaTree::MaxGap::update(RbNode& node) {
  const auto vma_of = [](RbNode* n) { return container_of(n, &Vma::rb_node_); };
  Vma& vma = *vma_of(&node);
  std::uint64_t gap = vma.gap_before_;
  if (node.left != nullptr) gap = std::max(gap, vma_of(node.left)->subtree_gap_);
  if (node.right != nullptr) gap = std::max(gap, vma_of(node.right)->subtree_gap_);
  if (gap == vma.subtree_gap_) return false;
  vma.subtree_gap_ = gap;
  return true;
}

Vma* VmaTree::find(VirtAddr address) const {
  if (cached_ != nullptr && cached_->range().contains(address)) [[likely]]
    return cached_;
  Vma* vma = tree_.partition_point([address](const Vma& v) { return v.vm_end <= address; });
  if (vma != nullptr) cached_ = vma;
  return vma;
}

VirtAddr VmaTree::start_with_gap(const Vma& vma) const {
  if (!vma.has(VmFlags::kGrowsDown)) return vma.vm_start;
  return VirtAddr(vma.vm_start.value() > guard_ ? vma.vm_start.value() - guard_ : 0);
}

std::uint64_t VmaTree::gap_of(const Vma& vma) const {
  const VirtAddr from = vma.vm_prev_ != nullptr ? vma.vm_prev_->vm_end : VirtAddr(0);
  const VirtAddr to = start_with_gap(vma);
  return from < to ? to - from : 0;
}

void VmaTree::update_gap(Vma* vma) {
  if (vma == nullptr) return;
  vma->gap_before_ = gap_of(*vma);
  Tree::propagate(*vma);
}

void VmaTree::insert(Vma& vma) {
  Vma* next = find(vma.vm_start);
  QUIRE_BUG_ON(next != nullptr && next->vm_start < vma.vm_end);
  Vma* prev = next != nullptr ? next->vm_prev_ : last_;
  vma.vm_prev_ = prev;
  vma.vm_next_ = next;
  (prev != nullptr ? prev->vm_next_ : first_) = &vma;
  (next != nullptr ? next->vm_prev_ : last_) = &vma;
  vma.gap_before_ = gap_of(vma);
  vma.subtree_gap_ = 0;
  tree_.insert(vma);
  update_gap(next);
}

void VmaTree::erase(Vma& vma) {
  tree_.erase(vma);
  (vma.vm_prev_ != nullptr ? vma.vm_prev_->vm_next_ : first_) = vma.vm_next_;
  (vma.vm_next_ != nullptr ? vma.vm_next_->vm_prev_ : last_) = vma.vm_prev_;
  update_gap(vma.vm_next_);
  vma.vm_next_ = vma.vm_prev_ = nullptr;
  cached_ = nullptr;
}

void VmaTree::adjust(Vma& vma, Range<VirtAddr> range) {
  QUIRE_BUG_ON(range.empty());
  QUIRE_BUG_ON(vma.vm_prev_ != nullptr && range.begin < vma.vm_prev_->vm_end);
  QUIRE_BUG_ON(vma.vm_next_ != nullptr && vma.vm_next_->vm_start < range.end);
  vma.vm_start = range.begin;
  vma.vm_end = range.end;
  update_gap(&vma);
  update_gap(vma.vm_next_);
  cached_ = nullptr;
}

Range<VirtAddr> VmaTree::clipped_gap(const Vma& vma, Range<VirtAddr> limits) const {
  const VirtAddr from = vma.vm_prev_ != nullptr ? vma.vm_prev_->vm_end : VirtAddr(0);
  return Range<VirtAddr>{from, from + vma.gap_before_}.intersect(limits);
}

std::optional<VirtAddr> VmaTree::highest_below(const Vma* node, std::uint64_t length, Range<VirtAddr> limits) const {
  if (node == nullptr || node->subtree_gap_ < length || limits.size() < length) return std::nullopt;
  if (node->vm_end + length <= limits.end) {
    if (auto found = highest_below(Tree::right(*node), length, limits)) return found;
  }
  if (const Range<VirtAddr> gap = clipped_gap(*node, limits); gap.size() >= length) return VirtAddr(gap.end.value() - length);
  if (limits.begin + length > node->vm_start) return std::nullopt;
  return highest_below(Tree::left(*node), length, limits);
}

std::optional<VirtAddr> VmaTree::highest_gap(std::uint64_t length, Range<VirtAddr> limits) const {
  const Range<VirtAddr> top = Range<VirtAddr>{last_ != nullptr ? last_->vm_end : VirtAddr(0), limits.end}.intersect(limits);
  if (top.size() >= length) return VirtAddr(top.end.value() - length);
  return highest_below(tree_.root(), length, limits);
}

std::optional<VirtAddr> VmaTree::lowest_below(const Vma* node, std::uint64_t length, Range<VirtAddr> limits) const {
  if (node == nullptr || node->subtree_gap_ < length || limits.size() < length) return std::nullopt;
  if (limits.begin + length <= node->vm_start) {
    if (auto found = lowest_below(Tree::left(*node), length, limits)) return found;
  }
  if (const Range<VirtAddr> gap = clipped_gap(*node, limits); gap.size() >= length) return gap.begin;
  if (node->vm_end + length > limits.end) return std::nullopt;
  return lowest_below(Tree::right(*node), length, limits);
}

std::optional<VirtAddr> VmaTree::lowest_gap(std::uint64_t length, Range<VirtAddr> limits) const {
  if (auto found = lowest_below(tree_.root(), length, limits)) return found;
  const Range<VirtAddr> top = Range<VirtAddr>{last_ != nullptr ? last_->vm_end : VirtAddr(0), limits.end}.intersect(limits);
  if (top.size() >= length) return top.begin;
  return std::nullopt;
}

void VmaTree::validate() const {
  tree_.validate();
  const Vma* before = nullptr;
  tree_.for_each([&](Vma& vma) {
    QUIRE_BUG_ON(!(vma.vm_start < vma.vm_end));
    QUIRE_BUG_ON(page_offset(vma.vm_start) != 0 || page_offset(vma.vm_end) != 0);
    QUIRE_BUG_ON(vma.vm_prev_ != before);
    QUIRE_BUG_ON(before != nullptr && (before->vm_next_ != &vma || vma.vm_start < before->vm_end));
    QUIRE_BUG_ON(before == nullptr && first_ != &vma);
    QUIRE_BUG_ON(vma.gap_before_ != gap_of(vma));
    before = &vma;
  });
  QUIRE_BUG_ON(last_ != before);
}

}  // namespace quire::vm
