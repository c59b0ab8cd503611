// What an access asks of the hardware, and what a page fault tells: the words that the MMU, the fault path and the replay
// engine share. Numbers are those of x86's page-fault error code.
#pragma once

#include <cstdint>

#include "quire/base/flags.h"
#include "quire/base/types.h"

namespace quire::arch {

enum class Access : std::uint8_t { kRead, kWrite, kExec };

// kKernel is CPL < 3 with CR0.WP and SMEP on, as Linux runs: it honours read-only pages and may not execute user pages. SMAP
// is not modelled (the kernel's own user accesses are bracketed by stac/clac).
enum class Privilege : std::uint8_t { kUser, kKernel };

// The error code pushed with #PF (Linux: enum x86_pf_error_code).
enum class FaultCode : std::uint32_t {
  kNone = 0,
  kProt = 1u << 0,  // the page was present: a rights violation
  kWrite = 1u << 1,
  kUser = 1u << 2,
  kRsvd = 1u << 3,  // a reserved bit was set in a present entry
  kInstr = 1u << 4,
};

}  // namespace quire::arch

template <>
inline constexpr bool quire::kIsFlags<quire::arch::FaultCode> = true;
