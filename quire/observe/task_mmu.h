// An address space as /proc/PID shows it: maps, smaps, smaps_rollup and statm, form and rules as Linux 6.1 (fs/proc/task_mmu.c,
// Documentation/filesystems/proc.rst).
//
// A page counts as private when one page-table entry maps it, and Pss shares it among those that do. Each call is a snapshot
// under mmap_lock, taken here for reading; page-table entries are read one table at a time.
#pragma once

#include <cstdint>
#include <string>

#include "quire/base/types.h"
#include "quire/vm/vm.h"

namespace quire::observe {

// What smaps says of a range, in bytes; Pss in 1/4096ths of a byte (Linux's PSS_SHIFT).
struct MemSize {
  std::uint64_t resident = 0;
  std::uint64_t shared_clean = 0;
  std::uint64_t shared_dirty = 0;
  std::uint64_t private_clean = 0;
  std::uint64_t private_dirty = 0;
  std::uint64_t referenced = 0;
  std::uint64_t anonymous = 0;
  std::uint64_t lazyfree = 0;
  std::uint64_t swap = 0;
  std::uint64_t pss = 0;
  std::uint64_t pss_anon = 0;
  std::uint64_t pss_file = 0;
  std::uint64_t pss_shmem = 0;
  std::uint64_t pss_dirty = 0;
  std::uint64_t pss_locked = 0;
  std::uint64_t swap_pss = 0;

  MemSize& operator+=(const MemSize& other);
};

// The pages of one area. mmap_lock held.
[[nodiscard]] MemSize smap_gather_stats(vm::Vm& vm, const vm::Vma& vma);

[[nodiscard]] std::string maps(vm::Vm& vm, vm::Mm& mm);
[[nodiscard]] std::string smaps(vm::Vm& vm, vm::Mm& mm);
[[nodiscard]] std::string smaps_rollup(vm::Vm& vm, vm::Mm& mm);
[[nodiscard]] std::string statm(const vm::Mm& mm);

}  // namespace quire::observe
