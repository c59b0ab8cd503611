// The peer of the whole-machine benchmark: a CLOCK page cache that only counts hits, as cache simulators have it (a hash
// table and a ring of reference bits).
#pragma once

#include <cstdint>
#include <vector>

namespace quire::bench {

class ClockCache {
 public:
  explicit ClockCache(std::size_t capacity) : frames_(capacity), buckets_(table_size(capacity), kNone) {}

  // True on a hit; a miss takes the place of the first frame whose bit is clear.
  bool access(std::uint64_t key) {
    std::uint32_t& bucket = buckets_[hash(key)];
    for (std::uint32_t i = bucket; i != kNone; i = frames_[i].next) {
      if (frames_[i].key == key) {
        frames_[i].referenced = 1;
        return true;
      }
    }
    const std::uint32_t victim = evict();
    frames_[victim] = {key, bucket, 0, 1};
    bucket = victim;
    return false;
  }

 private:
  static constexpr std::uint32_t kNone = ~0u;
  struct Frame {
    std::uint64_t key = 0;
    std::uint32_t next = kNone;
    std::uint16_t referenced = 0;
    std::uint16_t used = 0;
  };

  static std::size_t table_size(std::size_t capacity) {
    std::size_t size = 1;
    while (size < capacity * 2) size *= 2;
    return size;
  }
  [[nodiscard]] std::size_t hash(std::uint64_t key) const { return (key * 0x9e3779b97f4a7c15u >> 32) & (buckets_.size() - 1); }

  std::uint32_t evict() {
    while (frames_[hand_].used != 0 && frames_[hand_].referenced != 0) {
      frames_[hand_].referenced = 0;
      hand_ = hand_ + 1 == frames_.size() ? 0 : hand_ + 1;
    }
    const auto victim = static_cast<std::uint32_t>(hand_);
    hand_ = hand_ + 1 == frames_.size() ? 0 : hand_ + 1;
    if (frames_[victim].used != 0) unlink(victim);
    return victim;
  }

  void unlink(std::uint32_t victim) {
    std::uint32_t* link = &buckets_[hash(frames_[victim].key)];
    while (*link != victim) link = &frames_[*link].next;
    *link = frames_[victim].next;
  }

  std::vector<Frame> frames_;
  std::vector<std::uint32_t> buckets_;
  std::size_t hand_ = 0;
};

}  // namespace quire::bench
