// The path of a system call on its way into the kernel: a copy in PATH_MAX bytes from the cache "names_cache", held as long
// as the call works on it (Linux's getname and putname).
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include "quire/slab/kmem_cache.h"

namespace quire::file {

struct PathBuffer {
  static constexpr std::size_t kPathMax = 4096;  // with the zero at its end
  PathBuffer() {}  // NOLINT(modernize-use-equals-default): = default would clear it each time
  std::array<char, kPathMax> bytes;
};
using NamesCache = slab::KmemCache<PathBuffer>;

class [[nodiscard]] Filename {
 public:
  // `path` fits.
  Filename(NamesCache& cache, PathBuffer& buffer, std::string_view path) : cache_(cache), buffer_(&buffer) {
    buffer.bytes[path.copy(buffer.bytes.data(), buffer.bytes.size() - 1)] = '\0';
  }
  Filename(Filename&& other) noexcept : cache_(other.cache_), buffer_(std::exchange(other.buffer_, nullptr)) {}
  Filename& operator=(Filename&&) = delete;
  ~Filename() {
    if (buffer_ != nullptr) cache_.free(buffer_);
  }
  [[nodiscard]] std::string_view name() const { return buffer_->bytes.data(); }

 private:
  NamesCache& cache_;
  PathBuffer* buffer_;
};

}  // namespace quire::file
