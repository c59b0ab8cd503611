// Reading a trace, task by task, from a file or a pipe, while it is perhaps still being written.
//
//   fd ──pull()──→ chunks (compressed, checked) ──→ queue of task A ──→ decoded block ──→ accesses() / next()
//                                               └─→ queue of task B …
//
// Chunks of all tasks are interleaved in the file. A stream that runs dry pulls the file forward; chunks of other tasks
// met on the way wait, still compressed, in their own queues. So reading every task in any order sees every record, at
// the price of holding (compressed) what nobody has asked for yet.
//
// Use: TaskStream* s = reader.first_task(); then
//   for (;;) {
//     for (const Access& a : s->accesses()) …      // the fast way: runs of accesses, already decoded
//     Record r; if (!s->next(r)) break;            // what is not an access (or the next access)
//     if (r.kind == RecordKind::kFork) start_replaying(reader.stream(r.child));
//   }
//
// Damage: a chunk whose checksum, order or contents are wrong ends the trace there, for every task; what came before is
// given out, warnings() says what is missing and where. Nothing of a damaged chunk is ever given out.
//
// One thread at a time. Streams and string views live as long as the reader.
#pragma once

#include <cstdint>
#include <deque>
#include <expected>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "quire/trace/decoder.h"
#include "quire/trace/trace.h"
#include "quire/trace/wire.h"

struct ZSTD_DCtx_s;

namespace quire::trace {

class TraceReader;

// One task's records, in program order.
class TaskStream {
 public:
  TaskStream(TraceReader& reader, TaskId id) : reader_(reader), id_(id) {}
  TaskStream(const TaskStream&) = delete;
  TaskStream& operator=(const TaskStream&) = delete;

  [[nodiscard]] TaskId id() const { return id_; }

  // The next accesses, up to the next record that is none; taken as read by this call. Empty when next() has something
  // else to say or the stream has ended. The span holds until the next call of accesses() or next() on this stream.
  [[nodiscard]] std::span<const Access> accesses() {
    if (block_next_ == block_size_) decode_block();
    const std::span<const Access> rest(block_.data() + block_next_, block_size_ - block_next_);
    block_next_ = block_size_;
    return rest;
  }

  // The next record whatever it is; false when the stream has ended (after kExit, or where the trace breaks off).
  [[nodiscard]] bool next(Record& record);

  // No more records will come. May pull the file forward to find out.
  [[nodiscard]] bool ended();

 private:
  friend class TraceReader;
  struct PendingChunk {
    std::vector<std::byte> compressed;
    std::uint32_t raw_size = 0;
    std::uint64_t place = 0;  // offset in the file, for messages
  };

  void decode_block();
  bool load_chunk();  // makes the next chunk the one being decoded; false at the end of the stream
  bool broken(std::string_view what);

  TraceReader& reader_;
  TaskId id_;
  std::vector<Access> block_;  // decoded accesses; [block_next_, block_size_) not yet given out
  std::size_t block_next_ = 0;
  std::size_t block_size_ = 0;
  Decoder decoder_;
  std::vector<std::byte> raw_;
  std::deque<PendingChunk> pending_;
  std::uint32_t next_sequence_ = 0;
  std::uint64_t place_ = 0;  // of the chunk being decoded
  enum class Arrival : std::uint8_t { kOpen, kLastSeen } arrival_ = Arrival::kOpen;
};

// What was counted while reading, and how it ended.
struct ReadStatistics {
  std::uint64_t bytes = 0;      // of the file so far
  std::uint64_t raw_bytes = 0;  // before compression
  std::uint64_t chunks = 0;
};

class TraceReader {
 public:
  // An error is one sentence naming the input and what is wrong with it.
  static std::expected<std::unique_ptr<TraceReader>, std::string> open(const std::string& path);
  // Takes the descriptor over. `name` is for messages.
  static std::expected<std::unique_ptr<TraceReader>, std::string> from_fd(int fd, std::string name);
  ~TraceReader();
  TraceReader(const TraceReader&) = delete;
  TraceReader& operator=(const TraceReader&) = delete;

  [[nodiscard]] const TraceHeader& header() const { return header_; }
  [[nodiscard]] const std::string& name() const { return name_; }

  // The task the recording began with; nullptr when the trace holds none.
  [[nodiscard]] TaskStream* first_task();
  // The stream of a task named by a fork record, whether or not one of its chunks has been met yet.
  [[nodiscard]] TaskStream& stream(TaskId id);
  // Every task met so far, in the order they were met.
  [[nodiscard]] std::span<TaskStream* const> tasks() const { return order_; }

  // Reads one more chunk; false at the end (or where the trace breaks off).
  bool pull();

  [[nodiscard]] std::string_view string(StringId id) const { return strings_[id]; }
  StringId intern(std::string_view text);

  // True once the end chunk has been read: the trace is whole.
  [[nodiscard]] bool complete() const { return complete_; }
  // The recorded program's own exit status as the end chunk tells it: exit code, or 128 + signal. -1 = not known.
  [[nodiscard]] int exit_status() const { return exit_status_; }
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }
  [[nodiscard]] const ReadStatistics& statistics() const { return statistics_; }

 private:
  friend class TaskStream;
  struct Input;

  TraceReader(int fd, std::string name);
  std::expected<void, std::string> read_header();
  bool broken(std::string_view what, std::uint64_t place);  // always false
  bool accept_records(const wire::ChunkHeader& chunk, std::vector<std::byte> compressed, std::uint64_t place);
  bool accept_end(const wire::ChunkHeader& chunk, std::span<const std::byte> compressed, std::uint64_t place);

  std::unique_ptr<Input> input_;
  std::string name_;
  TraceHeader header_;
  std::map<TaskId, std::unique_ptr<TaskStream>> streams_;
  std::vector<TaskStream*> order_;  // tasks of which a chunk was met
  std::deque<std::string> strings_;
  std::unordered_map<std::string_view, StringId> string_ids_;
  std::vector<std::string> warnings_;
  ReadStatistics statistics_;
  int exit_status_ = -1;
  enum class End : std::uint8_t { kNotYet, kReached } end_ = End::kNotYet;
  bool complete_ = false;
  ZSTD_DCtx_s* decompressor_;
};

}  // namespace quire::trace
