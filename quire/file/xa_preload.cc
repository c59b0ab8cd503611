#include "quire/file/xa_preload.h"

#include <cstring>

namespace quire::file {

XaPreload::~XaPreload() { drain(); }

Status XaPreload::preload(phys::Gfp gfp) {
  while (count_ < kMaxNodes) {
    void* node = nodes_.cache().alloc(gfp);
    if (node == nullptr) return count_ >= kMinNodes ? Status{} : fail(Errno::kNoMem);
    push(node);
  }
  return {};
}

void* XaPreload::allocate_node() {
  if (pool_ == nullptr) return nullptr;
  void* node = pool_;
  std::memcpy(&pool_, node, sizeof pool_);
  --count_;
  return node;
}

void XaPreload::free_node(void* node) { push(node); }

void XaPreload::trim() {
  while (count_ > kMaxNodes) nodes_.free_node(allocate_node());
}

void XaPreload::push(void* node) {
  std::memcpy(node, &pool_, sizeof pool_);
  pool_ = node;
  ++count_;
}

void XaPreload::drain() {
  while (void* node = allocate_node()) nodes_.free_node(node);
}

}  // namespace quire::file
