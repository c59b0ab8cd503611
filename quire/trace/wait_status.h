// The status word that wait4 gives, made of what waitid tells.
#pragma once

#include <sys/wait.h>

#include <csignal>
#include <cstdint>

namespace quire::trace {

constexpr std::int32_t kWaitContinued = 0xffff;
constexpr std::int32_t wait_stopped(std::int32_t signal) { return signal << 8 | 0x7f; }

// Of si_code (CLD_*) and si_status.
constexpr std::int32_t wait_status(std::int32_t code, std::int32_t status) {
  constexpr std::int32_t kCoreDumped = 0x80;
  switch (code) {
    case CLD_EXITED: return status << 8;
    case CLD_DUMPED: return status | kCoreDumped;
    case CLD_STOPPED:
    case CLD_TRAPPED: return wait_stopped(status);
    case CLD_CONTINUED: return kWaitContinued;
    default: return status;
  }
}

}  // namespace quire::trace
