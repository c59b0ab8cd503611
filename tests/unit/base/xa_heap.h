// Node memory for XArrays in tests: from the host heap, counted, and empty on demand.
#pragma once

#include <cstddef>
#include <new>

#include "quire/base/xarray.h"

namespace quire {

class XaHeap final : public XaNodeSource {
 public:
  void* allocate_node() override {
    if (live_ == limit_) return nullptr;
    ++live_;
    return ::operator new(kXaNodeSize);
  }
  void free_node(void* node) override {
    --live_;
    ::operator delete(node);
  }

  [[nodiscard]] std::size_t live() const { return live_; }
  // No more than this many nodes at a time.
  void set_limit(std::size_t limit) { limit_ = limit; }

 private:
  std::size_t live_ = 0;
  std::size_t limit_ = ~std::size_t{0};
};

}  // namespace quire
