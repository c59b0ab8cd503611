#include "quire/vm/vma_tree.h"

#include <algorithm>

namespace quire::vm {

// --- looking ----------------------------------------------------------------------------------------------------------

// Leaves in found_ what was found: it is stored once, in place, since the next search reads it at once. While a node's ends
// are compared, the lines that hold what is below them are already on their way.
template <auto kFind>
[[gnu::always_inline]] inline Vma* VmaTree::walk(std::int64_t at) const {
  const MapleNode* node = root_;
  std::int64_t from = 0;
  unsigned slot = (node->*kFind)(at);
  for (unsigned left = height_ - 1; left != 0; --left) {
    from = node->end_before(slot, from);
    node = node->below[slot].child;
    node->prefetch_below();
    slot = (node->*kFind)(at);
  }
  from = node->end_before(slot, from);
  found_.from = static_cast<std::uint64_t>(from);
  found_.bytes = static_cast<std::uint64_t>(node->end[slot] - from);
  return found_.vma = node->below[slot].vma;
}

Vma* VmaTree::walk_any(std::int64_t at) const { return walk<&MapleNode::find>(at); }

#ifdef __x86_64__
namespace {
const bool kHasAvx2 = __builtin_cpu_supports("avx2") != 0;
}

[[gnu::target("avx2")]] Vma* VmaTree::walk_avx2(std::int64_t at) const { return walk<&MapleNode::find_avx2>(at); }
#endif

Vma* VmaTree::find_from_root(VirtAddr address) const {
  const std::int64_t at = key(address);
  if (at < 0 || at >= end_) return nullptr;
#ifdef __x86_64__
  if (kHasAvx2) return walk_avx2(at);
#endif
  return walk_any(at);
}

// To the first area that ends above `address`, or behind the last one.
VmaTree::Path VmaTree::path_to(VirtAddr address) const {
  Path path;
  MapleNode* node = root_;
  for (unsigned depth = 0; depth < height_; ++depth) {
    unsigned slot = node->find(key(address));
    if (!node->leaf()) slot = std::min(slot, node->count - 1);
    path[depth] = {node, slot};
    node = node->below[slot].child;
  }
  return path;
}

// --- entries ----------------------------------------------------------------------------------------------------------

// The largest gap in front of an area of the node, or below it.
std::uint64_t VmaTree::largest_gap(const MapleNode& node) const {
  if (!node.leaf()) return *std::max_element(node.gap.begin(), node.gap.begin() + node.count);
  const Vma* before = node.below[0].vma->vm_prev_;
  std::uint64_t from = before != nullptr ? before->vm_end.value() : 0;
  std::uint64_t largest = 0;
  for (unsigned i = 0; i < node.count; ++i) {
    if (node.gap[i] > from) largest = std::max(largest, node.gap[i] - from);
    from = static_cast<std::uint64_t>(node.end[i]);
  }
  return largest;
}

MapleNode::Entry VmaTree::entry_of(Vma& vma) const { return {key(vma.vm_end), {.vma = &vma}, start_with_gap(vma).value()}; }

MapleNode::Entry VmaTree::entry_of(MapleNode& node) const { return {node.last_end(), {.child = &node}, largest_gap(node)}; }

void VmaTree::refresh(Path& path, unsigned depth) {
  for (; depth != 0; --depth) {
    const MapleNode::Entry now = entry_of(*path[depth].node);
    MapleNode& parent = *path[depth - 1].node;
    const unsigned slot = path[depth - 1].slot;
    if (parent.end[slot] == now.end && parent.gap[slot] == now.gap) return;
    parent.set(slot, now);
  }
}

void VmaTree::refresh_gap(const Vma* vma) {
  if (vma == nullptr) return;
  Path path = path_to(vma->vm_start);
  refresh(path, height_ - 1);
}

// --- nodes ------------------------------------------------------------------------------------------------------------

VmaTree::~VmaTree() {
  QUIRE_BUG_ON(root_ != nullptr);
  while (spare_ != nullptr) {
    MapleNode* node = std::exchange(spare_, spare_->next_spare);
    nodes_.free(node);
  }
}

// A split on every level, and a new root.
Status VmaTree::reserve() {
  while (spares_ < height_ + 1) {
    MapleNode* node = nodes_.alloc(phys::Gfp::kKernel);
    if (node == nullptr) return fail(Errno::kNoMem);
    node->next_spare = std::exchange(spare_, node);
    ++spares_;
  }
  return {};
}

MapleNode* VmaTree::take_spare(std::uint32_t level) {
  QUIRE_BUG_ON(spare_ == nullptr);  // an insert() without reserve()
  MapleNode* node = std::exchange(spare_, spare_->next_spare);
  --spares_;
  return ::new (node) MapleNode(level);
}

void VmaTree::give_back(MapleNode& node) {
  if (spares_ > height_ + 1) return nodes_.free(&node);
  node.next_spare = std::exchange(spare_, &node);
  ++spares_;
}

// --- changes ----------------------------------------------------------------------------------------------------------

void VmaTree::insert(Vma& vma) {
  Vma* next = find(vma.vm_start);
  QUIRE_BUG_ON(next != nullptr && next->vm_start < vma.vm_end);
  QUIRE_BUG_ON(spares_ < height_ + 1);
  Vma* prev = next != nullptr ? next->vm_prev_ : last_;
  vma.vm_prev_ = prev;
  vma.vm_next_ = next;
  (prev != nullptr ? prev->vm_next_ : first_) = &vma;
  (next != nullptr ? next->vm_prev_ : last_) = &vma;
  forget_found();
  if (root_ == nullptr) {
    root_ = take_spare(0);
    height_ = 1;
  }
  Path path = path_to(vma.vm_start);
  insert_entry(path, height_ - 1, entry_of(vma));
}

// What find() remembers.
void VmaTree::forget_found() {
  end_ = last_ != nullptr ? key(last_->vm_end) : 0;
  found_ = {};
}

void VmaTree::insert_entry(Path& path, unsigned depth, const MapleNode::Entry& entry) {
  if (path[depth].node->count == MapleNode::kSlots && !share(path, depth, entry)) return split(path, depth, entry);
  MapleNode& node = *path[depth].node;
  node.insert(node.find(entry.end), entry);
  refresh(path, depth);
}

// Entries of a full node move to a sibling that has much room; the path then leads to the one of the two where `entry`
// belongs. Where areas are mapped one below (or above) the other, all that the sibling has room for move: nobody will come in
// between, so full nodes are left behind.
bool VmaTree::share(Path& path, unsigned depth, const MapleNode::Entry& entry) {
  if (depth == 0) return false;
  MapleNode& parent = *path[depth - 1].node;
  unsigned& slot = path[depth - 1].slot;
  const auto room_in = [&](unsigned at) { return at < parent.count ? MapleNode::kSlots - parent.below[at].child->count : 0; };
  const unsigned room_before = slot != 0 ? room_in(slot - 1) : 0;
  const unsigned room_behind = room_in(slot + 1);
  const unsigned left = room_before > room_behind ? slot - 1 : slot;
  const unsigned at = path[depth].node->find(entry.end);
  const bool in_a_row = at == (left == slot ? 0 : MapleNode::kSlots);
  const unsigned room = std::max(room_before, room_behind);
  const unsigned moved = in_a_row ? room : room / 2;
  if (moved < MapleNode::kSlots / 8) return false;
  MapleNode& lower = *parent.below[left].child;
  MapleNode& upper = *parent.below[left + 1].child;
  for (unsigned i = 0; i < moved; ++i) {
    if (left == slot) {
      move_up(lower, upper);
    } else {
      move_down(lower, upper);
    }
  }
  parent.set(left, entry_of(lower));
  parent.set(left + 1, entry_of(upper));
  slot = entry.end > lower.last_end() ? left + 1 : left;
  path[depth].node = parent.below[slot].child;
  refresh(path, depth - 1);
  return true;
}

// The upper half of a full node moves to a new one behind it, of which the parent is told.
void VmaTree::split(Path& path, unsigned depth, const MapleNode::Entry& entry) {
  MapleNode& node = *path[depth].node;
  MapleNode& upper = *take_spare(node.level);
  constexpr unsigned kHalf = MapleNode::kSlots / 2;
  node.move_tail(kHalf, upper);
  MapleNode& home = entry.end > node.last_end() ? upper : node;
  home.insert(home.find(entry.end), entry);
  if (depth == 0) {
    root_ = take_spare(node.level + 1);
    ++height_;
    root_->insert(0, entry_of(node));
    root_->insert(1, entry_of(upper));
    return;
  }
  path[depth - 1].node->set(path[depth - 1].slot, entry_of(node));
  insert_entry(path, depth - 1, entry_of(upper));
}

void VmaTree::erase(Vma& vma) {
  Path path = path_to(vma.vm_start);
  const auto [leaf, slot] = path[height_ - 1];
  QUIRE_BUG_ON(leaf->below[slot].vma != &vma);
  Vma* next = vma.vm_next_;
  (vma.vm_prev_ != nullptr ? vma.vm_prev_->vm_next_ : first_) = next;
  (next != nullptr ? next->vm_prev_ : last_) = vma.vm_prev_;
  vma.vm_next_ = vma.vm_prev_ = nullptr;
  forget_found();
  const bool was_last = slot + 1 == leaf->count;
  leaf->remove(slot);
  rebalance(path, height_ - 1);
  if (was_last) refresh_gap(next);
}

// A node that has lost an entry: filled up from a sibling, or joined with it.
void VmaTree::rebalance(Path& path, unsigned depth) {
  MapleNode& node = *path[depth].node;
  if (depth == 0) return drop_root_level();
  if (node.count >= MapleNode::kMinFill) return refresh(path, depth);
  MapleNode& parent = *path[depth - 1].node;
  const unsigned slot = path[depth - 1].slot;
  const unsigned left = slot != 0 ? slot - 1 : slot;
  MapleNode& sibling = *parent.below[slot != 0 ? left : slot + 1].child;
  if (sibling.count > MapleNode::kMinFill) {
    MapleNode& lower = *parent.below[left].child;
    MapleNode& upper = *parent.below[left + 1].child;
    &lower == &sibling ? move_up(lower, upper) : move_down(lower, upper);
    parent.set(left, entry_of(lower));
    parent.set(left + 1, entry_of(upper));
    return refresh(path, depth - 1);
  }
  merge(parent, left);
  rebalance(path, depth - 1);
}

// One entry moves from a node to the one behind it, or before it.
void VmaTree::move_up(MapleNode& lower, MapleNode& upper) {
  upper.insert(0, lower.entry(lower.count - 1));
  lower.remove(lower.count - 1);
}

void VmaTree::move_down(MapleNode& lower, MapleNode& upper) {
  lower.insert(lower.count, upper.entry(0));
  upper.remove(0);
}

void VmaTree::merge(MapleNode& parent, unsigned left) {
  MapleNode& lower = *parent.below[left].child;
  MapleNode& upper = *parent.below[left + 1].child;
  for (unsigned i = 0; i < upper.count; ++i) lower.insert(lower.count, upper.entry(i));
  parent.remove(left + 1);
  parent.set(left, entry_of(lower));
  give_back(upper);
}

void VmaTree::drop_root_level() {
  if (root_->count > (root_->leaf() ? 0u : 1u)) return;
  MapleNode* gone = root_;
  root_ = gone->leaf() ? nullptr : gone->below[0].child;
  --height_;
  give_back(*gone);
}

void VmaTree::adjust(Vma& vma, Range<VirtAddr> range) {
  QUIRE_BUG_ON(range.empty());
  QUIRE_BUG_ON(vma.vm_prev_ != nullptr && range.begin < vma.vm_prev_->vm_end);
  QUIRE_BUG_ON(vma.vm_next_ != nullptr && vma.vm_next_->vm_start < range.end);
  Path path = path_to(vma.vm_start);
  const auto [leaf, slot] = path[height_ - 1];
  QUIRE_BUG_ON(leaf->below[slot].vma != &vma);
  vma.vm_start = range.begin;
  vma.vm_end = range.end;
  forget_found();
  leaf->set(slot, entry_of(vma));
  refresh(path, height_ - 1);
  if (slot + 1 == leaf->count) refresh_gap(vma.vm_next_);
}

}  // namespace quire::vm
