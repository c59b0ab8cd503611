// A trace in memory: written through the library's own writer, read back through a pipe or a file, cut or damaged on the way.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/trace/reader.h"
#include "quire/trace/writer.h"

namespace quire::trace::test {

using Bytes = std::vector<std::uint8_t>;

// A file without a name.
class TemporaryFile {
 public:
  TemporaryFile();
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] Bytes contents() const;

 private:
  int fd_;
};

[[nodiscard]] std::expected<std::unique_ptr<TraceReader>, std::string> read_bytes(std::span<const std::uint8_t> bytes);

// A record with its strings beside it, so that records of different readers compare.
struct Told {
  Record record;
  std::string path, path2;
  bool operator==(const Told&) const = default;
};

// Everything the stream still has, accesses through accesses() as replay takes them.
[[nodiscard]] std::vector<Told> read_all(TraceReader& reader, TaskStream& stream);

[[nodiscard]] Told access(std::uint64_t page, AccessKind kind, std::uint64_t instructions);
[[nodiscard]] Told exit_with(int status);

}  // namespace quire::trace::test
