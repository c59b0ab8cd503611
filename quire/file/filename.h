// The path of a system call on its way into the kernel: a copy of PATH_MAX bytes from the cache "names_cache", held as long
// as the call works on it (Linux's getname and putname).
#pragma once

#include <array>
#include <cstddef>
#include <utility>

#include "quire/slab/kmem_cache.h"

namespace quire::file {

struct PathBuffer {
  static constexpr std::size_t kPathMax = 4096;
  PathBuffer() {}  // NOLINT(modernize-use-equals-default): = default would clear it each time
  std::array<std::byte, kPathMax> bytes;
};
using NamesCache = slab::KmemCache<PathBuffer>;

class [[nodiscard]] Filename {
 public:
  Filename(NamesCache& cache, PathBuffer& buffer) : cache_(cache), buffer_(&buffer) {}
  Filename(Filename&& other) noexcept : cache_(other.cache_), buffer_(std::exchange(other.buffer_, nullptr)) {}
  Filename& operator=(Filename&&) = delete;
  ~Filename() {
    if (buffer_ != nullptr) cache_.free(buffer_);
  }

 private:
  NamesCache& cache_;
  PathBuffer* buffer_;
};

}  // namespace quire::file
