// The state bits of a page frame (Linux's enum pageflags) and the words above them.
//
//   63      54 53  51 50                              0
//   +---------+------+-------------------------------+
//   |  node   | zone |  PageFlag bits                |     struct Page::flags
//   +---------+------+-------------------------------+
//
// Differences from Linux: the page types that Linux keeps in _mapcount (buddy, table, offline, guard) are flag bits here,
// and a word of all zeros is a valid "nothing known" page, so that a memmap which nobody has touched costs no host memory.
// A machine is confined to one host thread, so no bit operation is atomic and none needs to be.
#pragma once

#include <cstdint>
#include <string>

#include "quire/base/flags.h"

namespace quire::phys {

enum class PageFlag : std::uint64_t {
  kNone = 0,
  kLocked = 1ull << 0,
  kReferenced = 1ull << 1,
  kUptodate = 1ull << 2,
  kDirty = 1ull << 3,
  kLru = 1ull << 4,
  kActive = 1ull << 5,
  kWorkingset = 1ull << 6,
  kWaiters = 1ull << 7,
  kError = 1ull << 8,
  kSlab = 1ull << 9,
  kOwnerPriv1 = 1ull << 10,
  kArch1 = 1ull << 11,
  kReserved = 1ull << 12,
  kPrivate = 1ull << 13,
  kPrivate2 = 1ull << 14,
  kWriteback = 1ull << 15,
  kHead = 1ull << 16,
  kMappedToDisk = 1ull << 17,
  kReclaim = 1ull << 18,
  kSwapBacked = 1ull << 19,
  kUnevictable = 1ull << 20,
  kMlocked = 1ull << 21,
  kUncached = 1ull << 22,
  kHwPoison = 1ull << 23,
  kYoung = 1ull << 24,
  kIdle = 1ull << 25,
  kReported = 1ull << 26,       // given back to a hypervisor; a buddy page only
  kAnonExclusive = 1ull << 27,  // this anonymous page belongs to one process alone
  kBuddy = 1ull << 32,          // heads a free block in the buddy
  kOffline = 1ull << 33,
  kTable = 1ull << 34,  // a page table
  kGuard = 1ull << 35,
  kPcp = 1ull << 36,  // lies on a per-CPU list (Linux keeps no mark; it finds double frees that Linux cannot)

  // Second names that Linux gives to the same bits.
  kSwapCache = kOwnerPriv1,
  kChecked = kOwnerPriv1,
  kReadahead = kReclaim,
  kIsolated = kReclaim,
};

}  // namespace quire::phys

template <>
inline constexpr bool quire::kIsFlags<quire::phys::PageFlag> = true;

namespace quire::phys {

inline constexpr unsigned kNodesPageShift = 54;
inline constexpr unsigned kZonesPageShift = 51;
inline constexpr std::uint64_t kNodesPageMask = 0x3ff;
inline constexpr std::uint64_t kZonesPageMask = 0x7;
inline constexpr std::uint64_t kPageFlagsMask = (std::uint64_t{1} << kZonesPageShift) - 1;

// A page that is being freed may have none of these (PAGE_FLAGS_CHECK_AT_FREE).
inline constexpr PageFlag kPageFlagsCheckAtFree =
    PageFlag::kLru | PageFlag::kLocked | PageFlag::kPrivate | PageFlag::kPrivate2 | PageFlag::kWriteback | PageFlag::kReserved |
    PageFlag::kSlab | PageFlag::kActive | PageFlag::kUnevictable | PageFlag::kMlocked | PageFlag::kBuddy | PageFlag::kPcp |
    PageFlag::kTable | PageFlag::kOffline | PageFlag::kGuard;
// A page that is being handed out may have none at all but the poison mark (PAGE_FLAGS_CHECK_AT_PREP).
inline constexpr std::uint64_t kPageFlagsCheckAtPrep = kPageFlagsMask & ~static_cast<std::uint64_t>(PageFlag::kHwPoison);

// "locked|uptodate|lru" for the dump of a page.
[[nodiscard]] std::string page_flag_names(std::uint64_t flags);

}  // namespace quire::phys
