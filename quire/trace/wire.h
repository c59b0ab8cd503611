// The bytes of a .qtr file around the records: file header, chunk headers, end chunk. docs/trace-format.md is the text.
// All numbers little-endian.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace quire::trace::wire {

static_assert(std::endian::native == std::endian::little);

inline constexpr unsigned char kFileMagic[8] = {0x89, 'Q', 'T', 'R', '\r', '\n', 0x1a, '\n'};
inline constexpr std::uint32_t kChunkMagic = 0x4b484351;  // "QCHK"
inline constexpr std::uint16_t kMajor = 1;
inline constexpr std::uint16_t kMinor = 1;

inline constexpr std::uint32_t kMaxChunkBytes = 1u << 20;  // of records, before compression

enum class ChunkType : std::uint8_t { kRecords = 1, kEnd = 2 };
inline constexpr std::uint8_t kLastOfTask = 1;

struct FileHeader {
  unsigned char magic[8];
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t page_shift;
  std::uint64_t window;
  std::uint64_t reserved;
  std::uint64_t checksum;  // XXH64, seed 0, of the bytes before it
};
static_assert(sizeof(FileHeader) == 40 && std::is_trivially_copyable_v<FileHeader>);

struct ChunkHeader {
  std::uint32_t magic;
  ChunkType type;
  std::uint8_t flags;
  std::uint16_t reserved;
  std::uint32_t pid;
  std::uint32_t tid;
  std::uint32_t sequence;  // counts the chunks of this task from 0
  std::uint32_t raw_size;
  std::uint32_t compressed_size;
  std::uint32_t reserved2;
  std::uint64_t checksum;  // XXH64, seed 0, of the bytes before it and the compressed bytes behind it
};
static_assert(sizeof(ChunkHeader) == 40 && std::is_trivially_copyable_v<ChunkHeader>);

struct EndPayload {
  std::uint64_t chunks;     // chunks of records in the file
  std::uint64_t raw_bytes;  // their records' bytes
  std::uint32_t tasks;
  std::int32_t exit_status;
};
static_assert(sizeof(EndPayload) == 24 && std::is_trivially_copyable_v<EndPayload>);

}  // namespace quire::trace::wire
