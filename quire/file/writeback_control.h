// What one round of writing dirty pages is asked to do (Linux's struct writeback_control).
#pragma once

#include <cstdint>

namespace quire::file {

enum class SyncMode : std::uint8_t {
  kNone,  // WB_SYNC_NONE: skip what is busy
  kAll,   // WB_SYNC_ALL: for data integrity, wait for each
};

// Why pages are written (wb_reason), as the tracepoints name it.
enum class WbReason : std::uint8_t { kBackground, kVmscan, kSync, kPeriodic, kFree };

inline constexpr std::uint64_t kWriteAll = ~std::uint64_t{0} >> 1;  // LONG_MAX

struct WritebackControl {
  SyncMode sync_mode = SyncMode::kNone;
  WbReason reason = WbReason::kSync;
  std::uint64_t nr_to_write = kWriteAll;  // counts down, pages
  std::uint64_t pages_skipped = 0;
  std::uint64_t range_start = 0;                     // bytes
  std::uint64_t range_end = ~std::uint64_t{0} >> 1;  // bytes, included
  enum class Range : std::uint8_t { kGiven, kCyclic } range = Range::kGiven;
  enum class Caller : std::uint8_t { kFlusher, kReclaim, kFsync } caller = Caller::kFlusher;
};

}  // namespace quire::file
