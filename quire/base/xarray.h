// An array of 2^64 entries, sparse, with three marks an entry (Linux's xarray): the page cache, the swap cache.
//
//   head ─► node shift 12 ─┬─► node shift 6 ─┬─► node shift 0: 64 entries, indices 0..63
//                          │                 └─► ...
//                          └─► ...                   each node: slots[64], marks[3] (one bit a slot), count, parent
//   head ─► the entry itself, when only index 0 is in use
//
// An entry is a pointer (aligned to 4 or more) or a value of 63 bits; absent and null are the same. A marked node is one
// below which that mark is set somewhere, so find_marked skips what has none. The tree is as high as its greatest index
// needs: it grows on store and shrinks on erase, and a node that becomes empty is freed at once.
//
// Node memory comes from an XaNodeSource, 576 bytes a node (as Linux's radix_tree_node), and may run out: store() then
// returns kNoMem and the array is as before. allocate_node() is called in the middle of a change, so it may neither sleep nor
// change this array (what Linux does under xa_lock with GFP_NOWAIT); top the source up outside and try again.
//
// Locking is the owner's. Entries with bit pattern ...10 are kept free for entries that span several indices (large folios).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "quire/base/bug.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/result.h"

namespace quire {

// Memory of the nodes of an XArray. The nodes are alike (kXaNodeSize bytes, aligned to 8), constructed by the array.
struct XaNodeSource {
  virtual ~XaNodeSource() = default;
  virtual void* allocate_node() = 0;  // nullptr when out of memory
  virtual void free_node(void* node) = 0;
};

// A 63-bit number stored instead of a pointer (xa_mk_value).
class XaValue {
 public:
  constexpr XaValue() = default;
  constexpr explicit XaValue(std::uint64_t value) : value_(value) {}
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  constexpr auto operator<=>(const XaValue&) const = default;

 private:
  std::uint64_t value_ = 0;
};
inline constexpr std::uint64_t kXaValueMax = ~std::uint64_t{0} >> 1;

class XaEntry {
 public:
  constexpr XaEntry() = default;
  template <class T>
  explicit XaEntry(T* pointer) : raw_(reinterpret_cast<std::uintptr_t>(pointer)) {
    QUIRE_DCHECK((raw_ & 3) == 0);
  }
  constexpr XaEntry(XaValue v) : raw_((v.value() << 1) | 1) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] constexpr bool empty() const { return raw_ == 0; }
  [[nodiscard]] constexpr explicit operator bool() const { return raw_ != 0; }
  [[nodiscard]] constexpr bool is_value() const { return (raw_ & 1) != 0; }
  [[nodiscard]] constexpr bool is_pointer() const { return raw_ != 0 && (raw_ & 1) == 0; }
  // The pointer; nullptr for an absent entry. Not for a value.
  template <class T>
  [[nodiscard]] T* pointer() const {
    QUIRE_DCHECK(!is_value());
    return reinterpret_cast<T*>(raw_);
  }
  [[nodiscard]] constexpr XaValue value() const {
    QUIRE_DCHECK(is_value());
    return XaValue(raw_ >> 1);
  }
  constexpr bool operator==(const XaEntry&) const = default;

 private:
  friend class XArray;
  std::uintptr_t raw_ = 0;
};

// A number below kXaMarks; what it means is the owner's (page cache: dirty, writeback, to write).
using XaMark = unsigned;
inline constexpr unsigned kXaMarks = 3;

class XArray;

struct XaNode {
  std::uint8_t shift = 0;      // index bits below this level
  std::uint8_t offset = 0;     // slot in the parent
  std::uint8_t count = 0;      // slots in use
  std::uint8_t nr_values = 0;  // of them, XaValues (leaves only)
  std::uintptr_t parent = 0;   // XaNode*, or XArray* | 1 for the top node
  ListNode private_list;       // the owner's (Linux keeps nodes that hold nothing but shadows on a list)
  std::uint64_t present = 0;   // one bit a slot in use
  std::uint64_t marks[kXaMarks]{};
  std::uintptr_t slots[64]{};  // entries on a leaf (shift 0), nodes above

  [[nodiscard]] XaNode* up() const { return (parent & 1) != 0 ? nullptr : reinterpret_cast<XaNode*>(parent); }
  // The array the node belongs to.
  [[nodiscard]] XArray& array() const;
};
inline constexpr std::size_t kXaNodeSize = sizeof(XaNode);
static_assert(kXaNodeSize == 576);

// Told of each leaf whose count or nr_values changed, while the array is locked; with count 0 just before the node is freed
// (Linux: xas_set_update, used to keep the list of shadow-only nodes).
struct XaNodeObserver {
  virtual ~XaNodeObserver() = default;
  virtual void node_changed(XaNode& node) = 0;
};

class XArray {
 public:
  static constexpr std::uint64_t kMaxIndex = ~std::uint64_t{0};
  struct Found {
    std::uint64_t index;
    XaEntry entry;
  };

  explicit XArray(XaNodeSource& nodes) : nodes_(&nodes) {}
  XArray(const XArray&) = delete;
  XArray& operator=(const XArray&) = delete;
  ~XArray() { clear(); }

  void set_observer(XaNodeObserver* observer) { observer_ = observer; }

  [[nodiscard]] bool empty() const { return head_ == 0; }

  // The entry at index; absent when there is none.
  [[nodiscard]] XaEntry load(std::uint64_t index) const {
    const std::uintptr_t* slot = find_slot(index);
    XaEntry entry;
    if (slot != nullptr) entry.raw_ = *slot;
    return entry;
  }

  // Puts `entry` at index and returns what was there. An entry that replaces another keeps its marks; the absent entry erases
  // (never fails). Replacing needs no memory.
  Result<XaEntry> store(std::uint64_t index, XaEntry entry);
  // Only where nothing is: kBusy otherwise (xa_insert).
  Status insert(std::uint64_t index, XaEntry entry);
  // Stores when the present entry is `old`; returns the entry that was there, so success is `== old` (xa_cmpxchg).
  Result<XaEntry> cmpxchg(std::uint64_t index, XaEntry old, XaEntry entry);
  // Removes the entry with its marks and returns it.
  XaEntry erase(std::uint64_t index);
  // Frees every node. What pointers point to is the owner's.
  void clear();

  // Marks of present entries; on an absent one setting does nothing and getting is false.
  void set_mark(std::uint64_t index, XaMark mark);
  void clear_mark(std::uint64_t index, XaMark mark);
  [[nodiscard]] bool get_mark(std::uint64_t index, XaMark mark) const;
  // Is the mark set anywhere (xa_marked)?
  [[nodiscard]] bool marked(XaMark mark) const;

  // The first entry at or after `start` and not after `max`, with the mark.
  [[nodiscard]] std::optional<Found> find(std::uint64_t start, std::uint64_t max = kMaxIndex) const;
  [[nodiscard]] std::optional<Found> find_marked(std::uint64_t start, std::uint64_t max, XaMark mark) const;
  // The same, strictly after `index`.
  [[nodiscard]] std::optional<Found> next(std::uint64_t index, std::uint64_t max = kMaxIndex) const {
    return index >= max ? std::nullopt : find(index + 1, max);
  }
  [[nodiscard]] std::optional<Found> next_marked(std::uint64_t index, std::uint64_t max, XaMark mark) const {
    return index >= max ? std::nullopt : find_marked(index + 1, max, mark);
  }
  // The last entry at or before `start` and not before `min`.
  [[nodiscard]] std::optional<Found> find_last(std::uint64_t start = kMaxIndex, std::uint64_t min = 0) const;

  // Calls f(index, XaEntry) in order of index for each entry in [first, last]. f may store and erase, the current entry too.
  template <class F>
  void for_range(std::uint64_t first, std::uint64_t last, F&& f) const {
    for (auto found = find(first, last); found; found = next(found->index, last)) f(found->index, found->entry);
  }
  template <class F>
  void for_each(F&& f) const {
    for_range(0, kMaxIndex, f);
  }
  template <class F>
  void for_marked(std::uint64_t first, std::uint64_t last, XaMark mark, F&& f) const {
    for (auto found = find_marked(first, last, mark); found; found = next_marked(found->index, last, mark)) {
      f(found->index, found->entry);
    }
  }

  // The leaf that holds index, nullptr when there is none (also for an array of index 0 only, which needs no node).
  [[nodiscard]] XaNode* leaf(std::uint64_t index) const;
  [[nodiscard]] std::size_t node_count() const;
  // Walks everything: counts, marks, parents, shape. Aborts when broken.
  void validate() const;

 private:
  static constexpr unsigned kSlotBits = 6;
  static constexpr unsigned kNoShift = 255;  // head_ is the entry of index 0, or nothing

  [[nodiscard]] bool has_nodes() const { return shift_ != kNoShift; }
  [[nodiscard]] XaNode* top() const { return reinterpret_cast<XaNode*>(head_); }
  // Does the tree as it stands reach this index?
  [[nodiscard]] bool covers(std::uint64_t index) const { return has_nodes() ? (index >> shift_) < 64 : index == 0; }
  [[nodiscard]] const std::uintptr_t* find_slot(std::uint64_t index) const {
    if (!has_nodes()) [[unlikely]]
      return index == 0 && head_ != 0 ? &head_ : nullptr;
    if ((index >> shift_) >= 64) return nullptr;
    const XaNode* node = top();
    for (unsigned shift = shift_; shift != 0; shift -= kSlotBits) {
      node = reinterpret_cast<const XaNode*>(node->slots[(index >> shift) & 63]);
      if (node == nullptr) return nullptr;
    }
    return &node->slots[index & 63];
  }

  XaNode* new_node(unsigned shift);
  void free_node(XaNode* node);
  void link(XaNode* parent, unsigned slot, XaNode* child);
  void set_top(XaNode* node);
  bool grow(std::uint64_t index);
  XaNode* create_leaf(std::uint64_t index);
  void set_slot(XaNode* leaf, unsigned slot, std::uintptr_t raw);
  void prune(XaNode* node);
  void shrink();
  void retire_leaf(XaNode* leaf);
  void free_below(XaNode* node);
  void clear_marks_up(XaNode* node, unsigned slot, XaMark mark);
  template <class Bits>
  [[nodiscard]] std::optional<Found> find_in(std::uint64_t start, std::uint64_t max, Bits&& bits) const;
  [[nodiscard]] std::optional<Found> find_head(std::uint64_t start) const;
  [[nodiscard]] static std::size_t count_nodes(const XaNode* node);
  void validate_node(const XaNode* node) const;

  std::uintptr_t head_ = 0;
  std::uint8_t shift_ = kNoShift;  // of the top node
  std::uint8_t head_marks_ = 0;    // marks of index 0 when it stands in head_
  XaNodeSource* nodes_;
  XaNodeObserver* observer_ = nullptr;
};

inline XArray& XaNode::array() const {
  const XaNode* node = this;
  while (XaNode* above = node->up()) node = above;
  return *reinterpret_cast<XArray*>(node->parent & ~std::uintptr_t{1});
}

}  // namespace quire
