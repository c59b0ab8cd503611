// A swap entry names a slot of a swap area: which area (type), which page of it (offset). arch packs it into a
// non-present PTE; here it is packed into one word for `Page::private_` and for the value entries that shmem keeps in its
// XArray. Offset 0 is every area's header, so no valid entry is {0, 0}, and kNoSwap stands for "none" (entry.val == 0).
#pragma once

#include <compare>
#include <cstdint>

namespace quire::swap {

inline constexpr unsigned kMaxSwapFiles = 23;  // MAX_SWAPFILES of a 6.1 kernel with migration, device and poison entries
inline constexpr unsigned kSwpTypeShift = 58;  // 5 bits of type; 63 bits in all, so that the word fits an XArray value

struct SwapEntry {
  unsigned type = 0;
  std::uint64_t offset = 0;

  constexpr auto operator<=>(const SwapEntry&) const = default;

  // swp_entry_t::val
  [[nodiscard]] constexpr std::uint64_t val() const { return (std::uint64_t{type} << kSwpTypeShift) | offset; }
  [[nodiscard]] static constexpr SwapEntry from_val(std::uint64_t val) {
    return SwapEntry{static_cast<unsigned>(val >> kSwpTypeShift), val & ((std::uint64_t{1} << kSwpTypeShift) - 1)};
  }
  [[nodiscard]] constexpr explicit operator bool() const { return val() != 0; }
};

inline constexpr SwapEntry kNoSwap{};

}  // namespace quire::swap
