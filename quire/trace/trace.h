// What a trace holds: the memory-relevant life of a real program, task by task.
//
//   task (pid, tid)   exec → areas → accesses … syscall … accesses … fork ─┐ … exit
//                                                                          └→ a task of its own
//
// A task is one thread of execution, as in Linux. Its records are in program order; each says how many instructions the
// task retired since its record before. Between processes only fork, wait, pipes and exit give an order, between threads of
// one also kOrder; replay puts them on a clock.
// An access stands for the first of possibly many accesses of that kind to the page within the recording's window
// (TraceHeader::window instructions; docs/trace-format.md says exactly what is lost).
//
// Plain values, no invariants beyond the types. Numbers (system calls, errno, PROT_*, MAP_*, clone flags, signals) are
// those of Linux x86-64; process and thread numbers are the recorder's own: 1, 2, 3 … in order of creation.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace quire::trace {

struct TaskId {
  std::uint32_t pid = 0;  // the process (thread group); 0 = none
  std::uint32_t tid = 0;  // the thread; the first thread's tid is its pid
  constexpr auto operator<=>(const TaskId&) const = default;
};

enum class AccessKind : std::uint8_t { kRead, kWrite, kExec };

// One access, packed for the replay loop.
struct Access {
  std::uint64_t page_and_kind = 0;  // page number (address >> 12) * 4 + AccessKind
  std::uint32_t instructions = 0;   // since the task's record before
  std::uint32_t reserved = 0;

  [[nodiscard]] constexpr std::uint64_t page() const { return page_and_kind >> 2; }
  [[nodiscard]] constexpr AccessKind kind() const { return static_cast<AccessKind>(page_and_kind & 3); }
  [[nodiscard]] static constexpr Access make(std::uint64_t page, AccessKind kind, std::uint32_t instructions) {
    return Access{page << 2 | static_cast<std::uint64_t>(kind), instructions, 0};
  }
  constexpr bool operator==(const Access&) const = default;
};
static_assert(sizeof(Access) == 16);

enum class RecordKind : std::uint8_t {
  kAccess,   // page, access
  kSyscall,  // number, args, result, offset, path, path2; written when the call returned
  kFork,     // number (fork, vfork, clone, clone3), child, flags (CLONE_*), in the parent's stream
  kExec,     // path (the file), path2 (argv[0]); the old address space is gone; areas and files follow
  kArea,     // an area the program did not mmap itself: area, begin, end, prot, flags, path, offset, dev, inode
  kFile,     // fd now names this file: fd, file, path, dev, inode, size, flags (O_*), offset (position), peer for pipes
  kExit,     // status, signal, flags (kExitGroup): the last record of a task
  kOrder,    // in processes with threads: after, sequence, flags: how what follows stands to the other threads' calls
  kBehind,   // child, after: what follows came after that task of the process had retired `after` instructions
};

enum class AreaKind : std::uint8_t {
  kProgram,      // a segment of the program's file (private file mapping)
  kInterpreter,  // a segment of its dynamic linker
  kBss,          // anonymous memory behind a segment
  kStack,        // [begin, end): the most it may grow to; offset = the stack pointer at start
  kBrk,          // begin = end = where brk starts
  kSpecial,      // vdso, vvar and the like
  kOther,        // found mapped when first touched
};

enum class FileKind : std::uint8_t { kRegular, kDirectory, kPipe, kSocket, kCharacter, kBlock, kMemfd, kOther, kClosed };

inline constexpr std::uint64_t kExitGroup = 1;  // Record::flags of kExit: the whole process ends
inline constexpr std::uint64_t kExitLost = 2;   // the process was killed or lost: the end is the recorder's finding

// Record::flags of kOrder: the call completes here (it woke other threads, and is not recorded otherwise).
inline constexpr std::uint64_t kCompletesHere = 1;

// Record::args[5] of kSyscall sendfile, copy_file_range and splice, with the call's own flags: the call said where the source,
// or the target, begins, and their files' positions stay.
inline constexpr std::uint64_t kSaysWhereFrom = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kSaysWhereTo = std::uint64_t{1} << 33;

using StringId = std::uint32_t;  // index into TraceReader::string(); 0 is the empty string

// One record; which fields count depends on `kind` (see RecordKind), the others are zero.
struct Record {
  RecordKind kind = RecordKind::kAccess;
  AccessKind access = AccessKind::kRead;
  AreaKind area = AreaKind::kOther;
  FileKind file = FileKind::kOther;
  std::int32_t fd = -1;
  std::uint64_t instructions = 0;  // since the task's record before
  std::uint64_t page = 0;          // kAccess

  std::uint32_t number = 0;  // kSyscall, kFork: the x86-64 system call
  std::uint32_t prot = 0;
  std::int64_t result = 0;  // as the kernel returns it: ≥ 0 or -errno. Processes are named by their numbers here
  std::array<std::uint64_t, 6> args{};
  std::uint64_t offset = 0;  // kSyscall that transfers: file position it started at. kArea, kFile: see there
  std::uint64_t flags = 0;

  TaskId child;             // kFork, kBehind; kSyscall wait4/waitid: who was waited for
  std::int32_t status = 0;  // kExit: exit status. kSyscall wait4: the wait status word
  std::int32_t signal = 0;  // kExit: the signal that killed, 0 = none (or unknown when kExitLost)

  std::uint64_t begin = 0;  // kArea: bytes
  std::uint64_t end = 0;
  std::uint64_t dev = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;  // kFile: bytes when it was opened

  std::uint64_t after = 0;     // kOrder: this many calls of the process had completed before what follows. kBehind: see there
  std::uint64_t sequence = 0;  // kOrder: the process's call of this number, from 1, completes with the next record; 0 = none

  StringId path = 0;
  StringId path2 = 0;

  bool operator==(const Record&) const = default;
};

// What the recording as a whole says of itself.
struct TraceHeader {
  std::uint16_t version_major = 1;
  std::uint16_t version_minor = 1;
  std::uint32_t page_shift = 12;
  std::uint64_t window = 0;  // instructions; 0 = unfiltered, every access is there
};

}  // namespace quire::trace
