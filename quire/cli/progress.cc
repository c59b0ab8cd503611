#include "quire/cli/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace quire::cli {

Progress::Progress(std::string label, std::uint64_t total)
    : label_(std::move(label)), total_(total), terminal_(isatty(STDERR_FILENO) != 0 ? Terminal::kYes : Terminal::kNo) {}

Progress::~Progress() {
  if (shown_ == Shown::kYes) fmt::print(stderr, "\r\033[K");
}

void Progress::update(std::uint64_t done) {
  if (terminal_ == Terminal::kNo) return;
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  next_ = now + std::chrono::milliseconds(100);
  shown_ = Shown::kYes;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (total_ == 0) {
    fmt::print(stderr, "\r\033[K{}: {:.1f} MB of trace, {:.0f} s", label_, static_cast<double>(done) * 1e-6, seconds);
  } else {
    constexpr int kWidth = 30;
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
    const int filled = static_cast<int>(share * kWidth);
    fmt::print(stderr, "\r\033[K{}: [{:#<{}}{:.<{}}] {:3.0f} %, {:.0f} s", label_, "", filled, "", kWidth - filled, share * 100,
               seconds);
  }
  std::fflush(stderr);
}

}  // namespace quire::cli
