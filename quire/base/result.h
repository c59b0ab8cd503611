// Fallible functions return Result<T>: a value or one of Linux's errno values, which are the interface of the machine.
#pragma once

#include <expected>
#include <string_view>

namespace quire {

// Numbers as on Linux x86-64 (asm-generic/errno-base.h, errno.h); only those that memory management reports.
enum class [[nodiscard]] Errno : int {
  kPerm = 1,
  kNoEnt = 2,
  kSrch = 3,
  kIntr = 4,
  kIo = 5,
  kNxio = 6,
  kTooBig = 7,
  kNoExec = 8,
  kBadF = 9,
  kChild = 10,
  kAgain = 11,
  kNoMem = 12,
  kAcces = 13,
  kFault = 14,
  kBusy = 16,
  kExist = 17,
  kXDev = 18,
  kNoDev = 19,
  kNotDir = 20,
  kIsDir = 21,
  kInval = 22,
  kNFile = 23,
  kMFile = 24,
  kTxtBsy = 26,
  kFBig = 27,
  kNoSpc = 28,
  kSPipe = 29,
  kRoFs = 30,
  kPipe = 32,
  kRange = 34,
  kDeadLk = 35,
  kNameTooLong = 36,
  kNoSys = 38,
  kIdRm = 43,
  kOverflow = 75,
  kLibBad = 80,
  kOpNotSupp = 95,
  kHwPoison = 133,
};

// "ENOMEM" for Errno::kNoMem; "E?" for a number that is not listed above.
[[nodiscard]] std::string_view errno_name(Errno e);

template <class T>
using Result = std::expected<T, Errno>;
using Status = std::expected<void, Errno>;

[[nodiscard]] inline std::unexpected<Errno> fail(Errno e) { return std::unexpected<Errno>(e); }

}  // namespace quire
