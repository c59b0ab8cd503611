// The reader on arbitrary bytes. The first byte chooses: the rest is a file, or the records of chunks whose checksums are
// right (so that the decoder is reached), cut into pieces of two tasks.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <span>

#include "quire/trace/info.h"
#include "quire/trace/reader.h"
#include "quire/trace/writer.h"

namespace {

using namespace quire::trace;

int memory_file() { return ::memfd_create("fuzz", MFD_CLOEXEC); }

void read_everything(int fd) {
  ::lseek(fd, 0, SEEK_SET);
  auto reader = TraceReader::from_fd(fd, "fuzz");
  if (!reader) {
    if (reader.error().empty()) std::abort();
    return;
  }
  const TraceInfo info = summarize(**reader);
  if (!info.complete && info.warnings.empty()) std::abort();
  if (info_text(info).empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::span<const std::uint8_t> bytes(data + 2, size - 2);
  const int fd = memory_file();
  if (data[0] % 2 == 0) {
    static_cast<void>(!::write(fd, bytes.data(), bytes.size()));
  } else {
    TraceWriter writer(fd, "fuzz", TraceHeader{});
    const std::size_t cut = bytes.size() * data[1] / 256;
    static_cast<void>(writer.add_chunk({1, 1}, bytes.first(cut), ChunkFlag::kNone));
    static_cast<void>(writer.add_chunk({1, 2}, bytes.subspan(cut), ChunkFlag::kLastOfTask));
    static_cast<void>(writer.finish(0));
  }
  read_everything(fd);
  return 0;
}
