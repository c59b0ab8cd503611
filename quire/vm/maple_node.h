// One node of a VmaTree: up to sixteen entries, each an area (in a leaf) or a child (above).
//
//   end    end of the area, or of the last area below the child; what a search compares with
//   below  the area or the child
//   gap    in a leaf: start of the area with its stack guard gap; above: the largest gap in front of any area below the child
//
// Unused entries have the highest end, so that a search may compare all sixteen without asking for `count`. The ends fill two
// cache lines of their own; they are signed because that is what the processor compares sixteen at a time best.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "quire/base/bug.h"

namespace quire::vm {

struct Vma;

struct alignas(64) MapleNode {
  static constexpr unsigned kSlots = 16;
  static constexpr unsigned kMinFill = kSlots / 2;  // of every node but the root
  static constexpr std::int64_t kUnused = std::numeric_limits<std::int64_t>::max();

  union Below {
    MapleNode* child;
    Vma* vma;
  };
  struct Entry {
    std::int64_t end = kUnused;
    Below below{nullptr};
    std::uint64_t gap = 0;
  };

  std::array<std::int64_t, kSlots> end;
  std::array<Below, kSlots> below;
  std::array<std::uint64_t, kSlots> gap;
  std::uint32_t count = 0;
  std::uint32_t level = 0;  // 0: a leaf
  MapleNode* next_spare = nullptr;

  explicit MapleNode(std::uint32_t at_level = 0) : level(at_level) {
    end.fill(kUnused);
    below.fill({nullptr});
    gap.fill(0);
  }

  [[nodiscard]] bool leaf() const { return level == 0; }
  [[nodiscard]] std::int64_t last_end() const { return end[count - 1]; }

  // The first entry that ends above `address`; `count` when there is none.
  [[nodiscard]] unsigned find(std::int64_t address) const {
    unsigned slot = 0;
    for (unsigned i = 0; i < kSlots; ++i) slot += end[i] <= address ? 1 : 0;
    return slot;
  }

  // End of what lies before entry `slot`; `low` is the end of what lies before the node. Loads in any case: which it is
  // cannot be predicted.
  [[nodiscard]] std::int64_t end_before(unsigned slot, std::int64_t low) const {
    const std::int64_t before = end[(slot - 1) % kSlots];
    return slot != 0 ? before : low;
  }

  void prefetch_below() const {
    __builtin_prefetch(&below[0]);
    __builtin_prefetch(&below[kSlots / 2]);
  }

#ifdef __x86_64__
  // find(), in a quarter of the time, where the processor has AVX2.
  [[nodiscard, gnu::target("avx2")]] unsigned find_avx2(std::int64_t address) const {
    const __m256i key = _mm256_set1_epi64x(address);
    unsigned above = 1u << kSlots;
#pragma GCC unroll 4
    for (unsigned i = 0; i < kSlots; i += 4) {
      const __m256i four = _mm256_load_si256(reinterpret_cast<const __m256i*>(&end[i]));
      const __m256i greater = _mm256_cmpgt_epi64(four, key);
      above |= static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(greater))) << i;
    }
    return static_cast<unsigned>(std::countr_zero(above));
  }
#endif

  [[nodiscard]] Entry entry(unsigned slot) const { return {end[slot], below[slot], gap[slot]}; }
  void set(unsigned slot, const Entry& entry) {
    end[slot] = entry.end;
    below[slot] = entry.below;
    gap[slot] = entry.gap;
  }
  void insert(unsigned slot, const Entry& entry) {
    QUIRE_BUG_ON(count == kSlots);
    for (unsigned i = count++; i > slot; --i) set(i, this->entry(i - 1));
    set(slot, entry);
  }
  void remove(unsigned slot) {
    for (unsigned i = slot; i + 1 < count; ++i) set(i, entry(i + 1));
    set(--count, {});
  }
  // Moves the entries from `slot` on to the front of `other`, which is empty.
  void move_tail(unsigned slot, MapleNode& other) {
    for (unsigned i = slot; i < count; ++i) other.insert(i - slot, entry(i));
    while (count > slot) set(--count, {});
  }
};
static_assert(sizeof(MapleNode) == 448);

}  // namespace quire::vm
