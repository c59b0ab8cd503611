// Bytes of a chunk → records: the inverse of encoder.h, for bytes that nobody vouches for.
//
// Reads at most kDecoderPadding bytes past the end of the records (whole-word loads), never decides by them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "quire/trace/trace.h"

namespace quire::trace {

inline constexpr std::size_t kDecoderPadding = 16;

enum class DecodeOutcome : std::uint8_t { kRecord, kEnd, kMalformed };

class Decoder {
 public:
  Decoder() = default;

  // `padded` is a chunk's records followed by kDecoderPadding bytes of anything; it outlives the decoding.
  void reset(std::span<const std::byte> padded);

  // Decodes the run of accesses here into `out`; returns how many. Stops before anything else, including what is malformed.
  std::size_t accesses(std::span<Access> out);

  // Decodes one record. The strings point into the chunk. Records of kinds not known here are skipped.
  DecodeOutcome next(Record& record, std::string_view& path, std::string_view& path2);

  [[nodiscard]] bool at_end() const { return at_ == end_; }
  [[nodiscard]] std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }

 private:
  bool access(Record& record);

  const std::uint8_t* begin_ = nullptr;
  const std::uint8_t* at_ = nullptr;
  const std::uint8_t* end_ = nullptr;
  std::uint64_t last_page_[3] = {0, 0, 0};
  std::uint64_t skipped_ = 0;  // instructions to add to the next record's
};

}  // namespace quire::trace
