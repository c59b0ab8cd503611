// Flags are scoped enums with bit operations. An enum opts in next to its definition:
//
//   enum class Gfp : std::uint32_t { kNone = 0, kDma = 1u << 0, ... };
//   template <> inline constexpr bool quire::kIsFlags<Gfp> = true;
#pragma once

#include <type_traits>

namespace quire {

template <class E>
inline constexpr bool kIsFlags = false;

template <class E>
concept Flags = std::is_enum_v<E> && kIsFlags<E>;

template <Flags E>
[[nodiscard]] constexpr auto bits(E e) {
  return static_cast<std::underlying_type_t<E>>(e);
}

template <Flags E>
constexpr E operator|(E a, E b) {
  return static_cast<E>(bits(a) | bits(b));
}
template <Flags E>
constexpr E operator&(E a, E b) {
  return static_cast<E>(bits(a) & bits(b));
}
template <Flags E>
constexpr E operator^(E a, E b) {
  return static_cast<E>(bits(a) ^ bits(b));
}
template <Flags E>
constexpr E operator~(E a) {
  return static_cast<E>(~bits(a));
}
template <Flags E>
constexpr E& operator|=(E& a, E b) {
  return a = a | b;
}
template <Flags E>
constexpr E& operator&=(E& a, E b) {
  return a = a & b;
}

// True when at least one bit of `mask` is set.
template <Flags E>
[[nodiscard]] constexpr bool any(E value, E mask) {
  return bits(value & mask) != 0;
}
// True when every bit of `mask` is set.
template <Flags E>
[[nodiscard]] constexpr bool all(E value, E mask) {
  return (value & mask) == mask;
}

}  // namespace quire
