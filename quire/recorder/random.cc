#include "quire/recorder/process.h"

namespace quire::recorder {

void pin_random(Vcpu& v, std::uint64_t address, std::int64_t bytes) {
  if (process().randomized || bytes <= 0) return;
  std::uint64_t state = static_cast<std::uint64_t>(v.id.tid) << 32 | ++v.random_calls;
  auto* const out = static_cast<unsigned char*>(process().host(address));
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < bytes; ++i) {
    if (i % 8 == 0) {  // splitmix64
      word = state += 0x9e37'79b9'7f4a'7c15u;
      word = (word ^ word >> 30) * 0xbf58'476d'1ce4'e5b9u;
      word = (word ^ word >> 27) * 0x94d0'49bb'1331'11ebu;
      word ^= word >> 31;
    }
    out[i] = static_cast<unsigned char>(word >> (i % 8 * 8));
  }
}

}  // namespace quire::recorder
