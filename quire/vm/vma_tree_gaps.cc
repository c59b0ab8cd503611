// Searching a VmaTree for room. Subtrees whose largest gap is too small, or which lie outside the limits, are passed by.
#include "quire/vm/vma_tree.h"

namespace quire::vm {
namespace {

using Limits = Range<VirtAddr>;

// End of what lies before entry `slot`; `low` is the end of what lies before the node.
std::uint64_t end_before(const MapleNode& node, unsigned slot, std::uint64_t low) {
  return slot != 0 ? static_cast<std::uint64_t>(node.end[slot - 1]) : low;
}

// What lies free in front of entry `slot` of a leaf; `low` is the end of the area before the leaf.
Limits gap_before(const MapleNode& leaf, unsigned slot, std::uint64_t low, Limits limits) {
  const VirtAddr from(end_before(leaf, slot, low));
  return Limits{from, VirtAddr(leaf.gap[slot])}.intersect(limits);
}

std::optional<VirtAddr> highest_in(const MapleNode& node, std::uint64_t low, std::uint64_t length, Limits limits) {
  for (unsigned i = node.count; i-- > 0;) {
    const std::uint64_t from = end_before(node, i, low);
    if (node.leaf()) {
      const Limits gap = gap_before(node, i, low, limits);
      if (gap.begin < gap.end && gap.size() >= length) return VirtAddr(gap.end.value() - length);
    } else if (from < limits.end.value() && node.gap[i] >= length) {
      if (auto found = highest_in(*node.below[i].child, from, length, limits)) return found;
    }
    if (from <= limits.begin.value()) break;
  }
  return std::nullopt;
}

std::optional<VirtAddr> lowest_in(const MapleNode& node, std::uint64_t low, std::uint64_t length, Limits limits) {
  for (unsigned i = node.find(static_cast<std::int64_t>(limits.begin.value())); i < node.count; ++i) {
    const std::uint64_t from = end_before(node, i, low);
    if (from >= limits.end.value()) break;
    if (node.leaf()) {
      const Limits gap = gap_before(node, i, low, limits);
      if (gap.begin < gap.end && gap.size() >= length) return gap.begin;
    } else if (node.gap[i] >= length) {
      if (auto found = lowest_in(*node.below[i].child, from, length, limits)) return found;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<VirtAddr> VmaTree::highest_gap(std::uint64_t length, Range<VirtAddr> limits) const {
  const Limits top = Limits{last_ != nullptr ? last_->vm_end : VirtAddr(0), limits.end}.intersect(limits);
  if (top.size() >= length) return VirtAddr(top.end.value() - length);
  return root_ != nullptr ? highest_in(*root_, 0, length, limits) : std::nullopt;
}

std::optional<VirtAddr> VmaTree::lowest_gap(std::uint64_t length, Range<VirtAddr> limits) const {
  if (root_ != nullptr) {
    if (auto found = lowest_in(*root_, 0, length, limits)) return found;
  }
  const Limits top = Limits{last_ != nullptr ? last_->vm_end : VirtAddr(0), limits.end}.intersect(limits);
  if (top.size() >= length) return top.begin;
  return std::nullopt;
}

// --- validate ---------------------------------------------------------------------------------------------------------

// Returns the end of the node's last area.
template <class Visit>
std::uint64_t VmaTree::validate_node(const MapleNode& node, std::uint64_t low, const Visit& visit) const {
  QUIRE_BUG_ON(node.count > MapleNode::kSlots || (&node != root_ && node.count < MapleNode::kMinFill));
  for (unsigned i = 0; i < node.count; ++i) {
    if (node.leaf()) {
      visit(*node.below[i].vma);
      QUIRE_BUG_ON(node.gap[i] != start_with_gap(*node.below[i].vma).value());
      low = node.below[i].vma->vm_end.value();
    } else {
      const MapleNode& child = *node.below[i].child;
      QUIRE_BUG_ON(child.level + 1 != node.level);
      QUIRE_BUG_ON(node.gap[i] != largest_gap(child));
      low = validate_node(child, low, visit);
    }
    QUIRE_BUG_ON(node.end[i] != key(VirtAddr(low)));
  }
  for (unsigned i = node.count; i < MapleNode::kSlots; ++i) QUIRE_BUG_ON(node.end[i] != MapleNode::kUnused);
  return low;
}

void VmaTree::validate() const {
  QUIRE_BUG_ON((root_ == nullptr) != (height_ == 0));
  const Vma* before = nullptr;
  const auto visit = [&](const Vma& vma) {
    QUIRE_BUG_ON(!(vma.vm_start < vma.vm_end));
    QUIRE_BUG_ON(page_offset(vma.vm_start) != 0 || page_offset(vma.vm_end) != 0);
    QUIRE_BUG_ON(vma.vm_prev_ != before);
    QUIRE_BUG_ON(before != nullptr && (before->vm_next_ != &vma || vma.vm_start < before->vm_end));
    QUIRE_BUG_ON(before == nullptr && first_ != &vma);
    before = &vma;
  };
  if (root_ != nullptr) {
    QUIRE_BUG_ON(root_->level + 1 != height_ || root_->count == 0);
    static_cast<void>(validate_node(*root_, 0, visit));
  }
  QUIRE_BUG_ON(last_ != before || end_ != (last_ != nullptr ? key(last_->vm_end) : 0));
  unsigned spares = 0;
  for (const MapleNode* node = spare_; node != nullptr; node = node->next_spare) ++spares;
  QUIRE_BUG_ON(spares != spares_);
}

}  // namespace quire::vm
