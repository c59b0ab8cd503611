// The shape of a machine's page tables: how many levels, how many address bits each resolves, where user space ends.
//
//   x86-64, 4 levels        47..39   38..30   29..21   20..12   11..0
//                           level 4  level 3  level 2  level 1  offset in the page
//                           pgd      pud      pmd      pte
//   x86-64, 5 levels        level 5 = pgd (56..48), level 4 = p4d
//
// Levels are counted as hardware does, from the leaf table (1) up. Linux's folded level (p4d with 4 levels) does not exist
// here as a table; PageTables gives Linux's five-step walk on any shape. The tables of a shape are data: i386's 10+10 bits
// (4-byte entries, 4 MiB leaves) and PAE's 2+9+9 (8-byte entries, 2 MiB leaves) are further constants of this type.
#pragma once

#include <array>
#include <cstdint>

#include "quire/base/types.h"

namespace quire::arch {

inline constexpr unsigned kPteLevel = 1;
inline constexpr unsigned kPmdLevel = 2;
inline constexpr unsigned kPudLevel = 3;
inline constexpr unsigned kMaxLevels = 5;

inline constexpr std::uint64_t kPmdSize = 2 * kMiB;
inline constexpr std::uint64_t kPudSize = kGiB;

struct Geometry {
  struct Level {
    std::uint8_t shift = 0;  // lowest address bit that indexes this table
    std::uint8_t bits = 0;
  };

  unsigned levels = 0;
  std::array<Level, kMaxLevels + 1> level{};  // [1] .. [levels]
  unsigned entry_bytes = 8;
  unsigned virtual_bits = 0;
  unsigned physical_bits = 52;    // frame bits above are reserved in entries (MAXPHYADDR)
  unsigned max_leaf_level = 1;    // 3: 1 GiB pages
  VirtAddr task_size{};           // end of user space (TASK_SIZE_MAX), exclusive
  VirtAddr default_map_window{};  // mmap stays below unless a hint asks for more (DEFAULT_MAP_WINDOW)

  [[nodiscard]] static constexpr Geometry x86_64_4level();
  [[nodiscard]] static constexpr Geometry x86_64_5level();
  [[nodiscard]] static constexpr Geometry i386();
  [[nodiscard]] static constexpr Geometry i386_pae();

  [[nodiscard]] constexpr unsigned index(VirtAddr va, unsigned l) const {
    return static_cast<unsigned>(va.value() >> level[l].shift) & ((1u << level[l].bits) - 1);
  }
  [[nodiscard]] constexpr unsigned entries(unsigned l) const { return 1u << level[l].bits; }
  // Bytes of address space under one entry of a table of level l.
  [[nodiscard]] constexpr std::uint64_t entry_span(unsigned l) const { return std::uint64_t{1} << level[l].shift; }
  // End of the entry that holds `va`, or `end` when that comes first (Linux: pmd_addr_end and its kin). Safe at the top of
  // the address space.
  [[nodiscard]] constexpr VirtAddr addr_end(VirtAddr va, VirtAddr end, unsigned l) const {
    const std::uint64_t span = entry_span(l);
    const VirtAddr boundary((va.value() + span) & ~(span - 1));
    return boundary.value() - 1 < end.value() - 1 ? boundary : end;
  }

  // Address bits above the translated ones must repeat the topmost of these; hardware raises #GP otherwise.
  // A 32-bit processor has no such bits.
  [[nodiscard]] constexpr bool canonical(VirtAddr va) const {
    if (virtual_bits == 32) return va.value() >> 32 == 0;
    const unsigned unused = 64 - virtual_bits;
    return static_cast<std::int64_t>(va.value() << unused) >> unused == static_cast<std::int64_t>(va.value());
  }
  // PAE's top table has four entries of 32 bytes in all, which give no rights (a PDPTE).
  [[nodiscard]] constexpr bool has_pdpte(unsigned l) const { return l == kPudLevel && level[l].bits == 2; }
  [[nodiscard]] constexpr bool is_user(VirtAddr va) const { return va < task_size; }
};

constexpr Geometry Geometry::x86_64_4level() {
  Geometry g;
  g.levels = 4;
  g.level = {{{0, 0}, {12, 9}, {21, 9}, {30, 9}, {39, 9}, {0, 0}}};
  g.virtual_bits = 48;
  g.physical_bits = 46;
  g.max_leaf_level = kPudLevel;
  g.task_size = VirtAddr((std::uint64_t{1} << 47) - kPageSize);
  g.default_map_window = g.task_size;
  return g;
}
constexpr Geometry Geometry::x86_64_5level() {
  Geometry g = x86_64_4level();
  g.levels = 5;
  g.level[5] = {48, 9};
  g.virtual_bits = 57;
  g.physical_bits = 52;
  g.task_size = VirtAddr((std::uint64_t{1} << 56) - kPageSize);
  return g;
}

constexpr Geometry Geometry::i386() {
  Geometry g;
  g.levels = 2;
  g.level = {{{0, 0}, {12, 10}, {22, 10}, {0, 0}, {0, 0}, {0, 0}}};
  g.entry_bytes = 4;
  g.virtual_bits = 32;
  g.physical_bits = 32;
  g.max_leaf_level = kPmdLevel;
  g.task_size = VirtAddr(0xc000'0000);
  g.default_map_window = g.task_size;
  return g;
}
constexpr Geometry Geometry::i386_pae() {
  Geometry g = i386();
  g.levels = 3;
  g.level = {{{0, 0}, {12, 9}, {21, 9}, {30, 2}, {0, 0}, {0, 0}}};
  g.entry_bytes = 8;
  g.physical_bits = 36;
  return g;
}

// Linux's names for x86-64's lower three levels, which are the same in both shapes.
[[nodiscard]] constexpr unsigned pte_index(VirtAddr va) { return static_cast<unsigned>(va.value() >> 12) & 511; }
[[nodiscard]] constexpr unsigned pmd_index(VirtAddr va) { return static_cast<unsigned>(va.value() >> 21) & 511; }
[[nodiscard]] constexpr unsigned pud_index(VirtAddr va) { return static_cast<unsigned>(va.value() >> 30) & 511; }
[[nodiscard]] constexpr unsigned p4d_index(VirtAddr va, const Geometry& g) { return g.levels < 5 ? 0 : g.index(va, 4); }
[[nodiscard]] constexpr unsigned pgd_index(VirtAddr va, const Geometry& g) { return g.index(va, g.levels); }

}  // namespace quire::arch
