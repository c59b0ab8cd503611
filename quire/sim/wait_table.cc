#include "quire/sim/wait_table.h"

namespace quire::sim {

void WaitTable::wait_once(const void* key) {
  scheduler_.might_sleep(name_);
  Task& task = scheduler_.context();
  task.wait_key = reinterpret_cast<std::uintptr_t>(key);
  bucket(key).push_back(task);
  scheduler_.block(WaitReason{.kind = "bit", .name = name_}, Scheduler::Interruptible::kYes);
}

unsigned WaitTable::wake(const void* key, unsigned limit) {
  Queue& queue = bucket(key);
  unsigned woken = 0;
  Task* next = nullptr;
  for (Task* task = queue.front_or_null(); task != nullptr && woken < limit; task = next) {
    next = queue.next_or_null(*task);
    if (task->wait_key != reinterpret_cast<std::uintptr_t>(key)) continue;
    queue.erase(*task);
    scheduler_.wake_waiter(*task);
    ++woken;
  }
  return woken;
}

bool WaitTable::wake_one(const void* key) { return wake(key, 1) == 1; }

unsigned WaitTable::wake_all(const void* key) { return wake(key, ~0u); }

bool WaitTable::waited_for(const void* key) const {
  for (const Task& task : buckets_[bucket_index(key)]) {
    if (task.wait_key == reinterpret_cast<std::uintptr_t>(key)) return true;
  }
  return false;
}

}  // namespace quire::sim
