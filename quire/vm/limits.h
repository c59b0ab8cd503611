// Resource limits of a process and the machine's tunables that bound address spaces.
#pragma once

#include <cstdint>

#include "quire/base/types.h"

namespace quire::vm {

inline constexpr std::uint64_t kRlimInfinity = ~std::uint64_t{0};

// setrlimit(2), soft limits in bytes. Inherited by fork.
struct Rlimits {
  std::uint64_t as = kRlimInfinity;
  std::uint64_t data = kRlimInfinity;
  std::uint64_t data_max = kRlimInfinity;  // the hard limit, which alone bounds mappings where the soft one is 0
  std::uint64_t stack = 8 * kMiB;
  std::uint64_t memlock = 8 * kMiB;
};

enum class CapIpcLock : std::uint8_t { kNo, kYes };  // does the process hold CAP_IPC_LOCK?

enum class OvercommitMode : std::uint8_t { kGuess = 0, kAlways = 1, kNever = 2 };

enum class Randomize : std::uint8_t { kNo, kYes };

enum class MmapLayout : std::uint8_t { kTopDown, kLegacy };

// sysctl vm.*, with Linux's names and defaults. May be changed while the machine runs.
struct VmTunables {
  int max_map_count = 65530;
  OvercommitMode overcommit_memory = OvercommitMode::kGuess;
  unsigned overcommit_ratio = 50;       // per cent of RAM
  std::uint64_t overcommit_kbytes = 0;  // when not 0, instead of the ratio
  std::uint64_t user_reserve_kbytes = 128 * 1024;
  std::uint64_t admin_reserve_kbytes = 8 * 1024;
  VirtAddr mmap_min_addr{65536};
  std::uint64_t stack_guard_gap = 256;  // pages
  std::uint64_t fault_around_bytes = 65536;
  unsigned randomize_va_space = 2;  // kernel.randomize_va_space: 0 nothing, 1 mappings, stack and vdso, 2 the heap too
  unsigned mmap_rnd_bits = 28;      // of mappings' pages
  bool legacy_va_layout = false;
};

}  // namespace quire::vm
