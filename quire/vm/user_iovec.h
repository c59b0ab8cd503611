// A part of a process's memory, as struct iovec names it: anything a program can pass.
#pragma once

#include <cstdint>

#include "quire/base/types.h"

namespace quire::vm {

struct UserIovec {
  VirtAddr iov_base;
  std::uint64_t iov_len = 0;  // bytes
};

inline constexpr std::uint64_t kUioMaxIov = 1024;  // UIO_MAXIOV: parts of one call

}  // namespace quire::vm
