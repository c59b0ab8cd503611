// The order in which the threads of one recorded process made their calls, kept in replay: what one thread mapped is there
// before another uses it, and who waited on a futex waits until the recorded wake-up.
//
//   thread A   mmap (1st to complete) ── futex wake (2nd) ───────────────
//   thread B   ─────────── order: after 2 ─ accesses … munmap (3rd) ─────
//
// Calls are numbered in the order in which they completed (RecordKind::kOrder). A thread waits until all up to some number
// have completed; what was recorded cannot wait in a circle. But a number may be missing (the recorded process ended between
// taking it and writing the record): when every thread waits, the missing ones are taken as done, and counted.
//
// The other way round: who gives memory back waits until the other threads have done what they did with it before
// (RecordKind::kBehind, by their instruction counts).
//
// Threads call it at record boundaries only; no locks: a machine is one host thread.
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "quire/sim/wait_queue.h"

namespace quire::engine {

class CallOrder {
 public:
  // With one thread, which may not have begun to run.
  explicit CallOrder(sim::Scheduler& scheduler) : changed_(scheduler, "call_order", sim::Sleep::kInterruptible) {}

  void thread_starts() { ++threads_; }
  void thread_ends(std::uint32_t tid);

  // Until calls 1 … `after` have completed, or `killed()`.
  template <class Killed>
  void await(std::uint64_t after, Killed&& killed) {
    if (completed_ >= after) return;
    const auto place = waited_.insert(after);
    give_up_if_all_wait();
    changed_.wait_until([&] { return completed_ >= after || killed(); });
    waited_.erase(place);
  }
  void complete(std::uint64_t sequence);
  // A thread's next record stands at `instructions` of its own, or it has ended (kEnded).
  // `progress` is the thread's own, from progress_of().
  [[nodiscard]] std::uint64_t& progress_of(std::uint32_t tid) { return progress_[tid]; }
  static constexpr std::uint64_t kEnded = ~std::uint64_t{0};
  void reached(std::uint64_t& progress, std::uint64_t instructions) {
    progress = instructions;
    if (!behind_.empty()) changed_.wake_all();
  }
  // Until thread `tid` has come that far, or `killed()`.
  template <class Killed>
  void await_progress(std::uint32_t tid, std::uint64_t instructions, Killed&& killed) {
    if (progress_[tid] >= instructions) return;
    const auto place = behind_.emplace(tid, instructions);
    give_up_if_all_wait();
    const std::uint64_t round = progress_given_up_;
    changed_.wait_until([&] { return progress_[tid] >= instructions || progress_given_up_ != round || killed(); });
    behind_.erase(place);
  }
  // Until the caller is the only thread left: exec, whose image counts from 1 again. False when it cannot come to that
  // (several threads exec at once) or killed().
  template <class Killed>
  [[nodiscard]] bool await_sole_thread(Killed&& killed) {
    ++waiting_for_ends_;
    give_up_if_all_wait();
    changed_.wait_until([&] { return threads_ == 1 || ends_given_up_ || killed(); });
    if (--waiting_for_ends_ == 0) ends_given_up_ = false;
    if (threads_ != 1) return false;
    completed_ = 0;
    ahead_.clear();
    return true;
  }

  // Calls that were waited for and never came.
  [[nodiscard]] std::uint64_t given_up() const { return given_up_; }

 private:
  void give_up_if_all_wait();
  void complete_up_to(std::uint64_t sequence);

  sim::WaitQueue changed_;
  std::uint64_t completed_ = 0;                         // calls 1 … completed_ have
  std::set<std::uint64_t> ahead_;                       // completed before their predecessors
  std::multiset<std::uint64_t> waited_;                 // what each waiting thread waits for
  std::map<std::uint32_t, std::uint64_t> progress_;     // instructions of each thread
  std::multimap<std::uint32_t, std::uint64_t> behind_;  // what is waited for of them
  std::uint64_t progress_given_up_ = 0;
  unsigned waiting_for_ends_ = 0;
  bool ends_given_up_ = false;  // several threads exec at once
  unsigned threads_ = 1;
  std::uint64_t given_up_ = 0;
};

}  // namespace quire::engine
