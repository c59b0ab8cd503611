// One step of a random program: a system call of the mmap family, or an access, by one of its processes. The same step is done
// by a process of the host kernel and by a Quire machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/base/rng.h"

namespace quire::differential {

inline constexpr std::uint64_t kPage = 4096;
// The arena: free in every program, under sanitizers too. Its first pages are used densely, the others by areas that grow down
// and, from the end, where the kernel chooses the address: behind the arena nothing is free.
inline constexpr std::uint64_t kBase = 0x2000'0000'0000;
inline constexpr std::uint64_t kPages = 64;
inline constexpr std::uint64_t kStackFirst = 1024;
inline constexpr std::uint64_t kArenaPages = 2048;
inline constexpr std::uint64_t kArenaEnd = kBase + kArenaPages * kPage;
inline constexpr std::uint64_t kLow = 0x4000'0000;  // where MAP_32BIT looks first
inline constexpr std::uint64_t kLowPages = 16;
inline constexpr std::uint64_t kBrkStart = kBase + 44 * kPage;  // start_brk
inline constexpr unsigned kProcesses = 3;
inline constexpr std::uint64_t kFilePages = 20;

enum class Call : std::uint8_t {
  kRead,   // of the whole page at `address`; the result is a hash of its bytes
  kWrite,  // of the byte `value` at `address`
  kMmap,
  kMunmap,
  kMprotect,
  kMremap,
  kMadvise,
  kMlock,
  kMlock2,
  kMunlock,
  kMsync,
  kMlockall,
  kMunlockall,
  kMincore,  // the result is a hash of the answer
  kBrk,
  kMseal,
  kRemapFilePages,
  kMembarrier,
  kProcessVm,       // `value` 0: readv, 1: writev; `child` is the other process; two parts on each side
  kProcessMadvise,  // of `child`
  kAddSeals,        // these, to the memfd
  kGetSeals,
  kFtruncate,
  kFallocate,
  kPwrite,       // `length` bytes `value`
  kSetRlimit,    // `flags`: the resource; `length` pages, above what the process began with for AS and DATA
  kDropIpcLock,  // CAP_IPC_LOCK
  kFork,         // process `child` becomes a copy
  kExit,
};

enum class Backing : std::uint8_t { kAnonymous, kDiskFile, kMemfd };

struct Op {
  Call call = Call::kRead;
  std::uint8_t process = 0;
  std::uint8_t child = 0;
  std::uint8_t value = 0;
  Backing backing = Backing::kAnonymous;
  int prot = 0;
  int flags = 0;  // also the advice, command, seals
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  std::uint64_t new_address = 0;
  std::uint64_t new_length = 0;
  std::uint64_t offset = 0;
};

// RLIMIT_AS and the others, as a number of bytes that op means for a process that began with these sizes.
struct Beginning {
  std::uint64_t total_pages = 0;
  std::uint64_t data_pages = 0;
};
[[nodiscard]] std::uint64_t limit_of(const Op& op, const Beginning& beginning);

// The second parts of kProcessVm and kProcessMadvise, behind the first ones' starts.
inline constexpr std::uint64_t kSecondLocal = 3 * kPage;
inline constexpr std::uint64_t kSecondLocalBytes = 100;
inline constexpr std::uint64_t kSecondRemote = 2 * kPage;
inline constexpr std::uint64_t kSecondRemoteBytes = 200;

// Bytes that pwrite takes.
inline constexpr std::uint64_t kMostPwrite = 3 * kPage;

// `count` steps that make sense together: accesses go mostly where something is mapped.
[[nodiscard]] std::vector<Op> random_program(Rng& rng, std::size_t count);

// The call as a line of C, without the semicolon.
[[nodiscard]] std::string to_c(const Op& op);
// A whole C program of the steps, which prints what each returns.
[[nodiscard]] std::string to_c_program(const std::vector<Op>& program);

}  // namespace quire::differential
