// A circular doubly linked list whose links live in the objects (Linux's list_head). Objects in the arena are linked
// without any allocation; an object that is on no list has a null link.
//
//   head ⇄ a ⇄ b ⇄ c ⇄ head        push_front = list_add, push_back = list_add_tail
//
// Locking is the owner's. The list does not own its members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "quire/base/bug.h"
#include "quire/base/container_of.h"

namespace quire {

struct ListNode {
  ListNode* next = nullptr;
  ListNode* prev = nullptr;

  [[nodiscard]] bool linked() const { return next != nullptr; }
};

namespace list_detail {

inline void insert_between(ListNode* node, ListNode* prev, ListNode* next) {
  node->prev = prev;
  node->next = next;
  prev->next = node;
  next->prev = node;
}

inline void unlink(ListNode* node) {
  node->prev->next = node->next;
  node->next->prev = node->prev;
  node->next = nullptr;
  node->prev = nullptr;
}

}  // namespace list_detail

template <class T, ListNode T::* kMember>
class List {
 public:
  List() { head_.next = head_.prev = &head_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  [[nodiscard]] bool empty() const { return head_.next == &head_; }

  void push_front(T& t) { insert(t, &head_, head_.next); }
  void push_back(T& t) { insert(t, head_.prev, &head_); }
  void insert_before(T& position, T& t) { insert(t, (position.*kMember).prev, &(position.*kMember)); }

  void erase(T& t) {
    QUIRE_DCHECK((t.*kMember).linked());
    list_detail::unlink(&(t.*kMember));
  }
  void move_to_front(T& t) {
    erase(t);
    push_front(t);
  }
  void move_to_back(T& t) {
    erase(t);
    push_back(t);
  }

  [[nodiscard]] T& front() { return *owner(head_.next); }
  [[nodiscard]] T& back() { return *owner(head_.prev); }
  [[nodiscard]] T* front_or_null() { return empty() ? nullptr : owner(head_.next); }
  [[nodiscard]] T* back_or_null() { return empty() ? nullptr : owner(head_.prev); }
  [[nodiscard]] T* next_or_null(T& t) { return (t.*kMember).next == &head_ ? nullptr : owner((t.*kMember).next); }
  [[nodiscard]] T* prev_or_null(T& t) { return (t.*kMember).prev == &head_ ? nullptr : owner((t.*kMember).prev); }

  T* pop_front() {
    T* t = front_or_null();
    if (t != nullptr) erase(*t);
    return t;
  }
  T* pop_back() {
    T* t = back_or_null();
    if (t != nullptr) erase(*t);
    return t;
  }

  // Moves all of `other` to the front (list_splice) or the back (list_splice_tail) of this list.
  void splice_front(List& other) { splice(other, &head_, head_.next); }
  void splice_back(List& other) { splice(other, head_.prev, &head_); }

  [[nodiscard]] std::size_t count() const {
    std::size_t n = 0;
    for (const ListNode* p = head_.next; p != &head_; p = p->next) ++n;
    return n;
  }

  template <class Value, class Link>
  class Cursor {
   public:
    using value_type = Value;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::bidirectional_iterator_tag;
    Cursor() = default;
    explicit Cursor(Link* at) : at_(at) {}
    Value& operator*() const { return *owner(at_); }
    Value* operator->() const { return owner(at_); }
    Cursor& operator++() {
      at_ = at_->next;
      return *this;
    }
    Cursor operator++(int) {
      Cursor old = *this;
      ++*this;
      return old;
    }
    Cursor& operator--() {
      at_ = at_->prev;
      return *this;
    }
    Cursor operator--(int) {
      Cursor old = *this;
      --*this;
      return old;
    }
    bool operator==(const Cursor&) const = default;

   private:
    Link* at_ = nullptr;
  };
  using iterator = Cursor<T, ListNode>;
  using const_iterator = Cursor<const T, const ListNode>;

  // The member an iterator stands on must not be erased before the iterator moves; keep the successor first.
  iterator begin() { return iterator(head_.next); }
  iterator end() { return iterator(&head_); }
  [[nodiscard]] const_iterator begin() const { return const_iterator(head_.next); }
  [[nodiscard]] const_iterator end() const { return const_iterator(&head_); }

 private:
  static T* owner(ListNode* node) { return container_of(node, kMember); }
  static const T* owner(const ListNode* node) { return owner(const_cast<ListNode*>(node)); }

  void insert(T& t, ListNode* prev, ListNode* next) {
    QUIRE_DCHECK(!(t.*kMember).linked());
    list_detail::insert_between(&(t.*kMember), prev, next);
  }
  void splice(List& other, ListNode* prev, ListNode* next) {
    if (other.empty()) return;
    ListNode* first = other.head_.next;
    ListNode* last = other.head_.prev;
    first->prev = prev;
    prev->next = first;
    last->next = next;
    next->prev = last;
    other.head_.next = other.head_.prev = &other.head_;
  }

  ListNode head_;
};

}  // namespace quire
