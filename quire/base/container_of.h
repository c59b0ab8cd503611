// From a member back to the object that holds it (container_of).
//
//   Task* task = container_of(node, &Task::run_node_);
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

template <class T, class Member>
[[nodiscard, gnu::always_inline]] inline T* container_of(Member* member, Member T::* which) {
  // Only reckoned with, never read; folds to a constant. Not null, of which no member may be asked.
  constexpr std::uintptr_t kAnyAlignedAddress = 1 << 20;
  auto* object = reinterpret_cast<T*>(kAnyAlignedAddress);
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(&(object->*which)) - kAnyAlignedAddress;
  return reinterpret_cast<T*>(reinterpret_cast<std::byte*>(member) - offset);
}

}  // namespace quire
