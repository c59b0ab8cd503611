#include "quire/trace/reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>

#include "quire/trace/checksum.h"

namespace quire::trace {

// The file or pipe, read ahead a little.
struct TraceReader::Input {
  explicit Input(int descriptor) : fd(descriptor), buffer(256 * 1024) {}
  ~Input() {
    if (fd >= 0) ::close(fd);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  // Fills `out`; returns how much there was before the end of the file or an error.
  std::size_t read(void* out, std::size_t bytes) {
    std::size_t done = 0;
    while (done < bytes) {
      if (begin == end && !refill()) break;
      const std::size_t n = std::min(bytes - done, end - begin);
      std::memcpy(static_cast<std::byte*>(out) + done, buffer.data() + begin, n);
      begin += n;
      done += n;
    }
    place += done;
    return done;
  }

  bool refill() {
    ssize_t n;
    do n = ::read(fd, buffer.data(), buffer.size());
    while (n < 0 && errno == EINTR);
    if (n < 0) error = errno;
    begin = 0;
    end = n > 0 ? static_cast<std::size_t>(n) : 0;
    return n > 0;
  }

  int fd;
  int error = 0;
  std::uint64_t place = 0;
  std::vector<std::byte> buffer;
  std::size_t begin = 0, end = 0;
};

TraceReader::TraceReader(int fd, std::string name)
    : input_(std::make_unique<Input>(fd)), name_(std::move(name)), decompressor_(ZSTD_createDCtx()) {
  intern("");
}

TraceReader::~TraceReader() { ZSTD_freeDCtx(decompressor_); }

std::expected<std::unique_ptr<TraceReader>, std::string> TraceReader::open(const std::string& path) {
  if (path == "-") return from_fd(::dup(STDIN_FILENO), "standard input");
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::unexpected(fmt::format("cannot open the trace {}: {}", path, std::strerror(errno)));
  return from_fd(fd, path);
}

std::expected<std::unique_ptr<TraceReader>, std::string> TraceReader::from_fd(int fd, std::string name) {
  std::unique_ptr<TraceReader> reader(new TraceReader(fd, std::move(name)));
  if (auto done = reader->read_header(); !done) return std::unexpected(done.error());
  return reader;
}

std::expected<void, std::string> TraceReader::read_header() {
  wire::FileHeader header;
  const std::size_t got = input_->read(&header, sizeof header);
  const std::size_t magic = std::min(got, sizeof header.magic);
  if (input_->error != 0) {
    return std::unexpected(fmt::format("cannot read {}: {}", name_, std::strerror(input_->error)));
  }
  if (got == 0) return std::unexpected(fmt::format("{} is empty, not a trace: record it again", name_));
  if (std::memcmp(header.magic, wire::kFileMagic, magic) != 0) {
    return std::unexpected(
        fmt::format("{} is not a Quire trace (.qtr): make one with `quire record` or `quire import`", name_));
  }
  if (got < sizeof header) {
    return std::unexpected(fmt::format("{} breaks off within its header, after {} bytes: record it again", name_, got));
  }
  if (header.checksum != wire::checksum(header)) {
    return std::unexpected(fmt::format("the header of {} is damaged (its checksum is wrong): record it again", name_));
  }
  if (header.major != wire::kMajor) {
    return std::unexpected(
        fmt::format("{} is of trace format {}.{}, this program reads {}.x: record it again or use a matching quire", name_,
                    header.major, header.minor, wire::kMajor));
  }
  if (header.page_shift != 12) {
    return std::unexpected(fmt::format("{} has pages of 2^{} bytes, only 2^12 are supported", name_, header.page_shift));
  }
  header_ = {header.major, header.minor, header.page_shift, header.window};
  statistics_.bytes = sizeof header;
  return {};
}

bool TraceReader::broken(std::string_view what, std::uint64_t place) {
  end_ = End::kReached;
  complete_ = false;
  warnings_.push_back(fmt::format("{} is damaged at byte {}: {}; what comes before is used", name_, place, what));
  return false;
}

bool TraceReader::pull() {
  if (end_ == End::kReached) return false;
  const std::uint64_t place = input_->place;
  wire::ChunkHeader chunk;
  const std::size_t got = input_->read(&chunk, sizeof chunk);
  if (input_->error != 0) return broken(std::strerror(input_->error), place);
  if (got < sizeof chunk) {
    end_ = End::kReached;
    warnings_.push_back(fmt::format(
        "{} breaks off at byte {} without an end: the recording was cut short; what is there is used", name_, place + got));
    return false;
  }
  if (chunk.magic != wire::kChunkMagic) return broken("no chunk begins here", place);
  if (chunk.raw_size > wire::kMaxChunkBytes || chunk.compressed_size > ZSTD_compressBound(wire::kMaxChunkBytes)) {
    return broken("a chunk is larger than allowed", place);
  }
  std::vector<std::byte> compressed(chunk.compressed_size);
  if (input_->read(compressed.data(), compressed.size()) < compressed.size()) {
    end_ = End::kReached;
    warnings_.push_back(
        fmt::format("{} breaks off at byte {} within a chunk: the recording was cut short; what comes before is used", name_,
                    input_->place));
    return false;
  }
  if (chunk.checksum != wire::checksum(chunk, compressed.data(), compressed.size())) {
    return broken("a chunk's checksum is wrong", place);
  }
  statistics_.bytes = input_->place;
  switch (chunk.type) {
    case wire::ChunkType::kRecords: return accept_records(chunk, std::move(compressed), place);
    case wire::ChunkType::kEnd: return accept_end(chunk, compressed, place);
  }
  return true;  // of a later minor version
}

bool TraceReader::accept_records(const wire::ChunkHeader& chunk, std::vector<std::byte> compressed, std::uint64_t place) {
  if (chunk.pid == 0 || chunk.tid == 0) return broken("a chunk belongs to no task", place);
  TaskStream& task = stream({chunk.pid, chunk.tid});
  if (task.arrival_ == TaskStream::Arrival::kLastSeen) return broken("a chunk follows its task's last", place);
  if (chunk.sequence != task.next_sequence_) return broken("a chunk of its task is missing before it", place);
  if (task.next_sequence_++ == 0) order_.push_back(&task);
  if ((chunk.flags & wire::kLastOfTask) != 0) task.arrival_ = TaskStream::Arrival::kLastSeen;
  task.pending_.push_back({std::move(compressed), chunk.raw_size, place});
  ++statistics_.chunks;
  statistics_.raw_bytes += chunk.raw_size;
  return true;
}

bool TraceReader::accept_end(const wire::ChunkHeader& chunk, std::span<const std::byte> compressed, std::uint64_t place) {
  wire::EndPayload end;
  const std::size_t size = ZSTD_decompressDCtx(decompressor_, &end, sizeof end, compressed.data(), compressed.size());
  if (chunk.raw_size != sizeof end || size != sizeof end) return broken("the end chunk makes no sense", place);
  if (end.chunks != statistics_.chunks || end.raw_bytes != statistics_.raw_bytes || end.tasks != order_.size()) {
    return broken("the end chunk counts other chunks than were met", place);
  }
  end_ = End::kReached;
  complete_ = true;
  exit_status_ = end.exit_status;
  struct stat file{};
  if (::fstat(input_->fd, &file) == 0 && S_ISREG(file.st_mode) && static_cast<std::uint64_t>(file.st_size) > input_->place) {
    warnings_.push_back(fmt::format("{} goes on after its end, at byte {}: the rest is not looked at", name_, input_->place));
  }
  return false;
}

TaskStream* TraceReader::first_task() {
  while (order_.empty() && pull()) {}
  return order_.empty() ? nullptr : order_.front();
}

TaskStream& TraceReader::stream(TaskId id) {
  std::unique_ptr<TaskStream>& slot = streams_[id];
  if (!slot) slot = std::make_unique<TaskStream>(*this, id);
  return *slot;
}

StringId TraceReader::intern(std::string_view text) {
  if (const auto found = string_ids_.find(text); found != string_ids_.end()) return found->second;
  const auto id = static_cast<StringId>(strings_.size());
  strings_.emplace_back(text);
  string_ids_.emplace(strings_.back(), id);
  return id;
}

}  // namespace quire::trace
