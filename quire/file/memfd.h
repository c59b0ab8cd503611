// memfd_create(2) and the seals of its files (F_ADD_SEALS, F_GET_SEALS): promises that a file will not shrink, grow, be
// written or become executable any more. Each shmem inode carries its seals; files that memfd_create did not make, or made
// without leave to seal, carry F_SEAL_SEAL: nothing can be added.
//
// Where the seals act: write_iter, truncate and fallocate (shmem_file.cc), a new mapping (memfd_check_seals_mmap).
// F_SEAL_EXEC and MFD_NOEXEC_SEAL are of Linux 6.3 and newer.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/flags.h"
#include "quire/base/result.h"

namespace quire::file {

// F_SEAL_*
enum class Seals : std::uint32_t {
  kNone = 0,
  kSeal = 0x1,
  kShrink = 0x2,
  kGrow = 0x4,
  kWrite = 0x8,
  kFutureWrite = 0x10,
  kExec = 0x20,

  kAll = kSeal | kShrink | kGrow | kWrite | kFutureWrite | kExec,
};

// MFD_*
enum class MemfdFlags : std::uint32_t {
  kNone = 0,
  kCloexec = 0x1,
  kAllowSealing = 0x2,
  kHugeTlb = 0x4,
  kNoexecSeal = 0x8,
  kExec = 0x10,

  kAll = kCloexec | kAllowSealing | kHugeTlb | kNoexecSeal | kExec,
};

inline constexpr std::size_t kMfdNameMaxLen = 249;  // bytes of the name, "memfd:" not counted

class File;

// F_GET_SEALS: kInval for a file that is no shmem file.
[[nodiscard]] Result<Seals> memfd_get_seals(const File& file);
// F_ADD_SEALS. kPerm: not opened for writing, or sealed against sealing; kInval: unknown bits, no shmem file; kBusy:
// F_SEAL_WRITE while a shared mapping may write, or while somebody still holds a page after 150 ms. Takes i_rwsem; may sleep.
Status memfd_add_seals(File& file, Seals seals);

}  // namespace quire::file

template <>
inline constexpr bool quire::kIsFlags<quire::file::Seals> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::file::MemfdFlags> = true;
