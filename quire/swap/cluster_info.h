// One cluster of a solid-state swap area (swap_cluster_info), packed into a word of the area's cluster table: how many of
// its slots are in use, and its links on the list of empty clusters.
#pragma once

#include <cstdint>

namespace quire::swap {

struct ClusterInfo {
  static constexpr std::uint64_t kBits = 24;  // 2^24 clusters of 2 MiB: areas up to 32 TiB
  static constexpr std::uint64_t kNone = (std::uint64_t{1} << kBits) - 1;

  std::uint64_t count = 0;
  std::uint64_t next = kNone;
  std::uint64_t prev = kNone;

  [[nodiscard]] std::uint64_t pack() const { return count | (next << 16) | (prev << (16 + kBits)); }
  [[nodiscard]] static ClusterInfo unpack(std::uint64_t word) {
    return ClusterInfo{word & 0xffff, (word >> 16) & kNone, (word >> (16 + kBits)) & kNone};
  }
};

}  // namespace quire::swap
