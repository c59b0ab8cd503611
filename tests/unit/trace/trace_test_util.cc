#include "trace_test_util.h"

#include <sys/mman.h>
#include <unistd.h>

namespace quire::trace::test {

TemporaryFile::TemporaryFile() : fd_(::memfd_create("trace", MFD_CLOEXEC)) {}
TemporaryFile::~TemporaryFile() { ::close(fd_); }

Bytes TemporaryFile::contents() const {
  Bytes bytes(static_cast<std::size_t>(::lseek(fd_, 0, SEEK_END)));
  EXPECT_EQ(::pread(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return bytes;
}

std::expected<std::unique_ptr<TraceReader>, std::string> read_bytes(std::span<const std::uint8_t> bytes) {
  const int fd = ::memfd_create("trace", MFD_CLOEXEC);
  EXPECT_EQ(::write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  ::lseek(fd, 0, SEEK_SET);
  return TraceReader::from_fd(fd, "t.qtr");
}

std::vector<Told> read_all(TraceReader& reader, TaskStream& stream) {
  std::vector<Told> all;
  for (;;) {
    for (const Access& a : stream.accesses()) all.push_back(access(a.page(), a.kind(), a.instructions));
    Record r;
    if (!stream.next(r)) return all;
    Told told{r, std::string(reader.string(r.path)), std::string(reader.string(r.path2))};
    told.record.path = told.record.path2 = 0;
    all.push_back(std::move(told));
  }
}

Told access(std::uint64_t page, AccessKind kind, std::uint64_t instructions) {
  Told told;
  told.record.page = page;
  told.record.access = kind;
  told.record.instructions = instructions;
  return told;
}

Told exit_with(int status) {
  Told told;
  told.record.kind = RecordKind::kExit;
  told.record.status = status;
  told.record.flags = kExitGroup;
  return told;
}

}  // namespace quire::trace::test
