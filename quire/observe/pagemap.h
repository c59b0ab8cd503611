// /proc/PID/pagemap: for each virtual page of a process one 64-bit word, form and rules as Linux 6.1
// (Documentation/admin-guide/mm/pagemap.rst).
//
//    63       62      61          60..58  57       56         55          54 ........ 0
//    present  swapped file page   0       uffd-wp  exclusive  soft-dirty  frame number, or swap type (5 bits) and offset
//                     or shared anonymous           mapped
//
// Soft-dirty is set in each word of an area, since all areas are new or changed (VM_SOFTDIRTY) until clear_refs, which is not there,
// says otherwise.
//
// Each call is a snapshot under mmap_lock, taken here for reading; page-table entries are read one table at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "quire/base/result.h"
#include "quire/vm/vm.h"

namespace quire::observe {

inline constexpr std::uint64_t kPagemapFrameMask = (std::uint64_t{1} << 55) - 1;  // PM_PFRAME_MASK
inline constexpr std::uint64_t kPagemapSoftDirty = std::uint64_t{1} << 55;        // PM_SOFT_DIRTY
inline constexpr std::uint64_t kPagemapExclusive = std::uint64_t{1} << 56;        // PM_MMAP_EXCLUSIVE
inline constexpr std::uint64_t kPagemapUffdWp = std::uint64_t{1} << 57;           // PM_UFFD_WP
inline constexpr std::uint64_t kPagemapFile = std::uint64_t{1} << 61;             // PM_FILE
inline constexpr std::uint64_t kPagemapSwap = std::uint64_t{1} << 62;             // PM_SWAP
inline constexpr std::uint64_t kPagemapPresent = std::uint64_t{1} << 63;          // PM_PRESENT

// Does the reader have CAP_SYS_ADMIN? Without it frame numbers and swap entries read as 0.
enum class ShowPfn : std::uint8_t { kNo, kYes };

// read(2) of the file at byte `offset`: bytes read, in words of the host's order; 0 at or beyond the end of user space.
// kInval: offset or length is no multiple of 8.
[[nodiscard]] Result<std::uint64_t> read_pagemap(vm::Vm& vm, vm::Mm& mm, std::uint64_t offset, std::span<std::byte> to,
                                                 ShowPfn show_pfn = ShowPfn::kYes);

// For people: a line for each run of pages with the same bits and frames (or swap slots) that follow one another, as in
// "10000000-10003000 present exclusive soft-dirty pfn 1a2". Pages that are neither
// present nor swapped out are left out.
[[nodiscard]] std::string pagemap(vm::Vm& vm, vm::Mm& mm);

}  // namespace quire::observe
