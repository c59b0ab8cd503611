// One recorded thread: instruction count, filter and record buffer, all in memory shared with the collector.
//
//   [ SharedTask | hot tags | seen-table | … | records ]
//
// The filter. Time is cut into epochs of `window` instructions. A page is recorded the first time in an epoch that it is
// read, written or executed; a write counts as a read, too. A tag is page | kind | epoch in one word, so that a new epoch
// makes every tag stale at once. Two levels: a direct-mapped table for each kind (the callbacks QEMU calls on each block and
// access look no further), and `seen`, open-addressed, which keeps two pages that share a slot from being recorded in turns.
//
// A fork child sees its parent's, live, until it has one of its own: what must survive the fork stands elsewhere.
//
// Written by its own thread only, but for: epoch_end (another thread sets it to 0 to start a new epoch here) and the
// records, which the thread that ends the process takes under flush_lock.
#pragma once

#include <pthread.h>

#include <array>
#include <cstdint>

#include "quire/trace/encoder.h"
#include "quire/trace/protocol.h"
#include "quire/trace/trace.h"

namespace quire::recorder {

using trace::AccessKind;
using trace::Record;
using trace::RecordKind;
using trace::TaskId;

inline constexpr std::size_t kFastSlots = 1024;
inline constexpr std::size_t kFastExecSlots = 256;
inline constexpr std::size_t kSeenSlots = 16 * 1024;
inline constexpr unsigned kSeenProbes = 16;
inline constexpr unsigned kTagKindShift = 36;  // pages of 48-bit addresses; the vsyscall page loses its high bits
inline constexpr unsigned kTagEpochShift = 38;
inline constexpr std::uint64_t kTagPageMask = (std::uint64_t{1} << kTagKindShift) - 1;
inline constexpr std::uint64_t kLastEpoch = (std::uint64_t{1} << (64 - kTagEpochShift)) - 1;

struct alignas(64) Vcpu {
  trace::protocol::SharedTask shared;

  std::uint64_t read_base;  // epoch << kTagEpochShift | kRead  << kTagKindShift
  std::uint64_t write_base;
  std::uint64_t exec_base;
  std::uint64_t epoch_end;  // in instructions; 0 = start a new epoch at the next block
  std::uint64_t epoch;

  std::uint64_t exec_tags[kFastExecSlots];
  std::uint64_t read_tags[kFastSlots];
  std::uint64_t write_tags[kFastSlots];
  std::uint64_t seen[kSeenSlots];

  trace::Encoder encoder;
  std::uint64_t known_begin, known_end;  // an area known to be in the trace, in bytes
  pthread_mutex_t flush_lock;
  std::uint32_t stopped;  // the process has ended: nothing more goes out
  TaskId id;
  std::uint32_t host_tid;
  std::uint64_t ordered_after;  // so many calls of the process are known to come before what it writes next
  std::uint32_t random_calls;   // how often it asked the kernel for random bytes
  Vcpu* next;

  std::uint8_t data[trace::protocol::kBufferBytes];

  [[nodiscard]] std::uint32_t used() const {
    return static_cast<std::uint32_t>(shared.written.load(std::memory_order_relaxed));
  }
  [[nodiscard]] std::uint32_t sequence() const {
    return static_cast<std::uint32_t>(shared.written.load(std::memory_order_relaxed) >> 32);
  }
  void publish(std::uint32_t sequence, std::uint32_t used) {
    shared.written.store(static_cast<std::uint64_t>(sequence) << 32 | used, std::memory_order_release);
  }

  void start_epoch(std::uint64_t window) {
    if (++epoch > kLastEpoch) [[unlikely]] {
      __builtin_memset(exec_tags, 0, sizeof exec_tags);
      __builtin_memset(read_tags, 0, sizeof read_tags);
      __builtin_memset(write_tags, 0, sizeof write_tags);
      __builtin_memset(seen, 0, sizeof seen);
      epoch = 1;
    }
    read_base = epoch << kTagEpochShift;
    write_base = read_base | std::uint64_t{1} << kTagKindShift;
    exec_base = read_base | std::uint64_t{2} << kTagKindShift;
    epoch_end = shared.instructions + window;
  }
};

}  // namespace quire::recorder
