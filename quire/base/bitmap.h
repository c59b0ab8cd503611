// A bitmap over words that the caller owns (in the arena, on the stack, in a struct): Linux's bitmap_* and find_*_bit.
// Bits beyond size() in the last word are neither read nor changed.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quire/base/bug.h"

namespace quire {

class Bitmap {
 public:
  using Word = std::uint64_t;
  static constexpr std::size_t kWordBits = 64;
  // Words that `bits` bits need (BITS_TO_LONGS).
  [[nodiscard]] static constexpr std::size_t words_for(std::size_t bits) { return (bits + kWordBits - 1) / kWordBits; }

  Bitmap() = default;
  Bitmap(std::span<Word> words, std::size_t bits) : words_(words.data()), bits_(bits) {
    QUIRE_BUG_ON(words.size() < words_for(bits));
  }

  [[nodiscard]] std::size_t size() const { return bits_; }

  [[nodiscard]] bool test(std::size_t i) const { return (word(i) & mask(i)) != 0; }
  void set(std::size_t i) { word(i) |= mask(i); }
  void clear(std::size_t i) { word(i) &= ~mask(i); }
  // The bit's former value.
  bool test_and_set(std::size_t i) {
    const bool was = test(i);
    set(i);
    return was;
  }
  bool test_and_clear(std::size_t i) {
    const bool was = test(i);
    clear(i);
    return was;
  }

  // Bits [first, first + count).
  void set_range(std::size_t first, std::size_t count) {
    for_words(first, count, [](Word& w, Word m) { w |= m; });
  }
  void clear_range(std::size_t first, std::size_t count) {
    for_words(first, count, [](Word& w, Word m) { w &= ~m; });
  }
  void clear_all() { clear_range(0, bits_); }
  void set_all() { set_range(0, bits_); }

  // How many bits are set (bitmap_weight), in all or in [first, first + count).
  [[nodiscard]] std::size_t count() const { return count(0, bits_); }
  [[nodiscard]] std::size_t count(std::size_t first, std::size_t count) const {
    std::size_t n = 0;
    for_words(first, count, [&n](Word w, Word m) { n += static_cast<std::size_t>(std::popcount(w & m)); });
    return n;
  }
  [[nodiscard]] bool none() const { return find_next(0) == bits_; }
  [[nodiscard]] bool all() const { return find_next_zero(0) == bits_; }

  // The first set (clear) bit at or after `from`; size() when there is none.
  [[nodiscard]] std::size_t find_next(std::size_t from) const { return find(from, 0); }
  [[nodiscard]] std::size_t find_next_zero(std::size_t from) const { return find(from, ~Word{0}); }

  // The first run of `count` clear bits at or after `from` that begins at a multiple of `alignment` (a power of two);
  // size() when there is none (bitmap_find_next_zero_area).
  [[nodiscard]] std::size_t find_zero_area(std::size_t from, std::size_t count, std::size_t alignment = 1) const {
    while (true) {
      const std::size_t zero = find_next_zero(from);
      const std::size_t start = (zero + alignment - 1) & ~(alignment - 1);
      if (start >= bits_ || count > bits_ - start) return bits_;
      const std::size_t taken = find_next(start);
      if (taken >= start + count) return start;
      from = taken + 1;
    }
  }

 private:
  static constexpr Word mask(std::size_t i) { return Word{1} << (i % kWordBits); }
  [[nodiscard]] Word& word(std::size_t i) const {
    QUIRE_DCHECK(i < bits_);
    return words_[i / kWordBits];
  }

  template <class F>
  void for_words(std::size_t first, std::size_t count, F&& f) const {
    QUIRE_DCHECK(first <= bits_ && count <= bits_ - first);
    const std::size_t end = first + count;
    while (first < end) {
      const std::size_t low = first % kWordBits;
      const std::size_t in_word = end - first < kWordBits - low ? end - first : kWordBits - low;
      f(words_[first / kWordBits], (~Word{0} >> (kWordBits - in_word)) << low);
      first += in_word;
    }
  }

  [[nodiscard]] std::size_t find(std::size_t from, Word invert) const {
    if (from >= bits_) return bits_;
    std::size_t w = from / kWordBits;
    Word bits = (words_[w] ^ invert) & (~Word{0} << (from % kWordBits));
    while (bits == 0) {
      if (++w * kWordBits >= bits_) return bits_;
      bits = words_[w] ^ invert;
    }
    const std::size_t i = w * kWordBits + static_cast<std::size_t>(std::countr_zero(bits));
    return i < bits_ ? i : bits_;
  }

  Word* words_ = nullptr;
  std::size_t bits_ = 0;
};

}  // namespace quire
