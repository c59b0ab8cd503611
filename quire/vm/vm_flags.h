// The words of the mmap family: protection, map flags, area flags, advice. Numbers are Linux's on x86-64, since programs
// (and traces) hand them over as plain integers.
#pragma once

#include <cstdint>

#include "quire/base/flags.h"

namespace quire::vm {

// PROT_*
enum class Prot : std::uint32_t {
  kNone = 0,
  kRead = 0x1,
  kWrite = 0x2,
  kExec = 0x4,
  kSem = 0x8,
  kGrowsDown = 0x01000000,
  kGrowsUp = 0x02000000,
};

// MAP_*
enum class MapFlags : std::uint32_t {
  kNone = 0,
  kShared = 0x01,
  kPrivate = 0x02,
  kSharedValidate = 0x03,
  kDroppable = 0x08,  // since 6.11
  kTypeMask = 0x0f,
  kFixed = 0x10,
  kAnonymous = 0x20,
  k32Bit = 0x40,
  kAbove4G = 0x80,
  kGrowsDown = 0x0100,
  kDenyWrite = 0x0800,
  kExecutable = 0x1000,
  kLocked = 0x2000,
  kNoReserve = 0x4000,
  kPopulate = 0x8000,
  kNonBlock = 0x10000,
  kStack = 0x20000,
  kHugeTlb = 0x40000,
  kSync = 0x80000,
  kFixedNoReplace = 0x100000,
  kUninitialized = 0x4000000,
};

// MREMAP_*
enum class MremapFlags : std::uint32_t { kNone = 0, kMayMove = 1, kFixed = 2, kDontUnmap = 4 };

// MCL_*
enum class MclFlags : std::uint32_t { kNone = 0, kCurrent = 1, kFuture = 2, kOnFault = 4 };

// MS_*
enum class MsyncFlags : std::uint32_t { kNone = 0, kAsync = 1, kInvalidate = 2, kSync = 4 };

// MLOCK_*
enum class MlockFlags : std::uint32_t { kNone = 0, kOnFault = 1 };

// MADV_*
enum class Advice : std::int32_t {
  kNormal = 0,
  kRandom = 1,
  kSequential = 2,
  kWillNeed = 3,
  kDontNeed = 4,
  kFree = 8,
  kRemove = 9,
  kDontFork = 10,
  kDoFork = 11,
  kMergeable = 12,
  kUnmergeable = 13,
  kHugePage = 14,
  kNoHugePage = 15,
  kDontDump = 16,
  kDoDump = 17,
  kWipeOnFork = 18,
  kKeepOnFork = 19,
  kCold = 20,
  kPageOut = 21,
  kPopulateRead = 22,
  kPopulateWrite = 23,
  kDontNeedLocked = 24,
  kCollapse = 25,
  kHwPoison = 100,
  kSoftOffline = 101,
  kGuardInstall = 102,  // since 6.13
  kGuardRemove = 103,
};

// VM_*
enum class VmFlags : std::uint64_t {
  kNone = 0,
  kRead = 0x1,
  kWrite = 0x2,
  kExec = 0x4,
  kShared = 0x8,
  kMayRead = 0x10,
  kMayWrite = 0x20,
  kMayExec = 0x40,
  kMayShare = 0x80,
  kGrowsDown = 0x100,
  kUffdMissing = 0x200,
  kPfnMap = 0x400,
  kUffdWp = 0x1000,
  kLocked = 0x2000,
  kIo = 0x4000,
  kSeqRead = 0x8000,
  kRandRead = 0x10000,
  kDontCopy = 0x20000,
  kDontExpand = 0x40000,
  kLockOnFault = 0x80000,
  kAccount = 0x100000,
  kNoReserve = 0x200000,
  kHugeTlb = 0x400000,
  kSync = 0x800000,
  kWipeOnFork = 0x2000000,
  kDontDump = 0x4000000,
  kSoftDirty = 0x8000000,
  kMixedMap = 0x10000000,
  kHugePage = 0x20000000,
  kNoHugePage = 0x40000000,
  kMergeable = 0x80000000,
  kDroppable = std::uint64_t{1} << 40,
  kSealed = std::uint64_t{1} << 42,

  kAccessFlags = kRead | kWrite | kExec,
  kMayFlags = kMayRead | kMayWrite | kMayExec,
  kLockedMask = kLocked | kLockOnFault,
  kSpecial = kIo | kDontExpand | kPfnMap | kMixedMap,
};

}  // namespace quire::vm

template <>
inline constexpr bool quire::kIsFlags<quire::vm::Prot> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::MapFlags> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::MremapFlags> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::MclFlags> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::MsyncFlags> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::MlockFlags> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::vm::VmFlags> = true;
