// What a page fault, and an access that may fault, ends in.
#pragma once

#include <cstdint>

#include "quire/base/flags.h"
#include "quire/base/types.h"

namespace quire::vm {

// Linux's vm_fault_t. kNone means: a PTE was installed (or someone else did it); restart the access.
enum class FaultOutcome : std::uint32_t {
  kNone = 0,
  kOom = 0x1,
  kSigbus = 0x2,
  kMajor = 0x4,
  kSigsegv = 0x40,
  kNoPage = 0x100,
  kRetry = 0x400,  // mmap_lock was given back for a wait that is over: look the area up again
  kFallback = 0x800,
  kCompleted = 0x4000,  // mmap_lock was given back, and the fault is done

  kError = kOom | kSigbus | kSigsegv,
};

// Linux's FAULT_FLAG_*: what kind of access faulted, and what the handler may do.
enum class FaultFlags : std::uint32_t {
  kNone = 0,
  kWrite = 0x1,
  kTried = 0x20,  // mmap_lock was given back once: now it is held to the end
  kUser = 0x40,
  kInstruction = 0x100,
  kUnshare = 0x400,  // no access, but the page shall be the process's own (FAULT_FLAG_UNSHARE)
};

// Signals that memory management sends, with Linux's numbers.
enum class Signal : std::uint8_t { kNone = 0, kBus = 7, kKill = 9, kSegv = 11 };

// si_code of SIGSEGV (SEGV_*) and SIGBUS (BUS_*).
enum class SiCode : std::uint8_t { kNone = 0, kSegvMapErr = 1, kSegvAccErr = 2, kBusAdrErr = 2, kKernel = 0x80 };

enum class AccessStatus : std::uint8_t { kOk, kSignal, kOom };

// The end of one access to a virtual address. On kOk the byte lies at physical address `phys`, and the translation holds
// until the task next may be preempted.
struct AccessOutcome {
  PhysAddr phys;
  AccessStatus status = AccessStatus::kOk;
  Signal signal = Signal::kNone;
  SiCode si_code = SiCode::kNone;

  [[nodiscard]] bool ok() const { return status == AccessStatus::kOk; }
};

}  // namespace quire::vm

template <>
inline constexpr bool quire::kIsFlags<quire::vm::FaultOutcome> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::FaultFlags> = true;
