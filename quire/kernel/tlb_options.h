// The option `tlb`: sizes of the CPUs' TLBs, as ENTRIESxWAYS of each array that differs from Skylake's:
//
//   l1_4k=64x4,l1_2m=32x4,l1_1g=4x4,l2=1536x12,l2_1g=16x4
//
// l2 holds translations of 4 KiB and of 2 MiB pages. Entries are a multiple of the ways and make a power of two of sets; an
// array has 1 to 16 ways, L1 at most 256 entries in all.
#pragma once

#include <string_view>

#include "quire/arch/tlb.h"
#include "quire/base/user_error.h"

namespace quire::kernel {

// The error names the part that is wrong. An empty text is Skylake.
[[nodiscard]] Checked<arch::TlbConfig> parse_tlb(std::string_view text);

// Of all CPUs together: some 700 MB of the host's memory.
inline constexpr std::uint64_t kMostTlbEntries = 1ull << 24;
[[nodiscard]] Checked<void> check_tlbs(const arch::TlbConfig& config, unsigned cpus);

}  // namespace quire::kernel
