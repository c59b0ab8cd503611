#include "quire/phys/gfp.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

namespace quire::phys {

namespace {

// Widest combination first: each name takes its bits away from what is left to print.
constexpr std::array<std::pair<Gfp, std::string_view>, 38> kGfpNames = {{
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

}  // namespace

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
