// Writing a trace: chunks of tasks, compressed and checksummed, to a file or a pipe, and an end chunk.
//
//   TraceWriter writer(fd, header);
//   TaskWriter& task = writer.task({1, 1});
//   task.write(record); …            // buffers; a full buffer becomes a chunk
//   writer.finish(exit_status);      // flushes every task, writes the end chunk
//
// The recorder's collector hands over buffers that are encoded already (add_chunk). The first failure to write sticks:
// every later call returns it, and no end chunk is written, so that a reader notices.
// One thread at a time. Not the owner of the descriptor.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/trace/encoder.h"
#include "quire/trace/trace.h"
#include "quire/trace/wire.h"

struct ZSTD_CCtx_s;

namespace quire::trace {

using Outcome = std::expected<void, std::string>;  // an error is one sentence

enum class ChunkFlag : std::uint8_t { kNone = 0, kLastOfTask = 1 };

class TraceWriter;

class TaskWriter {
 public:
  TaskWriter(TraceWriter& writer, TaskId id) : writer_(writer), id_(id) {}
  // `path` and `path2` are the strings the record's fields of that name stand for (its StringIds are not looked at).
  Outcome write(const Record& record, std::string_view path = {}, std::string_view path2 = {});
  Outcome write(const Access& access);
  Outcome flush();

 private:
  friend class TraceWriter;
  // Makes room for `bytes` and returns where they go.
  std::expected<std::uint8_t*, std::string> room(std::size_t bytes);

  TraceWriter& writer_;
  TaskId id_;
  std::vector<std::uint8_t> buffer_;
  std::size_t used_ = 0;
  Encoder encoder_;
  ChunkFlag flag_ = ChunkFlag::kNone;
};

struct WriterStatistics {
  std::uint64_t chunks = 0;
  std::uint64_t raw_bytes = 0;
  std::uint64_t bytes = 0;  // of the file
  std::uint64_t tasks = 0;
};

class TraceWriter {
 public:
  // `name` is for messages. `level` is zstd's.
  TraceWriter(int fd, std::string name, const TraceHeader& header, int level = 3);
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  [[nodiscard]] TaskWriter& task(TaskId id);
  // `raw` is a whole number of encoded records whose encoder was fresh at its start.
  Outcome add_chunk(TaskId id, std::span<const std::uint8_t> raw, ChunkFlag flag);
  // Flushes all tasks and writes the end chunk. exit_status: exit code, or 128 + signal.
  Outcome finish(int exit_status);

  [[nodiscard]] const WriterStatistics& statistics() const { return statistics_; }

 private:
  Outcome write_all(std::span<const std::uint8_t> bytes);
  Outcome put_chunk(wire::ChunkHeader header, std::span<const std::uint8_t> raw);

  int fd_;
  std::string name_;
  int level_;
  Outcome failure_{};
  std::map<TaskId, std::unique_ptr<TaskWriter>> tasks_;
  std::map<TaskId, std::uint32_t> sequences_;
  ZSTD_CCtx_s* compressor_;
  std::vector<std::uint8_t> compressed_;
  WriterStatistics statistics_;
};

}  // namespace quire::trace
