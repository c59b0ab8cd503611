// Waiting on things that have no room for a queue of their own (a bit of a page): a fixed table of queues, hashed by the
// thing's address, where each task remembers what it waits for (wait_on_bit's bit_wait_table, folio_waitqueue).
//
// Addresses choose only the bucket; the order within one key is that of arrival, so nothing depends on where the host
// put the arena.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "quire/base/intrusive_list.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

class WaitTable {
 public:
  // `name` must live as long as the table.
  WaitTable(Scheduler& scheduler, std::string_view name) : scheduler_(scheduler), name_(name) {}
  WaitTable(const WaitTable&) = delete;
  WaitTable& operator=(const WaitTable&) = delete;

  // Until pred() is true; asked again at each wake-up of `key`.
  template <class Pred>
  void wait(const void* key, Pred&& pred) {
    while (!pred()) wait_once(key);
  }
  // Until a wake-up of `key`, or an early return (WaitQueue).
  void wait_once(const void* key);

  // Wakes the task that has waited longest for `key`; false when none does. From any context.
  bool wake_one(const void* key);
  unsigned wake_all(const void* key);
  // True when a task waits for `key`.
  [[nodiscard]] bool waited_for(const void* key) const;

 private:
  static constexpr unsigned kBits = 8;
  using Queue = List<Task, &Task::wait_node>;

  // Fibonacci hashing; the low bits of an address are always zero.
  static std::size_t bucket_index(const void* key) {
    return (reinterpret_cast<std::uintptr_t>(key) >> 3) * 0x9e3779b97f4a7c15 >> (64 - kBits);
  }
  Queue& bucket(const void* key) { return buckets_[bucket_index(key)]; }
  unsigned wake(const void* key, unsigned limit);

  Scheduler& scheduler_;
  std::string_view name_;
  std::array<Queue, std::size_t{1} << kBits> buckets_;
};

}  // namespace quire::sim
