// A set of simulated CPUs.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace quire::sim {

class CpuMask {
 public:
  static constexpr unsigned kMaxCpus = 256;

  void set(unsigned cpu) { words_[cpu / 64] |= std::uint64_t{1} << (cpu % 64); }
  void clear(unsigned cpu) { words_[cpu / 64] &= ~(std::uint64_t{1} << (cpu % 64)); }
  [[nodiscard]] bool test(unsigned cpu) const { return (words_[cpu / 64] >> (cpu % 64) & 1) != 0; }
  [[nodiscard]] bool empty() const {
    for (const std::uint64_t word : words_) {
      if (word != 0) return false;
    }
    return true;
  }
  // Is a CPU other than `cpu` in the set?
  [[nodiscard]] bool any_but(unsigned cpu) const {
    for (unsigned i = 0; i < words_.size(); ++i) {
      if ((words_[i] & ~(i == cpu / 64 ? std::uint64_t{1} << (cpu % 64) : 0)) != 0) return true;
    }
    return false;
  }
  CpuMask& operator|=(const CpuMask& other) {
    for (unsigned i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
    return *this;
  }

  template <class F>
  void for_each(F&& f) const {
    for (unsigned i = 0; i < words_.size(); ++i) {
      for (std::uint64_t word = words_[i]; word != 0; word &= word - 1) {
        f(i * 64 + static_cast<unsigned>(std::countr_zero(word)));
      }
    }
  }

 private:
  std::array<std::uint64_t, kMaxCpus / 64> words_{};
};

}  // namespace quire::sim
