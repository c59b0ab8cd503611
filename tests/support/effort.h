// How much a property test does: QUIRE_SEED, QUIRE_SEEDS and QUIRE_OPS say otherwise than the test would.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace quire {

// Builds with all internal checks (and sanitizers) take ten times as long for each step: a part of the seeds goes through them.
#ifdef QUIRE_DEBUG
inline constexpr bool kEveryCheckIsOn = true;
#else
inline constexpr bool kEveryCheckIsOn = false;
#endif

// A number from the environment, or what the test does by itself.
inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// The same, with a smaller number for builds with every check.
inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise, std::uint64_t with_checks) {
  return from_environment(name, kEveryCheckIsOn ? with_checks : otherwise);
}

}  // namespace quire
