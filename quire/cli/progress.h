// A progress bar on standard error, for work that takes longer than a second; nothing when that is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace quire::cli {

class Progress {
 public:
  // `total` in bytes; 0: not known, and only the amount is shown.
  Progress(std::string label, std::uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::uint64_t done);

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  std::uint64_t total_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_ + std::chrono::seconds(1);
  enum class Terminal : std::uint8_t { kNo, kYes } terminal_;
  enum class Shown : std::uint8_t { kNo, kYes } shown_ = Shown::kNo;
};

}  // namespace quire::cli
