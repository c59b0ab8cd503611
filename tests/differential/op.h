// One step of a random program: a system call of the mmap family, or an access, by one of its processes. The same step is done
// by a process of the host kernel and by a Quire machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/base/rng.h"

namespace quire::differential {

inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::uint64_t kBase = 0x2000'0000'0000;  // the arena: free in every program, under sanitizers too
inline constexpr std::uint64_t kPages = 64;
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
  kFork,  // process `child` becomes a copy
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
  int flags = 0;  // also the advice
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  std::uint64_t new_address = 0;
  std::uint64_t new_length = 0;
  std::uint64_t offset = 0;
};

// `count` steps that make sense together: accesses go mostly where something is mapped.
[[nodiscard]] std::vector<Op> random_program(Rng& rng, std::size_t count);

// The call as a line of C, without the semicolon.
[[nodiscard]] std::string to_c(const Op& op);
// A whole C program of the steps, which prints what each returns.
[[nodiscard]] std::string to_c_program(const std::vector<Op>& program);

}  // namespace quire::differential
