#include "quire/sim/guarded_stack.h"

#include <sys/mman.h>

#include "quire/base/bug.h"
#include "quire/base/types.h"
#include "quire/sim/asan.h"

namespace quire::sim {

GuardedStack::GuardedStack(std::size_t size) : size_(size) {
  void* mapping =
      ::mmap(nullptr, size + kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping == MAP_FAILED || ::mprotect(mapping, kPageSize, PROT_NONE) != 0) {
    bug("the host has no memory for another task's stack (see vm.max_map_count and ulimit -v)");
  }
  bottom_ = static_cast<std::byte*>(mapping) + kPageSize;
}

GuardedStack::~GuardedStack() {
  asan_unpoison(bottom_, size_);  // frames of a task that never returned
  ::munmap(bottom_ - kPageSize, size_ + kPageSize);
}

}  // namespace quire::sim
