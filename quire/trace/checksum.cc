#include "quire/trace/checksum.h"

#include <xxhash.h>

#include <cstddef>

namespace quire::trace::wire {

std::uint64_t checksum(const FileHeader& header) { return XXH64(&header, offsetof(FileHeader, checksum), 0); }

std::uint64_t checksum(const ChunkHeader& header, const void* payload, std::size_t bytes) {
  XXH64_state_t* state = XXH64_createState();
  XXH64_reset(state, 0);
  XXH64_update(state, &header, offsetof(ChunkHeader, checksum));
  if (bytes != 0) XXH64_update(state, payload, bytes);
  const std::uint64_t digest = XXH64_digest(state);
  XXH64_freeState(state);
  return digest;
}

}  // namespace quire::trace::wire
