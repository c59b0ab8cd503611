// The host memory of a fiber's stack: mapped without reservation, so that only pages that were used cost anything, with
// an inaccessible page below it, so that an overflow faults instead of writing over a neighbour.
#pragma once

#include <cstddef>

namespace quire::sim {

class GuardedStack {
 public:
  explicit GuardedStack(std::size_t size);  // a multiple of the page size; BUG when the host has no memory left
  ~GuardedStack();
  GuardedStack(const GuardedStack&) = delete;
  GuardedStack& operator=(const GuardedStack&) = delete;

  [[nodiscard]] std::byte* bottom() const { return bottom_; }
  [[nodiscard]] std::byte* top() const { return bottom_ + size_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::byte* bottom_;
  std::size_t size_;
};

}  // namespace quire::sim
