#include "quire/engine/call_order.h"

#include <algorithm>

namespace quire::engine {

void CallOrder::thread_ends(std::uint32_t tid) {
  --threads_;
  progress_[tid] = kEnded;
  give_up_if_all_wait();
  changed_.wake_all();
}

void CallOrder::complete(std::uint64_t sequence) {
  if (sequence <= completed_) return;
  if (sequence != completed_ + 1) {
    ahead_.insert(sequence);
    return;
  }
  complete_up_to(sequence);
}

void CallOrder::complete_up_to(std::uint64_t sequence) {
  completed_ = sequence;
  while (!ahead_.empty() && *ahead_.begin() <= completed_ + 1) {
    completed_ = std::max(completed_, *ahead_.begin());
    ahead_.erase(ahead_.begin());
  }
  changed_.wake_all();
}

void CallOrder::give_up_if_all_wait() {
  if (waited_.size() + behind_.size() + waiting_for_ends_ < threads_) return;
  const auto came = [this](const auto& wanted) { return progress_[wanted.first] >= wanted.second; };
  if (std::ranges::any_of(behind_, came)) return;  // its waiter is about to go on
  if (waited_.empty() && !behind_.empty()) {
    ++given_up_;
    ++progress_given_up_;
    changed_.wake_all();
    return;
  }
  if (waited_.empty()) {
    if (threads_ <= 1) return;
    ++given_up_;
    ends_given_up_ = true;
    changed_.wake_all();
    return;
  }
  const std::uint64_t first = *waited_.begin();
  if (first <= completed_) return;  // its thread is about to go on
  given_up_ += first - completed_;
  complete_up_to(first);
}

}  // namespace quire::engine
