// Swap entries: what a non-present page-table entry says about where its page is, in x86-64's layout.
//
//    63 .. 59    58 ............ 9   8          7..4   3           2         1             0
//    type        ~offset (50 bits)   0 (prot-   0      exclusive   uffd-wp   soft-dirty    0 (present)
//                                       none)
//
// Bits 0 and 8 are always clear, so neither hardware nor pte_present() takes one for a mapped page. The offset is stored
// inverted, as Linux does; the one pair that would read as pte_none (type 0, the largest offset) is out of range.
//
// Types 0 .. kMaxSwapFiles-1 are swap areas; those above are not swap at all: migration entries (the offset is a frame
// number), poisoned pages, PTE markers.
#pragma once

#include <compare>
#include <cstdint>

#include "quire/arch/pte.h"
#include "quire/base/bug.h"
#include "quire/base/types.h"

namespace quire::arch {

inline constexpr unsigned kSwapTypeBits = 5;
inline constexpr unsigned kSwapOffsetBits = 50;
inline constexpr std::uint64_t kSwapOffsetMax = (std::uint64_t{1} << kSwapOffsetBits) - 2;

// Linux 6.1's assignment with migration, hwpoison, device-private memory and PTE markers configured.
inline constexpr unsigned kMaxSwapFiles = 23;
inline constexpr unsigned kSwpHwpoison = 23;
inline constexpr unsigned kSwpMigrationRead = 24;
inline constexpr unsigned kSwpMigrationReadExclusive = 25;
inline constexpr unsigned kSwpMigrationWrite = 26;
inline constexpr unsigned kSwpDeviceFirst = 27;
inline constexpr unsigned kSwpPteMarker = 31;

// An area and a slot in it (Linux: swp_entry_t, swp_type, swp_offset).
struct SwapEntry {
  unsigned type = 0;
  std::uint64_t offset = 0;

  constexpr auto operator<=>(const SwapEntry&) const = default;

  // The architecture-independent packing, as kept in Page::private_ and in XaValues: type in bits 58..62. Zero is the entry
  // {0, 0}, slot 0 of an area, which is its header and never a page's.
  [[nodiscard]] constexpr std::uint64_t value() const { return (std::uint64_t{type} << kValueShift) | offset; }
  [[nodiscard]] static constexpr SwapEntry from_value(std::uint64_t value) {
    return SwapEntry{static_cast<unsigned>(value >> kValueShift), value & ((std::uint64_t{1} << kValueShift) - 1)};
  }

 private:
  static constexpr unsigned kValueShift = 58;
};

namespace swap_detail {
inline constexpr unsigned kTypeShift = 64 - kSwapTypeBits;
inline constexpr unsigned kOffsetShift = 9;
inline constexpr std::uint64_t kOffsetMask = ((std::uint64_t{1} << kSwapOffsetBits) - 1) << kOffsetShift;
}  // namespace swap_detail

// Bits of a swap PTE beside the entry itself.
inline constexpr PteBits kSwpSoftDirty = PteBits::kRw;
inline constexpr PteBits kSwpUffdWp = PteBits::kUser;
inline constexpr PteBits kSwpExclusive = PteBits::kPwt;

template <class Entry>
[[nodiscard]] constexpr Entry swp_entry_to(SwapEntry entry) {
  QUIRE_DCHECK(entry.type < (1u << kSwapTypeBits) && entry.offset <= kSwapOffsetMax);
  return Entry((std::uint64_t{entry.type} << swap_detail::kTypeShift) |
               ((~entry.offset << swap_detail::kOffsetShift) & swap_detail::kOffsetMask));
}
template <class Level>
[[nodiscard]] constexpr SwapEntry entry_to_swp_entry(TableEntry<Level> e) {
  return SwapEntry{static_cast<unsigned>(e.value() >> swap_detail::kTypeShift),
                   (~e.value() & swap_detail::kOffsetMask) >> swap_detail::kOffsetShift};
}

[[nodiscard]] constexpr Pte swp_entry_to_pte(SwapEntry entry) { return swp_entry_to<Pte>(entry); }
[[nodiscard]] constexpr SwapEntry pte_to_swp_entry(Pte pte) { return entry_to_swp_entry(pte); }
[[nodiscard]] constexpr Pmd swp_entry_to_pmd(SwapEntry entry) { return swp_entry_to<Pmd>(entry); }
[[nodiscard]] constexpr SwapEntry pmd_to_swp_entry(Pmd pmd) { return entry_to_swp_entry(pmd); }

[[nodiscard]] constexpr bool is_swap_pte(Pte pte) { return !pte_none(pte) && !pte_present(pte); }
// A page of a swap area, not a migration entry or marker.
[[nodiscard]] constexpr bool non_swap_entry(SwapEntry entry) { return entry.type >= kMaxSwapFiles; }

[[nodiscard]] constexpr Pte pte_swp_mksoft_dirty(Pte pte) { return pte.with(kSwpSoftDirty); }
[[nodiscard]] constexpr Pte pte_swp_clear_soft_dirty(Pte pte) { return pte.without(kSwpSoftDirty); }
[[nodiscard]] constexpr bool pte_swp_soft_dirty(Pte pte) { return pte.has(kSwpSoftDirty); }
[[nodiscard]] constexpr Pte pte_swp_mkuffd_wp(Pte pte) { return pte.with(kSwpUffdWp); }
[[nodiscard]] constexpr Pte pte_swp_clear_uffd_wp(Pte pte) { return pte.without(kSwpUffdWp); }
[[nodiscard]] constexpr bool pte_swp_uffd_wp(Pte pte) { return pte.has(kSwpUffdWp); }
[[nodiscard]] constexpr Pte pte_swp_mkexclusive(Pte pte) { return pte.with(kSwpExclusive); }
[[nodiscard]] constexpr Pte pte_swp_clear_exclusive(Pte pte) { return pte.without(kSwpExclusive); }
[[nodiscard]] constexpr bool pte_swp_exclusive(Pte pte) { return pte.has(kSwpExclusive); }

// --- migration entries --------------------------------------------------------------------------------------------------
// A page that is being moved: the offset holds its frame number (40 bits) and whether the mapping was young and dirty.
enum class MigrationKind : std::uint8_t { kRead, kReadExclusive, kWrite };

inline constexpr std::uint64_t kMigrationYoung = std::uint64_t{1} << 40;
inline constexpr std::uint64_t kMigrationDirty = std::uint64_t{1} << 41;
inline constexpr std::uint64_t kMigrationPfnMask = kMigrationYoung - 1;

[[nodiscard]] constexpr SwapEntry make_migration_entry(MigrationKind kind, Pfn pfn) {
  return SwapEntry{kSwpMigrationRead + static_cast<unsigned>(kind), pfn.value() & kMigrationPfnMask};
}
[[nodiscard]] constexpr SwapEntry make_migration_entry_young(SwapEntry e) { return {e.type, e.offset | kMigrationYoung}; }
[[nodiscard]] constexpr SwapEntry make_migration_entry_dirty(SwapEntry e) { return {e.type, e.offset | kMigrationDirty}; }
[[nodiscard]] constexpr bool is_migration_entry(SwapEntry e) {
  return e.type >= kSwpMigrationRead && e.type <= kSwpMigrationWrite;
}
[[nodiscard]] constexpr bool is_readable_migration_entry(SwapEntry e) { return e.type == kSwpMigrationRead; }
[[nodiscard]] constexpr bool is_writable_migration_entry(SwapEntry e) { return e.type == kSwpMigrationWrite; }
[[nodiscard]] constexpr bool is_readable_exclusive_migration_entry(SwapEntry e) { return e.type == kSwpMigrationReadExclusive; }
// The same page, young and dirty as before, with other rights.
[[nodiscard]] constexpr SwapEntry migration_entry_as(MigrationKind kind, SwapEntry e) {
  return SwapEntry{kSwpMigrationRead + static_cast<unsigned>(kind), e.offset};
}
[[nodiscard]] constexpr bool is_migration_entry_young(SwapEntry e) { return (e.offset & kMigrationYoung) != 0; }
[[nodiscard]] constexpr bool is_migration_entry_dirty(SwapEntry e) { return (e.offset & kMigrationDirty) != 0; }
[[nodiscard]] constexpr Pfn migration_entry_to_pfn(SwapEntry e) { return Pfn(e.offset & kMigrationPfnMask); }

// The entry with other rights, its soft-dirty mark kept.
[[nodiscard]] constexpr Pte migration_pte_as(MigrationKind kind, Pte pte) {
  const Pte changed = swp_entry_to_pte(migration_entry_as(kind, pte_to_swp_entry(pte)));
  return pte_swp_soft_dirty(pte) ? pte_swp_mksoft_dirty(changed) : changed;
}

[[nodiscard]] constexpr SwapEntry make_hwpoison_entry(Pfn pfn) { return {kSwpHwpoison, pfn.value() & kMigrationPfnMask}; }
[[nodiscard]] constexpr bool is_hwpoison_entry(SwapEntry e) { return e.type == kSwpHwpoison; }

// --- PTE markers ----------------------------------------------------------------------------------------------------------
// No page, but something to be known about the address. Linux has three, of which only the guard is made here.
inline constexpr std::uint64_t kPteMarkerGuard = 1u << 2;  // PTE_MARKER_GUARD: an access is SIGSEGV (MADV_GUARD_INSTALL)

[[nodiscard]] constexpr Pte make_pte_marker(std::uint64_t marker) { return swp_entry_to_pte({kSwpPteMarker, marker}); }
[[nodiscard]] constexpr bool is_pte_marker_entry(SwapEntry e) { return e.type == kSwpPteMarker; }
[[nodiscard]] constexpr bool is_guard_swp_entry(SwapEntry e) {
  return is_pte_marker_entry(e) && (e.offset & kPteMarkerGuard) != 0;
}

}  // namespace quire::arch
