// Where a program's parts lie: the start of mappings, stack, heap and vdso, with Linux's randomisation on x86-64.
//
//   0 ── ET_EXEC program ── heap ▶      ET_DYN program (2/3 of user space) ── heap ▶      ◀ mappings ─ mmap_base ─ gap ─ ◀ stack
//
//   randomised by  mmap_base, ET_DYN: mmap_rnd_bits pages (28: 1 TiB)   stack: 2^22 pages and 8 KiB   heap: 32 MiB
//
// Every draw comes from one seed, so a machine's layouts repeat.
#pragma once

#include <cstdint>

#include "quire/base/flags.h"

namespace quire::vm {

// personality(2), as far as memory management knows it. Inherited by fork, kept by exec.
enum class Personality : std::uint32_t {
  kNone = 0,
  kAddrNoRandomize = 0x0040000,   // ADDR_NO_RANDOMIZE
  kMmapPageZero = 0x0100000,      // MMAP_PAGE_ZERO
  kAddrCompatLayout = 0x0200000,  // ADDR_COMPAT_LAYOUT: mappings go upwards from a third of user space
};

// What an executable says of its stack (PT_GNU_STACK).
enum class ExecStack : std::uint8_t { kDefault, kEnableX, kDisableX };

}  // namespace quire::vm

template <>
inline constexpr bool quire::kIsFlags<quire::vm::Personality> = true;
