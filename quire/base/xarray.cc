#include "quire/base/xarray.h"

#include <algorithm>
#include <bit>
#include <new>

namespace quire {

namespace {

constexpr std::uint64_t bit(unsigned slot) { return std::uint64_t{1} << slot; }
constexpr bool raw_is_value(std::uintptr_t raw) { return (raw & 1) != 0; }

XaNode* child_of(const XaNode* node, unsigned slot) { return reinterpret_cast<XaNode*>(node->slots[slot]); }
unsigned slot_of(const XaNode* node, std::uint64_t index) { return static_cast<unsigned>(index >> node->shift) & 63; }

}  // namespace

// --- nodes ----------------------------------------------------------------------------------------------------------------

XaNode* XArray::new_node(unsigned shift) {
  void* memory = nodes_->allocate_node();
  if (memory == nullptr) return nullptr;
  auto* node = new (memory) XaNode;
  node->shift = static_cast<std::uint8_t>(shift);
  return node;
}

void XArray::free_node(XaNode* node) {
  node->~XaNode();
  nodes_->free_node(node);
}

void XArray::link(XaNode* parent, unsigned slot, XaNode* child) {
  parent->slots[slot] = reinterpret_cast<std::uintptr_t>(child);
  parent->present |= bit(slot);
  ++parent->count;
  child->parent = reinterpret_cast<std::uintptr_t>(parent);
  child->offset = static_cast<std::uint8_t>(slot);
}

void XArray::set_top(XaNode* node) {
  head_ = reinterpret_cast<std::uintptr_t>(node);
  shift_ = node->shift;
  node->parent = reinterpret_cast<std::uintptr_t>(this) | 1;
  node->offset = 0;
}

// Makes the tree high enough for index. What stands in it becomes slot 0 of what is put on top. False without memory.
bool XArray::grow(std::uint64_t index) {
  if (!has_nodes()) {
    unsigned shift = 0;
    while (head_ == 0 && (index >> shift) >= 64) shift += kSlotBits;
    XaNode* node = new_node(shift);
    if (node == nullptr) return false;
    const std::uintptr_t entry = head_;
    set_top(node);
    if (entry != 0) {
      set_slot(node, 0, entry);
      for (XaMark mark = 0; mark < kXaMarks; ++mark) node->marks[mark] = (head_marks_ >> mark) & 1;
    }
    head_marks_ = 0;
  }
  while ((index >> shift_) >= 64) {
    XaNode* node = new_node(shift_ + kSlotBits);
    if (node == nullptr) return false;
    XaNode* below = top();
    for (XaMark mark = 0; mark < kXaMarks; ++mark) node->marks[mark] = below->marks[mark] != 0 ? 1 : 0;
    link(node, 0, below);
    set_top(node);
  }
  return true;
}

// The leaf for index, made with all that is missing above it. nullptr without memory, and then nothing is left behind.
XaNode* XArray::create_leaf(std::uint64_t index) {
  if (!covers(index) || !has_nodes()) {
    if (!grow(index)) {
      if (has_nodes()) shrink();
      return nullptr;
    }
  }
  XaNode* node = top();
  while (node->shift != 0) {
    const unsigned slot = slot_of(node, index);
    XaNode* child = child_of(node, slot);
    if (child == nullptr) {
      child = new_node(node->shift - kSlotBits);
      if (child == nullptr) {
        prune(node);
        return nullptr;
      }
      link(node, slot, child);
    }
    node = child;
  }
  return node;
}

// Changes one slot of a leaf, marks apart.
void XArray::set_slot(XaNode* leaf, unsigned slot, std::uintptr_t raw) {
  std::uintptr_t& place = leaf->slots[slot];
  const int count = (raw != 0 ? 1 : 0) - (place != 0 ? 1 : 0);
  const int values = (raw_is_value(raw) ? 1 : 0) - (raw_is_value(place) ? 1 : 0);
  place = raw;
  if (count == 0 && values == 0) return;
  leaf->present = raw != 0 ? leaf->present | bit(slot) : leaf->present & ~bit(slot);
  leaf->count = static_cast<std::uint8_t>(leaf->count + count);
  leaf->nr_values = static_cast<std::uint8_t>(leaf->nr_values + values);
  if (observer_ != nullptr) observer_->node_changed(*leaf);
}

// Frees `node` and its ancestors as far as they are empty, then lowers the tree.
void XArray::prune(XaNode* node) {
  while (node->count == 0) {
    XaNode* parent = node->up();
    const unsigned slot = node->offset;
    free_node(node);
    if (parent == nullptr) {
      head_ = 0;
      shift_ = kNoShift;
      return;
    }
    parent->slots[slot] = 0;
    parent->present &= ~bit(slot);
    --parent->count;
    node = parent;
  }
  shrink();
}

// Takes top nodes away that use slot 0 only.
void XArray::shrink() {
  while (top()->present == 1) {
    XaNode* old = top();
    if (old->shift != 0) {
      set_top(child_of(old, 0));
      free_node(old);
      continue;
    }
    head_ = old->slots[0];
    shift_ = kNoShift;
    for (XaMark mark = 0; mark < kXaMarks; ++mark) {
      head_marks_ = static_cast<std::uint8_t>(head_marks_ | ((old->marks[mark] & 1) << mark));
    }
    retire_leaf(old);
    return;
  }
}

void XArray::retire_leaf(XaNode* leaf) {
  leaf->count = leaf->nr_values = 0;
  if (observer_ != nullptr) observer_->node_changed(*leaf);
  free_node(leaf);
}

void XArray::free_below(XaNode* node) {
  if (node->shift == 0) {
    retire_leaf(node);
    return;
  }
  for (std::uint64_t left = node->present; left != 0; left &= left - 1) {
    free_below(child_of(node, static_cast<unsigned>(std::countr_zero(left))));
  }
  free_node(node);
}

void XArray::clear() {
  if (has_nodes()) free_below(top());
  head_ = 0;
  head_marks_ = 0;
  shift_ = kNoShift;
}

XaNode* XArray::leaf(std::uint64_t index) const {
  if (!has_nodes() || !covers(index)) return nullptr;
  XaNode* node = top();
  while (node != nullptr && node->shift != 0) node = child_of(node, slot_of(node, index));
  return node;
}

// --- entries --------------------------------------------------------------------------------------------------------------

Result<XaEntry> XArray::store(std::uint64_t index, XaEntry entry) {
  if (entry.empty()) return erase(index);
  XaEntry old;
  if (!has_nodes() && index == 0) {
    old.raw_ = head_;
    head_ = entry.raw_;
    return old;
  }
  XaNode* node = leaf(index);
  if (node == nullptr) {
    node = create_leaf(index);
    if (node == nullptr) return fail(Errno::kNoMem);
  }
  old.raw_ = node->slots[index & 63];
  set_slot(node, index & 63, entry.raw_);
  return old;
}

Status XArray::insert(std::uint64_t index, XaEntry entry) {
  if (!load(index).empty()) return fail(Errno::kBusy);
  const Result<XaEntry> stored = store(index, entry);
  if (!stored) return fail(stored.error());
  return {};
}

Result<XaEntry> XArray::cmpxchg(std::uint64_t index, XaEntry old, XaEntry entry) {
  const XaEntry present = load(index);
  if (present != old) return present;
  return store(index, entry);
}

XaEntry XArray::erase(std::uint64_t index) {
  XaEntry old;
  if (!has_nodes()) {
    if (index != 0) return old;
    old.raw_ = head_;
    head_ = 0;
    head_marks_ = 0;
    return old;
  }
  XaNode* node = leaf(index);
  const unsigned slot = index & 63;
  if (node == nullptr || node->slots[slot] == 0) return old;
  old.raw_ = node->slots[slot];
  for (XaMark mark = 0; mark < kXaMarks; ++mark) clear_marks_up(node, slot, mark);
  set_slot(node, slot, 0);
  if (node->count == 0) {
    prune(node);
  } else {
    shrink();
  }
  return old;
}

// --- marks ----------------------------------------------------------------------------------------------------------------

void XArray::set_mark(std::uint64_t index, XaMark mark) {
  QUIRE_DCHECK(mark < kXaMarks);
  if (!has_nodes()) {
    if (index == 0 && head_ != 0) head_marks_ = static_cast<std::uint8_t>(head_marks_ | (1u << mark));
    return;
  }
  XaNode* node = leaf(index);
  unsigned slot = index & 63;
  if (node == nullptr || node->slots[slot] == 0) return;
  while (node != nullptr && (node->marks[mark] & bit(slot)) == 0) {
    node->marks[mark] |= bit(slot);
    slot = node->offset;
    node = node->up();
  }
}

void XArray::clear_mark(std::uint64_t index, XaMark mark) {
  QUIRE_DCHECK(mark < kXaMarks);
  if (!has_nodes()) {
    if (index == 0) head_marks_ = static_cast<std::uint8_t>(head_marks_ & ~(1u << mark));
    return;
  }
  if (XaNode* node = leaf(index)) clear_marks_up(node, index & 63, mark);
}

void XArray::clear_marks_up(XaNode* node, unsigned slot, XaMark mark) {
  while (node != nullptr && (node->marks[mark] & bit(slot)) != 0) {
    node->marks[mark] &= ~bit(slot);
    if (node->marks[mark] != 0) return;
    slot = node->offset;
    node = node->up();
  }
}

bool XArray::get_mark(std::uint64_t index, XaMark mark) const {
  QUIRE_DCHECK(mark < kXaMarks);
  if (!has_nodes()) return index == 0 && ((head_marks_ >> mark) & 1) != 0;
  const XaNode* node = leaf(index);
  return node != nullptr && (node->marks[mark] & bit(index & 63)) != 0;
}

bool XArray::marked(XaMark mark) const {
  QUIRE_DCHECK(mark < kXaMarks);
  return has_nodes() ? top()->marks[mark] != 0 : ((head_marks_ >> mark) & 1) != 0;
}

// --- searching ------------------------------------------------------------------------------------------------------------

// The first index in [start, max] whose bit, and that of every node above it, is set in bits(node).
template <class Bits>
std::optional<XArray::Found> XArray::find_in(std::uint64_t start, std::uint64_t max, Bits&& bits) const {
  if (start > max || !covers(start)) return std::nullopt;
  std::uint64_t index = start;
  const XaNode* node = top();
  while (true) {
    const unsigned shift = node->shift;
    const unsigned slot = slot_of(node, index);
    const std::uint64_t candidates = bits(*node) & (~std::uint64_t{0} << slot);
    if (candidates == 0) {
      // On to the first index after this node, below the ancestor that covers it.
      if (node == top()) return std::nullopt;
      const unsigned span = shift + kSlotBits;
      index = ((index >> span) + 1) << span;
      if (index == 0 || index > max) return std::nullopt;
      node = node->up();
      while (slot_of(node, index) == 0) {  // the step carried out of this one too
        if (node == top()) return std::nullopt;
        node = node->up();
      }
      continue;
    }
    const auto next_slot = static_cast<unsigned>(std::countr_zero(candidates));
    if (next_slot != slot) index = (((index >> shift) & ~std::uint64_t{63}) | next_slot) << shift;
    if (index > max) return std::nullopt;
    if (shift == 0) {
      Found found{index, {}};
      found.entry.raw_ = node->slots[next_slot];
      return found;
    }
    node = child_of(node, next_slot);
  }
}

std::optional<XArray::Found> XArray::find_head(std::uint64_t start) const {
  if (start != 0 || head_ == 0) return std::nullopt;
  Found found{0, {}};
  found.entry.raw_ = head_;
  return found;
}

std::optional<XArray::Found> XArray::find(std::uint64_t start, std::uint64_t max) const {
  if (!has_nodes()) return find_head(start);
  return find_in(start, max, [](const XaNode& node) { return node.present; });
}

std::optional<XArray::Found> XArray::find_marked(std::uint64_t start, std::uint64_t max, XaMark mark) const {
  QUIRE_DCHECK(mark < kXaMarks);
  if (!has_nodes()) return marked(mark) ? find_head(start) : std::nullopt;
  return find_in(start, max, [mark](const XaNode& node) { return node.marks[mark]; });
}

std::optional<XArray::Found> XArray::find_last(std::uint64_t start, std::uint64_t min) const {
  if (!has_nodes()) return find_head(min);
  const unsigned bits_covered = shift_ + kSlotBits;
  const std::uint64_t greatest = bits_covered >= 64 ? kMaxIndex : (std::uint64_t{1} << bits_covered) - 1;
  std::uint64_t index = std::min(start, greatest);
  const XaNode* node = top();
  while (index >= min) {
    const unsigned shift = node->shift;
    const unsigned slot = slot_of(node, index);
    const std::uint64_t candidates = node->present & (~std::uint64_t{0} >> (63 - slot));
    if (candidates == 0) {
      if (node == top()) return std::nullopt;
      const unsigned span = shift + kSlotBits;
      index = (index >> span) << span;
      if (index == 0) return std::nullopt;
      --index;
      node = node->up();
      while (slot_of(node, index) == 63) {  // the step borrowed from above
        if (node == top()) return std::nullopt;
        node = node->up();
      }
      continue;
    }
    const auto last_slot = 63 - static_cast<unsigned>(std::countl_zero(candidates));
    if (last_slot != slot) {
      index = ((((index >> shift) & ~std::uint64_t{63}) | last_slot) << shift) | (bit(shift) - 1);
      if (index < min) return std::nullopt;
    }
    if (shift == 0) {
      Found found{index, {}};
      found.entry.raw_ = node->slots[last_slot];
      return found;
    }
    node = child_of(node, last_slot);
  }
  return std::nullopt;
}

// --- checking -------------------------------------------------------------------------------------------------------------

std::size_t XArray::count_nodes(const XaNode* node) {
  std::size_t n = 1;
  if (node->shift == 0) return n;
  for (std::uint64_t left = node->present; left != 0; left &= left - 1) {
    n += count_nodes(child_of(node, static_cast<unsigned>(std::countr_zero(left))));
  }
  return n;
}

std::size_t XArray::node_count() const { return has_nodes() ? count_nodes(top()) : 0; }

void XArray::validate_node(const XaNode* node) const {
  QUIRE_BUG_ON(node->count != std::popcount(node->present) || node->count == 0);
  unsigned values = 0;
  for (unsigned slot = 0; slot < 64; ++slot) {
    const bool present = (node->present & bit(slot)) != 0;
    QUIRE_BUG_ON(present != (node->slots[slot] != 0));
    if (!present) {
      for (const std::uint64_t marks : node->marks) QUIRE_BUG_ON((marks & bit(slot)) != 0);
      continue;
    }
    if (node->shift == 0) {
      values += raw_is_value(node->slots[slot]) ? 1 : 0;
      QUIRE_BUG_ON((node->slots[slot] & 3) == 2);
      continue;
    }
    const XaNode* child = child_of(node, slot);
    QUIRE_BUG_ON(child->up() != node || child->offset != slot || child->shift + kSlotBits != node->shift);
    for (XaMark mark = 0; mark < kXaMarks; ++mark) {
      QUIRE_BUG_ON((child->marks[mark] != 0) != ((node->marks[mark] & bit(slot)) != 0));
    }
    validate_node(child);
  }
  QUIRE_BUG_ON(values != node->nr_values);
}

void XArray::validate() const {
  if (!has_nodes()) {
    QUIRE_BUG_ON(head_ == 0 && head_marks_ != 0);
    return;
  }
  QUIRE_BUG_ON(head_marks_ != 0);
  QUIRE_BUG_ON(top()->shift != shift_ || top()->parent != (reinterpret_cast<std::uintptr_t>(this) | 1));
  QUIRE_BUG_ON(top()->present == 1);  // would have been lowered
  validate_node(top());
}

}  // namespace quire
