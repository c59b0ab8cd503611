#include "quire/trace/writer.h"

#include <fmt/format.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>

#include "quire/trace/checksum.h"

namespace quire::trace {
namespace {

constexpr std::size_t kBufferBytes = 64 * 1024;

}  // namespace

std::expected<std::uint8_t*, std::string> TaskWriter::room(std::size_t bytes) {
  if (flag_ == ChunkFlag::kLastOfTask) return std::unexpected<std::string>("a record after a task's exit");
  if (buffer_.empty()) buffer_.resize(kBufferBytes);
  if (used_ + bytes > buffer_.size()) {
    if (Outcome done = flush(); !done) return std::unexpected(done.error());
  }
  return buffer_.data() + used_;
}

Outcome TaskWriter::write(const Record& record, std::string_view path, std::string_view path2) {
  auto p = room(record.kind == RecordKind::kAccess ? kMaxAccessBytes : kMaxRecordBytes);
  if (!p) return std::unexpected(p.error());
  used_ = static_cast<std::size_t>(encoder_.record(*p, record, path, path2) - buffer_.data());
  if (record.kind == RecordKind::kExit) flag_ = ChunkFlag::kLastOfTask;
  return {};
}

Outcome TaskWriter::write(const Access& access) {
  auto p = room(kMaxAccessBytes);
  if (!p) return std::unexpected(p.error());
  used_ = static_cast<std::size_t>(encoder_.access(*p, access.page(), access.kind(), access.instructions) - buffer_.data());
  return {};
}

Outcome TaskWriter::flush() {
  if (used_ == 0) return {};
  const std::size_t used = used_;
  used_ = 0;
  encoder_.reset();
  return writer_.add_chunk(id_, {buffer_.data(), used}, flag_);
}

TraceWriter::TraceWriter(int fd, std::string name, const TraceHeader& header, int level)
    : fd_(fd), name_(std::move(name)), level_(level), compressor_(ZSTD_createCCtx()) {
  wire::FileHeader out{};
  std::memcpy(out.magic, wire::kFileMagic, sizeof out.magic);
  out.major = wire::kMajor;
  out.minor = wire::kMinor;
  out.page_shift = header.page_shift;
  out.window = header.window;
  out.checksum = wire::checksum(out);
  write_all({reinterpret_cast<const std::uint8_t*>(&out), sizeof out});
}

TraceWriter::~TraceWriter() { ZSTD_freeCCtx(compressor_); }

TaskWriter& TraceWriter::task(TaskId id) {
  std::unique_ptr<TaskWriter>& slot = tasks_[id];
  if (!slot) slot = std::make_unique<TaskWriter>(*this, id);
  return *slot;
}

Outcome TraceWriter::add_chunk(TaskId id, std::span<const std::uint8_t> raw, ChunkFlag flag) {
  if (!failure_) return failure_;
  const auto [sequence, fresh] = sequences_.try_emplace(id, 0);
  if (fresh) ++statistics_.tasks;
  wire::ChunkHeader header{};
  header.type = wire::ChunkType::kRecords;
  header.flags = flag == ChunkFlag::kLastOfTask ? wire::kLastOfTask : std::uint8_t{0};
  header.pid = id.pid;
  header.tid = id.tid;
  header.sequence = sequence->second++;
  ++statistics_.chunks;
  statistics_.raw_bytes += raw.size();
  return put_chunk(header, raw);
}

Outcome TraceWriter::finish(int exit_status) {
  for (auto& [id, task] : tasks_) {
    if (Outcome done = task->flush(); !done) return done;
  }
  const wire::EndPayload end{statistics_.chunks, statistics_.raw_bytes, static_cast<std::uint32_t>(statistics_.tasks),
                             exit_status};
  wire::ChunkHeader header{};
  header.type = wire::ChunkType::kEnd;
  return put_chunk(header, {reinterpret_cast<const std::uint8_t*>(&end), sizeof end});
}

Outcome TraceWriter::put_chunk(wire::ChunkHeader header, std::span<const std::uint8_t> raw) {
  if (!failure_) return failure_;
  compressed_.resize(sizeof header + ZSTD_compressBound(raw.size()));
  std::uint8_t* const payload = compressed_.data() + sizeof header;
  const std::size_t size =
      ZSTD_compressCCtx(compressor_, payload, compressed_.size() - sizeof header, raw.data(), raw.size(), level_);
  if (ZSTD_isError(size)) {
    return failure_ = std::unexpected(fmt::format("cannot compress a chunk of {}: {}", name_, ZSTD_getErrorName(size)));
  }
  header.magic = wire::kChunkMagic;
  header.raw_size = static_cast<std::uint32_t>(raw.size());
  header.compressed_size = static_cast<std::uint32_t>(size);
  header.checksum = wire::checksum(header, payload, size);
  std::memcpy(compressed_.data(), &header, sizeof header);
  return write_all({compressed_.data(), sizeof header + size});
}

Outcome TraceWriter::write_all(std::span<const std::uint8_t> bytes) {
  while (!bytes.empty() && failure_) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      failure_ = std::unexpected(fmt::format("cannot write {}: {}", name_, std::strerror(errno)));
      break;
    }
    statistics_.bytes += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return failure_;
}

}  // namespace quire::trace
