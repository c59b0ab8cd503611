// XXH64 of a chunk: of its header up to the checksum field, then of its compressed bytes.
#pragma once

#include <cstdint>

#include "quire/trace/wire.h"

namespace quire::trace::wire {

[[nodiscard]] std::uint64_t checksum(const FileHeader& header);
[[nodiscard]] std::uint64_t checksum(const ChunkHeader& header, const void* payload, std::size_t bytes);

}  // namespace quire::trace::wire
