// What a step was seen to do, and what the process's memory looks like after it, as text: equal text is equal behaviour.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "op.h"

namespace quire::differential {

// The step itself.
struct Answer {
  std::int64_t result = 0;  // an address in the arena, 0, a page's hash; -1 with `error`
  int error = 0;            // errno
  int signal = 0;
  int si_code = 0;
  std::uint64_t minor_faults = 0;
};

// "= 0", "= -1 ENOMEM", "signal 11 code 1", with the minor faults where they can be compared.
[[nodiscard]] std::string describe(const Op& op, const Answer& answer);

// The areas of the arena in the text of /proc/PID/smaps, one line each: pages, rights, offset, the figures that are not 0,
// flags.
[[nodiscard]] std::string arena_of(std::string_view smaps);

// The same with areas that could be one written as one, and the sums of `figures` only. Those of Pss and its kin do not add up:
// each is rounded.
inline constexpr std::array<std::string_view, 8> kSummable{"Rss",           "Shared_Clean", "Shared_Dirty", "Private_Clean",
                                                           "Private_Dirty", "Anonymous",    "Swap",         "Locked"};
inline constexpr std::array<std::string_view, 2> kOfPrivatePages{"Anonymous", "Swap"};
[[nodiscard]] std::string merged_areas(const std::string& arena, std::span<const std::string_view> figures);

// FNV-1a over a page. Touches nothing else: not the sanitizer's shadow either.
[[nodiscard]] __attribute__((no_sanitize_address)) std::int64_t hash_page(const volatile unsigned char* page);

}  // namespace quire::differential
