// A fixed set of named counters, indexed by an enum. The enum ends in kCount and has an overload
// `std::string_view counter_name(E)` next to it that gives Linux's name ("pgscan_kswapd").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace quire {

template <class E>
class Counters {
 public:
  static constexpr std::size_t kSize = static_cast<std::size_t>(E::kCount);

  void add(E e, std::int64_t n = 1) { values_[static_cast<std::size_t>(e)] += n; }
  void sub(E e, std::int64_t n = 1) { values_[static_cast<std::size_t>(e)] -= n; }
  [[nodiscard]] std::int64_t operator[](E e) const { return values_[static_cast<std::size_t>(e)]; }

  // Calls f(E) for each counter in order.
  template <class F>
  static void for_each(F&& f) {
    for (std::size_t i = 0; i < kSize; ++i) f(static_cast<E>(i));
  }

  bool operator==(const Counters&) const = default;

 private:
  std::array<std::int64_t, kSize> values_{};
};

}  // namespace quire
