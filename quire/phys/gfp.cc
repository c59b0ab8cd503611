#include "quire/phys/gfp.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/base/nearest.h"

namespace quire::phys {

namespace {

// Widest combination first: each name takes its bits away from what is left to print.
constexpr std::array<std::pair<Gfp, std::string_view>, 39> kGfpNames = {{
    {Gfp::kTransHuge, "GFP_TRANSHUGE"},
    {Gfp::kTransHugeLight, "GFP_TRANSHUGE_LIGHT"},
    {Gfp::kHighUserMovable, "GFP_HIGHUSER_MOVABLE"},
    {Gfp::kHighUser, "GFP_HIGHUSER"},
    {Gfp::kUser, "GFP_USER"},
    {Gfp::kKernelAccount, "GFP_KERNEL_ACCOUNT"},
    {Gfp::kKernel, "GFP_KERNEL"},
    {Gfp::kNoFs, "GFP_NOFS"},
    {Gfp::kAtomic, "GFP_ATOMIC"},
    {Gfp::kNoIo, "GFP_NOIO"},
    {Gfp::kNoWait, "GFP_NOWAIT"},
    {Gfp::kDma, "GFP_DMA"},
    {Gfp::kHighmem, "__GFP_HIGHMEM"},
    {Gfp::kDma32, "GFP_DMA32"},
    {Gfp::kHigh, "__GFP_HIGH"},
    {Gfp::kBareAtomic, "__GFP_ATOMIC"},
    {Gfp::kIo, "__GFP_IO"},
    {Gfp::kFs, "__GFP_FS"},
    {Gfp::kNoWarn, "__GFP_NOWARN"},
    {Gfp::kRetryMayFail, "__GFP_RETRY_MAYFAIL"},
    {Gfp::kNoFail, "__GFP_NOFAIL"},
    {Gfp::kNoRetry, "__GFP_NORETRY"},
    {Gfp::kComp, "__GFP_COMP"},
    {Gfp::kZero, "__GFP_ZERO"},
    {Gfp::kWrite, "__GFP_WRITE"},
    {Gfp::kNoMemAlloc, "__GFP_NOMEMALLOC"},
    {Gfp::kMemAlloc, "__GFP_MEMALLOC"},
    {Gfp::kHardWall, "__GFP_HARDWALL"},
    {Gfp::kThisNode, "__GFP_THISNODE"},
    {Gfp::kReclaimable, "__GFP_RECLAIMABLE"},
    {Gfp::kMovable, "__GFP_MOVABLE"},
    {Gfp::kAccount, "__GFP_ACCOUNT"},
    {Gfp::kWrite, "__GFP_WRITE"},
    {Gfp::kReclaim, "__GFP_RECLAIM"},
    {Gfp::kDirectReclaim, "__GFP_DIRECT_RECLAIM"},
    {Gfp::kKswapdReclaim, "__GFP_KSWAPD_RECLAIM"},
    {Gfp::kBareDma, "__GFP_DMA"},
    {Gfp::kBareDma32, "__GFP_DMA32"},
    {Gfp::kNone, ""},
}};

// Upper case, "__GFP_" or "GFP_" in front taken as part of the name; "|" apart.
std::string upper(std::string_view text) {
  std::string out;
  for (const char c : text) out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::optional<Gfp> find_gfp(std::string_view name) {
  // __GFP_HIGHMEM and its like have one spelling; GFP_NOWAIT may also be said without the prefix.
  for (const std::string_view prefix : {"", "GFP_", "__GFP_"}) {
    const std::string full = std::string(prefix) + std::string(name);
    for (const auto& [mask, known] : kGfpNames) {
      if (!known.empty() && known == full) return mask;
    }
  }
  return std::nullopt;
}

Checked<Gfp> parse_gfp_number(std::string_view word) {
  std::uint32_t value = 0;
  const bool hex = word.starts_with("0X");
  const std::string_view digits = hex ? word.substr(2) : word;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    return user_error(fmt::format("gfp flags '{}': not a number; write names such as GFP_KERNEL|__GFP_ZERO, or 0xcc0", word));
  }
  if ((value & ~bits(kGfpBitsMask)) != 0) {
    return user_error(fmt::format("gfp flags {:#x}: Linux 6.1 has flags up to {:#x}", value, bits(kGfpBitsMask)));
  }
  return static_cast<Gfp>(value);
}

}  // namespace

Checked<Gfp> parse_gfp(std::string_view text) {
  Gfp gfp = Gfp::kNone;
  for (bool last = false; !last;) {
    const auto bar = text.find('|');
    last = bar == std::string_view::npos;
    const std::string word = upper(trim(text.substr(0, bar)));
    text = last ? "" : text.substr(bar + 1);
    if (word.empty())
      return user_error("gfp flags: a name is missing; write GFP_KERNEL, or several as in GFP_KERNEL|__GFP_ZERO");
    if (word.front() >= '0' && word.front() <= '9') {
      const auto number = parse_gfp_number(word);
      if (!number) return number;
      gfp |= *number;
      continue;
    }
    const auto flag = find_gfp(word);
    if (!flag) {
      std::vector<std::string_view> known;
      for (const auto& [mask, name] : kGfpNames) {
        if (!name.empty()) known.push_back(name);
      }
      std::ranges::sort(known);
      const std::string_view guess = nearest(word, known);
      return user_error(fmt::format("gfp flags: no flag '{}'; {}known are {}", word,
                                    guess.empty() ? "" : fmt::format("did you mean '{}'? ", guess), fmt::join(known, ", ")));
    }
    gfp |= *flag;
  }
  return gfp;
}

std::string gfp_names(Gfp gfp) {
  if (gfp == Gfp::kNone) return "none";
  std::string out;
  for (const auto& [mask, name] : kGfpNames) {
    if (mask == Gfp::kNone || !all(gfp, mask)) continue;
    if (!out.empty()) out += '|';
    out += name;
    gfp &= ~mask;
  }
  if (gfp != Gfp::kNone) out += fmt::format("{}{:#x}", out.empty() ? "" : "|", bits(gfp));
  return out;
}

}  // namespace quire::phys
