// What an event calls: any callable of at most four words that may be copied as bytes (a lambda that captures pointers,
// references and numbers). It lives in the event itself, so that no event needs host memory of its own.
#pragma once

#include <array>
#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

namespace quire::sim {

class Callback {
 public:
  static constexpr std::size_t kCapacity = 4 * sizeof(void*);

  Callback() = default;

  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, Callback> && std::is_invocable_r_v<void, F&>)
  Callback(F&& f) {  // NOLINT(google-explicit-constructor): a lambda is passed where a Callback is wanted
    using Callable = std::remove_cvref_t<F>;
    static_assert(sizeof(Callable) <= kCapacity, "an event's callable holds at most four words");
    static_assert(std::is_trivially_copyable_v<Callable> && std::is_trivially_destructible_v<Callable>,
                  "an event's callable is copied as bytes and never destroyed");
    ::new (static_cast<void*>(storage_.data())) Callable(std::forward<F>(f));
    call_ = [](void* callable) { (*std::launder(static_cast<Callable*>(callable)))(); };
  }

  [[nodiscard]] explicit operator bool() const { return call_ != nullptr; }
  void operator()() { call_(storage_.data()); }

 private:
  alignas(void*) std::array<std::byte, kCapacity> storage_{};
  void (*call_)(void*) = nullptr;
};

}  // namespace quire::sim
