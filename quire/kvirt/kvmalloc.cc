#include "quire/kvirt/kvmalloc.h"

#include <fmt/format.h>

#include <cstring>

namespace quire::kvirt {

using phys::Gfp;

void* Kvmalloc::kvmalloc_node(std::size_t size, Gfp gfp, Nid nid, const char* caller) {
  Gfp kmalloc_gfp = gfp;
  if (size > kPageSize) {
    kmalloc_gfp |= Gfp::kNoWarn;
    // Only who says so has kmalloc try hard for a contiguous block.
    if (!any(gfp, Gfp::kRetryMayFail)) kmalloc_gfp |= Gfp::kNoRetry;
    kmalloc_gfp &= ~Gfp::kNoFail;
  }
  void* p = slab_.kmalloc_node(size, kmalloc_gfp, nid);
  if (p != nullptr || size <= kPageSize) return p;
  if (!phys::gfpflags_allow_blocking(gfp)) return nullptr;  // vmalloc may sleep
  if (size > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    if (!any(gfp, Gfp::kNoWarn)) log_.warn(fmt::format("kvmalloc of {} bytes is beyond INT_MAX", size));
    return nullptr;
  }
  return vmalloc_.vmalloc_range({.size = size, .gfp = gfp, .flags = VmArea::kAllowHugeVmap, .nid = nid, .caller = caller});
}

void* Kvmalloc::kvmalloc_array(std::size_t n, std::size_t size, Gfp gfp, const char* caller) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(n, size, &bytes)) return nullptr;
  return kvmalloc_node(bytes, gfp, kNoNode, caller);
}

void* Kvmalloc::kvrealloc(const void* p, std::size_t old_size, std::size_t new_size, Gfp gfp, const char* caller) {
  if (old_size >= new_size) return const_cast<void*>(p);
  void* fresh = kvmalloc(new_size, gfp, caller);
  if (fresh == nullptr) return nullptr;
  if (p != nullptr) std::memcpy(fresh, p, old_size);
  kvfree(p);
  return fresh;
}

void Kvmalloc::kvfree(const void* p) {
  if (vmalloc_.is_vmalloc_addr(p)) {
    vmalloc_.vfree(p);
  } else {
    slab_.kfree(p);
  }
}

}  // namespace quire::kvirt
