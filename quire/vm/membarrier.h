// The words of membarrier(2).
#pragma once

#include <cstdint>

namespace quire::vm {

// MEMBARRIER_CMD_*; one at a time.
enum class MembarrierCmd : std::uint32_t {
  kQuery = 0,
  kGlobal = 1 << 0,
  kGlobalExpedited = 1 << 1,
  kRegisterGlobalExpedited = 1 << 2,
  kPrivateExpedited = 1 << 3,
  kRegisterPrivateExpedited = 1 << 4,
  kPrivateExpeditedSyncCore = 1 << 5,
  kRegisterPrivateExpeditedSyncCore = 1 << 6,
  kPrivateExpeditedRseq = 1 << 7,
  kRegisterPrivateExpeditedRseq = 1 << 8,
  kGetRegistrations = 1 << 9,  // since 6.3
};

inline constexpr std::uint32_t kMembarrierCmdFlagCpu = 1;  // MEMBARRIER_CMD_FLAG_CPU: of one CPU only

}  // namespace quire::vm
